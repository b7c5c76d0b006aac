"""The report on a label map, `<scan>_levels.json`: verdict and reasons, its structures, and all measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.check.grid import grid_of, same_grid
from ..data.check.volumes import UnusableError, read_volume
from ..ops.levels.report import Evidence, base_confidence
from ..ops.levels.structures import Measured, as_volume, field_of, measure
from ..ops.levels.verdict import REFUSE, Finding, Labelled, Trained, find, judge
from .outline import Array, Label, canonical, volume_of
from .shapes import find_structures, measurements, without
from .spine import NO_SCAN, POSTERIOR, columns, measure_spine

FLAGS = ("size", "neighbours", "overlap", "order", "cut above")
"""Rules on single structures, which the report names at the structure."""
UNLIKE = "unlike_training"
UNREADABLE = "the scan cannot be read"
OTHER_GRID = "the label map is not on the grid of its scan"
NOT_NAMED = "the names do not come from the geometry of the training's spines"
REFUSED = f"the verdict is {REFUSE}"


class Scan(NamedTuple):
    """Grey values (X, Y, Z) of a scan on the grid of its label map, or None, and then the reason."""

    array: NDArray[np.generic] | None
    reason: str


def level_report(
    label: Label,
    affine: Array,
    trained: Trained,
    source: str = "",
    scan: Scan | None = None,
    kept: Mapping[str, Any] | None = None,
    removed: Mapping[str, Any] | None = None,
    unlike: Sequence[str] = (),
) -> dict[str, Any]:
    """Judge a label map, and measure what it shows.

    Args:
        label: (X, Y, Z) or (X, Y) class ids in the scan's own grid.
        affine: (4, 4) to scanner millimetres, RAS.
        trained: what the network was trained on.
        source: path of the scan; "" for none.
        scan: its grey values, see :func:`read_scan`; None if nobody read it.
        kept: what `scripts.inference.level_report.LevelEvidenced` keeps of the network; None for a person's label map,
            whose structures have no confidence.
        removed: `number` and `volume_ml` of the parts that were removed.
        unlike: sentences on a domain shift.

    Returns:
        `verdict`, `reasons`, `source`, `structures` (a dictionary each, from the lowest upwards), `spine` (measurement
        -> value or None), `not_measured` (measurement -> reason), `notes`, and more, see docs/label.md.
    """
    volume = as_volume(label)
    kept, removed = kept or {}, removed or {"number": 0, "volume_ml": 0.0}
    structures = measure(volume, affine)
    labelled = Labelled(
        structures,
        kept.get("field") or field_of(volume.shape, affine),
        grid_of(volume.shape, affine).plane,
        removed["volume_ml"],
        removed["number"],
    )
    evidence: Mapping[int, Evidence] = kept.get("evidence", {})
    findings = [
        *find(labelled, trained),
        *kept.get("findings", ()),
        *(Finding("unlike training", f"The scan {sentence}.") for sentence in unlike),
    ]
    base = base_confidence(evidence)
    verdict, reasons, notes, confidence = judge(findings, {c: base[c] for c in structures if c in base})
    rows = []
    for c in (c for c in trained.chain if c in structures):
        flags = [f.rule for rule in FLAGS for f in findings if f.rule == rule and c in f.structures]
        rows.append(
            {
                "name": trained.name(c),
                "class_id": c,
                "found": "size" not in flags,
                "confidence": round(confidence[c], 3) if c in confidence else None,
                "own_name": evidence[c].own_name if c in evidence else "",
                "voxels": structures[c].voxels,
                "height_mm": round(structures[c].height_mm, 1),
                "components": structures[c].components,
                "flag": flags[0] if flags else "",
            }
        )
    report = {
        "verdict": verdict,
        "reasons": reasons,
        "source": source,
        "structures": rows,
        "notes": notes,
        "removed_components": removed["number"],
        "removed_ml": round(removed["volume_ml"], 3),
        "level_disagreement": kept.get("level_disagreement", 1.0),
        UNLIKE: list(unlike),
    }
    known = [of.posterior for c, of in evidence.items() if of.posterior is not None and c in structures]
    posterior = float(np.mean(known)) if known else None
    return with_measurements(report, volume, affine, trained, structures, posterior, scan)


def with_measurements(
    report: Mapping[str, Any],
    label: Label,
    affine: Array,
    trained: Trained,
    structures: Mapping[int, Measured],
    posterior: float | None,
    scan: Scan | None = None,
) -> dict[str, Any]:
    """Add the measurements to a report.

    Args:
        report: with `verdict`, `reasons`, `source` and `structures`.
        label: (X, Y, Z) class ids.
        affine: (4, 4) to scanner millimetres, RAS.
        trained: gives classes and chain.
        structures: what `ops.levels.structures.measure` found.
        posterior: mean posterior of the names; None if they do not come from geometry.
        scan: its grey values, see :func:`read_scan`; None if nobody read it.
    """
    table = trained.table
    refused = report["verdict"] == REFUSE
    array, no_scan = Scan(None, REFUSED) if refused else scan or Scan(None, NO_SCAN)
    volume = volume_of(label, affine, array)
    found = {} if refused else find_structures(volume, trained.chain, table)
    rows: list[dict[str, Any]] = []
    reasons: dict[str, str] = {}
    for row in report["structures"]:
        c = row["class_id"]
        values, missing = (
            without(REFUSED)
            if refused
            else measurements(
                found[c], volume, structures[c].volume_ml, structures[c].centre_mm, table.classes[c].group
            )
        )
        rows.append({**row, **values})
        reasons |= {f"{row['name']}.{key}": reason for key, reason in missing.items()}
    turned = None if array is None else canonical(array, affine)[0]
    spine, missing = measure_spine(found, table, turned, no_scan)
    spine[POSTERIOR] = None if posterior is None else round(posterior, 3)
    if posterior is None:
        missing[POSTERIOR] = NOT_NAMED
    if refused:
        missing |= {key: REFUSED for key, value in spine.items() if value is None}
    order = columns(table)
    first = {key: report[key] for key in ("verdict", "reasons", "source")}
    measured = {
        "structures": rows,
        "spine": {key: spine[key] for key in order},
        "not_measured": {**{key: missing[key] for key in order if key in missing}, **reasons},
    }
    return {**first, **measured, **{key: value for key, value in report.items() if key not in first | measured}}


def read_scan(source: str, shape: Sequence[int], affine: Array) -> Scan:
    """Read the scan of a label map.

    Args:
        source: its path; "" for none.
        shape: of the label map, (X, Y) or (X, Y, Z).
        affine: (4, 4) of the label map.
    """
    if not source or not Path(source).exists():
        return Scan(None, NO_SCAN)
    try:
        array, own = read_volume(source, single_slices=True)
    except UnusableError:
        return Scan(None, UNREADABLE)
    whole = (*shape, 1)[:3]
    grids = ({"shape": whole, "affine": np.asarray(affine)}, {"shape": array.shape, "affine": own})
    return Scan(array, "") if same_grid(*grids) else Scan(None, OTHER_GRID)
