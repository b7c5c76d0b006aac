from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scripts.data.augmentation import BatchAugmentation
from scripts.labels import IGNORE
from scripts.methods.cps4 import CPS4, cached_attention_maps
from scripts.ops.copy_paste import copy_paste, random_box
from scripts.ops.fusion import PromptEvidence, fuse
from scripts.ops.losses import PartialLabelCrossEntropy, masked_dice_loss
from scripts.ops.prompt_map import prompt_guided_map
from tests.tiny import CLASSES, SIZE, network, stream, train
from tests.tiny import batch as plain_batch

WEIGHTS = {"supervised": 0.7, "prompt": 0.4, "enhanced": 1.3}
GROUPS = torch.tensor([0, 1, 2, 2])
GUIDED = partial(prompt_guided_map, gate=0.05)


def batch(seed: int = 2) -> dict[str, Any]:
    """With attention maps as a fair stage 1 would give them: the truth, blurred and noisy."""
    data = plain_batch()
    truth = stream(seed=seed)["label"][:, 0].long()
    maps = nn.functional.one_hot(truth, CLASSES).movedim(-1, 1).float()
    maps = (3 * nn.functional.avg_pool2d(maps, 3, 1, 1) + torch.rand(maps.shape)).softmax(1)
    data["unlabelled"].update(attention_maps=maps, thresholds=torch.full((2, CLASSES), 0.3))
    return data


def objective(teacher: nn.Module | None = None, **changes: Any) -> CPS4:
    options: dict[str, Any] = {
        "student": network(),
        "teacher": network(seed=1) if teacher is None else teacher,
        "supervised_loss": PartialLabelCrossEntropy(),
        "loss_weights": WEIGHTS,
        "ramp": lambda progress: progress,
        "prompt_ramp": lambda progress: progress**2,
        "attention_source": cached_attention_maps,
        "prompt_map": GUIDED,
        "fuse": partial(fuse, kind="level_evidence", groups=GROUPS),
    }
    return CPS4(**{**options, **changes})


def naive_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of -log p(target) over the pixels that have a target."""
    total, counted, probs = torch.zeros(()), 0, logits.softmax(1)
    for b, row, column in torch.cartesian_prod(*(torch.arange(n) for n in target.shape)).tolist():
        if target[b, row, column] != IGNORE:
            total, counted = total - probs[b, target[b, row, column], row, column].log(), counted + 1
    return total / max(counted, 1)


class TestCPS4:
    @pytest.mark.parametrize("kind", ["level_evidence", "logit", "agreement"])
    def test_twin(self, kind: str) -> None:
        method, data, progress = objective(fuse=partial(fuse, kind=kind, groups=GROUPS)), batch(), 0.5
        losses = method(data, progress)
        labelled, unlabelled = data["labelled"], data["unlabelled"]
        guided = GUIDED(unlabelled["attention_maps"], unlabelled["thresholds"])
        logits, teacher = method.student(unlabelled["image"]), method.teacher(unlabelled["image"])
        enhanced = fuse(teacher, PromptEvidence(unlabelled["attention_maps"], guided), kind=kind, groups=GROUPS)
        parts = {
            "supervised": naive_cross_entropy(method.student(labelled["image"]), labelled["label"][:, 0].long()),
            "prompt": naive_cross_entropy(logits, guided),
            "enhanced": naive_cross_entropy(logits, enhanced),
        }
        for name, value in parts.items():
            torch.testing.assert_close(losses[name], value, msg=lambda m, n=name: f"{n}: {m}")
        total = 0.7 * parts["supervised"] + 0.4 * 0.25 * parts["prompt"] + 1.3 * 0.5 * parts["enhanced"]
        torch.testing.assert_close(losses["loss"], total)

    def test_twin_of_pasted_slices(self) -> None:
        """Pixel by pixel: each term over the pixels of its own stream, Dice and cross-entropy of the pseudo-labels."""
        method, data, progress = objective(box=0.5, dice=0.25), batch(), 0.5
        labelled, unlabelled = data["labelled"], data["unlabelled"]
        state = torch.get_rng_state()
        losses = method(data, progress)
        torch.set_rng_state(state)
        mixed = copy_paste(labelled["image"], unlabelled["image"], random_box(unlabelled["image"], 0.5))
        guided = GUIDED(unlabelled["attention_maps"], unlabelled["thresholds"])
        evidence = PromptEvidence(unlabelled["attention_maps"], guided)
        enhanced = fuse(method.teacher(unlabelled["image"]), evidence, kind="level_evidence", groups=GROUPS)
        logits = method.student(mixed.image)
        supervised = naive_cross_entropy(
            logits, labelled["label"][:, 0].long().masked_fill(mixed.from_unlabelled, IGNORE)
        )
        parts = {}
        for name, target in {"prompt": guided, "enhanced": enhanced}.items():
            target = target.masked_fill(~mixed.from_unlabelled, IGNORE)
            parts[name] = 0.75 * naive_cross_entropy(logits, target) + 0.25 * masked_dice_loss(logits, target)
            torch.testing.assert_close(losses[name], parts[name])
        torch.testing.assert_close(losses["supervised"], supervised)
        total = 0.7 * supervised + 0.4 * 0.25 * parts["prompt"] + 1.3 * 0.5 * parts["enhanced"]
        torch.testing.assert_close(losses["loss"], total)

    def test_pasted_slices_keep_what_their_labelled_slice_does_not_label(self) -> None:
        """Two labelled slices for four unlabelled ones; only the second one's data set leaves class 1 unlabelled."""
        method, data = objective(box=0.5, loss_weights={**WEIGHTS, "prompt": 0.0}), batch()
        unlabelled, labelled = data["unlabelled"], data["labelled"]
        data["unlabelled"] = {name: torch.cat([value, value]) for name, value in unlabelled.items()}
        labelled["is_unlabelled"][1, 1] = True
        state = torch.get_rng_state()
        found = method(data, 1.0)["supervised"]
        torch.set_rng_state(state)
        image = data["unlabelled"]["image"]
        mixed = copy_paste(labelled["image"], image, random_box(image, 0.5))
        label, unknown = mixed.label(labelled["label"][:, 0]), labelled["is_unlabelled"][[0, 1, 0, 1]]
        torch.testing.assert_close(found, method.supervised_loss(method.student(mixed.image), label, unknown))

    def test_pasted_slices_cost_one_pass(self) -> None:
        calls: list[int] = []
        method = objective(box=0.5)
        method.student.register_forward_hook(lambda *_: calls.append(1))
        method(batch(), 1.0)
        assert len(calls) == 1

    def test_overfits(self) -> None:
        data, teacher = batch(), network(seed=1)
        train(objective(network(), student=teacher, ramp=lambda p: 0.0), teacher.parameters(), data)
        method = objective(teacher)
        losses = train(method, method.student.parameters(), data)
        assert losses[-1] < 0.5 * losses[0]

    def test_teacher_gets_no_gradient(self) -> None:
        method, data = objective(), batch()
        data["unlabelled"]["attention_maps"].requires_grad_()
        method(data, 1.0)["loss"].backward()
        assert all(p.grad is None for p in method.teacher.parameters())
        assert data["unlabelled"]["attention_maps"].grad is None
        assert all(p.grad is not None for p in method.student.parameters())

    @pytest.mark.parametrize("box", [None, 0.5])
    def test_labels_of_unlabelled_images_cannot_matter(self, box: float | None) -> None:
        found, data = [], batch()
        for label in (None, torch.full((2, 1, SIZE, SIZE), 99)):
            if label is not None:
                data["unlabelled"]["label"] = label
            torch.manual_seed(3)
            found.append(objective(box=box, dice=0.5)(data, 1.0)["loss"])
        assert torch.equal(*found)

    def test_unlabelled_images_never_touch_the_supervised_term(self) -> None:
        data = batch()
        clean = objective()(data, 1.0)["supervised"]
        data["unlabelled"]["image"] = torch.randn(2, 1, SIZE, SIZE)
        assert torch.equal(objective()(data, 1.0)["supervised"], clean)

    def test_partially_labelled_classes(self) -> None:
        data = batch()
        before = objective()(data, 1.0)
        data["labelled"]["is_unlabelled"][:, 1] = True
        after = objective()(data, 1.0)
        assert after["supervised"] < before["supervised"]
        torch.testing.assert_close(after["enhanced"], before["enhanced"])

    def test_without_unlabelled_stream(self) -> None:
        losses = objective()(plain_batch(unlabelled=False), 1.0)
        assert set(losses) == {"loss", "supervised"}

    def test_without_attention_maps(self) -> None:
        """`when_no_prompt_model: supervised`."""
        losses = objective()(plain_batch(), 1.0)
        assert set(losses) == {"loss", "supervised"}
        torch.testing.assert_close(losses["loss"], 0.7 * losses["supervised"])

    @pytest.mark.parametrize(
        ("weights", "parts"),
        [
            ({"prompt": 0.0, "enhanced": 0.0}, set()),
            ({"prompt": 1.0, "enhanced": 0.0}, {"prompt"}),
            ({"prompt": 0.0, "enhanced": 1.0}, {"enhanced"}),
        ],
    )
    def test_terms_without_weight_cost_nothing(self, weights: dict[str, float], parts: set[str]) -> None:
        calls: list[int] = []
        method = objective(loss_weights={"supervised": 1.0, **weights})
        method.student.register_forward_hook(lambda *_: calls.append(1))
        method.teacher.register_forward_hook(lambda *_: calls.append(10))
        assert set(method(batch(), 1.0)) == {"loss", "supervised", *parts}
        assert sum(calls) == 1 + bool(parts) + 10 * ("enhanced" in parts)

    def test_a_round_takes_the_place_of_the_fusion(self) -> None:
        method, data = objective(loss_weights={"supervised": 0.7, "prompt": 0.0, "enhanced": 1.3}), batch()
        given = torch.randint(0, CLASSES, (2, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(3))
        data["unlabelled"]["pseudo_label"] = given.to(torch.uint8)
        losses = method(data, 0.5)
        logits = method.student(data["unlabelled"]["image"])
        torch.testing.assert_close(losses["enhanced"], naive_cross_entropy(logits, given[:, 0]))

    def test_maps_beside_a_pseudo_label_change_no_bit(self) -> None:
        """What `PseudoLabelRounds(keep_maps=False)` leaves out is neither drawn for nor read."""
        augment, losses, weights = BatchAugmentation(), [], {"supervised": 0.7, "prompt": 0.0, "enhanced": 1.3}
        for maps in (True, False):
            data, method = batch(), objective(loss_weights=weights)
            data["unlabelled"]["pseudo_label"] = stream(seed=5)["label"]
            if not maps:
                del data["unlabelled"]["attention_maps"], data["unlabelled"]["thresholds"]
            loss = method(augment(data, 3), 0.5)["loss"]
            loss.backward()
            losses.append([loss, *(p.grad for p in method.student.parameters())])
        assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))

    def test_before_the_ramps(self) -> None:
        assert set(objective()(batch(), 0.0)) == {"loss", "supervised"}

    def test_all_pixels_left_out(self) -> None:
        nothing = torch.full((2, SIZE, SIZE), IGNORE)
        method = objective(fuse=lambda logits, prompt: nothing)
        losses = method(batch(), 1.0)
        assert losses["enhanced"].item() == 0.0
        losses["loss"].backward()
        assert all(p.grad.isfinite().all() for p in method.student.parameters())

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="teacher_mode must be one of"):
            objective(teacher_mode="frozen")


class TestEvidence:
    def test_value(self) -> None:
        unlabelled = batch()["unlabelled"]
        evidence = objective().evidence(unlabelled)
        assert evidence is not None
        assert evidence.maps is unlabelled["attention_maps"]
        assert torch.equal(evidence.label, GUIDED(unlabelled["attention_maps"], unlabelled["thresholds"]))
        assert len(evidence.label.unique()) == CLASSES

    def test_kept_maps(self) -> None:
        assert cached_attention_maps(plain_batch()["unlabelled"]) is None
        unlabelled = batch()["unlabelled"]
        assert cached_attention_maps(unlabelled) == (unlabelled["attention_maps"], unlabelled["thresholds"])
