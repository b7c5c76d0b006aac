"""Losses and thresholds at the ends of what they can be given, and in half precision beside float32."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scripts.labels import IGNORE
from scripts.methods.cps4 import CPS4, cached_attention_maps
from scripts.methods.mean_teacher import MeanTeacher
from scripts.ops.fusion import fuse
from scripts.ops.losses import (
    PartialLabelCrossEntropy,
    correlation_clustering_loss,
    masked_dice_loss,
    masked_pixel_loss,
    partial_label_cross_entropy,
    pixel_attention_loss,
    token_attention_loss,
)
from scripts.ops.otsu import otsu_thresholds
from scripts.ops.prompt_map import prompt_guided_map
from tests.tiny import CLASSES, batch, network

HALF = [torch.float16, torch.bfloat16]
DTYPES = [torch.float32, *HALF]
B, N, H, W = 2, 4, 6, 5
LOSS_TOLERANCE, DIRECTION_TOLERANCE = 0.01, 0.99
"""bfloat16 autocast beside float32: largest relative difference of a loss, smallest cosine between the gradients."""


def certain(label: Tensor, dtype: torch.dtype, size: float = 1e4) -> Tensor:
    """Logits of `size` for the label and of minus that for all other classes."""
    one_hot = torch.nn.functional.one_hot(label, N).movedim(-1, 1)
    return (size * (2 * one_hot - 1)).to(dtype).requires_grad_()


def checked(loss: Tensor, leaf: Tensor) -> float:
    """The value of a loss whose gradient is finite too."""
    loss.backward()
    assert loss.dtype == torch.float32
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    return loss.item()


@pytest.mark.parametrize("dtype", DTYPES)
class TestSegmentationLosses:
    """One class everywhere, or everything left out; the network certain of the truth, or of something else."""

    @pytest.mark.parametrize("klass", range(N))
    def test_full_class(self, dtype: torch.dtype, klass: int) -> None:
        label = torch.full((B, H, W), klass)
        right, wrong = certain(label, dtype), certain((label + 1) % N, dtype)
        assert checked(partial_label_cross_entropy(right, label), right) == 0
        half = 2 * abs(float(wrong.detach()[0, 0, 0, 0]))  # the distance of the logits, as the type can hold it
        assert checked(partial_label_cross_entropy(wrong, label), wrong) == pytest.approx(half, rel=1e-6)
        right, wrong = certain(label, dtype), certain((label + 1) % N, dtype)
        assert checked(masked_dice_loss(right, label), right) == pytest.approx(0, abs=1e-6)
        assert checked(masked_dice_loss(wrong, label), wrong) == pytest.approx(2 / N, abs=1e-5)

    def test_nothing_counts(self, dtype: torch.dtype) -> None:
        label = torch.full((B, H, W), IGNORE)
        for loss in (partial_label_cross_entropy, masked_dice_loss):
            logits = certain(torch.zeros(B, H, W, dtype=torch.long), dtype)
            assert checked(loss(logits, label), logits) == pytest.approx(0, abs=1e-6)

    def test_background_that_may_be_an_unlabelled_class(self, dtype: torch.dtype) -> None:
        unlabelled = torch.zeros(B, N, dtype=torch.bool)
        unlabelled[:, 2] = True
        label = torch.zeros(B, H, W, dtype=torch.long)
        for klass, free in ((0, True), (2, True), (1, False)):
            logits = certain(torch.full_like(label, klass), dtype)
            loss = checked(partial_label_cross_entropy(logits, label, unlabelled), logits)
            # two classes share what is left: log 2 less than for one
            expected = 0 if free else 2 * abs(float(logits.detach()[0, 0, 0, 0])) - math.log(2)
            assert loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
class TestAttentionLosses:
    def test_full_empty_and_equal(self, dtype: torch.dtype) -> None:
        every = torch.ones(B, N, dtype=torch.bool)
        for value in (0.0, 0.5, 1.0, 6e4):
            maps = torch.full((B, N, H, W), value, dtype=dtype, requires_grad=True)
            whole, empty = torch.ones(B, N, H, W), torch.zeros(B, N, H, W)
            assert checked(token_attention_loss(maps, whole, every), maps) == pytest.approx(float(value == 0), abs=1e-6)
            assert token_attention_loss(maps, empty, every).item() == 0  # too small for the grid: left out
            left = whole.clone()
            left[..., 0] = 0
            expected = 1.0 if value == 0 else (1 / W) ** 2
            assert token_attention_loss(maps, left, every).item() == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(("value", "target"), [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.5, 0.5)])
    def test_pixel_loss_at_0_and_1(self, dtype: torch.dtype, value: float, target: float) -> None:
        maps = torch.full((B, N, H, W), value, dtype=dtype, requires_grad=True)
        every = torch.ones(B, N, dtype=torch.bool)
        loss = checked(pixel_attention_loss(maps, torch.full((B, N, H, W), target), every), maps)
        if value == target:
            assert loss == pytest.approx(0 if target != 0.5 else math.log(2), abs=1e-3)
        else:  # logarithms are held; float16 is held earlier, where its gradient would overflow
            assert 7 < loss <= 100


class TestGradients:
    """Against differences, where the losses are smooth; the attention losses have theirs in test_losses."""

    def test_losses(self) -> None:
        logits = torch.randn(B, N, H, W, dtype=torch.float64, requires_grad=True)
        label = torch.randint(0, N, (B, H, W))
        label[0, 0] = IGNORE
        unlabelled = torch.zeros(B, N, dtype=torch.bool)
        unlabelled[0, 3] = True
        assert torch.autograd.gradcheck(lambda z: masked_dice_loss(z, label), (logits,))
        assert torch.autograd.gradcheck(lambda z: partial_label_cross_entropy(z, label, unlabelled), (logits,))
        image, masked = torch.randn(B, 1, H, W, dtype=torch.float64), torch.rand(B, 1, H, W) > 0.5
        painted = torch.randn(B, 1, H, W, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda z: masked_pixel_loss(z, image, masked), (painted,))
        nodes = torch.rand(B, 5, 3, dtype=torch.float64, requires_grad=True)
        similarity = torch.rand(B, 5, 5, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda s: correlation_clustering_loss(similarity, s), (nodes,))

    def test_at_the_edge_of_a_class(self) -> None:
        """An empty and a full class have the gradient of the formula, not that of a branch."""
        logits = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
        for klass in (0, 1):
            label = torch.full((1, 3, 3), klass)
            assert torch.autograd.gradcheck(lambda z, y=label: masked_dice_loss(z, y), (logits,))


class TestOtsu:
    @pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
    @pytest.mark.parametrize("value", [0.0, 1.0, -1e4, 6e4, 6e-8])
    def test_equal_map_marks_no_pixel(self, dtype: torch.dtype, value: float) -> None:
        maps = torch.full((2, 3, 8, 6), value, dtype=dtype)
        thresholds = otsu_thresholds(maps)
        assert thresholds.isfinite().all()
        assert not (maps > thresholds[..., None, None]).any()

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("pixels", [1, 24, 47])
    def test_two_values_are_told_apart(self, dtype: torch.dtype, pixels: int) -> None:
        maps = torch.full((48,), -1e4, dtype=dtype)
        maps[:pixels] = 1e4
        threshold = otsu_thresholds(maps.view(1, 8, 6))
        assert ((maps > threshold) == (maps > 0)).all()

    @given(st.integers(0, 10_000), st.sampled_from([1e-38, 1e-20, 1e-4, 1.0, 1e4, 1e18]), st.floats(-10, 10))
    @settings(max_examples=40)
    def test_property_between_the_ends_at_any_size(self, seed: int, size: float, offset: float) -> None:
        maps = (torch.rand(2, 7, 5, generator=torch.Generator().manual_seed(seed)) + offset) * size
        thresholds = otsu_thresholds(maps)
        assert thresholds.isfinite().all()
        assert (thresholds >= maps.amin((1, 2))).all()
        assert (thresholds <= maps.amax((1, 2))).all()

    @pytest.mark.parametrize("dtype", HALF)
    def test_softmax_of_certain_logits(self, dtype: torch.dtype) -> None:
        maps = certain(torch.randint(0, N, (B, H, W)), dtype).detach().float().softmax(1)
        thresholds = otsu_thresholds(maps)
        assert thresholds.isfinite().all()
        assert torch.equal(maps > thresholds[..., None, None], maps > 0.5)
        label = prompt_guided_map(maps, thresholds, gate=0.05)
        assert torch.equal(label, maps.argmax(1))


def cps4(**networks: Any) -> CPS4:
    return CPS4(
        **networks,
        supervised_loss=PartialLabelCrossEntropy(),
        loss_weights={"supervised": 1.0, "prompt": 0.5, "enhanced": 1.0},
        ramp=lambda progress: 1.0,
        prompt_ramp=lambda progress: 1.0,
        attention_source=cached_attention_maps,
        prompt_map=partial(prompt_guided_map, gate=0.05),
        fuse=partial(fuse, kind="level_evidence", groups=torch.tensor([0, 1, 2, 2])),
    )


def mean_teacher(**networks: Any) -> MeanTeacher:
    weights = {"supervised": 1.0, "consistency": 1.0}
    return MeanTeacher(**networks, supervised_loss=PartialLabelCrossEntropy(), loss_weights=weights, ramp=lambda p: 1.0)


class TestMixedPrecision:
    @pytest.mark.parametrize("make", [cps4, mean_teacher])
    def test_bfloat16_agrees_with_float32(self, make: Any) -> None:
        data = batch()
        maps = torch.rand(2, CLASSES, *data["unlabelled"]["image"].shape[2:]).softmax(1)
        data["unlabelled"].update(attention_maps=maps, thresholds=otsu_thresholds(maps))
        made = []
        for amp in (False, True):
            student = network()
            method = make(student=student, teacher=network(seed=1))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
                losses = method(data, 0.9)
            losses["loss"].backward()
            gradient = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
            made.append(({name: loss.item() for name, loss in losses.items()}, gradient))
        (whole, gradient), (half, half_gradient) = made
        print(f"\n{make.__name__}: {whole} in float32, {half} in bfloat16")
        for name, value in whole.items():
            assert half[name] == pytest.approx(value, rel=LOSS_TOLERANCE)
        assert torch.cosine_similarity(gradient, half_gradient, 0) > DIRECTION_TOLERANCE
