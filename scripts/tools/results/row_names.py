"""What the rows of a benchmark are called, in which groups they stand, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ...labels import CONFIG_DIR
from ..accuracy.systems import ORIGINAL, one_key_ablations

ABLATION_DIR = CONFIG_DIR / "ablations"
REFERENCE, FULL = "cps4", "full"
"""The row that all others are compared with, and the one that trained on the labels of all training patients."""
LITERAL = "cps4_literal"
"""The paper's letter."""
AT_ONCE = "early_rounds"
"""CPS4 with a first round of pseudo-labels at the first epoch, before that became the default from a warm start."""
OUTSIDE_FULL = "nnunet_full"
"""nnU-Net on the labels of all training patients."""
ALL_LABELLED = (FULL, OUTSIDE_FULL)
"""Rows that belong to every number of labelled patients, and are no rivals of those with fewer labels."""
GROUPS = ("Supervised", "Semi-supervised", "Text-guided", "CPS4", "Ablations", "Upper bound", "Outside")


class MethodName(NamedTuple):
    """How a row is called in tables and pictures, and the group it stands in."""

    title: str
    group: str


METHODS = {
    "supervised": MethodName("Supervised only", "Supervised"),
    "mean_teacher": MethodName("Mean Teacher (hard CE)", "Semi-supervised"),
    "mean_teacher_mse": MethodName("Mean Teacher (MSE)", "Semi-supervised"),
    "bcp": MethodName("BCP", "Semi-supervised"),
    "mc_net": MethodName("MC-Net+", "Semi-supervised"),
    "ss_net": MethodName("SS-Net", "Semi-supervised"),
    "ucmt": MethodName("UCMT", "Semi-supervised"),
    "graphcl": MethodName("GraphCL", "Semi-supervised"),
    "clip": MethodName("CLIP", "Text-guided"),
    "medclip": MethodName("MedCLIP", "Text-guided"),
    "mgca": MethodName("MGCA", "Text-guided"),
    "egma": MethodName("EGMA", "Text-guided"),
    "dusss": MethodName("DuSSS", "Text-guided"),
    LITERAL: MethodName("CPS4 as published", "CPS4"),
    "cps4": MethodName("CPS4 (ours)", "CPS4"),
    AT_ONCE: MethodName("CPS4, first round at once", "CPS4"),
    "token": MethodName("token loss alone", "Ablations"),
    "pixel": MethodName("pixel loss alone", "Ablations"),
    "masked_images": MethodName("masked images first", "Ablations"),
    "full": MethodName("fully supervised, all patients", "Upper bound"),
    "nnunet": MethodName("nnU-Net v2, 2D", "Outside"),
    "nnunet_full": MethodName("nnU-Net v2, 2D, all patients", "Outside"),
}
"""In the order of the tables; the group of a name that is not here is found by :func:`method_name`."""
STEPS = {"mean_teacher": "baseline", "token": "+ token loss", "pixel": "+ pixel loss", "cps4": "all"}
"""Rows of the ablation in the paper's Fig. 4, and what it calls them."""


def method_name(method: str, *, uses_prompts: bool = False, ablations: Path = ABLATION_DIR) -> MethodName:
    """Name and group of a row; one that is not in :data:`METHODS` is called by its own name.

    Args:
        method: name of the row as `benchmark accuracy` writes it.
        uses_prompts: whether a row that has no name here took steps of stage 1.
        ablations: folder of overlays, beside `ablations.json`; a row that is called like one of them is an ablation.
    """
    if method in METHODS:
        return METHODS[method]
    if (base := METHODS.get(method.removesuffix(ORIGINAL))) is not None:
        return MethodName(f"{base.title} by its original's weights", base.group)
    if (ablations / f"{method}.yaml").is_file() or method in one_key_ablations(ablations.parent):
        return MethodName(method.replace("_", " "), "Ablations")
    return MethodName(method.replace("_", " "), "Text-guided" if uses_prompts else "Semi-supervised")


def with_our_stage1(name: MethodName) -> MethodName:
    """What a row of the paper's letter is called that took the stage 1 of `cps4`."""
    return name._replace(title="CPS4: published stage 2 on our stage 1")


def in_order(names: dict[str, MethodName]) -> list[str]:
    """Rows in the order of the tables: by group, in a group as in :data:`METHODS`, strangers last by name."""
    places = {method: place for place, method in enumerate(METHODS)}

    def place(method: str) -> tuple[int, int, str]:
        return GROUPS.index(names[method].group), places.get(method.removesuffix(ORIGINAL), len(places)), method

    return sorted(names, key=place)
