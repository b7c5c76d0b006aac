"""Unlabelled training scans: from the datalist, from a folder, or from the folders of the labelled scans."""

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
    """Unlabelled scans for training, without any validation scan.

    A datalist names them. Without one (MONAI Label passes labelled scans only) they are all scans of `folder`, or else
    all scans beside a labelled scan or in `studies`, without sub-folders.

    Args:
        datalist: the datalist; empty for none.
        labelled: labelled training entries; if empty, no scans are returned.
        validation: validation entries.
        folder: folder of unlabelled scans, with sub-folders; only without a datalist.
        studies: a server's folder of scans; ignored if it is a DICOMweb address or does not exist.
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
