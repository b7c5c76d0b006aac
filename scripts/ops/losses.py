"""Losses as functions on tensors, and thin modules that hold their parameters for a config."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..labels import IGNORE
from .check_shape import check_shape


def token_attention_loss(
    attention: Tensor, region: Tensor, present: Tensor, *, eps: float = 1e-6, per_image: bool = False
) -> Tensor:
    """Token-level loss: mean squared share of each present class's attention that lies outside its region, eq. (1).

    For a class with map A and region B: (1 - Σ A·B / Σ A)², averaged over the present classes of all images together,
    or of each image first.

    Args:
        attention: (B, N, h, w) attention maps, ≥ 0, any scale.
        region: (B, N, h, w) share of the patch inside the class, in [0, 1].
        present: (B, N) bool, labelled classes that are in the image. A class whose region is empty (too small for the
            patch grid) is left out, since its loss would be the constant 1.
        eps: floor of the denominator; a map of zeros has loss 1 instead of NaN.
        per_image: an image counts as much as another one, however many classes it shows.

    Returns:
        () loss in [0, 1], float32 or wider; 0 if no class is present (the graph is kept).

    Raises:
        ValueError: the shapes differ.

    References: Wang et al., TokenCompose, CVPR 2024, token loss; the CPS4 paper, token-level consistency.

    Example:
        >>> maps = torch.tensor([[[[1.0, 3.0]]]]); region = torch.tensor([[[[0.0, 1.0]]]])
        >>> token_attention_loss(maps, region, torch.tensor([[True]])).item()
        0.0625
    """
    sizes = check_shape("attention", attention, "B N h w")
    check_shape("region", region, "B N h w", sizes)
    check_shape("present", present, "B N", sizes)
    with torch.autocast(attention.device.type, enabled=False):
        maps, region = _at_least_float32(attention), region.to(_loss_dtype(attention))
        if attention.dtype == torch.float16:
            eps = max(eps, 2.0**-14)  # the gradient of a map without any attention is up to 2 / eps
        share = (maps * region).sum(dim=(2, 3)) / maps.sum(dim=(2, 3)).clamp_min(eps)
        return _mean_where((1 - share).square(), present & (region.amax(dim=(2, 3)) > 0), per_image)


def pixel_attention_loss(
    attention: Tensor, region: Tensor, valid: Tensor, weight: Tensor | None = None, *, per_image: bool = False
) -> Tensor:
    """Pixel-level loss: binary cross-entropy of attention maps against regions, eq. (2), mean over valid classes.

    Args:
        attention: (B, N, h, w) attention maps in [0, 1].
        region: (B, N, h, w) targets in [0, 1], soft or hard; all 0 for an absent class.
        valid: (B, N) bool, classes that enter the loss: present ones, and absent ones as negatives; never a class that
            the data set does not label.
        weight: (B, 1, h, w) weight of the patches, ≥ 0, for example their valid area; None: equal weights. An image
            whose weights are all 0 is left out.
        per_image: the mean over the valid classes of each image first, then over images; else over all together.

    Returns:
        () loss ≥ 0, float32 or wider, 0 only for exact hard targets; 0 if no class is valid (the graph is
        kept). Logarithms are clamped at -100, so that 0 and 1 are allowed.

    Raises:
        ValueError: the shapes differ.

    References: Wang et al., TokenCompose, CVPR 2024, pixel loss; the CPS4 paper, pixel-level consistency.
    """
    sizes = check_shape("attention", attention, "B N h w")
    check_shape("region", region, "B N h w", sizes)
    check_shape("valid", valid, "B N", sizes)
    # binary_cross_entropy refuses to run under autocast.
    with torch.autocast(attention.device.type, enabled=False):
        maps, region = _at_least_float32(attention), region.to(_loss_dtype(attention))
        if attention.dtype == torch.float16:
            # A gradient near 0 or 1 would overflow float16; beyond these bounds it is cut off.
            maps = maps.clamp(2.0**-14, 1 - 2.0**-11)
        patchwise = F.binary_cross_entropy(maps, region, reduction="none")
        if weight is None:
            return _mean_where(patchwise.mean(dim=(2, 3)), valid, per_image)
        check_shape("weight", weight, "B 1 h w", sizes)
        weight = weight.to(patchwise)
        total = weight.sum(dim=(2, 3))  # (B, 1)
        classwise = (patchwise * weight).sum(dim=(2, 3)) / total.where(total > 0, 1.0)
        return _mean_where(classwise, valid & (total > 0), per_image)


def masked_pixel_loss(predicted: Tensor, image: Tensor, masked: Tensor) -> Tensor:
    """L1 reconstruction loss over the masked pixels (masked image modelling).

    Args:
        predicted: (B, 1, H, W) predicted grey values.
        image: (B, 1, H, W) grey values of the whole image.
        masked: (B, 1, H, W) bool, masked pixels; the others do not enter the loss.

    Returns:
        () loss ≥ 0, float32 or wider; 0 if no pixel is masked (the graph is kept).

    Raises:
        ValueError: the shapes differ.

    References: Xie et al., SimMIM, CVPR 2022, section 3.4.
    """
    sizes = check_shape("predicted", predicted, "B 1 H W")
    check_shape("image", image, "B 1 H W", sizes)
    check_shape("masked", masked, "B 1 H W", sizes)
    return _mean_where((_at_least_float32(predicted) - _at_least_float32(image)).abs(), masked)


def partial_label_cross_entropy(
    logits: Tensor, label: Tensor, unlabelled: Tensor | None = None, ignore: int = IGNORE
) -> Tensor:
    """Cross-entropy for partially labelled data (marginal loss).

    A pixel labelled 0 may be background or any unlabelled class of its sample: -log(p₀ + Σ p over those classes).
    Every other pixel has the usual -log p(label).

    Args:
        logits: (B, N, H, W) before softmax; half precision is computed in float32.
        label: (B, H, W) int64 class indices or `ignore`.
        unlabelled: (B, N) bool, classes that the sample's data set does not label; None or all false gives the plain
            cross-entropy.
        ignore: label of ignored pixels.

    Returns:
        () mean over the pixels that are not ignored; 0 if there are none (the graph is kept).

    Raises:
        ValueError: the shapes do not fit.
    """
    sizes = check_shape("logits", logits, "B N H W")
    check_shape("label", label, "B H W", sizes)
    if unlabelled is not None:
        check_shape("unlabelled", unlabelled, "B N", sizes)
    with torch.autocast(logits.device.type, enabled=False):
        logits = _at_least_float32(logits)
        num_valid = (label != ignore).sum().clamp_min(1)
        if unlabelled is None or (_on_cpu(logits) and not unlabelled.any()):
            if _on_cpu(logits):
                return F.cross_entropy(logits, label, ignore_index=ignore, reduction="sum") / num_valid
            # The reduction inside cross_entropy is fastest on a CPU and not deterministic on a GPU.
            return F.cross_entropy(logits, label, ignore_index=ignore, reduction="none").sum() / num_valid
        log_probs = logits.log_softmax(dim=1)
        pixelwise = F.nll_loss(log_probs, label, ignore_index=ignore, reduction="none")
        return torch.where(label == 0, -_log_background(log_probs, unlabelled), pixelwise).sum() / num_valid


def masked_dice_loss(logits: Tensor, label: Tensor, ignore: int = IGNORE, *, eps: float = 1e-5) -> Tensor:
    """Soft Dice loss with squared denominators over all pixels but the ignored ones.

    1 - mean over classes of (2 Σ p·y + eps) / (Σ p² + Σ y + eps); the sums run over the whole batch (batch
    Dice), so that a class need not be in every slice.

    Args:
        logits: (B, N, H, W) before softmax; half precision is computed in float32.
        label: (B, H, W) int64 class indices or `ignore`.
        ignore: label of ignored pixels.
        eps: smoothing; a class that is neither predicted nor labelled has loss 0.

    Returns:
        () loss in [0, 1]; 0 if all pixels are ignored (the graph is kept).

    Raises:
        ValueError: the shapes do not fit.

    References: Milletari et al., V-Net, 3DV 2016.
    """
    sizes = check_shape("logits", logits, "B N H W")
    check_shape("label", label, "B H W", sizes)
    with torch.autocast(logits.device.type, enabled=False):
        probs, label = _at_least_float32(logits).softmax(dim=1), label[:, None]
        valid = label != ignore
        classes = torch.arange(sizes["N"], device=label.device)[:, None, None]
        members = (label == classes) & valid  # (B, N, H, W)
        overlap = probs.where(members, 0.0).sum(dim=(0, 2, 3))
        size = probs.where(valid, 0.0).square().sum(dim=(0, 2, 3)) + members.sum(dim=(0, 2, 3))
        return 1 - ((2 * overlap + eps) / (size + eps)).mean()


def pseudo_label_loss(logits: Tensor, label: Tensor, *, dice: float = 0.0) -> Tensor:
    """(1 - dice) · cross-entropy + dice · Dice loss against hard pseudo-labels.

    Args:
        logits: (B, N, H, W) before softmax.
        label: (B, H, W) int64 class indices, 255 for ignored pixels.
        dice: share of :func:`masked_dice_loss`, in [0, 1].

    Returns:
        () loss ≥ 0; 0 if all pixels are ignored.
    """
    loss = partial_label_cross_entropy(logits, label)
    return loss if dice == 0 else (1 - dice) * loss + dice * masked_dice_loss(logits, label)


def correlation_clustering_loss(similarity: Tensor, assignment: Tensor, alpha: float = 2.0) -> Tensor:
    """Correlation clustering loss -Tr(Sᵀ W S) / n² with W = A - max(A) / alpha, mean over the graphs.

    Nodes with positive W are drawn into one cluster, others apart, so the number of clusters follows from the data.

    Args:
        similarity: A, (B, n, n) similarities of the nodes.
        assignment: S, (B, n, K) shares of the nodes in the clusters; half precision is computed in float32.
        alpha: > 0; the larger, the fewer clusters.

    Returns:
        () loss, float32 or wider; negative where similar nodes share a cluster.

    Raises:
        ValueError: the shapes do not fit, or alpha is not positive.

    References: Aflalo et al., DeepCut, ICCVW 2023, its correlation clustering; the division by n² is ours.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    sizes = check_shape("similarity", similarity, "B n n")
    check_shape("assignment", assignment, "B n K", sizes)
    with torch.autocast(similarity.device.type, enabled=False):
        similarity, assignment = _at_least_float32(similarity), _at_least_float32(assignment)
        weights = similarity - similarity.amax(dim=(1, 2), keepdim=True) / alpha
        return -(assignment * (weights @ assignment)).sum(dim=(1, 2)).mean() / sizes["n"] ** 2


def _log_background(log_probs: Tensor, unlabelled: Tensor) -> Tensor:
    """log(p₀ + Σ p over the unlabelled classes of the sample), (B, N, H, W) and (B, N) bool -> (B, H, W)."""
    unlabelled = unlabelled.to(log_probs.device).clone()
    unlabelled[:, 0] = True
    if _on_cpu(log_probs):
        # Few classes are unlabelled, so a sum over their channels is cheap.
        classes = unlabelled.any(dim=0).nonzero()[:, 0]
        log_probs, unlabelled = log_probs[:, classes], unlabelled[:, classes]
    return log_probs.masked_fill(~unlabelled[:, :, None, None], -torch.inf).logsumexp(dim=1)


def _on_cpu(x: Tensor) -> bool:
    """Whether values can be looked at in between; elsewhere that would wait for the device."""
    return x.device.type == "cpu"


def _mean_where(values: Tensor, mask: Tensor, per_row: bool = False) -> Tensor:
    """Masked mean, or that of the rows' masked means; 0 (the graph is kept) if the mask is empty."""
    mask = mask.to(values.device)
    if per_row:
        rows = values.where(mask, 0.0).sum(1) / mask.sum(1).clamp_min(1)
        return rows.sum() / mask.any(1).sum().clamp_min(1)
    return values.where(mask, 0.0).sum() / mask.sum().clamp_min(1)


def _at_least_float32(x: Tensor) -> Tensor:
    """Half precision is cast to float32."""
    return x.to(_loss_dtype(x))


def _loss_dtype(x: Tensor) -> torch.dtype:
    """Floating-point type in which losses of this tensor are computed."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class TokenAttentionLoss(nn.Module):
    """See :func:`token_attention_loss`."""

    def forward(self, attention: Tensor, region: Tensor, present: Tensor) -> Tensor:
        """() loss."""
        return token_attention_loss(attention, region, present)


class PixelAttentionLoss(nn.Module):
    """See :func:`pixel_attention_loss`."""

    def forward(self, attention: Tensor, region: Tensor, valid: Tensor, weight: Tensor | None = None) -> Tensor:
        """() loss."""
        return pixel_attention_loss(attention, region, valid, weight)


class PartialLabelCrossEntropy(nn.Module):
    """See :func:`partial_label_cross_entropy`."""

    def __init__(self, ignore: int = IGNORE) -> None:
        super().__init__()
        self.ignore = ignore

    def forward(self, logits: Tensor, label: Tensor, unlabelled: Tensor | None = None) -> Tensor:
        """() loss."""
        return partial_label_cross_entropy(logits, label, unlabelled, self.ignore)


def sigmoid_ramp(progress: float, start: float, length: float) -> float:
    """Sigmoid-shaped ramp-up exp(-5 (1 - t)²), with t = (progress - start) / length clamped to [0, 1].

    Args:
        progress: share of the training that is done, in [0, 1].
        start: progress at which the ramp begins; the weight is 0 before it and exp(-5) = 0.0067 at it.
        length: share of the training that the ramp takes, ≥ 0; 0 switches the weight from 0 to 1 at `start`.

    Returns:
        weight in [0, 1]; 1 from `start + length` on.

    Raises:
        ValueError: a negative length.

    References: Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017, section 3.
    """
    if length < 0:
        raise ValueError(f"length of a ramp must not be negative, got {length}")
    if progress < start:
        return 0.0
    t = 1.0 if progress >= start + length else (progress - start) / length
    return math.exp(-5.0 * (1.0 - t) ** 2)
