"""Mutation testing: change one expression of the program's heart at a time, and count the changes that a test notices.

A sample of all one-expression mutants is drawn by a seed. Each is run against the tests of its own module alone, in a
process that is forked after the packages are imported.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import groupby, islice
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from ...bundle.launch import BUNDLE_ROOT
from ..figures_file import RELIABILITY, add_figures
from .pytest_report import TESTS

SOURCES = (
    "scripts/ops",
    "scripts/evaluation",
    "scripts/data/prepare/splits.py",
    "scripts/data/transforms.py",
    "scripts/training/handlers.py",
)
"""Files and folders whose code is changed."""
ALSO = {
    "scripts/data/transforms.py": ("tests/inference/test_postprocessing.py",),
    "scripts/evaluation/score_handlers.py": ("tests/evaluation/test_cases.py",),
    "scripts/ops/losses.py": ("tests/test_numerics.py",),
}
"""Tests of a module beside `tests/<its path>/test_<its name>.py`."""
JUDGED = "tests/reliability/surviving_mutants.json"
"""Mutants that no test can tell from the program (`equivalent`), or that none should (`accepted`), with the reason."""
PACKAGES = "pytest torch scipy.ndimage pandas skimage.filters nibabel monai.engines monai.handlers monai.data"
NO_TESTS = 5
"""Exit code of pytest."""
WANTED = 0.95

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.FloorDiv: ast.Mult},
}
NAMES = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "minimum": "maximum", "maximum": "minimum"}


class Mutant(NamedTuple):
    """One change of a file: where it is, the expression before and after, and the changed code."""

    file: str
    line: int
    change: str
    code: CodeType


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m scripts benchmark mutants`."""
    add = parser.add_argument
    add("--out", type=Path, default=RELIABILITY, help="file to add to")
    add("--sample", type=int, default=200, help="mutants to draw")
    add("--seed", type=int, default=0, help="of the sample")
    add("--only", default="", metavar="TEXT", help="mutants of files whose path contains this; nothing is written")


def run(args: argparse.Namespace) -> int:
    """Run the sample; write the numbers and the survivors; return 1 if too many survive."""
    if not TESTS.is_dir():
        raise FileNotFoundError(f"{TESTS} is missing: this benchmark runs the tests of the repository")
    everything = [(f, number) for f in source_files() if args.only in f for number in range(count_changes(f))]
    order = random.Random(args.seed).sample(everything, len(everything))
    drawn = order[: args.sample]  # a larger sample holds a smaller one
    for package in PACKAGES.split():
        importlib.import_module(package)
    judged = json.loads((BUNDLE_ROOT / JUDGED).read_text(encoding="utf-8"))
    survivors = []
    for file, group in groupby(sorted(drawn), lambda at: at[0]):
        start = time.monotonic()
        if not passes(file, None, 600):
            raise RuntimeError(f"the tests of {file} fail without a mutant: {' '.join(tests_of(file))}")
        limit = 30 + 5 * (time.monotonic() - start)
        for at in group:
            mutant = make_mutant(*at)
            if survived := passes(file, mutant.code, limit):
                survivors.append(mutant)
            print(f"{'survived' if survived else 'killed':<9}{file}:{mutant.line}: {mutant.change}", flush=True)
    figures = summary(len(drawn), survivors, judged)
    print({name: value for name, value in figures.items() if name != "mutant_survivors"})
    if not args.only:
        figures |= {
            "mutants_of": len(everything),
            "mutants_seed": args.seed,
            "mutants_date": str(datetime.date.today()),
        }
        add_figures(args.out, figures)
    return int(figures["mutants_killed"] < WANTED * (len(drawn) - figures["mutants_equivalent"]))


def summary(drawn: int, survivors: Sequence[Mutant], judged: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Numbers of mutants, killed and equivalent ones, and a row for each survivor with the reason that was given."""
    rows = []
    for mutant in survivors:
        name = f"{mutant.file}: {mutant.change}"
        kind = next((kind for kind, reasons in judged.items() if name in reasons), "not judged")
        reason = judged.get(kind, {}).get(name, "")
        rows.append({"file": mutant.file, "line": mutant.line, "change": mutant.change, "kind": kind, "reason": reason})
    equivalent = sum(row["kind"] == "equivalent" for row in rows)
    counts = {"mutants": drawn, "mutants_killed": drawn - len(rows), "mutants_equivalent": equivalent}
    return {**counts, "mutant_survivors": rows}


def source_files() -> list[str]:
    """The files of `SOURCES`, relative to the bundle's root."""
    paths = (BUNDLE_ROOT / source for source in SOURCES)
    files = (file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path]))
    return [file.relative_to(BUNDLE_ROOT).as_posix() for file in files]


def tests_of(file: str) -> list[str]:
    """The test files of a module."""
    path = Path(file)
    own = Path("tests", *path.parts[1:-1], f"test_{path.name}")
    return [str(test) for test in (own, *map(Path, ALSO.get(file, ()))) if (BUNDLE_ROOT / test).is_file()]


def count_changes(file: str) -> int:
    """Number of mutants of a file."""
    return sum(1 for _ in changes(ast.parse((BUNDLE_ROOT / file).read_text(encoding="utf-8"))))


def make_mutant(file: str, number: int) -> Mutant:
    """The mutant of a file that has this number, from 0."""
    tree = ast.parse((BUNDLE_ROOT / file).read_text(encoding="utf-8"))
    shown, node, field, value = next(islice(changes(tree), number, None))
    before = ast.unparse(shown)
    setattr(node, field, value)
    code = compile(ast.fix_missing_locations(tree), file, "exec")
    return Mutant(file, getattr(node, "lineno", 0), f"{before} -> {ast.unparse(shown)}", code)


def changes(node: ast.AST, parent: ast.AST | None = None) -> Iterator[tuple[ast.AST, ast.AST, str, Any]]:
    """All changes below a node; messages, logging and annotations are left alone.

    Returns:
        What to show of it (a number says nothing by itself), the node, its field that changes, and the new value.
    """
    shown = parent if parent is not None and isinstance(node, ast.Constant) else node
    yield from ((shown, node, field, value) for field, value in _changes(node))
    for name, child in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for below in child if isinstance(child, list) else [child]:
                if isinstance(below, ast.AST) and not _is_said(below):
                    yield from changes(below, node)


def _is_said(node: ast.AST) -> bool:
    """Whether a node only serves people or type checkers."""
    is_log = isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("logger.", "logging."))
    checks_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return is_log or checks_types or isinstance(node, ast.Raise | ast.JoinedStr)


def _changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    match node:
        case ast.Compare(ops=ops):
            for k, op in enumerate(ops):
                yield from (("ops", [*ops[:k], other(), *ops[k + 1 :]]) for other in COMPARISONS[type(op)])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in OPERATORS:
            yield "op", OPERATORS[type(op)]()
        case ast.BoolOp(op=op):
            yield "op", ast.Or() if isinstance(op, ast.And) else ast.And()
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "operand", ast.UnaryOp(ast.Not(), operand)
        case ast.Constant(value=bool(value)):
            yield "value", not value
        case ast.Constant(value=int(value) | float(value)):
            yield from (("value", other) for other in dict.fromkeys((value + 1, -value)) if other != value)
        case ast.Call(func=func, keywords=keywords):
            yield from (("keywords", keywords[:k] + keywords[k + 1 :]) for k in range(len(keywords)))
            if isinstance(func, ast.Name) and func.id in NAMES:
                yield "func", ast.Name(NAMES[func.id], ast.Load())
            if isinstance(func, ast.Attribute) and func.attr in NAMES:
                yield "func", ast.Attribute(func.value, NAMES[func.attr], ast.Load())
        case ast.Return(value=ast.Call(func, [first, second, *more], keywords)):
            yield "value", ast.Call(func, [second, first, *more], keywords)
        case ast.Return(value=ast.Tuple([first, second, *more])):
            yield "value", ast.Tuple([second, first, *more], ast.Load())


def passes(file: str, code: CodeType | None, limit_s: float) -> bool:
    """Whether a module's tests pass within `limit_s`, with changed code or (None) with the file as it is."""
    child = os.fork()
    if child == 0:
        outcome = 1
        try:
            outcome = _run_tests(file, code)
        finally:
            os._exit(outcome)
    os.setpgid(child, child)  # so that what a test has started ends with it
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            outcome = os.waitstatus_to_exitcode(status)
            if outcome == NO_TESTS:
                raise RuntimeError(f"{file} has no tests: {tests_of(file)}")
            return outcome == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_tests(file: str, code: CodeType | None) -> int:
    """Run the tests of a module in this process, which ends afterwards; all that they print is dropped."""
    os.chdir(BUNDLE_ROOT)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    for name in [name for name in sys.modules if name.split(".")[0] in ("scripts", "tests")]:
        del sys.modules[name]
    if code is not None:
        sys.meta_path.insert(0, _Finder(file, code))
    pytest = importlib.import_module("pytest")  # one of the developers' packages, which the program does without
    return int(pytest.main(["-q", "-x", "--assert=plain", "-p", "no:cacheprovider", *tests_of(file)]))


class _Finder(MetaPathFinder):
    """Finds one module, whose code was changed in memory."""

    def __init__(self, file: str, code: CodeType) -> None:
        self.file, self.code = file, code
        self.module = file.removesuffix(".py").replace("/", ".")

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The module's place, with a loader that gives the changed code."""
        if fullname != self.module:
            return None
        return spec_from_file_location(fullname, self.file, loader=_Loader(fullname, self.file, self.code))


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, code: CodeType) -> None:
        super().__init__(fullname, path)
        self.code = code

    def get_code(self, fullname: str) -> CodeType:
        return self.code
