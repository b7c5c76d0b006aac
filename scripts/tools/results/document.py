"""A report of chapters with tables and pictures, written as Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import page
from .layout import Table, as_latex, as_markdown


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Chapter:
    """A heading, and paragraphs, tables and pictures under it; without any of them it is left out."""

    title: str
    parts: Sequence[str | Table | Picture]


def write_markdown(path: Path, title: str, lead: Sequence[str], chapters: Iterable[Chapter]) -> Path:
    """Write a page whose pictures lie beside it."""
    lines = [f"# {title}", *lead]
    for chapter in chapters:
        lines += [f"## {chapter.title}", *map(_markdown, chapter.parts)] if chapter.parts else []
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_html(path: Path, title: str, lead: Sequence[str], chapters: Iterable[Chapter]) -> Path:
    """Write one self-contained page."""
    sections = [page.Section("How to read this", list(lead[1:]))]
    sections += [page.Section(c.title, [_html(part) for part in c.parts]) for c in chapters]
    return page.write_page(path, sections, title=title, lead=lead[0] if lead else "")


def write_latex(path: Path, chapters: Iterable[Chapter]) -> Path:
    r"""Write all tables for `\input`; the file says what the document has to load."""
    tables = [part for chapter in chapters for part in chapter.parts if isinstance(part, Table)]
    head = "% made by `python -m scripts report`; the document needs \\usepackage{booktabs}"
    path.write_text("\n\n".join([head, *map(as_latex, tables)]) + "\n", encoding="utf-8")
    return path


def _markdown(part: str | Table | Picture) -> str:
    if isinstance(part, Table):
        return as_markdown(part)
    return f"![{part.path.stem}]({part.path.name})\n\n{part.caption}" if isinstance(part, Picture) else part


def _html(part: str | Table | Picture) -> str:
    if isinstance(part, Table):
        return page.grid(part)
    return page.picture(part.path, part.caption) if isinstance(part, Picture) else part
