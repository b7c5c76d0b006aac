"""Pictures of labelled scans, and the page of all scans in a folder of results, which opens from the disk."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import SaveImaged

from ..data.dicom.reader import LoadScand
from ..data.output_folder import PICTURES, OutputFolder
from ..data.transforms import LABEL_MAP, result_name, source_of
from ..files import take_turns
from ..labels import ClassTable
from ..ops.levels.verdict import CHECK, OK, REFUSE
from ..report.spine_picture import spine_picture
from ..weights import model_settings

if TYPE_CHECKING:
    from jinja2 import Template

PAGE, LOCK = "index.html", ".index.html.lock"
REPORT, PICTURE = "_levels.json", ".jpg"
"""Endings of the report and of the picture of a scan."""
WORDS = {
    REFUSE: "Nothing was found, or what was found is not the spine that the network knows.",
    CHECK: "Look at the scan before the names are used.",
    OK: "Nothing speaks against the names.",
}
"""The verdicts, the worst first, and what they say without a reason."""
FILES = {LABEL_MAP: "label map", "_seg.dcm": "DICOM SEG", REPORT: "report (JSON)"}
"""Ending of a scan's results -> words of the link to them."""
TABLES = ("structures.csv", "scans.csv")
HEIGHTS = ("height_anterior_mm", "height_middle_mm", "height_posterior_mm")
COLUMNS = {
    ("confidence",): ("confidence", 2),
    ("volume_ml",): ("volume, ml", 1),
    HEIGHTS: ("height in front, in the middle, at the back, mm", 1),
    ("height_mm",): ("head to foot, mm", 0),
    ("width_mm",): ("width, mm", 0),
    ("tilt_degrees",): ("tilt, °", 0),
    ("flag",): ("remark", 0),
}
"""Keys of a structure in the report -> head of their column and decimals."""
SPINE = {"lordosis_degrees": "lumbar lordosis, °", "levels_posterior": "probability of the level names"}
"""Values of the whole spine whose keys say too little."""
UNITS = {"mm": "mm", "ml": "ml", "degrees": "°", "percent": "%"}


class SavePictured(SaveImaged):
    """Write `pictures/<scan>.jpg`, see `scripts.report.spine_picture`, of the scan as its file has it.

    A subclass of `SaveImaged`, because MONAI Label removes those.

    Args:
        keys: label maps (1, X, Y[, Z]) in the scan's own grid.
        outputs: folder of the label maps.
        table: the classes.
    """

    def __init__(self, keys: KeysCollection, outputs: OutputFolder, table: ClassTable) -> None:
        super().__init__(keys, output_dir=outputs.folder, print_log=False)
        self.outputs, self.table = outputs, table
        self.load = LoadScand(keys="image", ensure_channel_first=True, image_only=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the file and return the data unchanged."""
        for key in self.key_iterator(data):
            label_map = data[key]
            scan = self.load({"image": str(label_map.meta["filename_or_obj"])})["image"]
            image, label, affine = (np.asarray(part.cpu()) for part in (scan[0], label_map[0], label_map.affine))
            drawn = spine_picture(image, label, affine, self.table)
            name = PICTURES.format(f"{result_name(data, label_map)}{PICTURE}")
            self.outputs.write(name, drawn, source_of(label_map))
        return dict(data)


def write_page(outputs: OutputFolder) -> None:
    """Write `index.html` of all scans whose report the folder's manifest names; nothing without a report.

    Runs that were killed, repeated or shared by several processes give one page of all scans. It shows what the
    reports hold and leaves out what they do not; a scan's path, which may name a patient, is not on it.

    Args:
        outputs: folder of the label maps, with the network's weights.

    Raises:
        DataError: the page there is not one that this program wrote.
        StorageError: it cannot be written.
    """
    with take_turns(outputs.folder / LOCK):  # the last process sees the reports of all
        written = {name for name in outputs.entries() if (outputs.folder / name).is_file()}
        scans = []
        for name in sorted(written):
            if name.endswith(REPORT) and (report := _report(outputs.folder / name)):
                scans.append(_scan(name.removesuffix(REPORT), report, written, outputs.folder))
        if not scans:
            return
        scans.sort(key=lambda scan: (scan["rank"], scan["name"].casefold(), scan["name"]))
        verdicts = [
            {"name": name, "words": words, "count": sum(scan["verdict"] == name for scan in scans)}
            for name, words in WORDS.items()
        ]
        tables = [name for name in TABLES if name in written]
        content = _template().render(scans=scans, verdicts=verdicts, knows=_known(outputs.weights), tables=tables)
        outputs.write(PAGE, content.encode())
    logging.getLogger(__name__).info("%s shows all scans: open it in a browser", outputs.folder / PAGE)


def _template() -> Template:
    from jinja2 import (
        Environment,
        FileSystemLoader,
        StrictUndefined,
    )  # MONAI Label reads this module without need of it

    folder = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("page.html")


def _report(path: Path) -> dict[str, Any]:
    """A scan's report; empty if somebody damaged it."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(report, dict) and report["verdict"] in WORDS:
            return report
    except (KeyError, ValueError):
        pass
    logging.getLogger(__name__).warning("%s is damaged and is left out of the page", path)
    return {}


def _scan(name: str, report: Mapping[str, Any], written: set[str], folder: Path) -> dict[str, Any]:
    """What the template shows of a scan; the structures from the head down, as in the picture."""
    picture = PICTURES.format(f"{name}{PICTURE}")
    heads, rows = _table(list(reversed(report.get("structures", []))))
    return {
        "name": name,
        "verdict": report["verdict"],
        "rank": list(WORDS).index(report["verdict"]),
        "reasons": report.get("reasons", []),
        "notes": report.get("notes", []),
        "picture": picture if picture in written else "",
        "size": _size(folder / picture) if picture in written else (0, 0),
        "heads": heads,
        "rows": rows,
        "spine": [
            (_words(key), _text(value, _decimals(key)))
            for key, value in report.get("spine", {}).items()
            if _filled(value)
        ],
        "not_measured": [(_words(key), reason) for key, reason in report.get("not_measured", {}).items()],
        "files": [(words, f"{name}{ending}") for ending, words in FILES.items() if f"{name}{ending}" in written],
    }


def _table(structures: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the columns that hold something."""
    columns = {
        keys: column for keys, column in COLUMNS.items() if any(_filled(row.get(k)) for row in structures for k in keys)
    }
    if HEIGHTS in columns:
        columns.pop(("height_mm",), None)
    rows = [
        [row.get("name", ""), *(_cell([row.get(k) for k in keys], decimals) for keys, (_, decimals) in columns.items())]
        for row in structures
    ]
    return ["structure", *(head for head, _ in columns.values())], rows


def _filled(value: Any) -> bool:
    return value not in (None, "") and not (isinstance(value, float) and math.isnan(value))


def _cell(values: Sequence[Any], decimals: int) -> str:
    """Values that share a cell; a dash for one that was not measured beside others that were."""
    texts = [_text(value, decimals) for value in values]
    return " / ".join(text or "–" for text in texts) if any(texts) else ""


def _text(value: Any, decimals: int) -> str:
    """A value as the page shows it; nothing for one that was not measured."""
    if not _filled(value):
        return ""
    if not isinstance(value, float | int):
        return str(value)
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "−")  # no minus before a zero


def _decimals(key: str) -> int:
    """One for a length, volume or angle, two for a ratio."""
    return 1 if UNITS.keys() & set(key.split("_")) else 2


def _words(key: str) -> str:
    """A column's name as words, its unit behind a comma: "lordosis_degrees" gives "lordosis, °"."""
    if key in SPINE:
        return SPINE[key]
    parts = key.split("_")
    units = [UNITS[part] for part in parts if part in UNITS]
    return ", ".join([" ".join(part for part in parts if part not in UNITS), *units])


def _size(picture: Path) -> tuple[int, int]:
    """Width and height of a picture."""
    from PIL import Image

    with Image.open(picture) as opened:
        width, height = opened.size
    return width, height


def _known(weights: Path) -> str:
    """One sentence on what the network names; nothing if its settings do not tell."""
    settings = model_settings(weights.parent) if weights.name else None
    classes: Sequence[str] = (settings or {}).get("classes", [])
    if not classes:
        return ""
    labelled = (settings or {}).get("labelled_classes") or range(len(classes))
    named = [name for c, name in enumerate(classes) if c and c in labelled]
    unnamed = [name for c, name in enumerate(classes) if c and c not in labelled]
    nothing = f"nothing else: not {', '.join(unnamed)}," if unnamed else "nothing else:"
    return f"This network names {', '.join(named)}, and {nothing} no other level and no other tissue."
