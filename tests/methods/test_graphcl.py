from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from scripts.methods.bcp import BCP
from scripts.methods.graphcl import GraphCL
from scripts.networks.graphcl_head import GraphHead
from scripts.ops.losses import PartialLabelCrossEntropy, correlation_clustering_loss, sigmoid_ramp
from tests.tiny import CLASSES, SIZE, network, stream, train

WEIGHTS = {"supervised": 0.7, "pseudo": 1.3, "clustering": 0.4}


def objective(
    teacher: nn.Module | None = None, ramp: Callable[[float], float] = lambda p: p, dropout: float = 0.0
) -> GraphCL:
    teacher = network(seed=1) if teacher is None else teacher
    student, graph = network(), GraphHead(channels=8, clusters=CLASSES, hidden=8, dropout=dropout)
    options = {"supervised_loss": PartialLabelCrossEntropy(), "loss_weights": WEIGHTS, "ramp": ramp}
    return GraphCL(student, graph, teacher=teacher, **options)


def batch(labelled: int = 2, unlabelled: int = 2) -> dict[str, Any]:
    return {"labelled": stream(labelled, seed=1), "unlabelled": stream(unlabelled, seed=2, labelled=False)}


class TestGraphCL:
    @pytest.mark.parametrize(("labelled", "unlabelled"), [(2, 2), (3, 2)])
    def test_twin(self, labelled: int, unlabelled: int) -> None:
        """BCP's terms (tested there), and the loss of the clusters that the graph makes of the same mixed slices."""
        method, data = objective(), batch(labelled, unlabelled)
        seen: list[torch.Tensor] = []
        bcp = BCP(method.student, method.teacher, method.supervised_loss, WEIGHTS, method.ramp)
        bcp.student.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        torch.manual_seed(5)
        expected = bcp(data, 0.5)
        torch.manual_seed(5)
        losses = method(data, 0.5)
        for name in ("supervised", "pseudo"):
            torch.testing.assert_close(losses[name], expected[name])
        deepest = method.student.encode(seen[0])[-1]
        clustering = correlation_clustering_loss(*method.graph(deepest), alpha=2.0)
        torch.testing.assert_close(losses["clustering"], clustering)
        torch.testing.assert_close(losses["loss"], expected["loss"] + 0.4 * 0.5 * clustering)

    def test_overfits(self) -> None:
        teacher, data = network(seed=1), batch()
        first = BCP(teacher, network(), PartialLabelCrossEntropy(), WEIGHTS, lambda p: 0.0)
        train(first, teacher.parameters(), data)
        method = objective(teacher)
        parameters = [*method.student.parameters(), *method.graph.parameters()]
        losses = train(method, parameters, data, steps=60)
        assert sum(losses[-5:]) < 0.5 * sum(losses[:5])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, dtype: torch.dtype) -> None:
        method, data = objective(dropout=0.25), batch()
        torch.manual_seed(5)
        expected = method(data, 1.0)
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=dtype):
            losses = method(data, 1.0)
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        torch.testing.assert_close(losses["loss"], expected["loss"], atol=0.1, rtol=0.1)

    def test_who_gets_a_gradient(self) -> None:
        method = objective()
        before = copy.deepcopy(list(method.teacher.parameters()))
        train(method, [*method.student.parameters(), *method.graph.parameters()], batch(), steps=2)
        assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
        assert all(torch.equal(a, b) for a, b in zip(method.teacher.parameters(), before, strict=True))
        assert all(p.grad is not None for p in [*method.student.parameters(), *method.graph.parameters()])

    def test_clusters_train_the_encoder_alone(self) -> None:
        method = objective()
        method(batch(), 1.0)["clustering"].backward()
        assert all(p.grad is not None for p in method.student.encoder.parameters())
        assert all(p.grad is None for p in [*method.student.decoder.parameters(), *method.student.head.parameters()])

    def test_labels_of_unlabelled_images_cannot_matter(self) -> None:
        found = []
        for label in (torch.full((2, 1, SIZE, SIZE), 99), None):
            method, data = objective(), batch()
            if label is not None:
                data["unlabelled"] |= {"label": label, "is_unlabelled": torch.ones(2, CLASSES, dtype=torch.bool)}
            torch.manual_seed(3)
            found.append(method(data, 1.0)["loss"])
        assert torch.equal(*found)

    def test_before_the_ramp_neither_teacher_nor_graph_is_asked(self) -> None:
        method = objective(nn.Module(), ramp=partial(sigmoid_ramp, start=0.5, length=0.1))
        method.graph = nn.Module()
        assert set(method(batch(), 0.49)) == {"loss", "supervised"}
        with pytest.raises(NotImplementedError, match="forward"):
            method(batch(), 0.5)

    def test_partially_labelled_classes(self) -> None:
        losses = []
        for unknown in (False, True):
            method, data = objective(), batch()
            data["labelled"]["is_unlabelled"][:, 2] = unknown
            torch.manual_seed(3)
            losses.append(method(data, 1.0))
        assert losses[1]["supervised"] < losses[0]["supervised"]
        for name in ("pseudo", "clustering"):
            torch.testing.assert_close(losses[1][name], losses[0][name])
