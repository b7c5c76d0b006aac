"""Write a folder of synthetic volumes with a datalist."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..files import write_nifti, write_whole
from .volume import check_drawing, make_phantom

DRAWING_VERSION = 2
"""Increase it whenever the same settings give another image: files of older versions are then replaced."""

logger = logging.getLogger(__name__)


def write_phantoms(
    folder: str | Path,
    *,
    labelled: int = 2,
    unlabelled: int = 18,
    validation: int = 4,
    test: int = 8,
    seed: int = 0,
    **drawing: Any,
) -> Path:
    """Write synthetic volumes as NIfTI, and a datalist of them.

    Volumes that an earlier call wrote with the same seed and drawing are kept, whatever its counts were. The first
    volumes are the test's, then come validation, labelled and unlabelled ones: with `labelled + unlabelled` fixed,
    another number of labelled volumes changes nothing else, and smaller labelled sets lie inside larger ones.

    Args:
        folder: gets `images/phantom_NNNN.nii.gz`, `labels/` alike, `phantom.json` (the settings) and `datalist.json`.
        labelled: number of volumes to train on with labels.
        unlabelled: number to train on without; their labels stand in the datalist as `hidden_label`.
        validation: number to choose settings on.
        test: number to report on.
        seed: of the set.
        **drawing: keyword arguments of :func:`make_phantom`.

    Returns:
        Path of the datalist.

    Raises:
        ValueError: a negative count, no volume at all, or an unknown or impossible setting.
    """
    counts = {"test": test, "validation": validation, "training": labelled, "unlabelled": unlabelled}
    if min(counts.values()) < 0 or sum(counts.values()) == 0:
        raise ValueError(f"the numbers of volumes must be 0 or more, and not all 0, got {counts}")
    defaults = make_phantom.__kwdefaults__ or {}
    if unknown := sorted(set(drawing) - set(defaults)):
        raise ValueError(f"unknown settings {', '.join(unknown)}; phantoms know {', '.join(defaults)}")
    settings = {"version": DRAWING_VERSION, "seed": seed, **defaults, **drawing}
    # before anything is removed or written
    check_drawing(**{name: settings[name] for name in ("shape_hw", "pixel_mm", "contrast", "scanner", "anomaly")})
    folder = Path(folder)
    total = sum(counts.values())
    _draw_missing(folder, range(1, total + 1), settings, seed, drawing)
    datalist = {"label_map": None, "unlabelled_classes": [], **_sections(counts)}
    write_whole(folder / "datalist.json", json.dumps(datalist, indent=1) + "\n")
    return folder / "datalist.json"


def _draw_missing(folder: Path, numbers: range, settings: dict[str, Any], seed: int, drawing: dict[str, Any]) -> None:
    """Draw the volumes that are not there yet; those of other settings are removed first."""
    settings_file = folder / "phantom.json"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    known = json.loads(settings_file.read_text(encoding="utf-8")) if settings_file.is_file() else None
    if known != json.loads(json.dumps(settings)):
        # a left-over file beyond today's count would pass for one of these settings tomorrow
        for stale in [*folder.glob("images/phantom_[0-9]*.nii.gz"), *folder.glob("labels/phantom_[0-9]*.nii.gz")]:
            stale.unlink()
        write_whole(settings_file, json.dumps(settings, indent=1) + "\n")
    missing = [n for n in numbers if not all((folder / part / _file(n)).is_file() for part in ("images", "labels"))]
    if len(missing) < len(numbers):
        logger.info("%s: reusing %d phantoms drawn earlier", folder, len(numbers) - len(missing))
    for number in tqdm(missing, desc="drawing phantoms", disable=not missing or None):
        image, label, affine = make_phantom(seed, number, **drawing)
        _save(label, affine, folder / "labels" / _file(number))
        _save(image, affine, folder / "images" / _file(number))


def _file(number: int) -> str:
    """File name of a volume."""
    return f"phantom_{number:04d}.nii.gz"


def _sections(counts: dict[str, int]) -> dict[str, list[dict[str, str]]]:
    """Entries of the datalist, numbered through from 1 in the order of the counts."""
    sections: dict[str, list[dict[str, str]]] = {}
    first = 1
    for section, count in counts.items():
        label_key = "hidden_label" if section == "unlabelled" else "label"
        sections[section] = []
        for file in map(_file, range(first, first + count)):
            case = file.removesuffix(".nii.gz")
            entry = {"image": f"images/{file}", label_key: f"labels/{file}", "case": case, "patient": case}
            sections[section].append(entry)
        first += count
    return sections


def _save(array: NDArray[Any], affine: NDArray[np.float64], path: Path) -> None:
    volume = nib.Nifti1Image(array, affine)
    volume.set_qform(affine, code="scanner")
    volume.set_sform(affine, code="scanner")
    volume.header.set_xyzt_units("mm")
    write_nifti(path, volume)
