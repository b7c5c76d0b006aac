"""Which label belongs to which scan: by the place of both and by their names, or by two patterns."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..datalist import DataError
from ..file_names import IMAGE_WORDS, SEQUENCE, case_name, name_parts, of_label, place

Key = Callable[[Path], Hashable]


@dataclass
class Pairs:
    """Scans with their labels.

    Attributes:
        labels: scan -> label; scans without one are not in it.
        alone: label -> why no scan is its own.
    """

    labels: dict[Path, Path] = field(default_factory=dict)
    alone: dict[Path, str] = field(default_factory=dict)

    def add(self, label: Path, scans: Sequence[Path]) -> bool:
        """Give a label to the one scan that fits; False if none does.

        Raises:
            DataError: the scan has a label already.
        """
        if len(scans) > 1:
            names = ", ".join(str(scan) for scan in scans[:3])
            self.alone[label] = f"fits several scans ({names}); say by --images and --labels which are meant"
        elif scans and (other := self.labels.setdefault(scans[0], label)) != label:
            mend = "move one of the two labels away, or say by --labels which are meant"
            raise DataError(f"{label}: {other} fits the same scan; {mend}")
        return bool(scans)


def pair(scans: Sequence[Path], labels: Sequence[Path], root: Path) -> Pairs:
    """Pair scans and labels below a folder.

    A label belongs to the scan of its own folders and name, the words for image and label apart; then to the one whose
    name has only a sequence more ("p1_seg" and "p1_t2"); then to the only scan of its folders, if its name says nothing
    or is the same in all folders; at last to a scan of that name anywhere ("derivatives/...").
    """
    pairs = Pairs()
    known = {part for scan in scans for part in name_parts(case_name(scan))}

    def name(path: Path) -> tuple[str, ...]:
        parts = name_parts(case_name(path))
        return tuple(part for part in parts if part not in IMAGE_WORDS and (part in known or not of_label(part)))

    def scan_name(path: Path) -> tuple[str, ...]:
        return tuple(part for part in name_parts(case_name(path)) if part not in IMAGE_WORDS)

    def bare(path: Path) -> tuple[str, ...]:
        return tuple(part for part in scan_name(path) if not SEQUENCE.fullmatch(part))

    def here(path: Path) -> tuple[str, ...]:
        return place(path, root)

    by_name, by_bare, by_place = (_index(scans, key) for key in (scan_name, bare, here))
    constant = _constant(by_place, _index(labels, here))
    for label in labels:
        key, home = name(label), here(label)
        near = [scan for scan in by_name[key] if here(scan) == home] or [s for s in by_bare[key] if here(s) == home]
        if not near and (not key or label in constant):
            near = by_place[home]
        far = bool(key) and not all(SEQUENCE.fullmatch(part) for part in key)
        if not pairs.add(label, near or (by_name[key] or by_bare[key] if far else [])):
            pairs.alone[label] = "no scan fits this label"
    return pairs


def _index(paths: Iterable[Path], key: Key) -> defaultdict[Hashable, list[Path]]:
    found: defaultdict[Hashable, list[Path]] = defaultdict(list)
    for path in paths:
        found[key(path)].append(path)
    return found


def _constant(scans: Mapping[Hashable, list[Path]], labels: Mapping[Hashable, list[Path]]) -> set[Path]:
    """Labels that have one name in all folders ("p1/anatomy.nii.gz" and "p1/bones_mask.nii.gz", "p2/...")."""
    single = [(scans[home][0], of[0]) for home, of in labels.items() if len(of) == 1 and len(scans.get(home, ())) == 1]
    if len(single) > 1 and all(len({path.name for path in paths}) == 1 for paths in zip(*single, strict=True)):
        return {label for _, label in single}
    return set()


def pair_by_patterns(scans: str, labels: str, root: Path, found: Sequence[Path]) -> tuple[list[Path], Pairs]:
    """Pair the files that two patterns name, `**` for any folders: what their wildcards stand for must agree.

    Where that pairs nothing ("*/t2.nii.gz" and "*/*_vert.nii.gz"), place and names decide as in :func:`pair`.

    Args:
        scans: pattern of the scans, relative to `root`.
        labels: pattern of the labels; a file that both name is a label.
        root: the data set's folder.
        found: all image files below it.

    Returns:
        The scans, and the pairs.

    Raises:
        DataError: a pattern that names no file.
    """
    marked = {path: m.groups() for path in found if (m := _regex(labels).fullmatch(path.relative_to(root).as_posix()))}
    wanted = {path: m.groups() for path in found if (m := _regex(scans).fullmatch(path.relative_to(root).as_posix()))}
    wanted = {path: groups for path, groups in wanted.items() if path not in marked}
    for option, pattern, files in (("--images", scans, wanted), ("--labels", labels, marked)):
        if not files:
            raise DataError(f"{root}: no image file fits {option} {pattern!r}; patterns are relative to the folder")
    pairs = Pairs()
    by_groups = _index(wanted, lambda path: wanted[path])
    for label, groups in marked.items():
        if not pairs.add(label, by_groups[groups]):
            pairs.alone[label] = "no scan fits this label"
    return list(wanted), pairs if pairs.labels else pair(list(wanted), list(marked), root)


def _regex(pattern: str) -> re.Pattern[str]:
    """A pattern of paths as a regular expression whose groups are what the wildcards stand for."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("./"))
    wild = {"**/": r"((?:[^/]+/)*)", "**": r"(.*)", "*": r"([^/]*)", "?": r"([^/])"}
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts))


def matching(pattern: str, root: Path, found: Iterable[Path]) -> list[Path]:
    """The files that a pattern names, relative to `root`."""
    return [path for path in found if _regex(pattern).fullmatch(path.relative_to(root).as_posix())]
