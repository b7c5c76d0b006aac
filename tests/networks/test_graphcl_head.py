from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.networks.graphcl_head import GraphHead, cosine_graph, normalised_adjacency
from scripts.ops.losses import correlation_clustering_loss


def head(clusters: int = 3, dropout: float = 0.0) -> GraphHead:
    torch.manual_seed(0)
    return GraphHead(channels=4, clusters=clusters, scores=5, hidden=8, dropout=dropout)


class TestGraphHead:
    def test_shape(self) -> None:
        cosines, shares = head(dropout=0.25)(torch.rand(2, 4, 3, 2))
        assert (cosines.shape, shares.shape) == ((2, 6, 6), (2, 6, 3))
        torch.testing.assert_close(shares.sum(2), torch.ones(2, 6))

    @torch.no_grad()
    def test_twin(self) -> None:
        net, features = head(), torch.rand(3, 4, 2, 2)
        slices = torch.stack([feature.mean((1, 2)) for feature in features])
        scores = [net.analyser(x).softmax(0) for x in slices]
        weights = torch.tensor([[float(a @ b) for b in scores] for a in scores])
        degrees = weights.sum(1)
        nodes = torch.zeros(3, 4, 4)  # slice, position, channel
        for b in range(3):
            message = sum(weights[b, o] / (degrees[b] * degrees[o]).sqrt() * slices[o] for o in range(3))
            for position in range(4):
                nodes[b, position] = features[b, :, position // 2, position % 2] + net.align.weight @ message
        cosines, shares = net(features)
        for b in range(3):
            edges = torch.stack([F.cosine_similarity(node, nodes[b], dim=1) for node in nodes[b][:, None]])
            torch.testing.assert_close(cosines[b], edges)
            edges = edges.clamp_min(0)
            near = edges / (edges.sum(1, keepdim=True) * edges.sum(0, keepdim=True)).sqrt()
            for position in range(4):
                hidden = sum(near[position, other] * net.convolve(nodes[b, other]) for other in range(4))
                torch.testing.assert_close(shares[b, position], net.cluster(hidden).softmax(0))

    def test_slices_of_a_batch_see_each_other(self) -> None:
        net, features = head(), torch.rand(2, 4, 3, 2)
        alone = net.aligned(features[:1])
        assert not torch.allclose(net.aligned(features)[:1], alone)

    def test_finds_the_clusters(self) -> None:
        """Two kinds of positions fall into two clusters, without being told how many there are."""
        kinds = torch.tensor([[1, 1, 0], [0, 1, 0]])
        features = torch.stack([10 * kinds, 10 * (1 - kinds), 0 * kinds, 0 * kinds])[None] + 0.1 * torch.rand(
            1, 4, 2, 3
        )
        net = head(clusters=5)
        optimiser = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(150):
            loss = correlation_clustering_loss(*net(features))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        found: Tensor = net(features)[1][0].argmax(1)
        same = found[:, None] == found
        assert torch.equal(same, kinds.flatten()[:, None] == kinds.flatten())


class TestCosineGraph:
    def test_twin(self) -> None:
        nodes = torch.randn(2, 5, 3)
        graph = cosine_graph(nodes)
        for b in range(2):
            for i in range(5):
                for j in range(5):
                    x, y = nodes[b, i], nodes[b, j]
                    torch.testing.assert_close(graph[b, i, j], (x * y).sum() / (x.norm() * y.norm()))

    def test_a_vector_of_zeros_is_like_nothing(self) -> None:
        nodes = torch.zeros(1, 2, 3, requires_grad=True)
        graph = cosine_graph(nodes)
        graph.sum().backward()
        assert not graph.any()
        assert nodes.grad.isfinite().all()

    def test_half_precision(self) -> None:
        nodes = torch.randn(1, 4, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            graph = cosine_graph(nodes)
        assert torch.equal(graph, cosine_graph(nodes))
        assert cosine_graph(nodes.half()).dtype == torch.float32
        assert cosine_graph(nodes.double()).dtype == torch.float64

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"nodes must be \(B, n, C\), got \(4, 8\)"):
            cosine_graph(torch.randn(4, 8))


class TestNormalisedAdjacency:
    def test_twin(self) -> None:
        adjacency = torch.rand(2, 4, 4)
        adjacency = adjacency + adjacency.transpose(1, 2)
        adjacency[0, 1] = adjacency[0, :, 1] = 0  # a node by itself
        found = normalised_adjacency(adjacency)
        for b in range(2):
            for i in range(4):
                for j in range(4):
                    degrees = adjacency[b, i].sum() * adjacency[b, j].sum()
                    expected = adjacency[b, i, j] / degrees.sqrt() if degrees > 0 else torch.tensor(0.0)
                    torch.testing.assert_close(found[b, i, j], expected)

    def test_largest_eigenvalue_is_one(self) -> None:
        adjacency = torch.rand(1, 6, 6)
        found = normalised_adjacency(adjacency + adjacency.transpose(1, 2))
        assert torch.linalg.eigvalsh(found[0]).max().item() == pytest.approx(1, abs=1e-5)

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"adjacency must be \(B, n, n\), got \(1, 3, 4\)"):
            normalised_adjacency(torch.rand(1, 3, 4))
