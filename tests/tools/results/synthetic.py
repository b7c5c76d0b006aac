"""A folder as `benchmark accuracy` leaves it, with drawn scores, for tests of what is made from it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.labels import ClassTable

HEAD = (
    "method,labelled,seed,mdice,miou,mdice_decoded,miou_decoded,unlabelled_mdice,unlabelled_mdice_decoded,steps,"
    "stage1_steps,resolution,device,date,map_mdice,pseudo_label_mdice,validation_mdice"
)
FIELDS = "case,class_id,class,dice,iou,hd95_mm,assd_mm"
CLASSES = ClassTable.load().foreground
TEXT = ("clip", "medclip", "mgca", "egma", "dusss", "cps4_literal", "token", "pixel", "cps4")
MANY = {
    "supervised": 0.40, "mean_teacher": 0.50, "mean_teacher_mse": 0.47, "bcp": 0.30, "mc_net": 0.45, "ss_net": 0.46,
    "ucmt": 0.48, "graphcl": 0.52, "clip": 0.51, "medclip": 0.515, "mgca": 0.52, "egma": 0.55, "dusss": 0.53,
    "cps4_literal": 0.57, "cps4": 0.60, "token": 0.56, "pixel": 0.54, "live_maps": 0.58,
}  # fmt: skip
"""Row -> level of its Dice with one labelled patient."""


def write_benchmark(
    folder: Path,
    levels: Mapping[str, float] = MANY,
    labelled: Sequence[int] = (1, 2),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    full: int = 0,
    decoded: bool = True,
    n_test: int = 5,
    n_unlabelled: int = 16,
) -> Path:
    """Write results.csv, settings.json and, for every run, the scores of its cases.

    Args:
        folder: where to; made.
        levels: row -> its level of Dice with the smallest number of labelled patients.
        labelled: numbers of labelled patients.
        seeds: of the runs.
        full: number of all training patients, if there is an upper bound; it has the first seed alone.
        decoded: whether decoded and named levels were scored as well.
        n_test: test patients.
        n_unlabelled: unlabelled patients.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells = [(m, n, s, level + 0.15 * math.log2(1 + k)) for k, n in enumerate(labelled) for m, level in levels.items()
             for s in seeds]  # fmt: skip
    cells += [("full", full, seeds[0], 0.9)] if full else []
    lines = [HEAD]
    for method, number, seed, level in cells:
        means: dict[str, float] = {}
        run = folder / f"{method}_{number}_{seed}"
        for section, n in (("test", n_test), ("unlabelled", 0 if method == "full" else n_unlabelled)):
            summary: dict[str, object] = {}
            for variant, gain in (("raw", 0.0), *([("decoded", 0.02), ("named", 0.04)] if decoded else [])):
                scores = _cases(f"{method}{number}{seed}{section}", seed, section, n, level + gain)
                if scores:
                    out = run / f"network_{section}"
                    out.mkdir(parents=True, exist_ok=True)
                    name = "per_case.csv" if variant == "raw" else f"per_case_{variant}.csv"
                    (out / name).write_text("\n".join([FIELDS, *(line for line, _ in scores)]) + "\n")
                    mdice = sum(d for _, d in scores) / len(scores)
                    part = {"mdice": mdice, "miou": mdice - 0.1}
                    summary |= part if variant == "raw" else {variant: part}
                    (out / "summary.json").write_text(json.dumps(summary))
                    means[f"{section}{variant}"] = mdice
        row = [method, number, seed, means["testraw"], means["testraw"] - 0.1, means.get("testdecoded", ""), "",
               means.get("unlabelledraw", ""), means.get("unlabelleddecoded", ""), 720, 200 * (method in TEXT),
               "96x48", "cpu", "2026-01-01", "", "", level]  # fmt: skip
        lines.append(",".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row))
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    (folder / "settings.json").write_text(json.dumps({"labelled": list(labelled), "device": "cpu"}))
    return folder


def _cases(name: str, seed: int, section: str, n: int, level: float) -> list[tuple[str, float]]:
    """Lines of per_case.csv with their Dice; patients and seeds are hard or easy for all methods alike."""
    own, shared = random.Random(name), random.Random(f"{section}{seed}")
    found = []
    for case in range(n):
        hard = shared.gauss(0, 0.06)
        for structure in CLASSES[1:]:  # the first, the sacrum, is not labelled
            dice = min(0.97, max(0.0, level + hard + own.gauss(0, 0.05) - 0.01 * structure.id))
            line = (
                f"{section}_{case},{structure.id},{structure.name},{dice},{max(0.0, dice - 0.1)},{12 * (1 - dice)},1.5"
            )
            found.append((line, dice))
    return found
