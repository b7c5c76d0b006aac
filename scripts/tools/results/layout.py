"""A table as data, laid out as Markdown or LaTeX (`page.grid` lays it out as HTML)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...report.tables import flush_right, format_table

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "—": "---",
    "<": "$<$", ">": "$>$", "×": r"$\times$", "≥": r"$\geq$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        name: short name, for the label in LaTeX.
        caption: what it holds, and n.
        columns: heads of the columns.
        groups: (title, rows) in their order; a row has as many cells as there are columns; a title may be empty.
        spans: (head, number of columns) above `columns`, all columns together; none if empty.
        best: (row, column) of cells to print bold, rows counted over all groups.
    """

    name: str
    caption: str
    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Sequence[str]]]]
    spans: Sequence[tuple[str, int]] = ()
    best: frozenset[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        """Refuse a crooked table.

        Raises:
            ValueError: a row or the spans do not have as many columns as there are heads.
        """
        widths = {len(row) for row in self.rows} | ({sum(n for _, n in self.spans)} if self.spans else set())
        if widths - {len(self.columns)}:
            raise ValueError(f"table {self.name}: {len(self.columns)} heads, but {sorted(widths)} columns")

    @property
    def rows(self) -> list[Sequence[str]]:
        """All rows, without the titles of their groups."""
        return [row for _, rows in self.groups for row in rows]

    @property
    def numeric(self) -> list[bool]:
        """Which columns are set flush right; never the first."""
        return [bool(i) and flush_right([row[i] for row in self.rows]) for i in range(len(self.columns))]

    def blocks(self) -> list[tuple[str, list[list[tuple[str, bool]]]]]:
        """Groups whose cells know whether they are bold."""
        number, blocks = 0, []
        for title, rows in self.groups:
            cells = []
            for row in rows:
                cells.append([(cell, (number, i) in self.best) for i, cell in enumerate(row)])
                number += 1
            blocks.append((title, cells))
        return blocks


def as_markdown(table: Table) -> str:
    """The table with its caption above it; heads that span columns are written out in each of them."""
    spanning = [head for head, n in table.spans for _ in range(n)] or [""] * len(table.columns)
    head = [f"{span}: {column}" if span else column for span, column in zip(spanning, table.columns, strict=True)]
    rows = []
    for title, cells in table.blocks():
        if title and len(table.groups) > 1:
            rows.append([f"**{title}**", *[""] * (len(head) - 1)])
        escaped = [[(cell.replace("*", "\\*"), bold) for cell, bold in row] for row in cells]
        rows += [[f"**{cell}**" if bold else cell for cell, bold in row] for row in escaped]
    return f"{table.caption}\n\n{format_table(head, rows, markdown=True)}"


def as_latex(table: Table) -> str:
    r"""A `table` environment that needs `\usepackage{booktabs}` alone; to be read by `\input`."""
    columns = len(table.columns)
    lines = [
        r"\begin{table}[t]", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escape_latex(table.caption)}}}", rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{''.join('r' if n else 'l' for n in table.numeric)}}}", r"\toprule",
    ]  # fmt: skip
    if table.spans:
        heads = [rf"\multicolumn{{{n}}}{{c}}{{{escape_latex(head)}}}" for head, n in table.spans]
        lines.append(" & ".join(heads) + r" \\")
        first, rules = 1, []
        for head, n in table.spans:
            rules += [rf"\cmidrule(lr){{{first}-{first + n - 1}}}"] if head else []
            first += n
        lines.append("".join(rules))
    lines.append(" & ".join(escape_latex(head) for head in table.columns) + r" \\")
    for title, cells in table.blocks():
        lines.append(r"\midrule")
        if title and len(table.groups) > 1:
            lines.append(rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{escape_latex(title)}}}}} \\")
        for row in cells:
            texts = [rf"\textbf{{{escape_latex(c)}}}" if bold else escape_latex(c) for c, bold in row]
            lines.append(" & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def escape_latex(text: str) -> str:
    """Text with the characters that mean something to LaTeX escaped; stars at the end are raised."""
    words, stars = re.fullmatch(r"(.*?)\s*(\**)", text, re.DOTALL).groups()  # type: ignore[union-attr]  # always matches
    escaped = "".join(LATEX.get(letter, letter) for letter in words)
    return escaped + (f"$^{{{stars}}}$" if stars else "")
