"""The folder that a pull request to MONAI's Model Zoo adds: what runs, and the address and hash of its weights.

The Zoo takes no file above 25 MB, and weights are no source: a public host keeps them; `large_files.yml` says where.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml

from ..bundle.launch import BUNDLE_ROOT
from ..bundle.model_file import load_weights, trained_settings
from ..weights import SETTINGS, WEIGHTS
from .needed_files import needed_files, say_where

NAME = "spine_mri_cps4_segmentation"
LARGE_FILES = "large_files.yml"
DOCUMENTS = (".md", ".yaml", ".json", ".txt")
"""What is mended in copying; code stays byte for byte."""
NOT_SAID = "Its maker did not say which data they were trained on."
SHIPPED = (
    (
        "docs/README.md", "<!-- weights -->", "<!-- /weights -->",
        f"**Weights** are fetched from the address in `{LARGE_FILES}`. {{trained_on}}\n\n"
        'This folder holds what runs. Pages and commands "of the project" are in the repository that it was made from.',
    ),
    ("docs/README.md", "<!-- shipped -->", "<!-- /shipped -->", ""),
    ("docs/data_license.txt", "What is shipped:", "attribution below.", "Of the weights: {trained_on}"),
)  # fmt: skip
"""What is true of the bundle's own weights: file, where it begins and ends, and what stands there beside others."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--weights", type=Path, required=True, metavar="FILE", help=f"{WEIGHTS} of a training, {SETTINGS} beside it")
    add("--url", required=True, help="where anybody can fetch this file")
    add("--trained-on", default="", metavar="SENTENCE", help="the data behind the weights, and their terms")
    add("--out", type=Path, default=BUNDLE_ROOT / "zoo" / NAME, help="the folder to make; an earlier one is replaced")


def run(args: argparse.Namespace) -> int:
    """Assemble the folder and say what it needs."""
    large_file = assemble(args.weights, args.url, args.out, args.trained_on)
    print(f"{args.out}\n{LARGE_FILES}: {large_file['path']}, sha256 {large_file['hash_val']}, from {large_file['url']}")
    if not args.trained_on:
        print(f'The folder says: "{NOT_SAID}" Say it with --trained-on before you submit.')
    return 0


def assemble(weights: Path, url: str, out: Path, trained_on: str = "") -> dict[str, str]:
    """Write the folder: :func:`needed_files` and `large_files.yml`; the weights themselves are not in it.

    Args:
        weights: a state dict that training wrote, its settings `model.json` beside it.
        url: where the file will be fetched from; nothing is sent or fetched here.
        out: the folder; one that was assembled earlier is replaced.
        trained_on: sentence for the README and the licences of data.

    Returns:
        The entry of `large_files.yml`: `path`, `url`, `hash_val`, `hash_type`.

    Raises:
        ValueError: the weights are missing or not those of the network that their settings describe; no address; or
            `out` is a folder of something else.
    """
    settings = checked(weights)
    if not (address := urlparse(url)).scheme or not address.path.strip("/"):
        raise ValueError(f"--url must be the address of the weights, as https://HOST/model.pt, got {url!r}")
    if out.exists() and not (out / LARGE_FILES).is_file():
        raise ValueError(f"{out} is there and was not made by this command; name another folder with --out")
    part = out.with_name(f".part_{out.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    files = needed_files()
    for name in files:
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(BUNDLE_ROOT / name, part / name)
        if name.endswith(DOCUMENTS):
            text = (BUNDLE_ROOT / name).read_text(encoding="utf-8")
            (part / name).write_text(say_where(text, name, files), encoding="utf-8")
    (part / "models").mkdir()
    shutil.copyfile(weights.with_name(SETTINGS), part / "models" / SETTINGS)
    describe(part, settings, trained_on or NOT_SAID)
    entry = {
        "path": f"models/{WEIGHTS}",
        "url": url,
        "hash_val": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "hash_type": "sha256",
    }
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


def describe(folder: Path, settings: dict[str, Any], trained_on: str) -> None:
    """Make metadata and documents of the copy true of these weights.

    Raises:
        ValueError: a part of `SHIPPED` is not in its file any more.
    """
    path = folder / "configs/metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    formats = metadata["network_data_format"]
    for one in (*formats["inputs"].values(), *formats["outputs"].values()):
        one["spatial_shape"] = settings["image_size"]
    path.write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")
    for name, start, end, words in SHIPPED:
        before, found, rest = (folder / name).read_text(encoding="utf-8").partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{name} has no {start!r} and {end!r} any more; mend SHIPPED in scripts/tools/zoo.py")
        (folder / name).write_text(before + words.format(trained_on=trained_on) + after, encoding="utf-8")
