"""`python -m scripts check`: open every file of a datalist once, and name all that is wrong before hours are spent."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..labels import ClassTable, LabelMap
from .checked import Memory
from .datalist import SECTIONS, DataError, Datalist, load_datalist
from .volumes import UnusableError, grid_mistakes, image_mistakes, label_mistakes, read_volume

THREADS = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: the file to mend: a scan, a label, or the datalist.
        message: what is wrong and how to mend it.
        section: the datalist's section, "" where it concerns more than one.
    """

    path: str
    message: str
    section: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def check_datalist(
    path: str | Path,
    *,
    sections: Sequence[str] = ("training", "unlabelled", "validation"),
    cache_folder: str | Path | None = None,
    class_table: str | Path | None = None,
    hidden_labels: bool = False,
    progress: bool = True,
) -> list[Problem]:
    """Open every file of some sections and collect all problems.

    Args:
        path: the datalist.
        sections: sections to check; a missing one counts as empty.
        cache_folder: where to remember files that were found good (by path, size, time and label map).
        class_table: JSON file of the class table; None is the bundle's own.
        hidden_labels: check the labels of unlabelled scans too, as their scoring needs them.
        progress: show a bar on a terminal.

    Returns:
        All problems in the order of the datalist; none if it can be used.
    """
    try:
        datalist = load_datalist(path, class_table=class_table)
    except DataError as error:
        name = str(Path(path).expanduser().absolute())
        return [Problem(name, line.removeprefix(f"{name}: ")) for line in str(error).splitlines()]
    jobs = [_job(s, entry, hidden_labels) for s in sections for entry in datalist.sections.get(s, [])]
    found = _check_jobs(jobs, datalist.label_map, cache_folder, progress)
    return _split_problems(datalist, sections) + found


def check_entries(
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    cache_folder: str | Path | None = None,
    class_table: str | Path | None = None,
    progress: bool = True,
) -> list[Problem]:
    """Open every file of entries that come from elsewhere than a datalist, as MONAI Label's, and collect all problems.

    Args:
        sections: section -> entries with `image`, and `label` but in "unlabelled"; label values are class ids unless
            an entry has a `label_map`.
        cache_folder: see :func:`check_datalist`.
        class_table: JSON file of the class table; None is the bundle's own.
        progress: show a bar on a terminal.
    """
    table = ClassTable.load(class_table)
    problems = []
    by_map: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for section, entries in sections.items():
        for entry in entries:
            by_map[json.dumps(entry.get("label_map"))].append(_job(section, entry, False))
    for source, jobs in by_map.items():
        problems += _check_jobs(jobs, LabelMap.load(json.loads(source), table), cache_folder, progress)
    return problems


def _check_jobs(
    jobs: Sequence[dict[str, Any]], label_map: LabelMap, cache_folder: str | Path | None, progress: bool
) -> list[Problem]:
    """All problems of some pairs, in their order."""
    memory = Memory(cache_folder, label_map)
    todo = [(number, job) for number, job in enumerate(jobs) if job["missing"] or not memory.knows(job)]
    found: dict[int, list[Problem]] = {}
    with ThreadPoolExecutor(THREADS) as pool, _bar(len(todo), progress and bool(todo)) as bar:
        futures = {pool.submit(_check_pair, job, label_map): (number, job) for number, job in todo}
        try:
            for future in as_completed(futures):
                number, job = futures[future]
                found[number] = future.result()
                if not found[number]:
                    memory.add(job)
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all files that are left
            raise
    memory.save()
    return [p for number in sorted(found) for p in found[number]]


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise one error that lists all problems, one a line; none is fine.

    Raises:
        DataError: there is a problem.
    """
    lines = [str(problem) for problem in problems]
    if lines:
        count = f"{len(lines)} problems with the data:\n" if len(lines) > 1 else ""
        raise DataError(count + "\n".join(lines))


def check_scan(path: str | Path) -> list[Problem]:
    """All problems of one scan to infer on: a file, also of a single slice, or a folder of one DICOM series."""
    try:
        array, affine = read_volume(path, single_slices=True)
    except UnusableError as error:
        return [Problem(str(path), str(error))]
    return [Problem(str(path), mistake) for mistake in image_mistakes(array, affine)]


def _bar(total: int, progress: bool) -> tqdm:
    return tqdm(total=total, desc="checking data", unit="scan", disable=None if progress else True)


def _job(section: str, entry: Mapping[str, Any], hidden_labels: bool) -> dict[str, Any]:
    """What there is to check of one entry."""
    key = "hidden_label" if section == "unlabelled" else "label"
    label = entry.get(key) if section != "unlabelled" or hidden_labels else None
    missing = label is None and section != "unlabelled"
    return {"section": section, "image": entry["image"], "label": label, "missing": missing}


def _check_pair(job: dict[str, Any], label_map: LabelMap) -> list[Problem]:
    """Problems of one image and its label."""
    section, problems = job["section"], []
    grids: dict[str, dict[str, Any]] = {}
    for key in ("image", "label"):
        if job[key] is None:
            continue
        try:
            array, affine = read_volume(job[key])
        except UnusableError as error:
            problems.append(Problem(job[key], str(error), section))
            continue
        grids[key] = {"shape": array.shape, "affine": affine}
        mistakes = image_mistakes(array, affine) if key == "image" else label_mistakes(array, label_map)
        problems += [Problem(job[key], mistake, section) for mistake in mistakes]
    if len(grids) == 2:
        problems += [Problem(job["label"], m, section) for m in grid_mistakes(grids["image"], grids["label"])]
    if job["missing"]:
        mend = "add the key, or move the entry to unlabelled"
        problems.append(Problem(job["image"], f'has no "label" in the section {section}; {mend}', section))
    return problems


def _split_problems(datalist: Datalist, sections: Sequence[str]) -> list[Problem]:
    """Empty training, patients or files in two splits, and cases of the same name. No file is opened."""
    problems = []
    path = str(datalist.path)
    if "training" in sections and not datalist.sections.get("training"):
        mend = "add scans with labels, or run prepare on a folder that has some"
        problems.append(Problem(path, f'the section "training" is empty; {mend}', "training"))
    # a patient may have a labelled and an unlabelled scan, both are trained on
    splits = {"training": ("training", "unlabelled"), "validation": ("validation",), "test": ("test",)}
    for key, what in (("patient", "patient"), ("image", "file")):
        members = {split: {e[key] for s in of for e in datalist.sections.get(s, [])} for split, of in splits.items()}
        for one, other in combinations(splits, 2):
            for name in sorted(members[one] & members[other]):
                where = f"training or unlabelled and in {other}" if one == "training" else f"{one} and in {other}"
                problems.append(Problem(path, f"the {what} {name} is in {where}; keep all scans of it in one of them"))
    for section in SECTIONS:
        images = defaultdict(list)
        for entry in datalist.sections.get(section, []):
            images[entry["case"]].append(entry["image"])
        for case, files in images.items():
            if len(files) > 1:
                message = f'the case {case} is {len(files)} times in "{section}"; give each entry a "case" of its own'
                problems.append(Problem(path, message, section))
    return problems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `python -m scripts check`."""
    parser.add_argument("datalist", type=Path, help="datalist to check (JSON)")
    parser.add_argument("--cache", type=Path, help="folder in which to remember files that were found good")


def run(args: argparse.Namespace) -> int:
    """Run `python -m scripts check`: print a table and all problems; 1 if there are any."""
    problems = check_datalist(args.datalist, sections=SECTIONS, cache_folder=args.cache, hidden_labels=True)
    try:
        sections = load_datalist(args.datalist).sections
    except DataError:
        sections = {}
    print(f"{'section':<12}{'patients':>10}{'volumes':>10}{'problems':>10}")
    for section in SECTIONS if sections else ():
        entries = sections.get(section, [])
        count = sum(problem.section == section for problem in problems)
        print(f"{section:<12}{len({e['patient'] for e in entries}):>10}{len(entries):>10}{count:>10}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{args.datalist}: " + (f"{len(problems)} problems" if problems else "no problems"))
    return int(bool(problems))
