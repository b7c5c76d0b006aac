"""Whose scan it is: the patient, told from the names of files and folders as the field writes them.

A folder that stands for a sequence (t1, stir), a site or a role (images, labels, imagesTr) never is a patient. Where
names leave it open, scans are taken for one patient's rather than for two: a patient in two splits falsifies scores.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from ..datalist import DataError
from ..file_names import CHANNEL, IMAGE_WORDS, SEQUENCE, case_name, folder_role

BIDS = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+)")
PERSON = re.compile(
    r"(?:sub(?:j(?:ect)?)?|pat(?:ient)?|case|proband|person|anon(?:ym)?|id|p)[-_ ]?\d+[a-z]?"
    r"|(?:subject|patient|proband)[-_ ]\w+",
    re.IGNORECASE,
)
"""The name of a folder that holds one patient, or of a patient's file."""
NUMBER = re.compile(r"(?!(?:19|20)\d\d(?:\d{4})?$)\d+")
"""A number that is no year and no date."""
SITE = re.compile(r"(?:site|cent(?:er|re)|hospital|clinic|klinik|institution|scanner)[-_ ]?\w*", re.IGNORECASE)
GROUP = re.compile(
    r"(?:train(?:ing)?|val(?:idation)?|test(?:ing)?|(?:un)?labell?ed|fold[-_ ]?\d*|dataset\w*|data|nifti|nii|dicom|dcm|"
    r"anat|raw|derivatives|sourcedata)",
    re.IGNORECASE,
)
"""Folders that hold many patients, or one kind of a patient's files."""
VISIT = re.compile(
    r"(?:ses(?:sion)?|visit|run|series|se|acq|echo|timepoint|tp|stack|vol(?:ume)?|scan|img|image|mr|mri)[-_ ]?\d*"
    r"|baseline|follow-?up|pre|post|(?:19|20)\d{6}",
    re.IGNORECASE,
)
"""A word, or a folder, that tells which of a patient's scans it is."""
Rule = tuple[str, str]
"""A patient, and the words for what told it."""


def tell_patients(scans: Sequence[Path], root: Path, pattern: str | None = None) -> tuple[dict[Path, str], list[str]]:
    """The patient of every scan below a folder.

    Args:
        scans: files, their names without nnU-Net's channel, or folders of DICOM series.
        root: the data set's folder.
        pattern: regular expression, searched in the path relative to `root`; its first group is the patient. None
            tells patients from the names.

    Returns:
        Scan -> patient, and a sentence for each rule that was used, with an example.

    Raises:
        DataError: a pattern that is none, has no group, or is not in every path.
    """
    told = _by_pattern(scans, root, pattern) if pattern is not None else _by_names(scans, root)
    return {scan: patient for scan, (patient, _) in told.items()}, _sentences(told, root)


def _sentences(told: dict[Path, Rule], root: Path) -> list[str]:
    by_rule: dict[str, dict[Path, str]] = defaultdict(dict)
    for scan, (patient, rule) in told.items():
        by_rule[rule][scan] = patient
    lines = []
    for rule, of in by_rule.items():
        scan, patient = next(iter(of.items()))
        example = f'"{scan.relative_to(root).as_posix()}" is of patient "{patient}"'
        lines.append(f"patients: {len(set(of.values()))} of {len(of)} scans, told by {rule}; {example}")
    return lines


def _by_pattern(scans: Sequence[Path], root: Path, pattern: str) -> dict[Path, Rule]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--patient {pattern!r} is no regular expression ({error})") from error
    if not regex.groups:
        raise DataError(f'--patient {pattern!r} has no group; put brackets around the patient, as in "(case[0-9]+)_"')
    told = {}
    for scan in scans:
        found = regex.search(scan.relative_to(root).as_posix())
        if not found or not found[1]:
            raise DataError(f"{scan}: --patient {pattern!r} finds no patient in this path; extend it")
        told[scan] = (found[1], "--patient")
    return told


def _by_names(scans: Sequence[Path], root: Path) -> dict[Path, Rule]:
    front = _told_apart({scan: _person_in(case_name(scan)) for scan in scans}, scans)
    owners: dict[Path, str] = {scan: _owner(scan, root) for scan in scans}
    under: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        under[front[scan]].add(owners[scan])
    told = {}
    for scan in scans:
        path, name, owner = scan.relative_to(root), front[scan], owners[scan]
        site = next((part for part in path.parts[:-1] if SITE.fullmatch(part)), "")
        if bids := BIDS.search(path.as_posix()):
            told[scan] = (bids[1], 'its "sub-" (BIDS)')
        elif person := next((p for part in path.parts[:-1] if _is_person(p := _person_in(part)) and _may_be(part)), ""):
            told[scan] = (person, "the folder of a patient")
        elif owner and (not name or (len(under[name]) > 1 and not PERSON.fullmatch(name) and _direct(path))):
            told[scan] = (owner, "the folder, as files in several folders have the same names")
        elif site:
            told[scan] = (f"{site}_{name or case_name(scan)}", "the site's folder and the file's name")
        else:
            told[scan] = (name or case_name(scan), "the file's name, without sequence and visit")
    return told


def _told_apart(front: dict[Path, str], scans: Sequence[Path]) -> dict[Path, str]:
    """What precedes the sequence in every name; what follows it, if all names have the same before it."""
    names = {case_name(scan) for scan in scans}
    if len(names) < 3 or len(set(front.values())) > 1:
        return front
    return {scan: _join(case_name(scan), lambda word: not _of_scan(word)) for scan in scans}


def _person_in(name: str) -> str:
    """What precedes the first word for a sequence, visit or role, or else what follows it ("t2_case5"); may be ""."""
    words = re.split(r"(?<=[^-_ .])[-_ .]+", name)
    first = next((number for number, word in enumerate(words) if _of_scan(word)), len(words))
    before = _join(name, lambda _: True, first)
    return before or _join(name, lambda word: not _of_scan(word))


def _join(name: str, keep: Callable[[str], bool], stop: int | None = None) -> str:
    """The kept words of a name up to one, with what stands between them."""
    found = list(re.finditer(r"[^-_ .]+", name))[:stop]
    kept = [word for word in found if keep(word[0])]
    if kept and kept == found[: len(kept)]:
        return name[: kept[-1].end()]
    return "_".join(word[0] for word in kept)


def _of_scan(word: str) -> bool:
    """True for a word that tells of the scan, not of the patient."""
    plain = word.casefold()
    return bool(SEQUENCE.fullmatch(plain) or VISIT.fullmatch(plain) or plain in IMAGE_WORDS - {CHANNEL})


def _is_person(name: str) -> bool:
    return bool(PERSON.fullmatch(name) or NUMBER.fullmatch(name))


def _owner(scan: Path, root: Path) -> str:
    """The nearest folder that may be a patient's: one that stands for nothing else; "" for none."""
    for part in reversed(scan.relative_to(root).parts[:-1]):
        if _may_be(part) and _person_in(part):
            return _person_in(part)
    return ""


def _may_be(folder: str) -> bool:
    """True for a folder that stands neither for a role, nor a site, nor for a group of patients, nor for a visit."""
    return folder_role(folder)[0] == "" and not any(kind.fullmatch(folder) for kind in (SITE, GROUP, VISIT))


def _direct(path: Path) -> bool:
    """True for a file whose folder holds no folder of images in between, so that it may be one patient's."""
    return folder_role(path.parts[-2])[0] == "" if len(path.parts) > 1 else False
