"""A report of chapters with tables and pictures, written as Markdown, LaTeX and one self-contained HTML page."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ...files import write_whole
from ...report.tables import flush_right, format_table

LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "—": "---",
    "<": "$<$", ">": "$>$", "×": r"$\times$", "≥": r"$\geq$",
})  # fmt: skip


class Table(NamedTuple):
    """A table of text and what stands around it.

    Attributes:
        name: short name, for the label in LaTeX.
        caption: what it holds, and n.
        cells: the index names the rows, as (group, row) where they stand in groups; columns are heads, or (head over
            several columns, head).
        best: which cells are bold; None if none is.
    """

    name: str
    caption: str
    cells: pd.DataFrame
    best: pd.DataFrame | None = None


class Picture(NamedTuple):
    """A PNG or a JPEG (.jpg), and what it shows."""

    path: Path
    caption: str


class Commands(NamedTuple):
    """Lines to copy into a shell."""

    lines: str


class Chapter(NamedTuple):
    """A heading, and paragraphs, tables and pictures under it; without any of them it is left out."""

    title: str
    parts: Sequence[str | Table | Picture | Commands]


def settings_table(settings: Mapping[str, Any], caption: str = "") -> Table:
    """A table of names and values."""
    values = {
        k.replace("_", " "): ", ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in settings.items()
    }
    return Table("settings", caption, pd.DataFrame({"value": values}).rename_axis("setting"))


def write_markdown(path: Path, title: str, lead: Sequence[str], chapters: Iterable[Chapter]) -> Path:
    """Write a page whose pictures lie beside it."""
    lines = [f"# {title}", *lead]
    for chapter in chapters:
        lines += [f"## {chapter.title}", *map(markdown, chapter.parts)] if chapter.parts else []
    write_whole(path, "\n\n".join(lines) + "\n")
    return path


def write_html(path: Path, title: str, lead: Sequence[str], chapters: Iterable[Chapter]) -> Path:
    """Write one page with the pictures inside, no scripts, nothing loaded; it opens from the disk."""
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    pages.filters |= {"grid": _grid, "base64": _base64}
    write_whole(path, pages.get_template("page.html").render(title=title, lead=lead, chapters=list(chapters)))
    return path


def write_latex(path: Path, chapters: Iterable[Chapter]) -> Path:
    r"""Write all tables for `\input`; the file says what the document has to load."""
    tables = [part for chapter in chapters for part in chapter.parts if isinstance(part, Table)]
    head = "% made by `python -m scripts report`; the document needs \\usepackage{booktabs}"
    write_whole(path, "\n\n".join([head, *map(latex, tables)]) + "\n")
    return path


def markdown(part: str | Table | Picture | Commands) -> str:
    """A part of a chapter; above a table stands its caption."""
    if isinstance(part, Table):
        cells = _as_text(part, lambda text: text.replace("*", "\\*"), "**{}**").reset_index()
        heads = [": ".join(filter(None, [head] if isinstance(head, str) else head)) for head in cells.columns]
        return f"{part.caption}\n\n{format_table(heads, cells.to_numpy().tolist(), markdown=True)}".strip()
    if isinstance(part, Commands):
        return f"```\n{part.lines}\n```"
    return part if isinstance(part, str) else f"![{part.path.stem}]({part.path.name})\n\n{part.caption}"


def latex(table: Table) -> str:
    r"""A `table` environment that needs `\usepackage{booktabs}` alone."""
    cells = _as_text(table, escape_latex, r"\textbf{{{}}}").reset_index()
    form = "".join("r" if numbers else "l" for numbers in _numbers(table))
    text = cells.to_latex(
        index=False, escape=False, column_format=f"l{form}", multicolumn_format="c", position="t",
        caption=escape_latex(table.caption), label=f"tab:{table.name}",
    )  # fmt: skip
    return text.replace(r"\caption", "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n\\caption", 1).strip()


def escape_latex(text: str) -> str:
    """Text with the characters that mean something to LaTeX escaped; stars at the end are raised."""
    return re.sub(r"\s*(\*+)$", r"$^{\1}$", text.translate(LATEX))


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode("ascii")


def _grid(table: Table) -> Markup:
    cells = _as_text(table, lambda text: str(escape(text)), "<strong>{}</strong>")
    heads = [*[None] * (cells.columns.nlevels - 1), cells.index.name]
    cells = cells.rename_axis(index=None).rename_axis(columns=heads)
    return Markup(cells.to_html(escape=False, border=0, classes="numbers" if all(_numbers(table)) else "words"))


def _numbers(table: Table) -> list[bool]:
    return [flush_right(list(column)) for _, column in table.cells.items()]


def _as_text(table: Table, escaped: Callable[[str], str], bold: str) -> pd.DataFrame:
    """Cells and heads in the letters of one format, the best bold; above a group of rows stands its title."""
    cells = table.cells.map(escaped).rename(index=escaped).rename(columns=escaped)
    if table.best is not None:
        cells = cells.mask(table.best.to_numpy(), cells.map(bold.format))
    if cells.index.nlevels == 1:
        return cells
    parts = []
    for title, rows in cells.groupby(level=0, sort=False):
        parts += [pd.DataFrame("", [bold.format(title)], cells.columns), rows.droplevel(0)]
    return pd.concat(parts).rename_axis(table.cells.index.names[1])
