"""What label values mean, by the names that come with them: in a segment file, a colour table or a list of labels.

Read are nnU-Net's dataset.json, colour tables of 3D Slicer (.csv, .ctbl, .txt), label descriptions of ITK-SNAP (.txt,
.label), BIDS' dseg.tsv, and the segments in the header of a .seg.nrrd file.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...labels import IGNORE, LABEL_MAP_DIR, ClassTable, LabelMap
from ..datalist import DataError
from ..file_names import case_name, is_image

Names = dict[int, str]
MOST_BYTES = 1_000_000
"""A list of names is shorter; of a longer file the rest is not read."""
SNAP = re.compile(r'\s*(\d+)(?:\s+[\d.]+){6}\s+"(.*)"\s*')
SLICER = re.compile(r'\s*(\d+)\s+(?:"(.*)"|(\S+))(?:\s+[\d.]+){3,4}\s*')
UNNAMED = re.compile(r"(?:label|segment|structure|class|tissue|region)[-_ ]?\d+|\d+", re.IGNORECASE)
"""Names that programs give by themselves and that say nothing."""


def _text(file: Path) -> str:
    with file.open("rb") as content:
        return content.read(MOST_BYTES).decode("utf-8-sig", errors="replace")


def nnunet(file: Path) -> Names:
    """`labels` of nnU-Net's dataset.json, name -> value, or value -> name as version 1 had it."""
    try:
        labels = json.loads(_text(file))["labels"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    if any(isinstance(value, list) for _, value in labels):
        raise DataError(f"{file}: some labels are regions of several values; say by --label-map what each value is")
    pairs = [(key, value) if str(key).isdigit() else (value, key) for key, value in labels]
    return {int(value): str(name) for value, name in pairs if str(value).isdigit()}


def slicer_or_snap(file: Path) -> Names:
    """A colour table of 3D Slicer (1 L5 230 159 0 255) or a label description of ITK-SNAP (1 255 0 0 1 1 1 "L5")."""
    names: Names = {}
    for line in _text(file).splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if snap := SNAP.fullmatch(line):
            names[int(snap[1])] = snap[2]
        elif slicer := SLICER.fullmatch(line):
            names[int(slicer[1])] = slicer[2] or slicer[3]
        else:
            return {}
    return names


def bids(file: Path) -> Names:
    """BIDS' dseg.tsv: the columns `index` and `name`, or `abbreviation` where the name says nothing."""
    rows = list(csv.DictReader(_text(file).splitlines(), delimiter="\t"))
    return {int(row["index"]): row.get("name") or row.get("abbreviation") or "" for row in rows if _index_in(row)}


def slicer_csv(file: Path) -> Names:
    """A colour table of 3D Slicer 5.8 or later: the columns `LabelValue` and `Name`, separated by commas."""
    rows = list(csv.DictReader(_text(file).splitlines()))
    return {int(row["LabelValue"]): row.get("Name") or "" for row in rows if _index_in(row, "LabelValue")}


def _index_in(row: Mapping[str, Any], column: str = "index") -> bool:
    return str(row.get(column) or "").strip().isdigit()


def segments(file: Path) -> Names:
    """The segments that 3D Slicer names in the header of a .seg.nrrd file."""
    header = _text(file).split("\n\n")[0].split("\r\n\r\n")[0] if file.is_file() else ""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for number, key, value in re.findall(r"^Segment(\d+)_(Name|LabelValue):=(.*?)\r?$", header, re.MULTILINE):
        found[number][key] = value
    alone = "1" if len(found) == 1 else ""
    rows = [(row.get("LabelValue", alone), row["Name"]) for row in found.values() if "Name" in row]
    return {int(value): name for value, name in rows if value.strip().isdigit()}


READERS: tuple[tuple[str, Callable[[Path], Names]], ...] = (
    ("dataset.json", nnunet),
    ("*.csv", slicer_csv),
    ("*.ctbl", slicer_or_snap),
    ("*.label", slicer_or_snap),
    ("*.txt", slicer_or_snap),
    ("*.tsv", bids),
)
"""Pattern of files -> their reader, which gives nothing for a file of another kind."""


class NameFiles:
    """The lists of names in a data set, each folder read once.

    Args:
        root: the data set's folder, above which none is looked for.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables: dict[Path, dict[Path, Names]] = {}
        self.images: dict[Path, set[str]] = {}

    def of(self, label: Path) -> tuple[Path, Names] | None:
        """The names of a label's values, and the file that tells them.

        The label's own header comes first, then a file of the label's name, then the files in its folder and in those
        above it.

        Raises:
            DataError: two files of one folder that disagree.
        """
        if label.name.lower().endswith((".nrrd", ".nhdr")) and (own := _telling(segments(label))):
            return label, own
        for folder in (f for f in label.parents if f.is_relative_to(self.root)):
            self._read(folder)
            tables, images = self.tables[folder], self.images[folder]
            for found in (
                [file for file in tables if case_name(label) in _stems(file)],
                [file for file in tables if not _stems(file) & images],
            ):
                for other in found[1:]:
                    if tables[other] | {0: ""} != tables[found[0]] | {0: ""}:
                        why = f"{other.name} names the same values otherwise"
                        raise DataError(f"{found[0]}: {why}; move one of them away")
                if found:
                    return found[0], tables[found[0]]
        return None

    def _read(self, folder: Path) -> None:
        if folder in self.tables:
            return
        files = [
            (file, reader) for pattern, reader in READERS for file in sorted(folder.glob(pattern)) if file.is_file()
        ]
        self.tables[folder] = {file: names for file, reader in files if (names := _in(file, reader))}
        self.images[folder] = {case_name(path) for path in folder.iterdir() if is_image(path)}


def _stems(file: Path) -> set[str]:
    return {file.stem, case_name(file.stem)}


def _in(file: Path, reader: Callable[[Path], Names]) -> Names:
    return _telling(reader(file)) if file.is_file() else {}


def _telling(names: Names) -> Names:
    """The names, or nothing if none of them says anything."""
    return names if any(value and not UNNAMED.fullmatch(name.strip()) for value, name in names.items()) else {}


def by_names(source: Path, names: Names, table: ClassTable) -> LabelMap:
    """The label map of names.

    Raises:
        DataError: no name is of a class, or 0 is a structure.
    """
    try:
        made = LabelMap.from_names(str(source), names, table)
    except ValueError as error:
        raise DataError(f"{source}: {error}; correct the file, or say by --label-map what each value is") from error
    if not set(made.mapping.values()) - {0, IGNORE}:
        listed = ", ".join(f"{value} {name!r}" for value, name in list(names.items())[:6])
        raise DataError(f"{source}: names no structure of the class table ({listed}); correct it or name a --label-map")
    return made


def take_label_maps(
    labels: Mapping[Path, str | Mapping[str, Any] | None], root: Path, table: ClassTable
) -> tuple[dict[Path, Any], list[str]]:
    """What the values of every label mean: what names say, else the label map of its layout, else class ids.

    Args:
        labels: label -> the label map of its layout or program, None for none.
        root: the data set's folder, above which no names are looked for.
        table: the classes.

    Returns:
        Label -> what a datalist calls its `label_map`, None for class ids; and lines that say so.

    Raises:
        DataError: without names, values that do not fit the class table; or as `NameFiles` and `by_names`.
    """
    files = NameFiles(root)
    told = {label: files.of(label) for label in labels}
    named = {label: by_names(*found, table) for label, found in told.items() if found}
    used = {c for label_map in named.values() for c in label_map.mapping.values()}
    hidden = [table.names[c.id] for c in table.foreground if c.id not in used]
    # one file's segments need not be all that the data set labels
    maps = {label: {**named[label].to_dict(table), "unlabelled_classes": hidden} if label in named else own
            for label, own in labels.items()}  # fmt: skip
    _refuse_values([label for label, source in maps.items() if source is None], table)
    sources = list(dict.fromkeys(str(file.relative_to(root)) for file, _ in filter(None, told.values())))
    lines = [f"label values, by the names in {_some(sources)}:"] if sources else []
    names = [found[1] for found in told.values() if found]
    lines += mapping_table(named.values(), names, table) if named else []
    if unknown := unknown_names(names, table):
        lines.append(f"note: left out (255), as no class has such a name: {_some(unknown)}")
    if named and hidden:
        lines.append(
            f"note: no label is named {', '.join(hidden)}; taken as shown but not labelled (unlabelled_classes)"
        )
    for source in dict.fromkeys(source for source in maps.values() if isinstance(source, str)):
        lines += [
            f"label values, by the label map {source}:",
            *mapping_table([LabelMap.load(source, table)], [], table),
        ]
    if None in maps.values():
        lines.append("label values are taken for class ids, which they fit; name a --label-map if they are others:")
        lines += mapping_table([LabelMap.load(None, table)], [], table)
    return maps, lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _refuse_values(labels: Sequence[Path], table: ClassTable) -> None:
    """Refuse labels whose values are no class ids, or in an order that no spine has.

    A file that cannot be read is left to the check, which names it.
    """
    if not labels:
        return
    from ..check.levels import direction_mistakes
    from ..check.volumes import UnusableError, label_mistakes, label_values, read_volume

    def mistakes(source: str | None) -> list[str]:
        label_map = LabelMap.load(source, table)
        return label_mistakes(array, label_map) or direction_mistakes(array, affine, label_map, table)

    def names_most(source: str) -> bool:
        classes = [LabelMap.load(source, table).mapping.get(value, IGNORE) for value in label_values(array)]
        return classes.count(IGNORE) < sum(c not in (0, IGNORE) for c in classes)

    for label in labels:
        try:
            array, affine = read_volume(label)
        except UnusableError:
            continue
        if wrong := mistakes(None):
            maps = sorted(path.stem for path in LABEL_MAP_DIR.glob("*.json"))
            fitting = [name for name in maps if not mistakes(name) and names_most(name)]
            known = f" ({' or '.join(fitting)} would fit)" if fitting else ""
            raise DataError(
                f"{label}: no names say what its values mean, and as class ids they do not fit: it "
                f"{wrong[0].split(';')[0]}; name a --label-map{known}, or put a list of names beside the labels "
                "(dataset.json, .ctbl, dseg.tsv, ...)"
            )


def mapping_table(maps: Iterable[LabelMap], names: Sequence[Names], table: ClassTable) -> list[str]:
    """Lines of a table of what was taken for what: class, values, and their names where there are any."""
    values: dict[int, set[int]] = defaultdict(set)
    for label_map in maps:
        for value, c in label_map.mapping.items():
            values[c].add(value)
    called: dict[int, dict[str, None]] = defaultdict(dict)
    for of in names:
        for value, name in of.items():
            named = table.class_named(name) if value else 0
            called[IGNORE if named is None else named][name] = None
    order = [c for c in (*(c.id for c in table.foreground), 0, IGNORE) if c in values]
    words = {0: "background", IGNORE: "left out (255)"}
    rows = [
        ("class", "label values", "named" if names else ""),
        *((words.get(c) or table.names[c], _runs(values[c]), ", ".join(called[c])) for c in order),
    ]
    return [f"{name:<16}{listed:<24}{told}".rstrip() for name, listed, told in rows]


def _runs(values: set[int]) -> str:
    """Values with runs drawn together: "0, 101-125"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], value]
        else:
            runs.append([value])
    return ", ".join("-".join(map(str, run)) for run in runs)


def unknown_names(names: Sequence[Names], table: ClassTable) -> list[str]:
    """The names that say nothing to the class table."""
    return sorted({name for of in names for value, name in of.items() if value and table.class_named(name) is None})
