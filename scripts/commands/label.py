"""`python -m scripts label`: label scans or a DICOM study, in short for `monai.bundle run inference`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .long_form import long_command, read_settings, run_long, takes_settings

RESULTS = {
    "index.html": "a page to look at, worst verdict first",
    "*_seg.nii.gz": "label map, in the scan's own grid",
    "*_levels.json": "verdict on the levels, with its reasons",
    "*_seg.dcm": "DICOM SEG",
    "*_sr.dcm": "measurements as a DICOM structured report",
    "scans.csv": "a row for each scan",
    "structures.csv": "a row for each structure",
    "labels.json": "names of the label values",
    "colours.ctbl": "colours, for 3D Slicer",
}
"""Files that labelling leaves, as patterns, and what they are."""
UNUSED = ("transformers", "tensorboard", "pandas", "sklearn", "mlflow", "matplotlib.pyplot", "IPython")
"""Packages that MONAI imports where they are installed, and labelling has no use of: a third of its time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("scans", type=Path, metavar="SCANS", help="a scan (NIfTI, MHA, NRRD), a folder of scans, or a DICOM study")
    # the longer spellings are those of the long command, which its messages name
    add("--out", "--output_dir", type=Path, required=True, metavar="OUT", help="folder of the results")
    add("--ckpt_dir", type=Path, metavar="DIR", help="folder of a network; else the shipped one, models/")
    add("--fast", action="store_true", help="in OpenVINO, in 8-bit integers (docs/exports.md); on a CPU")
    add("--levels", choices=("named", "decoded", "raw"), help="how levels are named (docs/label.md)")
    add("--device", help="cpu or cuda:N; else a GPU where there is one")
    add("--overwrite", nargs="?", const="True", choices=("True", "False"), help="replace files that others made")
    takes_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Label the scans; say by which long command, and where what was written."""
    settings: dict[str, Any] = {"input_dir": args.scans, "output_dir": args.out}
    settings |= {key: value for key in ("ckpt_dir", "levels", "device") if (value := getattr(args, key)) is not None}
    settings |= {"overwrite": True} if args.overwrite == "True" else {}
    settings |= read_settings(args.settings)
    configs = ["inference.yaml", *(["inference_openvino.yaml"] if args.fast else [])]
    print(f"in long: {long_command('inference', configs, settings)}", flush=True)
    try:
        with hidden(UNUSED):
            run_long("inference", configs, settings)
    finally:  # what could be labelled is there, although others could not
        print("\n".join(written(Path(str(settings["output_dir"])))), flush=True)
    return 0


@contextmanager
def hidden(packages: Sequence[str]) -> Iterator[None]:
    """Packages that nobody has imported so far are as if they were not installed, as long as the context lasts."""
    ours = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(ours))  # type: ignore[arg-type]  # None is Python's own word for it
    try:
        yield
    finally:
        for name in ours:
            del sys.modules[name]


def written(folder: Path) -> list[str]:
    """Lines that say what lies in a folder of results, and how many scans have which verdict."""
    lines, verdicts = [], Counter[str]()
    for pattern, words in RESULTS.items():
        files = sorted(folder.glob(pattern))
        if pattern == "*_levels.json":
            verdicts.update(json.loads(file.read_text(encoding="utf-8"))["verdict"] for file in files)
        if files:
            name = files[0].name if len(files) == 1 else f"{len(files)} x {pattern}"
            lines.append(f"  {name:32} {words}")
    if verdicts:
        lines.append(f"verdicts: {', '.join(f'{count} {verdict}' for verdict, count in verdicts.most_common())}")
    return [f"in {folder}:", *lines] if lines else []
