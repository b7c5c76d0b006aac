"""`python -m scripts label_demo`: demo of a MONAI Label server on phantoms, a few of them labelled."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ..data.datalist import load_datalist
from ..phantom.write import write_phantoms
from .assemble import NAME, assemble, server_command

OVERLAYS = ["narrow.yaml", "datasets/phantom.yaml"]
CONF = {"stage1": "offline_encoders.yaml,datasets/phantom.yaml"}
DRAWING: dict[str, Any] = {"shape_hw": (128, 80), "pixel_mm": 2.35}


def write_studies(folder: Path, phantoms: Path) -> Path:
    """Lay out the training and unlabelled scans of a datalist as MONAI Label's local datastore; files are copied.

    Args:
        folder: gets `NAME.nii.gz`, and `labels/final/NAME.nii.gz` for those that have a label.
        phantoms: the datalist.
    """
    final = folder / "labels" / "final"
    final.mkdir(parents=True, exist_ok=True)
    sections = load_datalist(phantoms).sections
    for entry in (*sections["training"], *sections["unlabelled"]):
        shutil.copy(entry["image"], folder)
        if "label" in entry:
            shutil.copy(entry["label"], final)
    return folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--out", type=Path, default=Path("label_demo"), help="folder of the demo")
    parser.add_argument("--port", type=int, default=8000, help="port of the server, on this machine alone")


def run(args: argparse.Namespace) -> int:
    """Draw the phantoms, make the app and start the server; Ctrl-C ends it."""
    out = args.out.absolute()
    app, studies = out / "app", out / "studies"
    if not studies.is_dir():
        phantoms = write_phantoms(out / "phantoms", labelled=3, unlabelled=9, validation=0, test=0, **DRAWING)
        write_studies(studies, phantoms)
    assemble(app, OVERLAYS)
    url = f"http://127.0.0.1:{args.port}"
    print(f"{url}: the server, in a few seconds; in 3D Slicer choose it in the module MONAILabel")
    print(f"train: curl -X POST {url}/train/{NAME} -H 'Content-Type: application/json' -d '{{\"max_epochs\": 10}}'")
    print(f"scans: {studies}; Ctrl-C ends the server", flush=True)
    try:
        return subprocess.run(server_command(app, studies, args.port, CONF), env={**os.environ}, check=False).returncode
    except KeyboardInterrupt:
        return 0
