from __future__ import annotations

import pytest
import torch

from scripts.ops.graph import cosine_graph, normalised_adjacency


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
