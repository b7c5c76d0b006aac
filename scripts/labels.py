"""Class table (names, groups, prompts, colours, codes) and label maps from other data sets' values to class ids."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
CLASS_TABLE_FILE = CONFIG_DIR / "classes.json"
LABEL_MAP_DIR = CONFIG_DIR / "label_maps"
IGNORE = 255
"""Label of ignored pixels, left out of all losses and scores (partial vertebrae, for example)."""
LEVEL_RIGHT = 0.5
"""Dice above which a structure's level is right."""

LEVELS = (*(f"C{n}" for n in range(1, 8)), *(f"T{n}" for n in range(1, 14)), *(f"L{n}" for n in range(1, 7)), "S")
"""Vertebral levels from the skull down, with the transitional T13 and L6; S is the whole sacrum."""
ENDS = {"C7": ("T1",), "T12": ("T13", "L1"), "T13": ("L1",), "L5": ("L6", "S"), "L6": ("S",)}
"""Level -> the levels that may follow below it, where that is not the next number alone."""
REGIONS = {
    **dict.fromkeys(("c", "cervical", "hwk"), "C"),
    **dict.fromkeys(("t", "th", "thoracic", "dorsal", "bwk"), "T"),
    **dict.fromkeys(("l", "lumbar", "lwk"), "L"),
    **dict.fromkeys(("s", "sacral", "sacrum", "swk", "kreuzbein"), "S"),
}
ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh"),
    *("eighth", "ninth", "tenth", "eleventh", "twelfth", "thirteenth"),
)
VERTEBRA_WORDS = frozenset(
    ("vertebra", "vertebrae", "vertebral", "vert", "vb", "body", "corpus", "wirbel", "spine", "bone")
)
DISC_WORDS = frozenset(("disc", "discs", "disk", "disks", "intervertebral", "ivd", "bandscheibe"))
FILLERS = frozenset(("and", "between", "of", "the", "os", "level"))
BACKGROUND_NAMES = frozenset(("background", "bg", "clear label", "none", "air"))
BACKGROUND_WORDS = frozenset(("canal", "cord", "csf", "sac", "endplate", "endplates"))
"""Tissue beside the classes, which the label maps of other programs turn into background, too."""


@dataclass(frozen=True)
class StructureClass:
    """One class of the segmentation.

    Attributes:
        id: index of the class in label maps and in the network's channels; 0 is background.
        name: short name, for tables and pictures ("L4", "L4/L5").
        long_name: name as it stands in a class prompt ("fourth lumbar vertebra L4").
        group: "background", "sacrum", "vertebra" or "disc" (any word in other class tables).
        chain: place in the chain of structures counted from the lowest, None for background.
        colour: red, green, blue in 0..255.
        code: coded concept for DICOM SEG: value, scheme, meaning ("11994002", "SCT", "L4 vertebra"); None for none.
    """

    id: int
    name: str
    long_name: str
    group: str
    chain: int | None
    colour: tuple[int, int, int]
    code: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class ClassTable:
    """All classes in the order of their ids.

    Attributes:
        name: name of the table.
        prompt_template: sentence with the field `{class_name}`.
        groups: group -> the words for it in a table; background is not among them.
        classes: the classes; `classes[i].id == i`.
    """

    name: str
    prompt_template: str
    groups: dict[str, str] = field(hash=False)
    classes: tuple[StructureClass, ...]

    def __post_init__(self) -> None:
        """Check the table; a ValueError for id gaps, duplicate names, no background first, or unknown groups."""
        if [c.id for c in self.classes] != list(range(len(self.classes))):
            raise ValueError(f"class table {self.name}: ids must run 0, 1, 2, ... without a gap, in this order")
        if not self.classes or self.classes[0].group != "background":
            raise ValueError(f"class table {self.name}: class 0 must be of group 'background'")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"class table {self.name}: two classes have the same name")
        unknown = {c.group for c in self.classes[1:]} - set(self.groups)
        if unknown:
            raise ValueError(f"class table {self.name}: groups {sorted(unknown)} are not among {sorted(self.groups)}")

    @classmethod
    def load(cls, path: str | Path | None = None) -> ClassTable:
        """Read a class table from JSON; without a path the bundle's own, `configs/classes.json`."""
        raw = json.loads(Path(path or CLASS_TABLE_FILE).read_text(encoding="utf-8"))
        rows: list[dict[str, Any]] = [
            {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()} for row in raw["classes"]
        ]
        return cls(raw["name"], raw["prompt_template"], raw["groups"], tuple(StructureClass(**row) for row in rows))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Short names in the order of the ids, background first."""
        return tuple(c.name for c in self.classes)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.classes)

    @property
    def foreground(self) -> tuple[StructureClass, ...]:
        """All classes but background."""
        return self.classes[1:]

    @cached_property
    def chain(self) -> tuple[StructureClass, ...]:
        """The classes that have a place in the chain, lowest structure first."""
        return tuple(sorted((c for c in self.classes if c.chain is not None), key=lambda c: c.chain or 0))

    @cached_property
    def judged_levels(self) -> tuple[int, ...]:
        """Ids of the vertebrae by which a case's levels are called right: L1 to L5, where a table has no such all."""
        vertebrae = [c.id for c in self.chain if c.group == "vertebra"]
        lumbar = [c for c in vertebrae if re.fullmatch(r"L[1-5]", self.names[c])]
        return tuple(lumbar or vertebrae)

    def group(self, group: str) -> tuple[int, ...]:
        """Ids of the classes of one group."""
        return tuple(c.id for c in self.classes if c.group == group)

    def id_of(self, name: str | int) -> int:
        """Id of a class given by its short name or by its id.

        Raises:
            ValueError: no class of that name or id.
        """
        if isinstance(name, int) or str(name).isdigit():
            if 0 <= int(name) < self.num_classes:
                return int(name)
        elif name in self.names:
            return self.names.index(name)
        raise ValueError(f"class table {self.name} has no class {name!r}; its classes are {', '.join(self.names)}")

    @cached_property
    def _spelt(self) -> dict[str, int]:
        """Every class by its names as words, and by the standard spelling of its level."""
        written = {" ".join(_words(name)): c.id for c in self.classes for name in (c.long_name, c.name)}
        return {**{level: c.id for c in self.classes if (level := level_name(c.name))}, **written}

    def class_named(self, name: str) -> int | None:
        """Id of the class that a name stands for, in any of the field's spellings ("vertebrae_L5", "L5-S1", "sacrum").

        Returns:
            The id; 0 for background, canal, cord and endplates; `IGNORE` for levels that the table does not have
            ("T8", "L6") and for "ignore"; None for a name that says nothing.
        """
        words = _words(name)
        spelt = " ".join(words)
        if spelt in self._spelt:
            return self._spelt[spelt]
        if spelt in BACKGROUND_NAMES or BACKGROUND_WORDS & set(words):
            return 0
        level = level_name(name)
        return IGNORE if spelt == "ignore" or (level and level not in self._spelt) else self._spelt.get(level or "")

    def channel_def(self) -> dict[str, str]:
        """`channel_def` as the bundle's metadata holds it: index as a string -> name."""
        return {str(c.id): c.name for c in self.classes}


def _words(name: str) -> list[str]:
    """Letters and numbers of a name apart, in small letters: "L5-S1" gives l, 5, s, 1."""
    return re.findall(r"[^\W\d_]+|\d+", unicodedata.normalize("NFKC", name).casefold())


def level_name(name: str) -> str | None:
    """The standard name of a vertebra or disc, whatever its spelling: "vertebra L5" gives "L5", "L5-S1" gives "L5/S".

    Read are L5, L05, Th12, LWK5, "fifth lumbar vertebra", "lumbar 5"; of discs L4/L5, L4-5, L4L5, "disc L4_L5".

    Returns:
        None where a word is left over ("L5 nerve root"), a disc of one level, or levels that are no neighbours.
    """
    words, number = _words(name), 0
    levels: list[str] = []
    kinds: set[str] = set()
    while words:
        word = words.pop(0)
        if word in VERTEBRA_WORDS or word in DISC_WORDS:
            kinds.add("disc" if word in DISC_WORDS else "vertebra")
        elif word in REGIONS and (level := _level(REGIONS[word], number, words)):
            levels += [level] if level not in levels else []
            number = 0
        elif word in ORDINALS:
            number = ORDINALS.index(word) + 1
        elif word.isdigit() and words[:1] and words[0] in ("st", "nd", "rd", "th"):
            number = int(word)
            del words[0]
        elif word.isdigit() and levels and (below := [b for b in _below(levels[-1]) if b[1:] == str(int(word))]):
            levels.append(below[0])  # L4/5
        elif word not in FILLERS:
            return None
    if len(levels) == 1 and "disc" not in kinds:
        return "S" if levels[0].startswith("S") else levels[0]
    if len(levels) == 2 and kinds != {"vertebra"}:
        for upper, lower in (levels, levels[::-1]):
            if lower in _below(upper):
                return f"{upper}/{lower}".replace("/S1", "/S")
    return None


def _level(region: str, number: int, words: list[str]) -> str | None:
    """A level of a region, its number told before it or by the next words, which are then taken off."""
    ahead = next((i for i, word in enumerate(words) if word not in VERTEBRA_WORDS), len(words))
    if not number and ahead < len(words) and words[ahead].isdigit():
        number = int(words[ahead])
        del words[ahead]
    level = f"{region}{number}" if number else region
    return level if level in LEVELS or level in ("S1", "S2", "S3", "S4", "S5") else None


def _below(level: str) -> tuple[str, ...]:
    """The levels that may lie next below one."""
    ends = ENDS.get(level, (f"{level[0]}{int(level[1:]) + 1}",) if level[1:] else ())
    return (*ends, *(["S1"] if "S" in ends else []))


@dataclass(frozen=True)
class LabelMap:
    """How a data set's label values become class ids.

    Attributes:
        name: name of the map, or the file that it was read from.
        mapping: label value of the data set -> class id, or `IGNORE`.
        unlabelled_classes: ids of structures that the data set shows but does not label.
    """

    name: str
    mapping: dict[int, int] = field(hash=False)
    unlabelled_classes: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, name: str, raw: dict[str, Any], table: ClassTable) -> LabelMap:
        """Label map from `{"map": {value: class name | id | "ignore"}, "unlabelled_classes": [...]}`.

        Raises:
            ValueError: a class that the table does not have.
        """
        mapping = {
            int(value): IGNORE if target in ("ignore", IGNORE) else table.id_of(target)
            for value, target in raw["map"].items()
        }
        return cls(name, mapping, tuple(table.id_of(c) for c in raw.get("unlabelled_classes", [])))

    @classmethod
    def from_names(cls, source: str, names: Mapping[int, str], table: ClassTable) -> LabelMap:
        """Make a label map from the names of label values; what no class is named by is left out (`IGNORE`).

        Classes that no name stands for count as shown but not labelled.

        Raises:
            ValueError: 0 is named as a structure.
        """
        classes = {value: table.class_named(name) for value, name in names.items()}
        if classes.get(0):
            raise ValueError(f"it calls the value 0 {names[0]!r}, but 0 must be background")
        mapping = {0: 0, **{value: IGNORE if c is None else c for value, c in sorted(classes.items()) if value}}
        hidden = tuple(c.id for c in table.foreground if c.id not in mapping.values())
        return cls(source, mapping, hidden)

    def to_dict(self, table: ClassTable) -> dict[str, Any]:
        """The label map as :meth:`from_dict` reads it."""
        named = {str(value): "ignore" if c == IGNORE else table.names[c] for value, c in self.mapping.items()}
        return {"map": named, "unlabelled_classes": [table.names[c] for c in self.unlabelled_classes]}

    @classmethod
    def load(cls, name_or_file: str | Path | dict[str, Any] | None, table: ClassTable) -> LabelMap:
        """Read a label map by its name, from a JSON file, or from a table; None is the identity.

        Raises:
            ValueError: neither a known name nor a file, or a class that the table does not have.
        """
        if name_or_file is None:
            return cls("identity", {**{i: i for i in range(table.num_classes)}, IGNORE: IGNORE})
        if isinstance(name_or_file, dict):
            return cls.from_dict("inline", name_or_file, table)
        content = json.loads(label_map_file(name_or_file).read_text(encoding="utf-8"))
        return cls.from_dict(str(name_or_file), content, table)


def label_map_file(name_or_file: str | Path) -> Path:
    """File of a label map given by its name or as a file.

    Raises:
        ValueError: neither a known name nor a file.
    """
    path = LABEL_MAP_DIR / f"{name_or_file}.json"
    path = path if path.is_file() else Path(name_or_file)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in LABEL_MAP_DIR.glob("*.json")))
        raise ValueError(f"label map {str(name_or_file)!r} is neither a file nor one of {known}")
    return path
