"""Search for scans in a folder: volume files and selected DICOM series."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .datalist import DataError
from .dicom import series as dicom
from .dicom.series_selection import choose_series
from .file_names import case_name, image_files, scans_among


def find_scans(folder: str | Path | None, sequence: str = "t2") -> list[dict[str, Any]]:
    """All scans at or below a folder: NIfTI, MetaImage, NRRD, and DICOM series. The scans are not checked here.

    Labels and earlier results ("x_seg", folders "labels" or "masks") are left out and logged. Of the DICOM series of a
    study the sagittal ones of one contrast are selected; the choice is logged.

    A scan's name follows from its path below `folder` alone, whatever else lies there: the folders joined by "_", and
    the file's name without its ending ("visit1_t2"). A DICOM series has the name of its folder, with the series' number
    behind it if the folder holds several; nothing else of a header enters it.

    Args:
        folder: the folder, or one scan; a DICOM file stands for its whole series. Empty: no scans.
        sequence: contrast of the DICOM series, see `scripts.data.dicom.series_selection.SEQUENCES`.

    Returns:
        `{"image": path, "case": unique name}`, sorted by path. The path of a DICOM series is its folder, or one of its
        files if the folder holds several series.

    Raises:
        DataError: no such folder, no scan in it, two scans of one name, or an unknown sequence.
    """
    if not folder:
        return []
    root = Path(folder).expanduser().absolute()
    if not root.exists():
        raise DataError(f"{root}: there is no such folder or file; give the path of a scan or of a folder of scans")
    warnings: list[str] = []
    if root.is_dir():
        series, warnings = _dicom_series(root, sequence)
        named = {p: _name(p.parent, case_name(p), root) for p in scans_among(image_files(root), root)} | series
    else:
        named = {root: dicom.series_of(root).name if dicom.is_dicom(root) else case_name(root)}
    if not named:
        kinds = "there is no scan here; NIfTI, MHA, NRRD and folders of DICOM files are read"
        raise DataError("\n".join(f"{root}: {reason}" for reason in warnings or [kinds]))
    _refuse_equal_names(named)
    return [{"image": str(path), "case": named[path]} for path in sorted(named)]


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
    return {series.path: _series_name(series, root) for series in choice.taken}, choice.warnings


def _series_name(series: dicom.Series, root: Path) -> str:
    """Name of a DICOM series: its folder below `root`; that of `root` itself if the series lies in it."""
    if series.folder == root:
        return series.name
    number = series.name.removeprefix(series.folder.resolve().name)
    return _name(series.folder.parent, series.folder.name + number, root)


def _name(folder: Path, name: str, root: Path) -> str:
    """The folders below `root` and a name, joined by "_"."""
    return "_".join((*folder.relative_to(root).parts, name))


def _refuse_equal_names(named: Mapping[Path, str]) -> None:
    """Refuse scans whose results would be written to the same files."""
    paths: dict[str, list[str]] = defaultdict(list)
    for path, name in named.items():
        paths[name].append(str(path))
    mend = "rename all but one, or label each alone, into an --output_dir of its own"
    equal = {name: " and ".join(sorted(found)) for name, found in paths.items() if len(found) > 1}
    if equal:
        raise DataError("\n".join(f"{found} have the same name, {name}; {mend}" for name, found in equal.items()))
