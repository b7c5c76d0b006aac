"""The page of all scans in a folder of results, which opens from the disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.datalist import Problem
from ..data.output_folder import PICTURES, OutputFolder
from ..data.transforms import LABEL_MAP
from ..ops.levels.verdict import CHECK, OK, REFUSE
from ..weights import model_settings

if TYPE_CHECKING:
    from jinja2 import Template

PAGE, PICTURE = "index.html", ".jpg"
"""Name of the page, and the ending of a scan's picture."""
REPORT = "_levels.json"
"""Ending of the files of reports."""
WORDS = {
    REFUSE: "Nothing was found, or what was found is not the spine that the network knows.",
    CHECK: "Look at the scan before the names are used.",
    OK: "Nothing speaks against the names.",
}
"""The verdicts, the worst first, and what they say without a reason."""
FILES = {LABEL_MAP: "label map", "_seg.dcm": "DICOM SEG", "_sr.dcm": "DICOM SR", REPORT: "report (JSON)"}
"""Ending of a scan's results -> words of the link to them."""
STRUCTURES, SCANS = TABLES = ("structures.csv", "scans.csv")
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


def page(reports: Mapping[str, Mapping[str, Any]], outputs: OutputFolder, left_out: Sequence[Problem] = ()) -> str:
    """Content of the page of all scans of a folder, the worst verdict first.

    It shows what the reports hold and leaves out what they do not; a scan's path, which may name a patient, is not on
    it. Pictures, tables and label maps are those that the folder's manifest names and that are there.

    Args:
        reports: scan -> report.
        outputs: their folder, with the network's weights.
        left_out: what is wrong with the scans that could not be labelled; of their paths the last part is on it.
    """
    written = {name for name in outputs.entries() if (outputs.folder / name).is_file()}
    scans = [_scan(name, report, written, outputs.folder) for name, report in reports.items()]
    scans.sort(key=lambda scan: (scan["rank"], scan["name"].casefold(), scan["name"]))
    verdicts = [
        {"name": name, "words": words, "count": sum(scan["verdict"] == name for scan in scans)}
        for name, words in WORDS.items()
    ]
    tables = [name for name in TABLES if name in written]
    faulty = [(Path(problem.path).name, problem.message) for problem in left_out]
    return _template().render(
        scans=scans, verdicts=verdicts, knows=_known(outputs.weights), tables=tables, faulty=faulty
    )


def _template() -> Template:
    # MONAI Label reads this module without need of it
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("page.html")


def picture_name(scan: str) -> str:
    """Path of a scan's picture below the folder."""
    return PICTURES.format(f"{scan}{PICTURE}")


def _scan(name: str, report: Mapping[str, Any], written: set[str], folder: Path) -> dict[str, Any]:
    """What the template shows of a scan; the structures from the head down, as in the picture."""
    picture = picture_name(name)
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
    sizes = ((settings or {}).get("structure_sizes") or {}).get("structures", {})
    never = {name for name, of in sizes.items() if not of["cases"]}  # a label might have named them, and none did
    named = [name for c, name in enumerate(classes) if c and c in labelled and name not in never]
    unnamed = [name for c, name in enumerate(classes) if c and name not in named]
    nothing = f"nothing else: not {', '.join(unnamed)}," if unnamed else "nothing else:"
    return f"This network names {', '.join(named)}, and {nothing} no other level and no other tissue."
