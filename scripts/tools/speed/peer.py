"""A real scan labelled by the shipped network beside nnU-Net's predictor with the same network."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from ...bundle.model_file import trained_settings
from ...weights import SETTINGS
from ..quantise import QUANTISED
from .labelling import Labelling, PlainLabelling
from .pairs import Goal, in_turns

PREDICTOR = Path(__file__).with_name("nnunet_predictor.py")
NAME = "a real scan, default settings, from its file to the label map in its grid, network loaded"
FAST = f"{NAME}, in 8-bit integers (label --fast)"
REFERENCE = "nnU-Net's predictor, the same network and pixels, no mirroring"
WANTED = 0.1
SLICES_LAST = ("P", "I", "R")
"""Axes of the scan for both: columns to the back, rows down, slices; nnU-Net's reader turns the order round."""
ALIKE = 0.9
"""Least Dice of all structures together between both: the statistics of batch normalisation differ."""


class NnunetPredictor:
    """nnU-Net's predictor in a process of its own environment, which stays until the context ends.

    Args:
        venv: nnU-Net's environment.
        given: what `nnunet_predictor.main` takes.
    """

    def __init__(self, venv: Path, given: dict[str, Any]) -> None:
        self.out = Path(given["out"])
        self.out.unlink(missing_ok=True)  # of another scan or network
        folders = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), str(self.out.parent))
        own = {**folders, "nnUNet_def_n_proc": str(given["threads"]), "OMP_NUM_THREADS": str(given["threads"])}
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        self.log = self.out.with_suffix(".txt")
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [str(venv.absolute() / "bin" / "python"), str(PREDICTOR), json.dumps(given)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env={**inherited, **own},
            )  # fmt: skip

    def __enter__(self) -> NnunetPredictor:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def label(self) -> None:
        """Label the scan.

        Raises:
            RuntimeError: the process ended; the message ends with its last lines.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("label\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.strip() == "labelled":
                return
        tail = "\n".join(self.log.read_text(encoding="utf-8").splitlines()[-5:])
        raise RuntimeError(f"nnU-Net's predictor ended, see {self.log}\n{tail}")


def peer_rows(model: Path, scan: Path, venv: Path, work: Path, pairs: int, threads: int) -> Iterator[dict[str, Any]]:
    """Rows: default settings, and 8-bit integers, beside nnU-Net's predictor; CPU.

    Args:
        model: folder `models`; with `model.xml` of `cps4 quantise` for the second row.
        scan: a sagittal volume.
        venv: nnU-Net's environment.
        work: folder of the turned scan and the traced network.
        pairs: measurements of each.
        threads: of both.

    Raises:
        RuntimeError: both label different things.
        ValueError: `model` holds no settings of a training, or `venv` no nnU-Net.
    """
    reference, settings = f"{REFERENCE}; version {version_of(venv)}", trained_settings(model)
    if not settings:
        raise ValueError(f"{model} holds no {SETTINGS} of a training of stage 2")
    work.mkdir(parents=True, exist_ok=True)
    turned = turn(scan, work / "scan.nii.gz")
    ours = Labelling("PyTorch", settings["statistics"], model, str(turned))
    get = ours.parser.get_parsed_content
    size = [int(n) for n in get("image_size")]
    traced = work / "network.ts"
    network = PlainLabelling(ours).net
    torch.jit.trace(network, torch.zeros(1, 1, *size)).save(str(traced))
    given = {
        "network": str(traced), "scan": str(turned), "classes": settings["classes"], "image_size": size,
        "pixel_mm": float(get("pixel_mm")), "threads": threads, "out": str(work / "label.npy"),
    }  # fmt: skip
    reference += f", {ours.slices.shape[-1]} slices"
    kinds, fast = {NAME: ours}, find_spec("openvino") and (model / QUANTISED).is_file()
    if fast:
        kinds[FAST] = Labelling("OpenVINO INT8", settings["statistics"], model, str(turned))
    with NnunetPredictor(venv, given) as theirs:
        theirs.label()
        for name, labelling in kinds.items():
            labelling.label()
            found = labelling.evaluator.state.output[0]["pred"].as_tensor().cpu().numpy()[0]
            # classes that no training label had: nnU-Net's predictor does not know of them
            known = np.isin(other := np.load(theirs.out), settings["labelled_classes"])
            alike = dice(found.transpose(), np.where(known, other, 0))
            if alike < ALIKE:
                raise RuntimeError(f"both must label the same structures; their Dice is {alike:.3f}")
            times = in_turns(labelling.label, theirs.label, pairs, 1)
            yield Goal(name, WANTED, reference).row(times, dice=round(alike, 4))
    if not fast:
        yield Goal(FAST, WANTED, reference).not_measured(f"openvino is not installed, or {model} has no {QUANTISED}")


def turn(scan: Path, to: Path) -> Path:
    """Write a scan with its axes in the order `SLICES_LAST`."""
    image = nibabel.load(scan)
    orientation = ornt_transform(io_orientation(image.affine), axcodes2ornt(SLICES_LAST))
    nibabel.save(image.as_reoriented(orientation), to)
    return to


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of all structures together, each pixel under its own name: 2 |equal and not background| / sum of sizes."""
    both = ((one == other) & (one > 0)).sum()
    return float(2 * both / max((one > 0).sum() + (other > 0).sum(), 1))


def version_of(venv: Path) -> str:
    """Version of nnU-Net in an environment.

    Raises:
        ValueError: it is not installed there.
    """
    command = [str(venv / "bin" / "python"), "-c", "from importlib.metadata import version; print(version('nnunetv2'))"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        message = f"{venv} holds no nnU-Net; python -m venv {venv} && {venv}/bin/pip install nnunetv2"
        raise ValueError(message) from error
