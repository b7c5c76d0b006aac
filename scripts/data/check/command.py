"""`python -m scripts check`: open every file of a datalist once, and name all that is wrong before hours are spent."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from ...labels import ClassTable, LabelMap
from ..datalist import SECTIONS, DataError, Datalist, Problem, errors, load_datalist, problem_table, write_json
from ..file_names import SEGMENT_FILE
from .levels import direction_mistakes
from .remembered import Memory
from .twins import Digests, digest_of, twins
from .volumes import UnusableError, grid_mistakes, holds_labels, image_mistakes, label_mistakes, read_volume
from .warnings import grid_warnings, header_warnings, image_warnings, window_warnings

THREADS = 2
SPLITS = {"training": ("training", "unlabelled"), "validation": ("validation",), "test": ("test",)}
"""Split -> its sections: a patient may have a labelled and an unlabelled scan, both are trained on."""
T = TypeVar("T")


def check_datalist(
    path: str | Path,
    *,
    sections: Sequence[str] = ("training", "unlabelled", "validation"),
    cache_folder: str | Path | None = None,
    class_table: str | Path | None = None,
    hidden_labels: bool = False,
    window_mm: Sequence[float] | None = None,
    progress: bool = True,
) -> list[Problem]:
    """Open every file of some sections and collect all problems.

    Args:
        path: the datalist.
        sections: sections to check; a missing one counts as empty.
        cache_folder: where to remember files that have no errors (by path, size, time and label map).
        class_table: JSON file of the class table; None is the bundle's own.
        hidden_labels: check the labels of unlabelled scans too, as their scoring needs them.
        window_mm: height and width that training cuts out, to warn of labelled voxels outside; None for no warning.
        progress: show a bar on a terminal.

    Returns:
        All problems in the order of the datalist; it can be used if none of them is an error.
    """
    try:
        datalist = load_datalist(path, class_table=class_table)
    except DataError as error:
        name = str(Path(path).expanduser().absolute())
        return [Problem(name, line.removeprefix(f"{name}: ")) for line in str(error).splitlines()]
    found = _check_sections(
        {section: datalist.sections.get(section, []) for section in sections},
        hidden_labels,
        datalist.table,
        cache_folder,
        progress,
        window_mm,
    )
    return [*_split_problems(datalist, sections), *found]


def check_entries(
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    cache_folder: str | Path | None = None,
    class_table: str | Path | None = None,
    window_mm: Sequence[float] | None = None,
    progress: bool = True,
) -> list[Problem]:
    """Open every file of entries that come from elsewhere than a datalist, as MONAI Label's, and collect all problems.

    Args:
        sections: section -> entries with `image`, and `label` but in "unlabelled"; label values are class ids unless
            an entry has a `label_map`.
        cache_folder: see :func:`check_datalist`.
        class_table: JSON file of the class table; None is the bundle's own.
        window_mm: see :func:`check_datalist`.
        progress: show a bar on a terminal.
    """
    return _check_sections(sections, False, ClassTable.load(class_table), cache_folder, progress, window_mm)


def _check_sections(
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
    hidden_labels: bool,
    table: ClassTable,
    cache_folder: str | Path | None,
    progress: bool,
    window_mm: Sequence[float] | None,
) -> list[Problem]:
    """All problems of the files of some sections, in their order; then copies."""
    jobs = [_job(section, entry, hidden_labels) for section, entries in sections.items() for entry in entries]
    by_map: dict[str, list[int]] = defaultdict(list)
    for number, job in enumerate(jobs):
        by_map[json.dumps(job["label_map"], sort_keys=True)].append(number)
    found: list[list[Problem]] = [[] for _ in jobs]
    digests: list[Digests] = [{} for _ in jobs]
    for source, numbers in by_map.items():
        label_map = LabelMap.load(json.loads(source), table)
        of_map = _check_jobs([jobs[number] for number in numbers], label_map, table, cache_folder, progress, window_mm)
        for number, problems, seen in zip(numbers, *of_map, strict=True):
            found[number], digests[number] = problems, seen
    split = {section: name for name, of in SPLITS.items() for section in of}
    return [*(p for problems in found for p in problems), *twins(jobs, digests, split)]


def _check_jobs(
    jobs: Sequence[dict[str, Any]],
    label_map: LabelMap,
    table: ClassTable,
    cache_folder: str | Path | None,
    progress: bool,
    window_mm: Sequence[float] | None,
) -> tuple[list[list[Problem]], list[Digests]]:
    """The problems of every pair, and the digests of the voxels of its image and label."""
    memory = Memory(cache_folder, label_map, window_mm)
    looks = [None if job["missing"] else memory.look_up(job) for job in jobs]
    todo = [number for number, look in enumerate(looks) if look is None]
    found: list[list[Problem]] = [[] for _ in jobs]
    for number in set(range(len(jobs))) - set(todo):
        warnings = (looks[number] or {})["warnings"]
        found[number] = [Problem(path, text, jobs[number]["section"], "warning") for path, text in warnings]
    for done, (problems, digests) in _in_parallel(
        lambda job: _check_pair(job, label_map, table, window_mm),
        [jobs[number] for number in todo],
        "checking data",
        progress,
    ):
        number = todo[done]
        look = {"digests": digests, "warnings": [[p.path, p.message] for p in problems if p.level == "warning"]}
        found[number], looks[number] = problems, look
        if not errors(problems):
            memory.add(jobs[number], look)
    memory.save()
    return found, [(look or {}).get("digests", {}) for look in looks]


def check_scans(paths: Sequence[str | Path], *, progress: bool = True) -> list[list[Problem]]:
    """The problems of every scan to infer on, a list for each; see :func:`check_scan`."""
    found: list[list[Problem]] = [[] for _ in paths]
    for number, problems in _in_parallel(check_scan, paths, "checking scans", progress):
        found[number] = problems
    return found


def check_scan(path: str | Path) -> list[Problem]:
    """All problems of one scan to infer on: a file, also of a single slice, or a DICOM series."""
    try:
        array, affine = read_volume(path, single_slices=True)
    except UnusableError as error:
        return [Problem(str(path), str(error))]
    if wrong := image_mistakes(array, affine):
        return [Problem(str(path), mistake) for mistake in wrong]
    odd = [*header_warnings(path, "inference"), *image_warnings(array, affine, "inference")]
    return [Problem(str(path), warning, level="warning") for warning in odd]


def _in_parallel(
    check: Callable[[Any], T], jobs: Sequence[Any], description: str, progress: bool
) -> Iterator[tuple[int, T]]:
    """Number and result of every job, as they come, with a progress bar on a terminal."""
    show = None if progress and jobs else True
    with ThreadPoolExecutor(THREADS) as pool, tqdm(total=len(jobs), desc=description, unit="scan", disable=show) as bar:
        futures = {pool.submit(check, job): number for number, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all files that are left
            raise


def _job(section: str, entry: Mapping[str, Any], hidden_labels: bool) -> dict[str, Any]:
    """What there is to check of one entry."""
    key = "hidden_label" if section == "unlabelled" else "label"
    label = entry.get(key) if section != "unlabelled" or hidden_labels else None
    missing = label is None and section != "unlabelled"
    job = {"section": section, "image": entry["image"], "label": label, "missing": missing}
    return {**job, "case": entry.get("case", ""), "label_map": entry.get("label_map") if label else None}


def _check_pair(
    job: dict[str, Any], label_map: LabelMap, table: ClassTable, window_mm: Sequence[float] | None
) -> tuple[list[Problem], Digests]:
    """Problems of one image and its label, and the digests of their voxels."""
    section, problems = job["section"], []
    digests: Digests = {}
    grids: dict[str, dict[str, Any]] = {}
    for key in ("image", "label"):
        if job[key] is None:
            continue
        try:
            array, affine = read_volume(job[key])
        except UnusableError as error:
            problems.append(Problem(job[key], str(error), section))
            continue
        grids[key] = {"shape": array.shape, "affine": affine, "cropped": job[key].lower().endswith(SEGMENT_FILE)}
        wrong = image_mistakes(array, affine) if key == "image" else label_mistakes(array, label_map)
        odd: list[str] = []
        if not wrong:
            digests[key] = digest_of(array, affine)
        if key == "image":
            if not wrong and section == "unlabelled" and holds_labels(array):
                wrong = ["holds few different values, as a label map does, and no scan; take it out of unlabelled"]
            odd = [*header_warnings(job[key]), *image_warnings(array, affine)] if not wrong else []
        elif not wrong:
            of_case = f" (case {job['case']})" if job["case"] else ""
            wrong = [f"{mistake}{of_case}" for mistake in direction_mistakes(array, affine, label_map, table)]
            warned = window_warnings(array, affine, window_mm, grids.get("image")) if window_mm else []
            odd = [f"{warning}{of_case}" for warning in warned]
        problems += [Problem(job[key], mistake, section) for mistake in wrong]
        problems += [Problem(job[key], warning, section, "warning") for warning in odd]
    if len(grids) == 2:
        problems += [Problem(job["label"], m, section) for m in grid_mistakes(grids["image"], grids["label"])]
        problems += [
            Problem(job["label"], m, section, "warning") for m in grid_warnings(grids["image"], grids["label"])
        ]
    if job["missing"]:
        mend = "add the key, or move the entry to unlabelled"
        problems.append(Problem(job["image"], f'has no "label" in the section {section}; {mend}', section))
    return problems, digests


def _split_problems(datalist: Datalist, sections: Sequence[str]) -> list[Problem]:
    """Empty training, patients or files in two splits, and cases of the same name. No file is opened."""
    problems = []
    path = str(datalist.path)
    if "training" in sections and not datalist.sections.get("training"):
        mend = "add scans with labels, or run prepare on a folder that has some"
        problems.append(Problem(path, f'the section "training" is empty; {mend}', "training"))
    for key, what in (("patient", "patient"), ("image", "file")):
        members = {split: {e[key] for s in of for e in datalist.sections.get(s, [])} for split, of in SPLITS.items()}
        for one, other in combinations(SPLITS, 2):
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
    parser.add_argument("--cache", type=Path, help="folder in which to remember files that have no errors")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all errors and warnings there, too")


def run(args: argparse.Namespace) -> int:
    """Run `python -m scripts check`: print a table of sections and one of problems; 1 if there are errors."""
    problems = check_datalist(args.datalist, sections=SECTIONS, cache_folder=args.cache, hidden_labels=True)
    try:
        sections = load_datalist(args.datalist).sections
    except DataError:
        sections = {}
    rows = {s: _counts(sections.get(s, []), [p for p in problems if p.section == s]) for s in SECTIONS if sections}
    print("\n".join([f"{'section':<12}" + "".join(f"{name:>10}" for name in COUNTS), *_lines(rows), ""]))
    if problems:
        print("\n".join([f"{'level':<9}{'section':<12}file: problem", *problem_table(problems), ""]))
    if args.json:
        write_json(args.json, args.datalist, problems, sections=rows)
    wrong = len(errors(problems))
    print(f"{args.datalist}: {wrong or 'no'} errors, {len(problems) - wrong or 'no'} warnings")
    return int(wrong > 0)


COUNTS = ("patients", "volumes", "errors", "warnings")


def _counts(entries: Sequence[dict[str, Any]], problems: Sequence[Problem]) -> dict[str, int]:
    wrong = len(errors(problems))
    patients = len({entry["patient"] for entry in entries})
    return dict(zip(COUNTS, (patients, len(entries), wrong, len(problems) - wrong), strict=True))


def _lines(rows: dict[str, dict[str, int]]) -> Iterable[str]:
    return (f"{section:<12}" + "".join(f"{count:>10}" for count in row.values()) for section, row in rows.items())
