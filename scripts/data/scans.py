"""Search for scans in a folder: volume files and selected DICOM series."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .datalist import DataError
from .dicom import series as dicom
from .dicom.series_selection import choose_series
from .file_names import case_name, image_files, scans_among


def find_scans(folder: str | Path | None, sequence: str = "t2") -> list[dict[str, Any]]:
    """All scans at or below a folder: NIfTI, MetaImage, NRRD, and DICOM series. The scans are not checked here.

    Labels and earlier results ("x_seg", folders "labels" or "masks") are left out and logged. Of the DICOM series of a
    study the sagittal ones of one contrast are selected; the choice is logged. Scans with equal names are renamed by
    their folders ("visit1_t2") and if needed by their endings.

    Args:
        folder: the folder, or one scan; a DICOM file stands for its whole series. Empty: no scans.
        sequence: contrast of the DICOM series, see `scripts.data.dicom.series_selection.SEQUENCES`.

    Returns:
        `{"image": path, "case": unique name}`, sorted by path. The path of a DICOM series is its folder, or one of its
        files if the folder holds several series.

    Raises:
        DataError: no such folder, no scan in it, or an unknown sequence.
    """
    if not folder:
        return []
    root = Path(folder).expanduser().absolute()
    if not root.exists():
        raise DataError(f"{root}: there is no such folder or file; give the path of a scan or of a folder of scans")
    warnings: list[str] = []
    if root.is_dir():
        series, warnings = _dicom_series(root, sequence)
        named = {p: case_name(p) for p in scans_among(image_files(root), root)} | series
    else:
        named = {root: dicom.series_of(root).name if dicom.is_dicom(root) else case_name(root)}
    if not named:
        kinds = "there is no scan here; NIfTI, MHA, NRRD and folders of DICOM files are read"
        raise DataError("\n".join(f"{root}: {reason}" for reason in warnings or [kinds]))
    names = _different_names({path: named[path] for path in sorted(named)}, root if root.is_dir() else root.parent)
    return [{"image": str(path), "case": name} for path, name in names.items()]


def _dicom_series(root: Path, sequence: str) -> tuple[dict[Path, str], list[str]]:
    """Path -> name of the selected DICOM series, and warnings about the selection; both are logged."""
    try:
        choice = choose_series(dicom.list_series(root), sequence)
    except ModuleNotFoundError as error:
        raise DataError(str(error)) from error
    log = logging.getLogger(__name__)
    for note in choice.notes:
        log.info("%s", note)
    for warning in choice.warnings:
        log.warning("%s", warning)
    return {series.path: series.name for series in choice.taken}, choice.warnings


def _different_names(named: Mapping[Path, str], base: Path) -> dict[Path, str]:
    """File -> unique name: the scan's, or with its folders, its ending, or a number."""
    names = dict(named)
    longer: list[Callable[[Path], str]] = [
        lambda path: "_".join((*path.relative_to(base).parts[:-1], named[path])),
        lambda path: "_".join(path.relative_to(base).parts),
    ]
    for name_of in longer:
        count = Counter(names.values())
        names = {path: name_of(path) if count[short] > 1 else short for path, short in names.items()}
    taken: set[str] = set()
    for path, name in names.items():
        number = 1
        while names[path] in taken:  # "a/b.nii" beside "a_b.nii"
            names[path], number = f"{name}_{number + 1}", number + 1
        taken.add(names[path])
    return names
