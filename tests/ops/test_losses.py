from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss
from torch import Tensor

from scripts.labels import IGNORE
from scripts.ops import losses
from scripts.ops.losses import (
    PartialLabelCrossEntropy,
    PixelAttentionLoss,
    TokenAttentionLoss,
    correlation_clustering_loss,
    masked_dice_loss,
    masked_pixel_loss,
    partial_label_cross_entropy,
    pixel_attention_loss,
    pseudo_label_loss,
    sigmoid_ramp,
    token_attention_loss,
)


def draw_maps(seed: int = 0, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Attention maps, soft regions of which class 2 is empty, and which classes count."""
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(3, classes, 4, 5, generator=generator)
    region = torch.rand(3, classes, 4, 5, generator=generator)
    region[:, 2] = 0
    return attention, region, torch.rand(3, classes, generator=generator) > 0.3


class TestTokenAttentionLoss:
    def test_value(self) -> None:
        maps, region = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        assert token_attention_loss(maps, region, torch.tensor([[True]])).item() == 0.0625

    def test_twin(self) -> None:
        attention, region, present = draw_maps()
        terms = []
        for b in range(3):
            for c in range(4):
                if present[b, c] and region[b, c].sum() > 0:
                    inside = sum((attention[b, c] * region[b, c]).flatten().tolist())
                    terms.append((1 - inside / sum(attention[b, c].flatten().tolist())) ** 2)
        expected = sum(terms) / len(terms)
        assert token_attention_loss(attention, region, present).item() == pytest.approx(expected, rel=1e-5)
        assert TokenAttentionLoss()(attention, region, present).item() == pytest.approx(expected, rel=1e-5)

    def test_value_of_no_class_is_0_with_a_graph(self) -> None:
        attention, region, _ = draw_maps()
        attention.requires_grad_()
        loss = token_attention_loss(attention, region, torch.zeros(3, 4, dtype=torch.bool))
        loss.backward()
        assert loss.item() == 0
        assert attention.grad is not None
        assert not attention.grad.any()

    def test_value_of_a_map_without_attention_is_1(self) -> None:
        attention = torch.zeros(1, 1, 2, 2, requires_grad=True)
        loss = token_attention_loss(attention, torch.ones(1, 1, 2, 2), torch.tensor([[True]]))
        loss.backward()
        assert loss.item() == 1
        assert attention.grad is not None
        assert attention.grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_value_of_half_precision_under_autocast(self, dtype: torch.dtype) -> None:
        attention, region, present = draw_maps()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = token_attention_loss(attention.to(dtype), region.to(dtype), present)
        assert loss.dtype == torch.float32
        expected = token_attention_loss(attention.to(dtype).float(), region.to(dtype).float(), present)
        assert torch.equal(loss, expected)

    def test_gradcheck(self) -> None:
        attention, region, present = draw_maps()
        attention = attention.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda a: token_attention_loss(a, region.double(), present), (attention,))

    def test_exception(self) -> None:
        attention, region, present = draw_maps()
        with pytest.raises(ValueError, match=r"region must be .* got \(2, 4, 4, 5\)"):
            token_attention_loss(attention, region[:2], present)
        with pytest.raises(ValueError, match=r"present must be \(B, N\) with B=3, N=4, got \(3, 3\)"):
            token_attention_loss(attention, region, present[:, :3])

    @given(st.integers(0, 10_000), st.floats(0.1, 100))
    @settings(max_examples=30)
    def test_property_range_scale_and_order(self, seed: int, scale: float) -> None:
        attention, region, present = draw_maps(seed)
        loss = token_attention_loss(attention, region, present)
        assert 0 <= loss <= 1
        torch.testing.assert_close(token_attention_loss(attention * scale, region, present), loss)
        rows, columns = torch.randperm(3), torch.randperm(4)
        shuffled = [x[rows][:, columns] for x in (attention, region, present)]
        torch.testing.assert_close(token_attention_loss(*shuffled), loss)
        inside = (region > 0.5).float()
        assert token_attention_loss(attention * inside, inside, present).item() == pytest.approx(0, abs=1e-10)


class TestPixelAttentionLoss:
    def test_value(self) -> None:
        maps, region = torch.tensor([[[[0.25, 0.5]]]]), torch.tensor([[[[0.0, 1.0]]]])
        loss = pixel_attention_loss(maps, region, torch.tensor([[True]]))
        assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_twin(self, weighted: bool) -> None:
        attention, region, valid = draw_maps()
        weight = torch.rand(3, 1, 4, 5) if weighted else None
        if weight is not None:
            weight[1] = 0
        terms = []
        for b in range(3):
            w = torch.ones(4, 5) if weight is None else weight[b, 0]
            for c in range(4):
                if valid[b, c] and w.sum() > 0:
                    a, r = attention[b, c], region[b, c]
                    terms.append((-(r * a.log() + (1 - r) * (1 - a).log()) * w).sum() / w.sum())
        expected = torch.stack(terms).mean()
        torch.testing.assert_close(pixel_attention_loss(attention, region, valid, weight), expected)
        torch.testing.assert_close(PixelAttentionLoss()(attention, region, valid, weight), expected)

    def test_value_patches_without_weight_do_not_count(self) -> None:
        attention, region, valid = draw_maps()
        weight = torch.ones(3, 1, 4, 5)
        weight[..., 0] = 0
        loss = pixel_attention_loss(attention, region, valid, weight)
        attention[..., 0], region[..., 0] = 0.123, 0.9
        assert torch.equal(pixel_attention_loss(attention, region, valid, weight), loss)

    def test_value_of_classes_that_are_not_counted_is_never_read(self) -> None:
        attention, region, valid = draw_maps()
        attention.requires_grad_()
        pixel_attention_loss(attention, region, valid).backward()
        assert attention.grad is not None
        assert not attention.grad[~valid].any()
        assert attention.grad[valid].any()

    @pytest.mark.parametrize("weight", [None, torch.zeros(3, 1, 4, 5)])
    def test_value_of_nothing_is_0_with_a_graph(self, weight: Tensor | None) -> None:
        attention, region, valid = draw_maps()
        attention.requires_grad_()
        loss = pixel_attention_loss(attention, region, valid & (weight is not None), weight)
        loss.backward()
        assert loss.item() == 0
        assert attention.grad is not None
        assert not attention.grad.any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize("value", [0.0, 1e-7, 1.0])
    def test_value_is_finite_at_the_ends(self, value: float, target: float, dtype: torch.dtype) -> None:
        attention = torch.full((1, 1, 1, 1), value, dtype=dtype, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = pixel_attention_loss(attention, torch.full((1, 1, 1, 1), target), torch.tensor([[True]]))
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert attention.grad is not None
        assert attention.grad.isfinite().all()

    def test_gradient_reaches_a_saturated_sigmoid(self) -> None:
        logit = torch.tensor([-30.0, 12.0], requires_grad=True)
        region = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
        pixel_attention_loss(logit.sigmoid().view(1, 1, 1, 2), region, torch.tensor([[True]])).backward()
        assert logit.grad is not None
        assert logit.grad[1].item() == pytest.approx(0.5, rel=0.02)
        assert logit.grad[0].item() < 0

    def test_gradcheck(self) -> None:
        attention, region, valid = draw_maps()
        attention = (attention * 0.9 + 0.05).double().requires_grad_()
        weight = torch.rand(3, 1, 4, 5, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda a: pixel_attention_loss(a, region.double(), valid, weight), (attention,))

    def test_exception(self) -> None:
        attention, region, valid = draw_maps()
        with pytest.raises(ValueError, match=r"region must be .* got \(3, 4, 4, 4\)"):
            pixel_attention_loss(attention, region[..., :4], valid)
        with pytest.raises(ValueError, match=r"valid must be \(B, N\) with B=3, N=4, got \(4,\)"):
            pixel_attention_loss(attention, region, valid[0])
        with pytest.raises(ValueError, match=r"weight must be \(B, 1, h, w\) with B=3, h=4, w=5, got \(3, 4, 4, 5\)"):
            pixel_attention_loss(attention, region, valid, region)

    @given(st.integers(0, 10_000))
    @settings(max_examples=30)
    def test_property_least_at_the_target(self, seed: int) -> None:
        attention, region, valid = draw_maps(seed)
        loss = pixel_attention_loss(attention, region, valid)
        assert loss >= pixel_attention_loss(region, region, valid) >= 0
        hard = (region > 0.5).float()
        assert pixel_attention_loss(hard, hard, valid) == 0
        rows, columns = torch.randperm(3), torch.randperm(4)
        shuffled = [x[rows][:, columns] for x in (attention, region, valid)]
        torch.testing.assert_close(pixel_attention_loss(*shuffled), loss)


def draw_logits(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with ignored pixels, and unlabelled classes that differ between the samples."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 5, 4, 6, generator=generator)
    label = torch.randint(0, 5, (3, 4, 6), generator=generator)
    label[:, 0, :2] = IGNORE
    unlabelled = torch.zeros(3, 5, dtype=torch.bool)
    unlabelled[0, 1] = unlabelled[2, 1] = unlabelled[2, 4] = True
    return logits, label, unlabelled


class TestPartialLabelCrossEntropy:
    def test_twin(self) -> None:
        logits, label, unlabelled = draw_logits()
        terms = []
        for b, y, x in (label != IGNORE).nonzero().tolist():
            p = logits[b, :, y, x].softmax(dim=0).tolist()
            true = int(label[b, y, x])
            mass = p[true] + (sum(p[c] for c in range(1, 5) if unlabelled[b, c]) if true == 0 else 0.0)
            terms.append(-math.log(mass))
        expected = sum(terms) / len(terms)
        assert partial_label_cross_entropy(logits, label, unlabelled).item() == pytest.approx(expected, rel=1e-5)
        assert PartialLabelCrossEntropy()(logits, label, unlabelled).item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("unlabelled", [None, torch.zeros(3, 5, dtype=torch.bool)])
    def test_value_without_unlabelled_classes_is_plain(self, unlabelled: Tensor | None) -> None:
        logits, label, _ = draw_logits()
        expected = F.cross_entropy(logits, label, ignore_index=IGNORE)
        torch.testing.assert_close(partial_label_cross_entropy(logits, label, unlabelled), expected)

    def test_value_both_ways_agree_where_no_pixel_is_0(self) -> None:
        logits, label, unlabelled = draw_logits()
        label[label == 0] = 3
        expected = partial_label_cross_entropy(logits, label)
        torch.testing.assert_close(partial_label_cross_entropy(logits, label, unlabelled), expected)

    @pytest.mark.parametrize("partial", [False, True])
    def test_value_of_ignored_pixels_only_is_0_with_a_graph(self, partial: bool) -> None:
        logits, label, unlabelled = draw_logits()
        logits.requires_grad_()
        loss = partial_label_cross_entropy(logits, torch.full_like(label, IGNORE), unlabelled if partial else None)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad is not None
        assert not logits.grad.any()

    @pytest.mark.parametrize("partial", [False, True])
    def test_value_of_another_ignore(self, partial: bool) -> None:
        logits, label, unlabelled = draw_logits()
        used = unlabelled if partial else None
        expected = partial_label_cross_entropy(logits, label, used)
        label[label == IGNORE] = -100
        torch.testing.assert_close(PartialLabelCrossEntropy(ignore=-100)(logits, label, used), expected)

    @pytest.mark.parametrize("partial", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_value_is_finite_for_extreme_logits(self, dtype: torch.dtype, partial: bool) -> None:
        logits, label, unlabelled = draw_logits()
        extreme = (1e4 * logits.sign()).to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = partial_label_cross_entropy(extreme, label, unlabelled if partial else None)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert extreme.grad is not None
        assert extreme.grad.isfinite().all()

    def test_value_an_unlabelled_class_is_not_pushed_down_on_background(self) -> None:
        logits = torch.zeros(1, 3, 1, 1, requires_grad=True)
        unlabelled = torch.tensor([[False, True, False]])
        loss = partial_label_cross_entropy(logits, torch.zeros(1, 1, 1, dtype=torch.int64), unlabelled)
        loss.backward()
        assert loss.item() == pytest.approx(math.log(1.5))
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad.flatten(), torch.tensor([-1 / 6, -1 / 6, 1 / 3]))

    def test_value_leaves_its_arguments_alone(self) -> None:
        arguments = draw_logits()
        partial_label_cross_entropy(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(arguments, draw_logits(), strict=True))

    def test_gradcheck(self) -> None:
        logits, label, unlabelled = draw_logits()
        logits = logits.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: partial_label_cross_entropy(z, label, unlabelled), (logits,))

    def test_exception(self) -> None:
        logits, label, unlabelled = draw_logits()
        with pytest.raises(ValueError, match=r"label must be \(B, H, W\) with .* got \(3, 1, 4, 6\)"):
            partial_label_cross_entropy(logits, label[:, None], unlabelled)
        with pytest.raises(ValueError, match=r"unlabelled must be \(B, N\) with B=3, N=5, got \(5,\)"):
            partial_label_cross_entropy(logits, label, unlabelled[0])

    @given(st.integers(0, 10_000))
    @settings(max_examples=30)
    def test_property_never_above_the_plain_loss(self, seed: int) -> None:
        logits, label, unlabelled = draw_logits(seed)
        loss = partial_label_cross_entropy(logits, label, unlabelled)
        assert 0 <= loss <= partial_label_cross_entropy(logits, label) + 1e-6
        order = torch.randperm(3)
        torch.testing.assert_close(partial_label_cross_entropy(logits[order], label[order], unlabelled[order]), loss)
        everything = torch.ones(3, 5, dtype=torch.bool)
        only_background = label.where(label == IGNORE, 0)
        assert partial_label_cross_entropy(logits, only_background, everything).item() == pytest.approx(0, abs=1e-5)


class TestMaskedDiceLoss:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_twin(self, dtype: torch.dtype) -> None:
        logits, label, _ = draw_logits()
        logits = logits.to(dtype)
        label[0, :2] = IGNORE
        valid = (label != IGNORE)[:, None]
        one_hot = F.one_hot(label.where(valid[:, 0], 0), 5).movedim(-1, 1).to(dtype)
        # not MONAI's MaskedDiceLoss: that of 1.5.2 masks the logits, before the softmax
        loss = DiceLoss(squared_pred=True, batch=True)(logits.softmax(1) * valid, one_hot * valid)
        torch.testing.assert_close(masked_dice_loss(logits, label), loss)

    def test_value(self) -> None:
        """Two pixels of two classes at probabilities 3/4 and 1/4, the third is left out."""
        logits = torch.tensor([3.0, 1.0]).log()[None, :, None, None].expand(1, 2, 1, 3)
        label = torch.tensor([[[0, 1, IGNORE]]])
        expected = 1 - (1.5 / (2 * 9 / 16 + 1) + 0.5 / (2 / 16 + 1)) / 2
        assert masked_dice_loss(logits, label).item() == pytest.approx(expected, abs=1e-4)

    def test_perfect_and_empty(self) -> None:
        label = torch.tensor([[[0, 2], [2, IGNORE]]])  # nothing of class 1
        logits = 50 * F.one_hot(label.where(label != IGNORE, 1), 3).movedim(-1, 1).float()
        assert masked_dice_loss(logits, label).item() == pytest.approx(0, abs=1e-6)
        logits.requires_grad_()
        loss = masked_dice_loss(logits, torch.full_like(label, IGNORE))
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()

    def test_half_precision(self) -> None:
        logits, label, _ = draw_logits()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = masked_dice_loss(logits.half(), label)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, masked_dice_loss(logits, label), atol=1e-3, rtol=1e-3)

    def test_exception(self) -> None:
        logits, label, _ = draw_logits()
        with pytest.raises(ValueError, match=r"label must be \(B, H, W\) with .* got \(3, 1, 4, 6\)"):
            masked_dice_loss(logits, label[:, None])


class TestCorrelationClusteringLoss:
    def test_twin(self) -> None:
        similarity, assignment = torch.rand(2, 5, 5), torch.rand(2, 5, 3).softmax(2)
        total = torch.zeros(())
        for b in range(2):
            for i in range(5):
                for j in range(5):
                    weight = similarity[b, i, j] - similarity[b].max() / 3
                    total = total - weight * sum(assignment[b, i, k] * assignment[b, j, k] for k in range(3))
        torch.testing.assert_close(correlation_clustering_loss(similarity, assignment, 3.0), total / 2 / 25)

    def test_prefers_the_true_clusters(self) -> None:
        """Two pairs of nodes that are alike: together, apart, or each by itself."""
        similarity = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))[None]
        pairs, one, single = ([0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 2, 3])
        values = [
            correlation_clustering_loss(similarity, F.one_hot(torch.tensor([labels]), 4).float()).item()
            for labels in (pairs, one, single)
        ]
        assert values == [-4 / 16, 0.0, -2 / 16]

    def test_half_precision(self) -> None:
        similarity, assignment = torch.rand(2, 5, 5), torch.rand(2, 5, 3).softmax(2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = correlation_clustering_loss(similarity.half(), assignment.half())
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, correlation_clustering_loss(similarity, assignment), atol=1e-3, rtol=1e-2)

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="alpha must be positive, got 0"):
            correlation_clustering_loss(torch.rand(1, 5, 5), torch.rand(1, 5, 3), 0)
        with pytest.raises(ValueError, match=r"assignment must be \(B, n, K\) with B=1, n=5, got \(1, 4, 3\)"):
            correlation_clustering_loss(torch.rand(1, 5, 5), torch.rand(1, 4, 3))


@pytest.mark.parametrize("name", ["token", "pixel", "partial", "dice"])
def test_convergence_on_one_batch(name: str) -> None:
    attention, region, valid = draw_maps()
    hard = (region > 0.5).float()
    _, label, unlabelled = draw_logits()
    parameter = (torch.randn(3, 5, 4, 6) if name in ("partial", "dice") else (attention - 0.5)).requires_grad_()
    optimiser = torch.optim.Adam([parameter], lr=0.3)
    losses = []
    for _ in range(40):
        if name == "token":
            loss = token_attention_loss(parameter.sigmoid(), hard, valid)
        elif name == "pixel":
            loss = pixel_attention_loss(parameter.sigmoid(), hard, valid)
        elif name == "dice":
            loss = masked_dice_loss(parameter, label)
        else:
            loss = partial_label_cross_entropy(parameter, label, unlabelled)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


class TestMaskedPixelLoss:
    @staticmethod
    def draw() -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        predicted, image = torch.randn(2, 3, 1, 4, 5, generator=generator)
        return predicted, image, torch.rand(3, 1, 4, 5, generator=generator) > 0.4

    def test_twin(self) -> None:
        predicted, image, masked = self.draw()
        terms = [
            abs(p - x) for p, x, m in zip(*(t.flatten().tolist() for t in (predicted, image, masked)), strict=True) if m
        ]
        assert 0 < len(terms) < masked.numel()
        assert masked_pixel_loss(predicted, image, masked).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)

    def test_value_does_not_depend_on_what_is_seen(self) -> None:
        predicted, image, masked = self.draw()
        other = predicted.where(masked, 100.0)
        assert torch.equal(masked_pixel_loss(predicted, image, masked), masked_pixel_loss(other, image, masked))

    def test_value_of_nothing_masked_is_0_with_a_graph(self) -> None:
        predicted, image, masked = self.draw()
        predicted.requires_grad_()
        loss = masked_pixel_loss(predicted, image, torch.zeros_like(masked))
        loss.backward()
        assert loss.item() == 0
        assert predicted.grad is not None
        assert not predicted.grad.any()

    def test_exception(self) -> None:
        predicted, image, masked = self.draw()
        with pytest.raises(ValueError, match=r"masked must be \(B, 1, H, W\) with B=3, H=4, W=5, got \(3, 4, 5\)"):
            masked_pixel_loss(predicted, image, masked[:, 0])


class TestNothingWaitsForTheDevice:
    """A meta tensor has no values: whoever looks at one, as a copy from a GPU to the host would, gets an error."""

    @pytest.fixture(autouse=True)
    def without_autocast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # it knows no meta tensors

    def test_segmentation(self) -> None:
        logits = torch.empty(2, 4, 8, 8, device="meta", requires_grad=True)
        label = torch.empty(2, 8, 8, dtype=torch.int64, device="meta")
        unlabelled = torch.empty(2, 4, dtype=torch.bool, device="meta")
        for loss in (
            partial_label_cross_entropy(logits, label),
            partial_label_cross_entropy(logits, label, unlabelled),
            masked_dice_loss(logits, label),
            pseudo_label_loss(logits, label, dice=0.5),
        ):
            assert loss.shape == ()
            loss.backward()

    def test_attention(self) -> None:
        maps = torch.empty(2, 4, 3, 3, device="meta", requires_grad=True)
        flags = torch.empty(2, 4, dtype=torch.bool, device="meta")
        for loss in (
            token_attention_loss(maps, maps.detach(), flags),
            pixel_attention_loss(maps, maps.detach(), flags, torch.empty(2, 1, 3, 3, device="meta")),
            masked_pixel_loss(maps[:, :1], maps[:, :1].detach(), torch.ones_like(maps[:, :1], dtype=torch.bool)),
            correlation_clustering_loss(maps[:, 0], maps[:, 1]),
        ):
            assert loss.shape == ()
            loss.backward()

    @pytest.mark.parametrize("some", [True, False])
    def test_other_devices_compute_the_same(self, some: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """The sum over all channels, as on a GPU, against that over the few which are unlabelled."""
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(2, 5, 6, 6, generator=generator).requires_grad_()
        label = torch.randint(0, 4, (2, 6, 6), generator=generator)
        unlabelled = torch.zeros(2, 5, dtype=torch.bool)
        unlabelled[1, 4] = some
        found = []
        for device in ("cpu", "cuda"):
            with monkeypatch.context() as patch:
                if device == "cuda":
                    patch.setattr(losses, "_on_cpu", lambda tensor: False)
                loss = partial_label_cross_entropy(logits, label, unlabelled)
                found.append((loss.detach(), torch.autograd.grad(loss, logits)[0]))
        torch.testing.assert_close(found[0], found[1])


class TestSigmoidRamp:
    @pytest.mark.parametrize(
        ("progress", "weight"),
        [(0.0, 0.0), (0.199, 0.0), (0.2, math.exp(-5)), (0.4, math.exp(-1.25)), (0.6, 1.0), (1.0, 1.0)],
    )
    def test_value(self, progress: float, weight: float) -> None:
        assert sigmoid_ramp(progress, start=0.2, length=0.4) == pytest.approx(weight)

    def test_value_without_length_is_a_switch(self) -> None:
        assert [sigmoid_ramp(p, start=0.5, length=0.0) for p in (0.49, 0.5, 0.51)] == [0.0, 1.0, 1.0]

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"must not be negative, got -0\.1"):
            sigmoid_ramp(0.5, 0.0, -0.1)

    @given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    @settings(max_examples=30)
    def test_property_rises_within_0_and_1(self, a: float, b: float, start: float, length: float) -> None:
        low, high = (sigmoid_ramp(p, start, length) for p in sorted((a, b)))
        assert 0.0 <= low <= high <= 1.0


class TestPseudoLabelLoss:
    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_value(self, share: float) -> None:
        logits, label = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
        parts = partial_label_cross_entropy(logits, label), masked_dice_loss(logits, label)
        found = pseudo_label_loss(logits, label, dice=share)
        torch.testing.assert_close(found, (1 - share) * parts[0] + share * parts[1])
        assert torch.equal(pseudo_label_loss(logits, label), parts[0])
