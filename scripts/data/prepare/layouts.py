"""How the folders of known data sets are laid out, and which of them a folder follows."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..datalist import DataError
from ..dicom import series as dicom
from ..file_names import CHANNEL, case_name, folder_role, image_files, is_image, name_parts, natural, of_label, role
from .pairing import Pairs, matching, pair, pair_by_patterns
from .patients import tell_patients


@dataclass(frozen=True)
class Volume:
    """One scan of a data set, with its label if there is one."""

    case: str
    patient: str
    image: Path
    label: Path | None = None
    label_map: str | dict[str, Any] | None = None


@dataclass(frozen=True)
class Wanted:
    """What a user says about a folder.

    Attributes:
        series: the series of SPIDER or the channel of nnU-Net that is taken; the contrast of DICOM series.
        images: pattern of the scans, relative to the folder; None takes them by their names.
        labels: pattern of the labels.
        patient: regular expression whose first group is the patient, see `tell_patients`.
        without: a folder that is no part of the data set: scans that an earlier call converted.
    """

    series: str = "t2"
    images: str | None = None
    labels: str | None = None
    patient: str | None = None
    without: Path | None = None


@dataclass
class Found:
    """What a layout found in a folder.

    Attributes:
        volumes: the scans; patients in natural order (Case2 before Case10).
        label_map: name of the label map that fits the layout, None for class ids as they are.
        unlabelled_classes: classes that the data set shows but does not label; None leaves them to the label map.
        split: "training", "validation" and "test" -> patients in the data set's own order; empty for a drawn split.
        notes: sentences for the user: what was left out, what was assumed, who is a patient.
        alone: labels that pair with nothing -> why.
        passed: files that are passed over -> why.
    """

    volumes: list[Volume]
    label_map: str | None = None
    unlabelled_classes: list[str] | None = None
    split: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    alone: dict[Path, str] = field(default_factory=dict)
    passed: dict[Path, str] = field(default_factory=dict)


def _images(folder: Path) -> list[Path]:
    """Image files directly in a folder, in natural order; none without the folder."""
    files = filter(is_image, folder.iterdir()) if folder.is_dir() else ()
    return sorted(files, key=lambda p: natural(p.name))


def _files(folder: Path, wanted: Wanted) -> list[Path]:
    """All image files below a folder but those that an earlier call converted."""
    return [p for p in image_files(folder) if wanted.without is None or not p.is_relative_to(wanted.without)]


def _paired(found: Found, scans: Sequence[Path], labels: Sequence[Path], root: Path) -> Mapping[Path, Path]:
    """Scan -> label; labels that pair with nothing are noted."""
    pairs = pair(scans, labels, root)
    found.alone.update(pairs.alone)
    return pairs.labels


def mrspineseg(folder: Path, wanted: Wanted) -> Found | None:
    """MRSpineSeg challenge: `train/MR/Case{n}.nii.gz`, `train/Mask/mask_case{n}.nii.gz`; other parts have no masks."""
    roots = [p for p in (folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*"))) if (p / "MR").is_dir()]
    found = Found([], label_map="mrspineseg")
    for root in roots:
        scans = [p for p in _images(root / "MR") if re.fullmatch(r"case\d+", case_name(p), re.IGNORECASE)]
        labels = _paired(found, scans, _images(root / "Mask"), root)
        found.volumes += [Volume(case_name(p), case_name(p), p, labels.get(p)) for p in scans]
    return found if found.volumes else None


def spider(folder: Path, wanted: Wanted) -> Found | None:
    """SPIDER: `images/{patient}_{series}.mha`, `masks/` the same; `series` is t1, t2 or t2_SPACE."""
    series = wanted.series
    files = [p for p in _images(folder / "images") if re.fullmatch(r"\d+_t[12](_SPACE)?", case_name(p), re.IGNORECASE)]
    if not files:
        return None
    taken = [p for p in files if case_name(p).lower().split("_", 1)[1] == series.lower()]
    if not taken:
        raise DataError(f"{folder / 'images'}: no scan's name ends with _{series}; choose another --series")
    found = Found([], label_map="spider")
    other = {case_name(p) for p in files} - {case_name(p) for p in taken}
    masks = _images(folder / "masks")
    left = [p for p in (*files, *masks) if case_name(p) in other]
    found.passed = dict.fromkeys(left, f"of another series than {series} (see --series)")
    labels = _paired(found, taken, [p for p in masks if case_name(p) not in other], folder)
    found.volumes = [Volume(case_name(p), case_name(p).split("_")[0], p, labels.get(p)) for p in taken]
    return found


def spider_space(folder: Path, wanted: Wanted) -> Found | None:
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
    scans = _images(folder / "images")
    labels = _paired(found, scans, _images(folder / "labels"), folder)
    found.volumes = [Volume(case_name(p), case_name(p), p, labels.get(p)) for p in scans]
    known = {v.patient for v in found.volumes}
    lost = [patient for patients in split.values() for patient in patients if patient not in known]
    if lost:
        raise DataError(f"{file}: names {', '.join(lost)}, of which {folder / 'images'} has no scan; copy them there")
    return found


def pairs(folder: Path, wanted: Wanted) -> Found | None:
    """Any folder of scans and labels, told apart by whole words of their names and folders, or by two patterns.

    For example `images*/` with `labels*/` or `masks*/`, labels beside scans (`x_seg`, `x.seg.nrrd`), a folder for each
    patient, BIDS with `derivatives/`, nnU-Net, TotalSpineSeg's `step2_output`, SPINEPS's `_seg-vert_msk`.
    """
    files = _files(folder, wanted)
    found = Found([])
    if wanted.images and wanted.labels:
        scans, matched = pair_by_patterns(wanted.images, wanted.labels, folder, files)
        used = {*scans, *matched.labels.values(), *matched.alone}
        found.passed = {p: "not named by --images and --labels" for p in files if p not in used}
        named = {scan: scan for scan in scans}
    else:
        named, labels = _told_apart(found, files, folder, wanted)
        matched = pair(list(named), labels, folder)
    found.alone = matched.alone
    found.volumes = _volumes(named, matched, folder, found, wanted.patient)
    return found if found.volumes else None


def _told_apart(
    found: Found, files: Sequence[Path], folder: Path, wanted: Wanted
) -> tuple[dict[Path, Path], list[Path]]:
    """Scans by their paths without nnU-Net's channel, and labels; all else is passed over."""
    roles = {path: role(path, folder) for path in files}
    for kind, pattern in (("scan", wanted.images), ("label", wanted.labels)):
        if pattern:
            named = matching(pattern, folder, files)
            roles |= {path: f"no {kind} of the pattern {pattern}" for path, what in roles.items() if what == kind}
            roles |= dict.fromkeys(named, kind)

    def of(kind: str) -> list[Path]:
        return [path for path, what in roles.items() if what == kind]

    if not of("label"):
        roles |= dict.fromkeys(_labels_by_content(of("scan")), "label")
    scans = _by_case(of("scan"), of("label"), wanted.series)
    taken = set(scans.values())
    roles |= {path: "a channel of nnU-Net beside the one that is taken" for path in of("scan") if path not in taken}
    found.passed = {path: what for path, what in roles.items() if what not in ("scan", "label")}
    return scans, of("label")


def _by_case(scans: Sequence[Path], labels: Sequence[Path], series: str) -> dict[Path, Path]:
    """Path without nnU-Net's channel -> scan; of several channels the one of the wanted series, or the first.

    Numbers count as channels where labels are named without them; without labels in `imagesTr` and the like, or where
    several cases have the same.
    """
    groups: dict[Path, dict[str, Path]] = defaultdict(dict)
    for scan in scans:
        if channel := re.fullmatch(r"(.+)_(\d{4})", case_name(scan)):
            ending = scan.name.removeprefix(case_name(scan))
            groups[scan.with_name(channel[1] + ending)][channel[2]] = scan
    marked, known = {_bare(label) for label in labels}, set(scans)
    alike = Counter(tuple(of) for of in groups.values())
    by_case = {scan: scan for scan in scans}
    for case, of in groups.items():
        numbered = case in known or any(_bare(scan) in marked for scan in of.values())
        several = _bare(case) in marked or folder_role(case.parent.name)[1] or len(of) == 1 or alike[tuple(of)] > 1
        if CHANNEL in of and several and not numbered:
            names = _channel_names(case.parent.parent / "dataset.json")
            taken = next((n for n in of if names.get(int(n), "").lower() == series.lower()), min(of))
            for scan in of.values():
                del by_case[scan]
            by_case[case] = of[taken]
    return by_case


def _bare(path: Path) -> str:
    """A name without the words for a label."""
    return "_".join(part for part in name_parts(case_name(path)) if not of_label(part))


def _channel_names(file: Path) -> dict[int, str]:
    """`channel_names` of nnU-Net's dataset.json, `modality` in version 1; nothing without such a file."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        return {int(number): str(name) for number, name in (raw.get("channel_names") or raw["modality"]).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


MOST_NAMES = 4
"""Where the files of all folders have at most that many names, these may stand for scan and label."""


def _labels_by_content(scans: Sequence[Path]) -> list[Path]:
    """Where every folder holds files of the same few names, those that hold the values of a label map."""
    names = {scan.name: scan for scan in reversed(scans)}
    if not 2 <= len(names) <= MOST_NAMES or len(scans) < 2 * len({scan.parent for scan in scans}):
        return []
    from ..check.volumes import UnusableError, holds_labels, read_volume

    labels = set()
    for name, example in names.items():
        try:
            labels |= {name} if holds_labels(read_volume(example)[0]) else set()
        except UnusableError:  # for the check to name
            continue
    return [scan for scan in scans if scan.name in labels] if len(labels) < len(names) else []


def _volumes(
    named: Mapping[Path, Path], matched: Pairs, folder: Path, found: Found, pattern: str | None
) -> list[Volume]:
    """The scans as volumes, in natural order; what they were taken for is noted.

    Args:
        named: path that names a scan -> the scan.
        matched: labels of these paths.
        folder: the data set.
        found: gets the notes.
        pattern: see `tell_patients`.
    """
    patients, told = tell_patients(list(named), folder, pattern)
    names = Counter(case_name(path).lower() for path in named)
    volumes = []
    for path, scan in named.items():
        above, case, label = scan.parent.relative_to(folder).parts, case_name(path), matched.labels.get(path)
        case = "_".join((*above, case)) if names[case.lower()] > 1 else case
        volumes.append(Volume(case, patients[path], scan, label, _map_of_program(label)))
    found.notes += told
    waiting = [v for v in volumes if not v.label and folder_role(v.image.parent.name) == ("image", "ts")]
    if waiting and any(v.label for v in volumes):
        where = waiting[0].image.parent.name
        found.notes.append(f"{where}: {len(waiting)} scans without labels are taken as unlabelled, training reads them")
    return sorted(volumes, key=lambda v: natural(v.case))


def _map_of_program(label: Path | None) -> str | None:
    """The label map of the program that wrote a label, as its name and folders tell."""
    if label and "step2_output" in label.parts:
        return "totalspineseg"
    return "spineps" if label and re.search(r"(?:^|_)seg-vert(?:_|$)", case_name(label)) else None


def dicom_series(folder: Path, wanted: Wanted) -> Found | None:
    """DICOM series, sorted or mixed; `prepare` converts the sagittal ones, so there are no volumes yet."""
    if not dicom.dicom_folders(folder):
        return None
    return Found([], passed=dict.fromkeys(_files(folder, wanted), "no DICOM, which the layout asks for"))


LAYOUTS: dict[str, Callable[[Path, Wanted], Found | None]] = {
    "mrspineseg": mrspineseg,
    "spider_space": spider_space,
    "spider": spider,
    "pairs": pairs,
    "dicom": dicom_series,
}
"""Layout -> its reader, which gives None where a folder does not follow it; `auto` tries them in this order."""


def read_layout(folder: Path, layout: str, wanted: Wanted) -> tuple[str, Found]:
    """Read a folder by a layout, or by the first that fits ("auto"); patterns of files are read as "pairs".

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
    if wanted.images or wanted.labels:
        if layout not in ("auto", "pairs"):
            raise DataError(f"--images and --labels say where files are, the layout {layout} says otherwise; drop one")
        layout = "pairs"
    for name in LAYOUTS if layout == "auto" else (layout,):
        found = LAYOUTS[name](folder, wanted)
        if found is not None:
            if name not in ("pairs", "dicom"):
                _of_fixed_layout(found, name, folder, wanted)
            found.notes += _passed_over(found.passed, folder)
            return name, found
    layouts = "any layout" if layout == "auto" else f"the layout {layout}"
    raise DataError(f"{folder}: does not follow {layouts}; docs/data.md shows the folders that are understood")


def _of_fixed_layout(found: Found, name: str, folder: Path, wanted: Wanted) -> None:
    """Note who is a patient, and which files are no part of a layout that says where every file is."""
    used = {path for v in found.volumes for path in (v.image, v.label)} | {*found.alone, *found.passed}
    found.passed |= {path: f"no part of the layout {name}" for path in _files(folder, wanted) if path not in used}
    if wanted.patient is not None:
        patients, told = tell_patients([v.image for v in found.volumes], folder, wanted.patient)
        found.volumes = [replace(v, patient=patients[v.image]) for v in found.volumes]
    else:
        first = found.volumes[0]
        example = f'"{first.image.relative_to(folder).as_posix()}" is of patient "{first.patient}"'
        count = len({v.patient for v in found.volumes})
        told = [f"patients: {count} of {len(found.volumes)} scans, told by the layout; {example}"]
    found.notes += told


def _passed_over(left: Mapping[Path, str], folder: Path) -> list[str]:
    """A sentence for each reason, with the first files and how many more there are."""
    lines = []
    for reason in dict.fromkeys(left.values()):
        files = [path.relative_to(folder).as_posix() for path, why in left.items() if why == reason]
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        lines.append(f"passed over, {reason}: {', '.join(files[:3])}{more}")
    return lines
