from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scripts.labels import IGNORE
from scripts.methods.ucmt import UCMT, cell_entropy, cut, overwrite
from scripts.ops.losses import PartialLabelCrossEntropy, sigmoid_ramp
from tests.tiny import CLASSES, SIZE, batch, network, stream, train

WEIGHTS = {"supervised": 0.7, "cross_pseudo": 1.3, "cross_mean": 0.4}
CELLS, SIDE = 4, SIZE // 4


def objective(teacher: nn.Module | None = None, ramp: Callable[[float], float] = lambda p: p, **options: Any) -> UCMT:
    teacher = network(seed=1) if teacher is None else teacher
    options = {"cells": CELLS, **options}
    return UCMT(network(), network(seed=2), teacher, PartialLabelCrossEntropy(), WEIGHTS, ramp, **options)


def parameters(method: UCMT) -> list[nn.Parameter]:
    return [p for student in method.students for p in student.parameters()]


def unequal() -> dict[str, Any]:
    """Three labelled slices with pixels that are left out, two unlabelled ones."""
    data = batch()
    data["labelled"] = stream(batch=3, seed=1)
    data["labelled"]["label"][0, 0, :, :5] = IGNORE
    return data


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - Dice with squared denominators, class by class."""
    total = torch.zeros(())
    for c in range(CLASSES):
        p, y = logits.softmax(1)[:, c], (target == c).float()
        total = total + 1 - (2 * (p * y).sum() + 1e-5) / ((p * p).sum() + y.sum() + 1e-5)
    return total / CLASSES


def mixed(own: Tensor, other: Tensor, unsure: list[list[float]], unsure_other: list[list[float]]) -> Tensor:
    """(B, H, W) twice and the uncertainty of each image's cells: the two worst overwritten by the other's best."""
    out = own.clone()
    for b in range(len(own)):
        worst = sorted(range(CELLS**2), key=lambda n, b=b: -unsure[b][n])[:2]
        best = sorted(range(CELLS**2), key=lambda n, b=b: unsure_other[b][n])[:2]
        for to, source in zip(worst, best, strict=True):
            (row, column), (from_row, from_column) = ((SIDE * (n // CELLS), SIDE * (n % CELLS)) for n in (to, source))
            piece = other[b, from_row : from_row + SIDE, from_column : from_column + SIDE]
            out[b, row : row + SIDE, column : column + SIDE] = piece
    return out


def entropies(logits: Tensor, taught: Tensor) -> list[list[float]]:
    p = (logits.softmax(1) + taught.softmax(1)).detach() / 2
    pixelwise = -(p * p.log()).sum(1)
    starts = range(0, SIZE, SIDE)
    return [[float(one[r : r + SIDE, c : c + SIDE].mean()) for r in starts for c in starts] for one in pixelwise]


class TestUCMT:
    def test_twin(self) -> None:
        method, data = objective(), unequal()
        torch.manual_seed(0)
        losses = method(data, 0.5)
        torch.manual_seed(0)
        image, label = data["labelled"]["image"], data["labelled"]["label"][:, 0].long()
        unlabelled, none = data["unlabelled"]["image"], data["labelled"]["is_unlabelled"]
        noise = [(0.1 * torch.randn(unlabelled.shape)).clamp(-0.2, 0.2) for _ in range(2)]
        views = [unlabelled + n for n in noise]
        s, t = method.students, method.teacher
        parts: dict[str, list[Tensor]] = {"supervised": [], "cross_pseudo": [], "cross_mean": []}
        logits, taught = [s[0](image), s[1](image)], t(image)
        z, u = [s[0](views[0]), s[1](views[1])], t(unlabelled)
        for i, j in ((0, 1), (1, 0)):
            parts["supervised"].append(method.supervised_loss(logits[i], label, none))
            unsure = [entropies(logits[k], taught) for k in (i, j)]
            again = s[i](mixed(image[:, 0], image[:, 0], *unsure)[:, None])
            parts["supervised"].append(method.supervised_loss(again, mixed(label, label, *unsure), none))
            unsure = [entropies(z[k], u) for k in (i, j)]
            again = s[i](mixed(views[i][:, 0], views[j][:, 0], *unsure)[:, None])
            for name, target in (("cross_pseudo", z[j].argmax(1)), ("cross_mean", u.argmax(1))):
                parts[name] += [dice(z[i], target), dice(again, mixed(target, target, *unsure))]
        for name, values in parts.items():
            torch.testing.assert_close(losses[name], sum(values) / 4)
        total = 0.7 * losses["supervised"] + 0.5 * (1.3 * losses["cross_pseudo"] + 0.4 * losses["cross_mean"])
        torch.testing.assert_close(losses["loss"], total)

    def test_overfits(self) -> None:
        method = objective()
        losses = train(method, parameters(method), batch(), progress=0.1)
        assert losses[-1] < 0.5 * losses[0]

    def test_teacher_gets_no_gradient(self) -> None:
        method = objective()
        before = copy.deepcopy(list(method.teacher.parameters()))
        train(method, parameters(method), batch(), steps=2)
        assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
        assert all(torch.equal(a, b) for a, b in zip(method.teacher.parameters(), before, strict=True))
        assert all(p.grad is not None for p in parameters(method))

    def test_pseudo_labels_get_no_gradient(self) -> None:
        method = objective()
        method.loss_weights = {"supervised": 0.0, "cross_pseudo": 1.0, "cross_mean": 0.0}
        method.students[0].requires_grad_(False)
        method(batch(), 1.0)["loss"].backward()
        assert all(p.grad is None for p in method.students[0].parameters())

    def test_labels_of_unlabelled_images_cannot_matter(self) -> None:
        found = []
        for label in (None, torch.full((2, 1, SIZE, SIZE), 99)):
            data = batch()
            if label is not None:
                data["unlabelled"]["label"] = label
            method = objective()
            torch.manual_seed(0)
            found.append(method(data, 1.0)["loss"])
        assert torch.equal(*found)

    def test_without_unlabelled_stream(self) -> None:
        losses = objective()(batch(unlabelled=False), 1.0)
        assert set(losses) == {"loss", "supervised"}
        torch.testing.assert_close(losses["loss"], 0.7 * losses["supervised"])

    def test_before_the_ramp_the_teacher_is_not_asked(self) -> None:
        method = objective(nn.Module(), ramp=partial(sigmoid_ramp, start=0.5, length=0.1))
        assert set(method(batch(), 0.49)) == {"loss", "supervised"}
        with pytest.raises(NotImplementedError, match="forward"):
            method(batch(), 0.5)

    def test_partially_labelled_classes(self) -> None:
        data, partly = batch(), batch()
        partly["labelled"]["is_unlabelled"][:, 2] = True
        found = []
        for one in (data, partly):
            method = objective()
            torch.manual_seed(0)
            found.append(method(one, 1.0))
        assert found[1]["supervised"] < found[0]["supervised"]
        for name in ("cross_pseudo", "cross_mean"):
            torch.testing.assert_close(found[1][name], found[0][name])

    def test_random_state_decides(self) -> None:
        def loss(seed: int) -> Tensor:
            method = objective()
            torch.manual_seed(seed)
            return method(batch(), 1.0)["loss"]

        assert torch.equal(loss(3), loss(3))
        assert not torch.equal(loss(3), loss(4))

    def test_mixed_precision(self) -> None:
        method = objective()
        with torch.autocast("cpu", torch.bfloat16):
            losses = method(batch(), 1.0)
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        losses["loss"].backward()
        assert all(p.grad.isfinite().all() for p in parameters(method))

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="cells and swapped must be at least 1, got 0 and 2"):
            objective(cells=0)


class TestCut:
    def test_row_by_row(self) -> None:
        image = torch.arange(24).reshape(1, 1, 4, 6)
        assert cut(image, 2)[0, :, 0].tolist() == [
            [[0, 1, 2], [6, 7, 8]],
            [[3, 4, 5], [9, 10, 11]],
            [[12, 13, 14], [18, 19, 20]],
            [[15, 16, 17], [21, 22, 23]],
        ]

    def test_more_cells_than_pixels(self) -> None:
        assert cut(torch.zeros(1, 1, 3, 20), 16).shape == (1, 3 * 16, 1, 1, 1)


class TestOverwrite:
    def test_rest_stays(self) -> None:
        own, other = torch.zeros(1, 1, 5, 7), torch.ones(1, 1, 5, 7)
        out = overwrite(own, other, torch.tensor([[3]]), torch.tensor([[0]]), 2)
        expected = torch.zeros(5, 7)
        expected[2:4, 3:6] = 1
        assert torch.equal(out[0, 0], expected)
        assert own.sum() == 0

    def test_onto_itself(self) -> None:
        image = torch.randn(2, 3, SIZE, SIZE)
        every = torch.arange(CELLS**2).expand(2, -1)
        assert torch.equal(overwrite(image, image, every, every, CELLS), image)


class TestCellEntropy:
    def test_ends(self) -> None:
        certain = torch.zeros(1, CLASSES, SIZE, SIZE)
        certain[:, 1] = 1e4
        assert cell_entropy(certain, certain, CELLS).abs().max() == 0
        even = torch.zeros(1, CLASSES, SIZE, SIZE)
        torch.testing.assert_close(cell_entropy(even, even, CELLS), torch.full((1, 16), CLASSES).log())

    def test_disagreement_is_uncertain(self) -> None:
        one, other = torch.zeros(2, 1, CLASSES, SIZE, SIZE)
        one[:, 1], other[:, 1], other[:, 2, :SIDE] = 1e4, 1e4, 2e4
        entropy = cell_entropy(one, other, CELLS)[0]
        torch.testing.assert_close(entropy[:CELLS], torch.full((CELLS,), 2.0).log())
        assert entropy[CELLS:].abs().max() == 0
