"""Unlabelled scans: the datalist's, a folder's, or those that lie beside scans which came without a datalist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .datalist import DataError, select
from .file_names import case_name, is_image, scans_among
from .scans import find_scans


def unlabelled_scans(
    datalist: str | Path | None,
    labelled: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]],
    *,
    folder: str | Path | None = "",
    studies: str = "",
    class_table: str | Path | None = None,
) -> list[dict[str, Any]]:
    """The scans that training may read without labels; never one of those that are validated on.

    A datalist names them. Without one, as under MONAI Label, which hands over labelled scans alone, they are all scans
    of `folder`; or else all that lie beside a labelled scan or in `studies`, sub-folders left out.

    Args:
        datalist: the datalist; empty for none.
        labelled: entries to train on with labels; none gives no scans, so that a graph builds.
        validation: entries to validate on.
        folder: where to look instead; read with its sub-folders.
        studies: a server's own folder of scans; an address of DICOMweb or a folder that is not there is passed over.
        class_table: JSON file of the class table; None is the bundle's own.

    Returns:
        `{"image": path, "case": name}`, sorted by path, or the datalist's entries.

    Raises:
        DataError: both a datalist and a folder; or as `select` and `find_scans`.
    """
    if datalist and folder:
        raise DataError('a datalist names its unlabelled scans ("unlabelled"); leave out --unlabelled_dir, or both')
    if datalist:
        return select(datalist, "unlabelled", class_table=class_table)
    if not labelled:
        return []
    if folder:
        scans = find_scans(folder)
    else:
        folders = {Path(entry["image"]).resolve().parent for entry in labelled}
        folders |= {Path(studies).resolve()} if studies and Path(studies).is_dir() else set()
        files = [p for f in sorted(folders) for p in scans_among(sorted(filter(is_image, f.iterdir())), f)]
        scans = [{"image": str(path), "case": case_name(path)} for path in files if path.is_file()]
    taken = {Path(entry["image"]).resolve() for entry in (*labelled, *validation)}
    return [scan for scan in scans if Path(scan["image"]).resolve() not in taken]
