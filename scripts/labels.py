"""Class table (names, groups, prompts, colours, codes) and label maps from other data sets' values to class ids."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
CLASS_TABLE_FILE = CONFIG_DIR / "classes.json"
LABEL_MAP_DIR = CONFIG_DIR / "label_maps"
IGNORE = 255
"""Label of ignored pixels, left out of all losses and scores (partial vertebrae, for example)."""


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

    def channel_def(self) -> dict[str, str]:
        """`channel_def` as the bundle's metadata holds it: index as a string -> name."""
        return {str(c.id): c.name for c in self.classes}


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
