"""The folder that a pull request to MONAI's Model Zoo adds: what runs, and the address and hash of its weights.

The Zoo takes no file above 25 MB, and weights are no source: a public host keeps them; `large_files.yml` says where.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml
from jinja2 import StrictUndefined, Template

from ..bundle.launch import BUNDLE_ROOT
from ..bundle.model_file import load_weights, trained_settings
from ..files import sha256
from ..report.charts import curves as plot
from ..weights import SETTINGS, WEIGHTS
from .needed_files import ZOO_CONFIGS, ZOO_PAGE, needed_files, say_where

NAME = "spine_mri_cps4_segmentation"
LARGE_FILES = "large_files.yml"
DOCUMENTS = (".md", ".yaml", ".json", ".txt")
"""What is mended in copying; code stays byte for byte."""
NOT_SAID = "Their maker did not say which data they were trained on."
OURS = "They were trained with labels on 25 patients of SPIDER-SPACE (CC BY 4.0), see `docs/data_license.txt`."
OUR_TRAINING = BUNDLE_ROOT / "docs/results/shipped_training.csv"
"""What is said of the weights in `models/` where nothing else is, and the metrics of their training."""
DATA_OF_WEIGHTS = ("docs/data_license.txt", "What is shipped:", "attribution below.", "Of the weights: {}")
"""What is true of the bundle's own weights: file, where it begins and ends, and what stands there in the Zoo."""
SCORES = {
    "mean_dice": "Mean Dice",
    "vertebrae_dice": "Vertebrae, Dice",
    "discs_dice": "Discs, Dice",
    "levels_right": "Share of the patients with every level from L5 to L1 right",
}
"""Name of a score in the metadata -> in the README."""
CURVES = {"training_loss.png": "loss", "validation_dice.png": "val_mean_dice"}
"""Picture -> the column of a run's `metrics.csv` that it shows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--weights", type=Path, required=True, metavar="FILE", help=f"{WEIGHTS} of a training, {SETTINGS} beside it")
    add("--url", required=True, help="where anybody can fetch this file")
    add("--metrics", type=Path, metavar="FILE", help="metrics.csv of the training; else that of the weights' run")
    add("--trained-on", default="", metavar="SENTENCE", help="the data behind the weights, and their terms")
    add("--out", type=Path, default=BUNDLE_ROOT / "zoo" / NAME, help="the folder to make; an earlier one is replaced")


def run(args: argparse.Namespace) -> int:
    """Assemble the folder and say what it needs."""
    large_file = assemble(args.weights, args.url, args.out, args.trained_on, args.metrics)
    print(f"{args.out}\n{LARGE_FILES}: {large_file['path']}, sha256 {large_file['hash_val']}, from {large_file['url']}")
    if NOT_SAID in (args.out / "docs/README.md").read_text(encoding="utf-8"):
        print(f'The folder says: "{NOT_SAID}" Say it with --trained-on before you submit.')
    return 0


def assemble(weights: Path, url: str, out: Path, trained_on: str = "", metrics: Path | None = None) -> dict[str, str]:
    """Write the folder: :func:`needed_files` and `large_files.yml`; the weights themselves are not in it.

    Args:
        weights: a state dict that training wrote, its settings `model.json` beside it.
        url: where the file will be fetched from; nothing is sent or fetched here.
        out: the folder; one that was assembled earlier is replaced.
        trained_on: sentence for the README and the licences of data.
        metrics: `metrics.csv` of the training, for the curves; None looks in the folder above the weights'.

    Returns:
        The entry of `large_files.yml`: `path`, `url`, `hash_val`, `hash_type`.

    Raises:
        ValueError: the weights are missing or not those of the network that their settings describe; no address; or
            `out` is a folder of something else.
    """
    settings = checked(weights)
    if metrics and not metrics.is_file():
        raise ValueError(f"there is no {metrics}; name the metrics.csv that the training left, or leave out --metrics")
    if not (address := urlparse(url)).scheme or not address.path.strip("/"):
        raise ValueError(f"--url must be the address of the weights, as https://HOST/model.pt, got {url!r}")
    if out.exists() and not (out / LARGE_FILES).is_file():
        raise ValueError(f"{out} is there and was not made by this command; name another folder with --out")
    part = out.with_name(f".part_{out.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    files = needed_files(page=ZOO_PAGE, configs=ZOO_CONFIGS) - {ZOO_PAGE}
    for name in files:
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(BUNDLE_ROOT / name, part / name)
        if name.endswith(DOCUMENTS):
            text = (BUNDLE_ROOT / name).read_text(encoding="utf-8")
            (part / name).write_text(say_where(text, name, files), encoding="utf-8")
    (part / "models").mkdir()
    shutil.copyfile(weights.with_name(SETTINGS), part / "models" / SETTINGS)
    entry = {"path": f"models/{WEIGHTS}", "url": url, "hash_val": sha256(weights), "hash_type": "sha256"}
    ours = entry["hash_val"] == sha256(BUNDLE_ROOT / "models" / WEIGHTS)
    run_of = [metrics] if metrics else [OUR_TRAINING if ours else weights.parent.parent / "metrics.csv"]
    curves = draw_curves(next(filter(Path.is_file, run_of), None), part / "docs")
    describe(part, settings, trained_on or (OURS if ours else NOT_SAID), curves, scored=ours)
    (part / LARGE_FILES).write_text(yaml.safe_dump({"large_files": [entry]}, sort_keys=False), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    part.replace(out)
    return entry


def checked(weights: Path) -> dict[str, Any]:
    """The settings of weights that fit the network which inference builds from them.

    Raises:
        ValueError: they are missing, or do not.
    """
    from monai.bundle import ConfigParser

    if not weights.is_file():
        raise ValueError(f"there are no weights {weights}; train with configs/train.yaml, or correct --weights")
    settings = trained_settings(weights.parent)
    if not settings:
        raise ValueError(f"{weights} has no {SETTINGS} beside it; training writes both, keep them together")
    parser = ConfigParser()
    parser.read_config(str(BUNDLE_ROOT / "configs/inference.yaml"))
    parser.update({"bundle_root": str(BUNDLE_ROOT), "ckpt_dir": str(weights.parent)})
    load_weights(weights, [parser.get_parsed_content("network_def")])
    return settings


def draw_curves(metrics: Path | None, folder: Path) -> list[str]:
    """Draw the curves of a training, a picture each; names of the files, of `CURVES`."""
    drawn = []
    for name, column in CURVES.items() if metrics else ():
        with metrics.open(encoding="utf-8") as file:  # type: ignore[union-attr]
            rows = [row for row in csv.DictReader(file) if row["name"] == column]
        if rows:
            with tempfile.TemporaryDirectory() as one:
                source = Path(one, "metrics.csv")
                lines = [f"{row['step']},{column},{row['value']}\n" for row in rows]
                source.write_text("step,name,value\n" + "".join(lines), encoding="utf-8")
                plot(source, folder / name)
            drawn.append(name)
    return drawn


def describe(
    folder: Path, settings: dict[str, Any], trained_on: str, curves: Sequence[str] = (), scored: bool = False
) -> None:
    """Make metadata and documents of the copy true of these weights.

    Args:
        folder: the copy.
        settings: `model.json` of the weights.
        trained_on: sentence on their data.
        curves: pictures of their training in `docs/`.
        scored: whether `eval_metrics` of the metadata are theirs; else these go.

    Raises:
        ValueError: a part of the documents is not in its file any more.
    """
    path = folder / "configs/metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    formats = metadata["network_data_format"]
    size = settings["image_size"]
    for one in (*formats["inputs"].values(), *formats["outputs"].values()):
        one["spatial_shape"] = size
    if not scored:
        metadata["eval_metrics"] = {}
    path.write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")
    name, start, end, words = DATA_OF_WEIGHTS
    before, found, rest = (folder / name).read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{name} has no {start!r} and {end!r} any more; mend DATA_OF_WEIGHTS in scripts/tools/zoo.py")
    (folder / name).write_text(before + words.format(trained_on) + after, encoding="utf-8")
    page = Template((BUNDLE_ROOT / ZOO_PAGE).read_text(encoding="utf-8"), undefined=StrictUndefined)
    text = page.render(
        trained_on=trained_on,
        pixel_mm=settings["pixel_mm"],
        size=" x ".join(map(str, size)),
        channels=", ".join(map(str, settings["channels"])),
        trt_shape=[2, 1, *size],
        scores={SCORES.get(key, key): value for key, value in metadata["eval_metrics"].items()},
        curves=curves,
    )
    (folder / "docs/README.md").write_text(text + "\n", encoding="utf-8")
