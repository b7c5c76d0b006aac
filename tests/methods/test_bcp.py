from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from monai.transforms import KeepLargestConnectedComponent
from torch import Tensor, nn

from scripts.labels import IGNORE
from scripts.methods.bcp import BCP
from scripts.ops.copy_paste import random_box
from scripts.ops.losses import PartialLabelCrossEntropy, sigmoid_ramp
from tests.tiny import CLASSES, SIZE, network, stream, train
from tests.tiny import batch as pair_of_streams

WEIGHTS = {"supervised": 0.7, "pseudo": 1.3}


def objective(teacher: nn.Module | None = None, ramp: Callable[[float], float] = lambda p: p, **options: Any) -> BCP:
    teacher = network(seed=1) if teacher is None else teacher
    return BCP(network(), teacher, PartialLabelCrossEntropy(), WEIGHTS, ramp, **options)


def batch(labelled: int = 2, unlabelled: int = 2) -> dict[str, Any]:
    return {"labelled": stream(labelled, seed=1), "unlabelled": stream(unlabelled, seed=2, labelled=False)}


def drawn_box(method: BCP) -> Tensor:
    """The box of the next step, which stays the next step's."""
    state = torch.get_rng_state()
    box = random_box(torch.zeros(SIZE, SIZE), method.box)
    torch.set_rng_state(state)
    return box


def twin(method: BCP, data: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Supervised and pseudo term, pixel by pixel."""
    labelled, unlabelled, box = data["labelled"], data["unlabelled"], drawn_box(method)
    pseudo = method.teacher(unlabelled["image"]).argmax(1)
    count = max(len(labelled["image"]), len(pseudo))
    mixed = torch.zeros(count, 1, SIZE, SIZE)
    origin = {}  # pixel -> (comes from the unlabelled slice, its class, the case's classes without labels)
    for n in range(count):
        a, b = n % len(labelled["image"]), n % len(pseudo)
        for row in range(SIZE):
            for column in range(SIZE):
                foreign = bool(box[row, column]) if n % 2 == 0 else not box[row, column]
                source, index = (unlabelled, b) if foreign else (labelled, a)
                mixed[n, 0, row, column] = source["image"][index, 0, row, column]
                target = pseudo[b, row, column] if foreign else labelled["label"][a, 0, row, column]
                origin[n, row, column] = foreign, int(target), labelled["is_unlabelled"][a]
    probs = method.student(mixed).softmax(1)
    supervised, pseudo_ce = [], []
    overlap, size = torch.zeros(CLASSES), torch.zeros(CLASSES)
    for (n, row, column), (foreign, target, unknown) in origin.items():
        p = probs[n, :, row, column]
        if foreign:
            truth = torch.eye(CLASSES)[target]
            pseudo_ce.append(-p[target].log())
            overlap, size = overlap + p * truth, size + p.square() + truth
        elif target != IGNORE:
            hidden = p[unknown].sum() if target == 0 else 0.0
            supervised.append(-(p[target] + hidden).log())
    dice = 1 - ((2 * overlap + 1e-5) / (size + 1e-5)).mean()
    return torch.stack(supervised).mean(), (torch.stack(pseudo_ce).mean() + dice) / 2


class TestBCP:
    @pytest.mark.parametrize(("labelled", "unlabelled"), [(2, 2), (3, 2), (1, 2)])
    def test_twin(self, labelled: int, unlabelled: int) -> None:
        method, data = objective(), batch(labelled, unlabelled)
        data["labelled"]["label"][0, 0, :2] = IGNORE
        data["labelled"]["is_unlabelled"][0, 2] = True
        supervised, pseudo = twin(method, data)
        losses = method(data, 0.5)
        torch.testing.assert_close(losses["supervised"], supervised)
        torch.testing.assert_close(losses["pseudo"], pseudo)
        torch.testing.assert_close(losses["loss"], 0.7 * supervised + 1.3 * 0.5 * pseudo)

    def test_overfits(self) -> None:
        teacher, data = network(seed=1), batch()
        first = BCP(teacher, network(), PartialLabelCrossEntropy(), WEIGHTS, lambda p: 0.0)
        train(first, teacher.parameters(), data)
        method = objective(teacher)
        losses = train(method, method.student.parameters(), data, steps=60)
        assert sum(losses[-5:]) < 0.5 * sum(losses[:5])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, dtype: torch.dtype) -> None:
        method, data = objective(), batch()
        state = torch.get_rng_state()
        expected = method(data, 1.0)
        torch.set_rng_state(state)
        with torch.autocast("cpu", dtype=dtype):
            losses = method(data, 1.0)
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        torch.testing.assert_close(losses["loss"], expected["loss"], atol=0.1, rtol=0.1)

    def test_teacher_gets_no_gradient(self) -> None:
        method = objective()
        before = copy.deepcopy(list(method.teacher.parameters()))
        train(method, [*method.student.parameters()], batch(), steps=2)
        assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
        assert all(torch.equal(a, b) for a, b in zip(method.teacher.parameters(), before, strict=True))

    def test_labels_of_unlabelled_images_cannot_matter(self) -> None:
        found = []
        for label in (torch.full((2, 1, SIZE, SIZE), 99), None):
            data = batch()
            if label is not None:
                data["unlabelled"] |= {"label": label, "is_unlabelled": torch.ones(2, CLASSES, dtype=torch.bool)}
            torch.manual_seed(3)
            found.append(objective()(data, 1.0)["loss"])
        assert torch.equal(*found)

    def test_without_unlabelled_stream(self) -> None:
        losses = objective()(pair_of_streams(unlabelled=False), 1.0)
        assert set(losses) == {"loss", "supervised"}

    def test_before_the_ramp_the_teacher_is_not_asked(self) -> None:
        method = objective(nn.Module(), ramp=partial(sigmoid_ramp, start=0.5, length=0.1))
        losses = method(batch(), 0.49)
        assert set(losses) == {"loss", "supervised"}
        torch.testing.assert_close(losses["supervised"], method.supervised_term(batch()["labelled"]))
        with pytest.raises(NotImplementedError, match="forward"):
            method(batch(), 0.5)

    def test_mix_labelled(self) -> None:
        """Inside the box the slice before it, scored by that slice's own labels and classes without labels."""
        method, labelled = objective(mix_labelled=True), stream(2)
        labelled["is_unlabelled"][1, 2] = True
        box = drawn_box(method)
        mixed = labelled["image"].clone()
        mixed[0, 0, box], mixed[1, 0, box] = labelled["image"][1, 0, box], labelled["image"][0, 0, box]
        probs = method.student(mixed).softmax(1)
        terms: dict[bool, list[Tensor]] = {True: [], False: []}
        for n in range(2):
            for row in range(SIZE):
                for column in range(SIZE):
                    inside = bool(box[row, column])
                    origin = 1 - n if inside else n
                    label, p = int(labelled["label"][origin, 0, row, column]), probs[n, :, row, column]
                    value = p[label] + (p[2] if origin == 1 and label == 0 else 0.0)
                    terms[inside].append(-value.log())
        expected = (torch.stack(terms[True]).mean() + torch.stack(terms[False]).mean()) / 2
        losses = method({"labelled": labelled, "unlabelled": None}, 0.0)
        torch.testing.assert_close(losses["supervised"], expected)

    def test_exception(self) -> None:
        for box in (0.0, 1.0):
            with pytest.raises(ValueError, match=rf"box must be a share .* got {box}"):
                objective(box=box)


class TestRefine:
    def test_largest_component(self) -> None:
        """Of every class but background; what else there was becomes background."""
        label = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
        label[0, :4], label[0, 8, 2:4], label[0, 12:, 5:9] = 1, 1, 2

        class Fixed(nn.Module):
            def forward(self, image: Tensor) -> Tensor:
                return nn.functional.one_hot(label, CLASSES).movedim(-1, 1).float()

        raw = objective(Fixed()).pseudo_label(torch.zeros(1, 1, SIZE, SIZE))
        refine = KeepLargestConnectedComponent(applied_labels=list(range(1, CLASSES)))
        refined = objective(Fixed(), refine=refine).pseudo_label(torch.zeros(1, 1, SIZE, SIZE))
        assert torch.equal(raw, label)
        label[0, 8, 2:4] = 0
        assert torch.equal(refined, label)
        assert refined.dtype == torch.long
