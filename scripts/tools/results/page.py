"""One self-contained HTML page of results: pictures inside, no scripts, nothing loaded; it opens from the disk."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ...files import write_whole
from ...report.tables import percent
from .layout import Table
from .row_names import METHODS

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --ink: #1c1f24; --muted: #5f6670; --line: #dfe2e6; --card: #fff;
  --accent: #0a5c8f; --tint: #eaf3f9; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --ink: #e6e8eb; --muted: #9aa2ad; --line: #2d3239;
  --card: #1b1e23; --accent: #7cc0ee; --tint: #1d2d3a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .5rem; text-wrap: balance; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 44rem; }
header p { color: var(--muted); }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; color: var(--muted); font-size: .875rem; padding-top: .5rem; }
table { min-width: min(100%, 30rem); }
th, td { padding: .4rem .9rem .4rem .5rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { font-weight: 600; }
thead th { color: var(--muted); font-size: .875rem; font-weight: 500; }
tbody th { font-weight: 400; white-space: nowrap; }
.number { text-align: right; padding: .4rem .5rem; white-space: nowrap; }
th.over { text-align: center; border-bottom-color: var(--muted); white-space: nowrap; }
tr.group > th { padding-top: 1rem; color: var(--accent); font-weight: 600; }
table.grid tr > :first-child { position: sticky; left: 0; background: var(--paper); }
tr.best > * { background: var(--tint); font-weight: 600; }
figure { margin: 1rem 0 1.5rem; }
figure > div { overflow-x: auto; }
figure img { display: block; width: 100%; min-width: 36rem; height: auto; padding: .5rem; background: #fff;
  border: 1px solid var(--line); border-radius: 6px; }
@media (prefers-color-scheme: dark) { figure img { filter: brightness(.9); } }
figcaption { color: var(--muted); font-size: .875rem; margin-top: .5rem; max-width: 44rem; }
pre { overflow-x: auto; padding: .75rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; font: .875rem/1.5 ui-monospace, "Cascadia Mono", "Liberation Mono", monospace; }
@media print { body { background: #fff; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


class Html(str):
    """Text that is HTML already; every other text is escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it: made by the functions of this module, or plain text for a paragraph."""

    title: str
    parts: Sequence[str]


def write_page(path: str | Path, sections: Iterable[Section], *, title: str = "CPS4", lead: str = "") -> Path:
    """Write a page in one stroke.

    Args:
        path: HTML file to write.
        sections: in their order; one without parts is left out.
        title: of the page.
        lead: one or two sentences under the title.
    """
    body = "\n".join(
        f"<section>\n<h2>{escape(s.title)}</h2>\n" + "\n".join(_markup(part) for part in s.parts) + "\n</section>"
        for s in sections
        if s.parts
    )
    text = (
        '<!DOCTYPE html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n{_markup(lead) if lead else ''}\n</header>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )
    write_whole(path, text)
    return Path(path)


def demo_page(
    path: str | Path,
    summary: Mapping[str, Any],
    pictures: Mapping[str, tuple[str | Path, str]],
    commands: Sequence[str],
) -> Path:
    """Write the page of the demonstration.

    Args:
        path: HTML file to write.
        summary: contents of demo/summary.json: method -> {mdice, miou, and n_cases if known}, `settings`, `seconds`.
        pictures: heading -> (PNG, caption), in their order; those whose file does not exist are left out.
        commands: how to go on, one command a line; a line that starts with # is a remark.
    """
    methods = {name: summary[name] for name in METHODS if name in summary}
    best = max(methods, key=lambda name: methods[name]["mdice"] or 0, default="")
    rows = [
        [METHODS[name].title, percent(s["mdice"]), percent(s["miou"]), str(s.get("n_cases", "–"))]
        for name, s in methods.items()
    ]
    note = (
        "Means over structures, then over volumes, in percent; n volumes that training never saw. "
        "The highest mDice is shaded. One short run each: the table shows that everything works, "
        "not which method is best."
    )
    seconds = [[phase, f"{value:.1f}"] for phase, value in summary.get("seconds", {}).items()]
    seconds += [["together", f"{sum(summary['seconds'].values()):.1f}"]] if seconds else []
    shown = {head: entry for head, entry in pictures.items() if Path(entry[0]).is_file()}
    sections = [
        Section(
            "Result",
            (
                [table(["method", "mDice %", "mIoU %", "n"], rows, caption=note, best=list(methods).index(best))]
                if methods
                else []
            ),
        ),
        *(Section(head, [picture(file, caption, alt=head)]) for head, (file, caption) in shown.items()),
        Section("Settings", [settings_table(summary["settings"])] if summary.get("settings") else []),
        Section("Time", [table(["phase", "seconds"], seconds)] if seconds else []),
        Section("How to go on", [code("\n".join(commands))] if commands else []),
    ]
    lead = (
        "Class-prompt driven semi-supervised segmentation of spine MR: a small run of every part, "
        "pretraining, training, inference and evaluation, on synthetic volumes."
    )
    return write_page(path, sections, title="CPS4 demonstration", lead=lead)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", best: int | None = None) -> Html:
    """A table; the first column names the rows, columns of numbers are set flush right.

    Args:
        head: heads of the columns.
        rows: cells.
        caption: what the table holds, and n.
        best: row to shade.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    numeric = [bool(cells) and all(row[i][:1] in tuple("+-–0123456789") for row in cells) for i in range(len(head))]
    classes = [' class="number"' if n and i else "" for i, n in enumerate(numeric)]
    heads = "".join(f'<th scope="col"{c}>{escape(h)}</th>' for h, c in zip(head, classes, strict=True))
    lines = []
    for number, row in enumerate(cells):
        rest = "".join(f"<td{c}>{escape(v)}</td>" for v, c in zip(row[1:], classes[1:], strict=True))
        mark = ' class="best"' if number == best else ""
        lines.append(f'<tr{mark}><th scope="row">{escape(row[0])}</th>{rest}</tr>')
    below = f"<caption>{escape(caption)}</caption>" if caption else ""
    top = f"<thead><tr>{heads}</tr></thead>" if any(head) else ""
    return Html(f'<div class="scroll"><table>{below}{top}<tbody>{"".join(lines)}</tbody></table></div>')


def grid(data: Table) -> Html:
    """A table of methods: heads over several columns, titles of groups, the best in bold."""
    places = [' class="number"' if n else "" for n in data.numeric]
    over = "".join(
        f'<th scope="colgroup" colspan="{n}"{" class=over" * bool(h)}>{escape(h)}</th>' for h, n in data.spans
    )
    heads = "".join(f'<th scope="col"{p}>{escape(h)}</th>' for h, p in zip(data.columns, places, strict=True))
    bodies = []
    for title, rows in data.blocks():
        lines = []
        if title and len(data.groups) > 1:
            lines.append(f'<tr class="group"><th scope="rowgroup" colspan="{len(places)}">{escape(title)}</th></tr>')
        for row in rows:
            cells = [f"<strong>{escape(cell)}</strong>" if bold else escape(cell) for cell, bold in row]
            rest = "".join(f"<td{p}>{cell}</td>" for cell, p in zip(cells[1:], places[1:], strict=True))
            lines.append(f'<tr><th scope="row">{cells[0]}</th>{rest}</tr>')
        bodies.append(f"<tbody>{''.join(lines)}</tbody>")
    top = f"<tr>{over}</tr>" if over else ""
    return Html(
        f'<figure><div class="scroll"><table class="grid"><thead>{top}<tr>{heads}</tr></thead>{"".join(bodies)}</table>'
        f"</div><figcaption>{escape(data.caption)}</figcaption></figure>"
    )


def settings_table(settings: Mapping[str, Any]) -> Html:
    """A table of names and values without a head."""
    return table(["", ""], [[name.replace("_", " "), str(value)] for name, value in settings.items()])


def picture(file: str | Path, caption: str = "", alt: str = "") -> Html:
    """A PNG, put into the page itself, with a caption."""
    data = base64.b64encode(Path(file).read_bytes()).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(alt or caption)}">'
    return Html(f"<figure><div>{image}</div>{below}</figure>")


def code(text: str) -> Html:
    """Commands to copy."""
    return Html(f"<pre><code>{escape(text)}</code></pre>")


def _markup(part: str) -> str:
    return part if isinstance(part, Html) else f"<p>{escape(part)}</p>"
