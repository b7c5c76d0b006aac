"""How the folders of known data sets are laid out, and which of them a folder follows."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..datalist import DataError, case_name, home, image_files, is_image, is_label, natural, pair_key
from ..dicom import series as dicom


@dataclass(frozen=True)
class Volume:
    """One scan of a data set, with its label if there is one."""

    case: str
    patient: str
    image: Path
    label: Path | None = None


@dataclass
class Found:
    """What a layout found in a folder.

    Attributes:
        volumes: the scans; patients in natural order (Case2 before Case10).
        label_map: name of the label map that fits the layout, None for class ids as they are.
        unlabelled_classes: classes that the data set shows but does not label; None leaves them to the label map.
        split: "training", "validation" and "test" -> patients in the data set's own order; empty for a drawn split.
        notes: sentences for the user: what was left out, what was assumed.
    """

    volumes: list[Volume]
    label_map: str | None = None
    unlabelled_classes: list[str] | None = None
    split: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _images(folder: Path) -> list[Path]:
    """Image files directly in a folder, in natural order; none without the folder."""
    files = filter(is_image, folder.iterdir()) if folder.is_dir() else ()
    return sorted(files, key=lambda p: natural(p.name))


def _match(images: Iterable[Path], labels: Iterable[Path], notes: list[str]) -> dict[Path, Path | None]:
    """Every image with its label; labels without an image are noted.

    Raises:
        DataError: two labels fit one image.
    """
    by_key: dict[str, Path] = {}
    for label in labels:
        if pair_key(label) in by_key:
            raise DataError(f"{label}: {by_key[pair_key(label)]} fits the same scan; move one of the two labels away")
        by_key[pair_key(label)] = label
    pairs = {image: by_key.get(pair_key(image)) for image in images}
    notes += [f"{label}: left out, no scan fits this label" for label in by_key.values() if label not in pairs.values()]
    return pairs


def mrspineseg(folder: Path) -> Found | None:
    """MRSpineSeg challenge: `train/MR/Case{n}.nii.gz`, `train/Mask/mask_case{n}.nii.gz`; other parts have no masks."""
    roots = [p for p in (folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*"))) if (p / "MR").is_dir()]
    found = Found([], label_map="mrspineseg")
    for root in roots:
        scans = [p for p in _images(root / "MR") if re.fullmatch(r"case\d+", case_name(p), re.IGNORECASE)]
        pairs = _match(scans, _images(root / "Mask"), found.notes)
        found.volumes += [Volume(case_name(p), case_name(p), p, label) for p, label in pairs.items()]
    return found if found.volumes else None


def spider(folder: Path, series: str = "t2") -> Found | None:
    """SPIDER: `images/{patient}_{series}.mha`, `masks/` the same; `series` is t1, t2 or t2_SPACE."""
    files = [p for p in _images(folder / "images") if re.fullmatch(r"\d+_t[12](_SPACE)?", case_name(p), re.IGNORECASE)]
    if not files:
        return None
    taken = [p for p in files if case_name(p).lower().split("_", 1)[1] == series.lower()]
    if not taken:
        raise DataError(f"{folder / 'images'}: no scan's name ends with _{series}; choose another --series")
    found = Found([], label_map="spider")
    pairs = _match(taken, [p for p in _images(folder / "masks") if case_name(p) in map(case_name, taken)], found.notes)
    found.volumes = [Volume(case_name(p), case_name(p).split("_")[0], p, label) for p, label in pairs.items()]
    if len(files) > len(taken):
        found.notes.append(f"{len(files) - len(taken)} scans of other series than {series} left out (see --series)")
    return found


def spider_space(folder: Path) -> Found | None:
    """SPIDER-SPACE: `images/`, `labels/` and the order of patients in `split.json`; the sacrum is not labelled."""
    file = folder / "split.json"
    if not file.is_file():
        return None
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        split = {"training": raw["training_order"], "validation": raw["validation"], "test": raw["test"]}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: {error}; it must have training_order, validation and test, lists of patients"
        ) from error
    found = Found([], label_map="mrspineseg", unlabelled_classes=["S"], split=split)
    pairs = _match(_images(folder / "images"), _images(folder / "labels"), found.notes)
    found.volumes = [Volume(case_name(p), case_name(p), p, label) for p, label in pairs.items()]
    known = {v.patient for v in found.volumes}
    lost = [patient for patients in split.values() for patient in patients if patient not in known]
    if lost:
        raise DataError(f"{file}: names {', '.join(lost)}, of which {folder / 'images'} has no scan; copy them there")
    return found


def pairs(folder: Path) -> Found | None:
    """Any folder: `images*/` with `labels*/` or `masks*/`, or files with labels beside them (`_seg`, `_label`, ...).

    `imagesTr` goes with `labelsTr` where both exist; a label folder without such a partner serves all image folders
    beside it.
    """
    files = image_files(folder)
    labels = [p for p in files if is_label(p, folder)]
    scans = [p for p in files if p not in set(labels)]
    found = Found([])
    names = Counter(pair_key(p) for p in scans)
    groups: dict[tuple[Path, str], list[Path]] = {}
    for scan in scans:
        groups.setdefault(home(scan, folder)[:2], []).append(scan)
    shared = [p for p in labels if home(p, folder)[:2] not in groups]
    for place, here in groups.items():
        keys = {pair_key(p) for p in here}
        near = [p for p in labels if home(p, folder)[:2] == place]
        near += [p for p in shared if home(p, folder)[0] == place[0] and pair_key(p) in keys]
        for image, label in _match(here, near, []).items():
            found.volumes.append(_named(image, label, folder, ambiguous=names[pair_key(image)] > 1))
    used = {v.label for v in found.volumes}
    found.notes = [f"{p}: left out, no scan fits this label" for p in sorted(labels) if p not in used]
    found.volumes.sort(key=lambda v: natural(v.case))
    found.notes.append(
        'every scan is taken for a patient of its own (or of "sub-..."); correct "patient" where it is not'
    )
    return found if found.volumes else None


def _named(image: Path, label: Path | None, folder: Path, ambiguous: bool) -> Volume:
    """A volume whose case is the scan's name, with its folders in front where several scans share that name."""
    name = re.sub(r"_0000$", "", case_name(image))
    above = image.parent.relative_to(folder).parts
    bids = re.match(r"sub-[A-Za-z0-9]+", case_name(image))
    if ambiguous and above:
        return Volume("_".join((*above, name)), bids[0] if bids else above[0], image, label)
    return Volume(name, bids[0] if bids else name, image, label)


def dicom_series(folder: Path) -> Found | None:
    """DICOM series, sorted or mixed; `prepare` converts the sagittal ones, so there are no volumes yet."""
    return Found([]) if dicom.dicom_folders(folder) else None


LAYOUTS: dict[str, Callable[[Path], Found | None]] = {
    "mrspineseg": mrspineseg,
    "spider_space": spider_space,
    "spider": spider,
    "pairs": pairs,
    "dicom": dicom_series,
}
"""Layout -> its reader, which gives None where a folder does not follow it; `auto` tries them in this order."""


def read_layout(folder: Path, layout: str = "auto", series: str = "t2") -> tuple[str, Found]:
    """Read a folder by a layout, or by the first that fits.

    Returns:
        The layout's name and what it found.

    Raises:
        DataError: no such folder or layout, or the folder does not follow it.
    """
    if folder.is_file():
        raise DataError(f"{folder}: this is a file; give the folder of the data set")
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; give the folder of the data set")
    if layout != "auto" and layout not in LAYOUTS:
        raise DataError(f"layout {layout!r} is unknown; choose one of auto, {', '.join(LAYOUTS)}")
    for name in LAYOUTS if layout == "auto" else (layout,):
        found = spider(folder, series) if name == "spider" else LAYOUTS[name](folder)
        if found is not None:
            return name, found
    wanted = "any layout" if layout == "auto" else f"the layout {layout}"
    raise DataError(f"{folder}: does not follow {wanted}; docs/data.md shows the folders that are understood")
