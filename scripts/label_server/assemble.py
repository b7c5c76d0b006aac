"""`python -m scripts label_app`: make a MONAI Label app folder with a copy of this bundle."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from monai.bundle import ConfigParser

from ..weights import SETTINGS, WEIGHTS, model_settings

log = logging.getLogger(__name__)

BUNDLE_ROOT = Path(__file__).resolve().parents[2]
SHIPPED = BUNDLE_ROOT / "models"
NAME = "spine_mri_cps4_segmentation"
SERVER_KEYS = {
    "ckpt_dir": "$@bundle_root + '/models'",
    "overwrite": True,
    "warm_start": "$(lambda file: file if os.path.isfile(file) else '')(@ckpt_dir + '/model.pt')",
}
"""Keys of `train.yaml`: MONAI Label looks for the network in `models/`, trains into the same folders, and starts from
the network that is there."""
ADDITIONS = ("label_server/answers.py", "label_server/class_labels.py", "label_server/viewer_colours.py")
GRID = "data/check/grid.py"
"""Files of `scripts` that lie beside the app's; the last as `label_grid.py`."""
OF_A_NETWORK = ("image_size", "pixel_mm", "channels", "norm", "statistics")
"""Keys of `train.yaml` that the weights which training starts from decide."""
THIS_MACHINE = "127.0.0.1"
OWN = "settings.yaml"
"""File of the app's folder with keys of `train.yaml` that a user wants others."""
ARCHIVE = {"MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality": "MR"}', "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "60"}
"""For a DICOMweb server: MONAI Label looks for CT, and remembers for two hours which series there are, unless told
otherwise."""
PARTS = ("configs", "scripts", "LICENSE", "metadata.json")


def assemble(app: str | Path, overlays: Sequence[str | Path] = (), models: str | Path | None = None) -> Path:
    """Make the app folder: MONAI Label's monaibundle app, the additions of `app.py`, and a copy of the bundle.

    MONAI Label reads `configs/train.yaml` only, so overlays are merged into the copy, and what a server needs:
    training replaces `models/model.pt`, time and again. An existing folder is updated; its weights, caches and keys of
    `settings.yaml` in it, which go behind all others, are kept.
    A network in the copy's `models/` decides grid and width of its further training.

    Args:
        app: the folder; MONAI Label has to be installed in this Python.
        overlays: overlays on `train`, absolute or relative to `configs/`, in their order.
        models: folder with a trained network, copied to the bundle's `models/` if there is none yet; without it and
            without overlays the shipped one.

    Returns:
        The bundle's folder inside.

    Raises:
        ValueError: MONAI Label is not installed, there is no such overlay, or no network in `models`.
    """
    app = Path(app).absolute()
    files = [BUNDLE_ROOT / "configs" / name for name in ("train.yaml", *overlays)]
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(f"there is no overlay {missing[0]}; configs/ holds those of this bundle")
    if models is not None and not Path(models, "model.pt").is_file():
        raise ValueError(f"there is no network {Path(models, 'model.pt')}; name a folder that training wrote")
    bundle = app / "model" / NAME
    bundle.mkdir(parents=True, exist_ok=True)
    _monai_label_app(app / "monaibundle_app.py")
    shutil.copy(Path(__file__).parent / "app.py", app / "main.py")
    for addition in ADDITIONS:
        shutil.copy(BUNDLE_ROOT / "scripts" / addition, app)
    shutil.copy(BUNDLE_ROOT / "scripts" / GRID, app / "label_grid.py")
    for part in PARTS:
        source, target = BUNDLE_ROOT / part, bundle / part
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    there = bundle / "models" / WEIGHTS
    if models is not None and there.is_file():
        if there.read_bytes() != Path(models, WEIGHTS).read_bytes():
            log.warning("the app has a network, which stays; delete %s to take that of %s", there, models)
    elif models is not None:
        shutil.copytree(models, bundle / "models", dirs_exist_ok=True)
    elif not overlays and not there.is_file() and (SHIPPED / WEIGHTS).is_file():
        (bundle / "models").mkdir(exist_ok=True)
        for name in (WEIGHTS, SETTINGS):  # what else lies there was trained here
            shutil.copy(SHIPPED / name, bundle / "models")
    trained = model_settings(bundle / "models") or {}
    merged = {**ConfigParser.load_config_files([str(file) for file in files]), **SERVER_KEYS}
    merged |= {key: trained[key] for key in OF_A_NETWORK if key in trained}
    names = ["train.yaml", *map(str, overlays)]
    if (own := app / OWN).is_file():
        names.append(OWN)
        merged |= ConfigParser.load_config_file(str(own))
    header = f"# {', '.join(names)}, merged by `python -m scripts label_app`, which writes this file anew\n"
    text = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=120)
    (bundle / "configs" / "train.yaml").write_text(header + text, encoding="utf-8")
    return bundle


def server_command(
    app: Path, studies: str | Path, port: int, conf: dict[str, str] | None = None, host: str = THIS_MACHINE
) -> list[str]:
    """Command line that starts the server, without access to the Model Zoo.

    `app` is the folder of :func:`assemble`, `studies` a folder of scans or the address of a DICOMweb server, `conf`
    further settings of the app, `host` the address that it listens at.
    """
    line = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    line += ["--host", host, "--port", str(port)]
    for name, value in {"models": NAME, "zoo_source": "local", "sam2": "false", **(conf or {})}.items():
        line += ["--conf", name, value]
    return line


def _monai_label_app(target: Path) -> None:
    """Copy the code of MONAI Label's own app for bundles."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "monailabel.main", "apps", "--download", "--name", "monaibundle"]
        done = subprocess.run([*line, "--output", folder], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [done.stdout.strip()])[-1]
            raise ValueError(
                f"MONAI Label cannot be used by {sys.executable} ({reason}); install requirements-label.txt"
            )
        shutil.copy(Path(folder, "monaibundle", "main.py"), target)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("app", type=Path, help="folder to make")
    parser.add_argument("--studies", default="studies", help="folder of scans, or http://... of a DICOMweb server")
    parser.add_argument("--overlays", nargs="*", default=[], help="overlays on train.yaml, as narrow.yaml")
    parser.add_argument("--models", type=Path, help="folder of a trained network (model.pt, model.json)")
    parser.add_argument("--port", type=int, default=8000, help="port of the server")
    parser.add_argument(
        "--host", default=THIS_MACHINE,
        help="address that the server listens at; 0.0.0.0 lets other machines in, and it asks nobody for a password",
    )  # fmt: skip
    parser.add_argument(
        "--conf", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="setting of the app, as --conf stage1 offline_encoders.yaml",
    )  # fmt: skip
    parser.add_argument("--start", action="store_true", help="start the server, in place of printing the command")


def run(args: argparse.Namespace) -> int:
    """Make the folder, and print how to start the server or become it."""
    bundle = assemble(args.app, args.overlays, args.models)
    remote = args.studies.startswith(("http://", "https://"))
    studies = args.studies if remote else Path(args.studies).absolute()
    line = server_command(args.app.absolute(), studies, args.port, dict(args.conf), args.host)
    environment = ARCHIVE if remote else {}
    if args.start:
        os.execve(line[0], line, {**environment, **os.environ})
    print(f"the bundle's copy is {bundle}; start the server with")
    print(" ".join([*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.join(line)]))
    return 0
