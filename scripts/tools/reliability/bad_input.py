"""Give every command input that is bad or odd, and write down what it said; and follow marked voxels home."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ...bundle.launch import BUNDLE_ROOT, command
from ...bundle.model_file import write_model
from ...data.scans import find_scans
from ...files import PART
from ...labels import ClassTable
from ...networks.resunet import ResUNet2d
from ...phantom.volume import make_phantom
from ..figures_file import RELIABILITY, add_figures, read_figures
from .bad_lists import FOLDERS, LISTS, good_list
from .bad_scans import EITHER, ODD, REFUSED, Draw
from .orientations import check_orientations

SHAPE_HW, PIXEL_MM = (40, 32), 7.0
PARTS = ("scans", "lists", "folders", "orientations")
ONCE = ("3000 slices",)
NEAR_VOXELS = 0.75
"""How far from where it was set a mark may land, along any axis."""


class NotTolerantError(AssertionError):
    """A command that showed a traceback, took what it should refuse, or left something half written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--out", type=Path, default=RELIABILITY)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="these alone; others' rows stay")
    parser.add_argument("--repeats", type=int, default=4, help="files of every kind of bad scan")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Try everything; write the rows into the JSON file, beside what others wrote there, and a table next to it."""
    content = read_figures(args.out)
    rows = [row for row in content.get("bad_input_rows", []) if row["part"] not in args.parts]
    turned = content.get("orientation_rows", [])
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for part, attempt in (
            ("scans", lambda: try_scans(work / "scans", args.repeats, args.seed)),
            ("lists", lambda: try_lists(work / "lists", args.seed)),
            ("folders", lambda: try_folders(work / "folders", args.seed)),
        ):
            if part in args.parts:
                rows += [{"part": part, **row} for row in attempt()]
        if "orientations" in args.parts:
            turned = check_orientations(work)
    wrong = [row for row in turned if row["off_voxels"] > NEAR_VOXELS or not row["same_grid"]]
    if wrong:
        raise NotTolerantError(f"{len(wrong)} marks landed elsewhere, the first: {wrong[0]}")
    rows.sort(key=lambda row: PARTS.index(row["part"]))
    kinds = len({row["kind"] for row in rows})
    figures = {
        "bad_inputs": len(rows),
        "bad_input_kinds": kinds,
        "orientations": len(turned),
        "bad_input_rows": rows,
        "orientation_rows": turned,
    }
    add_figures(args.out, figures)
    table = args.out.with_name("bad_input.md")
    table.write_text(markdown(rows, turned), encoding="utf-8")
    print(f"{len(rows)} inputs of {kinds} kinds, {len(turned)} orientations: {args.out}, {table}")
    return 0


def draw(folder: Path, seed: int, *parts: int) -> Draw:
    """A new folder, a small phantom and a source of chance for one input."""
    folder.mkdir(parents=True)
    image, label, affine = make_phantom(seed, 1, shape_hw=SHAPE_HW, pixel_mm=PIXEL_MM)
    return Draw(folder, image, label, affine, np.random.default_rng([seed, *parts]))


def write_untrained_model(folder: Path) -> Path:
    """A network of random weights, as training would leave it: what it says of a scan does not matter here."""
    table = ClassTable.load()
    settings = {"classes": list(table.names), "image_size": [32, 16], "pixel_mm": 8.0, "channels": [4, 8, 8]}
    network = ResUNet2d(in_channels=1, out_channels=table.num_classes, channels=(4, 8, 8), norm="batch")
    write_model(network, folder, {**settings, "norm": "batch", "statistics": "volume"})
    return folder


def write_scans(folder: Path, repeats: int, seed: int, kinds: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Write `repeats` files of every kind below a folder.

    Args:
        folder: new.
        repeats: of each kind.
        seed: fixes all files.
        kinds: these alone; none is all.

    Returns:
        `kind`, `path` and `wanted`, "refused", "labelled" or "either", of each.
    """
    rows: list[dict[str, Any]] = []
    for wanted, group in (("refused", REFUSED), ("labelled", ODD), ("either", EITHER)):
        for number, (kind, write) in enumerate(group.items()):
            if kinds and kind not in kinds:
                continue
            for copy in range(1 if kind in ONCE else repeats):
                parent = folder / f"{wanted}_{number:02d}_{copy}"
                rows.append({"kind": kind, "wanted": wanted, "path": write(draw(parent, seed, number, copy))})
    return rows


def try_scans(work: Path, repeats: int, seed: int, kinds: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One batch of all scans through inference, one datalist of them through check, and that through evaluation.

    Returns:
        A row for each scan: kind, file, outcome, and what inference and check said.

    Raises:
        NotTolerantError: see there.
    """
    inputs = write_scans(work / "scans", repeats, seed, kinds)
    models, out = write_untrained_model(work / "models"), work / "out"
    names = {scan["image"]: scan["case"] for scan in find_scans(work / "scans")}
    said = _inference(work / "scans", models, out)
    checked = _check(work, inputs, seed)
    _evaluate(work, models)
    rows, faults = [], []
    results = {path.name for path in out.iterdir()}
    for given in inputs:
        path = str(given["path"])
        if path not in names:
            faults.append(f"{path} ({given['kind']}) was passed over in silence")
            continue
        result = out / f"{names[path].replace('/', '_')}_seg.nii.gz"
        outcome = "labelled" if result.name in results else "refused"
        refusal = [line for kind, line in said[path] if kind == "error"]
        if (outcome == "refused") != bool(refusal) or given["wanted"] not in (outcome, "either"):
            faults.append(f"{path} ({given['kind']}) was {outcome}, and this was said: {said[path]}")
        if outcome == "labelled" and not _same_grid(given["path"], result):
            faults.append(f"{result} does not lie on {path} ({given['kind']})")
        shown = refusal or [line for _, line in said[path]]
        row = {"kind": given["kind"], "input": str(given["path"].relative_to(work / "scans")), "outcome": outcome}
        told = {"inference": shown, "check": checked.get(path, [])}
        rows.append({**row, **{name: [line.replace(f"{work}/", "") for line in lines] for name, lines in told.items()}})
    faults += [f"{p} was left half written" for p in out.iterdir() if p.name.startswith(PART)]
    if faults:
        raise NotTolerantError("\n".join(faults))
    return rows


def _inference(scans: Path, models: Path, out: Path) -> dict[str, list[tuple[str, str]]]:
    """What the run's log and its last words say of each scan."""
    given = {"input_dir": scans, "output_dir": out, "ckpt_dir": models, "device": "$torch.device('cpu')"}
    text, code = _process(command("inference", ["inference.yaml"], given))
    paths = [scan["image"] for scan in find_scans(scans)]
    return _told(text, code, paths)


def _told(text: str, code: int, paths: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Scan -> what was said of it: errors at the end, and warnings in the log."""
    log, mark, end = text.rpartition("\nError: ")
    if code != 1 or not mark:
        raise NotTolerantError(f"exit code {code}, and no error in the end: {text[-2000:]}")
    told: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in paths:
        for kind, part in (("error", end), ("warning", log)):
            for piece in part.split(f"{path}: ")[1:]:
                told[path].append((kind, piece.split("\n", 1)[0]))
        refused = {line for kind, line in told[path] if kind == "error"}
        if not refused <= {line for kind, line in told[path] if kind == "warning"}:
            raise NotTolerantError(f"{path} is named at the end, but not at the beginning")
    return told


def _check(work: Path, inputs: Sequence[dict[str, Any]], seed: int) -> dict[str, list[str]]:
    """What `check` says of the same scans, as the unlabelled ones of a datalist; a DICOM folder is one, too."""
    content = good_list(draw(work / "good", seed, 99))
    content["unlabelled"] = [{"image": str(row["path"]), "case": f"u{n}"} for n, row in enumerate(inputs)]
    path = work / "list.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    code, _ = quiet(["check", str(path), "--json", str(work / "problems.json")])
    problems = json.loads((work / "problems.json").read_text(encoding="utf-8"))
    if code != int(problems["errors"] > 0):
        raise NotTolerantError(f"check found {problems['errors']} errors, its exit code is {code}")
    found = defaultdict(list)
    for problem in problems["problems"]:
        found[problem["path"]].append(f"{problem['level']}: {problem['message']}")
    return found


def _evaluate(work: Path, models: Path) -> None:
    """Scores are of all scans or of none: an evaluation of the bad ones writes nothing."""
    content = json.loads((work / "list.json").read_text(encoding="utf-8"))
    label = content["test"][0]["label"]
    content["test"] += [{**entry, "label": label, "patient": f"t{n}"} for n, entry in enumerate(content["unlabelled"])]
    content["unlabelled"] = []
    path = work / "scored.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    given = {"datalist": path, "output_dir": work / "scores", "ckpt_dir": models, "device": "$torch.device('cpu')"}
    text, code = _process(command("evaluating", ["inference.yaml", "evaluate.yaml"], given))
    if code != 1 or "problems with the data:" not in text or (work / "scores").exists():
        raise NotTolerantError(f"evaluation of bad scans: exit code {code}, {text[-2000:]}")


def try_lists(work: Path, seed: int, kinds: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Every kind of bad datalist through `check`."""

    def give(kind: str, d: Draw) -> list[str]:
        content = LISTS[kind](d)
        path = d.folder / "data.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return ["check", str(path)]

    return _try(LISTS, give, work, seed, kinds)


def try_folders(work: Path, seed: int, kinds: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Every kind of bad folder, or of arguments, through `prepare`."""

    def give(kind: str, d: Draw) -> list[str]:
        arguments = [str(argument) for argument in FOLDERS[kind](d)]
        return ["prepare", *arguments, *(() if "--out" in arguments else ("--out", str(d.folder / "out.json")))]

    return _try(FOLDERS, give, work, seed, kinds)


def _try(
    group: dict[str, Any], give: Callable[[str, Draw], list[str]], work: Path, seed: int, kinds: Sequence[str]
) -> list[dict[str, Any]]:
    rows = []
    for number, kind in enumerate(group):
        if kinds and kind not in kinds:
            continue
        folder = work / f"{number:02d}"
        arguments = give(kind, draw(folder, seed, number))
        code, text = quiet(arguments)
        if code != 1 or (folder / "out.json").exists():
            raise NotTolerantError(f"{kind}: exit code {code}, and this was said: {text}")
        lines = [line for line in text.splitlines() if line.startswith(("error", "Error"))]
        if not lines:
            raise NotTolerantError(f"{kind}: no error was named: {text}")
        lines = [" ".join(line.replace(f"{folder}/", "").replace(f"{folder}", ".").split()) for line in lines]
        rows.append({"kind": kind, "input": f"{number:02d}", "outcome": "refused", arguments[0]: lines})
        shutil.rmtree(folder)
    return rows


def quiet(arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of a command of `python -m scripts`, in this process.

    Raises:
        NotTolerantError: it raised, which a user would see as a traceback.
    """
    from ...__main__ import main

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = main(arguments)
        except Exception as error:
            raise NotTolerantError(f"{' '.join(arguments)} raised {error!r}") from error
    return code, text.getvalue()


def _process(line: list[str]) -> tuple[str, int]:
    done = subprocess.run(line, cwd=BUNDLE_ROOT, capture_output=True, text=True, check=False, errors="replace")
    text = done.stdout + done.stderr
    if "Traceback" in text:
        raise NotTolerantError(f"a traceback: {text[-4000:]}")
    return text, done.returncode


def _same_grid(scan: Path, label: Path) -> bool:
    """Whether a NIfTI scan's label map lies on its voxels; of other formats that is not asked."""
    if not scan.name.endswith((".nii", ".nii.gz")):
        return True
    image, made = nibabel.load(scan), nibabel.load(label)
    return made.shape == image.shape[:3] and np.allclose(made.affine, image.affine, atol=1e-2)


def markdown(rows: Sequence[dict[str, Any]], turned: Sequence[dict[str, Any]]) -> str:
    """A table of the kinds: how many, what became of them, and what the first was told."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        kinds[row["kind"]].append(row)
    off = max((row["off_voxels"] for row in turned), default=0.0)
    lines = [
        "# Bad and odd input",
        "",
        "Written by `python -m scripts benchmark bad_input`; every input by itself is in `reliability.json`.",
        "",
        f"{len(rows)} inputs of {len(kinds)} kinds. {len(turned)} orientations in {len({r['axes'] for r in turned})} "
        f"orders of axes: a marked voxel came back at most {off:.2f} voxels off.",
        "",
        "| kind | inputs | refused | labelled | what the first was told |",
        "|---|---:|---:|---:|---|",
    ]
    for kind, of in kinds.items():
        told = next((row[key][0] for row in of for key in ("inference", "check", "prepare") if row.get(key)), "nothing")
        refused = sum(row["outcome"] == "refused" for row in of)
        lines.append(f"| {kind} | {len(of)} | {refused} | {len(of) - refused} | {_cell(told)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Without the folders of this machine."""
    words = [Path(word.rstrip(":,;")).name + (word[-1] if word[-1] in ":,;" else "") if "/" in word[:1] else word
             for word in text.split()]  # fmt: skip
    return " ".join(words).replace("|", "\\|").replace("<", "&lt;")
