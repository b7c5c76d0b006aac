"""Fusion of the teacher's prediction and the prompt-guided map into hard pseudo-labels.

Every function takes the teacher's logits (B, N, H, W) and a :class:`PromptEvidence`, and returns (B, H, W) int64 class
indices, 255 where no label is given. Where the prompt-guided map itself is 255, the teacher decides alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import torch
from torch import Tensor

from ..labels import IGNORE
from .check_shape import check_shape
from .levels.ordering import decode_order
from .levels.tissue import top_class, type_probability


class PromptEvidence:
    """Attention maps of the class prompts for a batch of slices, and the prompt-guided map made of them.

    Args:
        maps: (B, N, H, W) activated and up-sampled attention maps, ≥ 0.
        label: (B, H, W) int64 prompt-guided map, 255 where there is none; or a function that computes it at first
            access, since the kinds of level evidence do not use it.
    """

    def __init__(self, maps: Tensor, label: Tensor | Callable[[], Tensor]) -> None:
        self.maps, self._label = maps, label

    @cached_property
    def label(self) -> Tensor:
        """(B, H, W) int64 prompt-guided map; 255 where there is none."""
        return self._label if isinstance(self._label, Tensor) else self._label()


def fuse(
    teacher_logits: Tensor,
    prompt: PromptEvidence,
    *,
    kind: str,
    groups: Tensor,
    chain: Tensor | None = None,
    gamma: float = 1.5,
    beta: float = 1.0,
) -> Tensor:
    """Enhanced pseudo-label from teacher and prompts, eq. (7) of the CPS4 paper and alternatives.

    Args:
        teacher_logits: (B, N, H, W) logits of the teacher.
        prompt: evidence of the prompts for the same slices.
        kind: "logit", "probability", "product", "agreement", "level_evidence" or "ordered_level_evidence"; see the
            functions of these names.
        groups: (N,) int64 type of every class; read by the two kinds of level evidence.
        chain: (J,) class ids from the lowest structure upwards; read by "ordered_level_evidence".
        gamma: exponent of the prompt's level, ≥ 0; read by the two kinds of level evidence.
        beta: weight of the prompt-guided map; read by "logit" (added to logits) and "probability".

    Returns:
        (B, H, W) int64 pseudo-label, 255 where none is given.

    Raises:
        ValueError: an unknown kind, or shapes that do not fit.
    """
    fusions: dict[str, Callable[[Tensor, PromptEvidence], Tensor]] = {
        "logit": partial(logit_fusion, beta=beta),
        "probability": partial(probability_fusion, weight=beta),
        "product": product_fusion,
        "agreement": agreement_fusion,
        "level_evidence": partial(level_evidence_fusion, groups=groups, gamma=gamma),
        "ordered_level_evidence": partial(ordered_level_evidence_fusion, groups=groups, chain=chain, gamma=gamma),
    }
    if kind not in fusions:
        raise ValueError(f"fusion must be one of {', '.join(fusions)}, got {kind!r}")
    sizes = check_shape("teacher_logits", teacher_logits, "B N H W")
    check_shape("prompt.maps", prompt.maps, "B N H W", sizes)
    if not kind.endswith("level_evidence"):  # level evidence does not use the label, so it is not computed
        check_shape("prompt.label", prompt.label, "B H W", sizes)
    return fusions[kind](teacher_logits, prompt)


def logit_fusion(teacher_logits: Tensor, prompt: PromptEvidence, *, beta: float = 1.0) -> Tensor:
    """argmax_c z_t(c) + beta · [S = c]: adds beta to the teacher's logit of the map's class.

    With beta 1 this is the literal reading of the paper's enhanced pseudo-label.

    References: the CPS4 paper, enhanced pseudo-label; its predecessors add the text map to the teacher's logits.
    """
    return top_class(_add_at_label(teacher_logits.float(), prompt.label, beta))


def probability_fusion(teacher_logits: Tensor, prompt: PromptEvidence, *, weight: float = 0.5) -> Tensor:
    """argmax_c p_t(c) + weight · [S = c]; from weight 1 on this is the prompt-guided map itself."""
    return top_class(_add_at_label(teacher_logits.float().softmax(dim=1), prompt.label, weight))


def product_fusion(teacher_logits: Tensor, prompt: PromptEvidence) -> Tensor:
    """argmax_c (p_t(c) + 0.001) · ([S = c] + 0.1): product of experts; the map favours its class 11 to 1."""
    probs = teacher_logits.float().softmax(dim=1) + 1e-3
    # (p + .001) · .1 + (p + .001) · [S = c]
    at_label = probs.gather(1, _index(prompt.label, probs.shape[1]))
    return top_class(_add_at_label(probs * 0.1, prompt.label, at_label))


def agreement_fusion(teacher_logits: Tensor, prompt: PromptEvidence) -> Tensor:
    """The teacher's arg max where it agrees with the prompt-guided map, 255 (ignore) elsewhere."""
    teacher = top_class(teacher_logits)
    return teacher.masked_fill(teacher != prompt.label, IGNORE)


def level_evidence_fusion(
    teacher_logits: Tensor, prompt: PromptEvidence, *, groups: Tensor, gamma: float = 1.5, eps: float = 1e-3
) -> Tensor:
    """Tissue type from the teacher, level from teacher and prompts: prompts can change the level only.

    type = argmax_t p_t(type);  level = argmax_c p_t(c | type) · q(c | type)^gamma  over the classes of that type,
    with q(c | type) = (A_c + eps) / Σ over the type of (A + eps). A type of one class leaves no choice.

    Args:
        teacher_logits: (B, N, H, W) logits of the teacher.
        prompt: evidence of the prompts; its label is not read.
        groups: (N,) int64 type of every class.
        gamma: exponent of the prompt's level probability, ≥ 0; 0 uses the teacher alone.
        eps: floor of the attention maps, > 0; a map of zeros then does not exclude its class.

    Returns:
        (B, H, W) int64 class indices.

    References: no paper. Prompts tell levels better than tissue types; for the teacher it is the reverse.
    """
    # On a CPU softmax over channels in channels-last memory is several times slower.
    logits = teacher_logits.float().contiguous()
    tissue = top_class(type_probability(logits.softmax(dim=1), groups))  # (B, H, W)
    # Within a type p_t(c | type) is proportional to exp(z_t(c)) and q to A_c + eps: no normalisation is needed.
    score = (prompt.maps.float() + eps).log_().mul_(gamma).add_(logits)
    outside = groups.to(logits.device)[:, None, None] != tissue[:, None]  # (B, N, H, W)
    return top_class(score.masked_fill_(outside, -torch.inf))


def ordered_level_evidence_fusion(
    teacher_logits: Tensor,
    prompt: PromptEvidence,
    *,
    groups: Tensor,
    chain: Tensor | None,
    gamma: float = 0.5,
    eps: float = 1e-3,
) -> Tensor:
    """As :func:`level_evidence_fusion`, with the levels of each slice in anatomical order.

    Levels are decoded from p_t(c | type) · q(c | type)^gamma by the Viterbi algorithm, see
    :func:`scripts.ops.levels.ordering.decode_order`.

    Args:
        teacher_logits: (B, N, H, W) logits of the teacher.
        prompt: evidence of the prompts; its label is not read.
        groups: (N,) int64 type of every class.
        chain: (J,) class ids from the lowest structure upwards, without classes that no training label contains.
        gamma: exponent of the prompt's level, ≥ 0.
        eps: floor of an attention map, > 0.

    Returns:
        (B, H, W) int64 class indices.

    Raises:
        ValueError: no chain.
    """
    if chain is None:
        raise ValueError("ordered_level_evidence needs the chain of classes, see ops.levels.ordering.chain_index")
    logits = teacher_logits.float().contiguous()
    score = (prompt.maps.float() + eps).log_().mul_(gamma).add_(logits)
    return decode_order(logits.softmax(dim=1), score, groups=groups, chain=chain)


def _index(label: Tensor, num_classes: int) -> Tensor:
    """(B, 1, H, W) index for gather and scatter; 255 becomes the last class, to which 0 is added."""
    return label[:, None].clamp(max=num_classes - 1)


def _add_at_label(scores: Tensor, label: Tensor, amount: float | Tensor) -> Tensor:
    """Add an amount (a number or (B, 1, H, W)) to the class of the label in the scores (B, N, H, W)."""
    added = (label != IGNORE)[:, None] * torch.as_tensor(amount, dtype=scores.dtype, device=scores.device)
    return scores.scatter_add(1, _index(label, scores.shape[1]), added)
