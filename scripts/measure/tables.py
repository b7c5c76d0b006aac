"""What is made of a folder of reports: `structures.csv`, a row a structure; `scans.csv`, a row a scan; the page."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.datalist import DataError, Problem
from ..data.output_folder import OutputFolder
from ..files import take_turns
from .page import PAGE, REPORT, SCANS, STRUCTURES, WORDS, page
from .shapes import MEASURES

LOCK = ".tables.lock"
COLUMNS = ("scan", "class_id", "class", "voxels", *MEASURES, "components", "confidence", "flag")
"""Columns of `structures.csv`."""


def finish_folder(outputs: OutputFolder, left_out: Sequence[Problem] = ()) -> None:
    """Write what is made of all reports of a folder, also of earlier runs and of other processes into it.

    The tables, and the page if the folder is to have one (`outputs.files`). Each process does so at its end, one after
    the other: the last one finds the reports of all.

    Args:
        outputs: the folder; reports that its manifest does not name are not of this program.
        left_out: what is wrong with the scans that the latest run could not label; the page lists them.

    Raises:
        DataError: a report is damaged, or a file may not be replaced.
        StorageError: a file cannot be written.
    """
    if not any(name.endswith(REPORT) for name in outputs.entries()):
        return
    with take_turns(outputs.folder / LOCK):
        reports = read_reports(outputs)
        for name, text in ((STRUCTURES, structures_csv(reports)), (SCANS, scans_csv(reports))):
            outputs.write_text(outputs.folder / name, text)
        if PAGE in outputs.files:
            outputs.write_text(outputs.folder / PAGE, page(reports, outputs, left_out))
            logging.getLogger(__name__).info("%s shows all scans: open it in a browser", outputs.folder / PAGE)


def read_reports(outputs: OutputFolder) -> dict[str, dict[str, Any]]:
    """Scan -> report, sorted by scan, of those that the manifest names and that are still there.

    Raises:
        DataError: a report is damaged.
    """
    paths = {name.removesuffix(REPORT): outputs.folder / name for name in outputs.entries() if name.endswith(REPORT)}
    return {scan: read_report(path) for scan, path in sorted(paths.items()) if path.is_file()}


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.

    Raises:
        DataError: it is damaged.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        for key in ("reasons", "source", "structures"):
            report[key]
        if report["verdict"] not in WORDS:
            raise ValueError(report["verdict"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged; remove it, and label or measure its scan again") from error
    return dict(report)


def structures_csv(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Content of `structures.csv`; what is not measured is empty.

    Args:
        reports: scan -> report.
    """
    rows = (
        {**row, "scan": scan, "class": row["name"]} for scan, report in reports.items() for row in report["structures"]
    )
    return _csv(COLUMNS, rows)


def scans_csv(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Content of `scans.csv`; reasons are joined by a space.

    Args:
        reports: scan -> report.
    """
    measures = dict.fromkeys(key for report in reports.values() for key in report.get("spine", {}))
    rows = (
        {**report.get("spine", {}), "scan": scan, "verdict": report["verdict"], "reasons": " ".join(report["reasons"])}
        for scan, report in reports.items()
    )
    return _csv(("scan", "verdict", "reasons", *measures), rows)


def _csv(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
