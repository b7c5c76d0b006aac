"""Small phantoms, a way to run the bundle in this process, and one smoke-trained bundle that all tests may read."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from monai.bundle import run

from scripts.phantom.write import write_phantoms

ROOT = Path(__file__).resolve().parents[2]
SHAPE_HW, PIXEL_MM = (40, 32), 7.0

RunBundle = Callable[..., None]


@pytest.fixture(autouse=True)
def own_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run takes over `sys.excepthook`; give it back after each test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture(autouse=True)
def log_of_runs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture(scope="session")
def run_bundle() -> RunBundle:
    """`run_bundle(run_id, ["train.yaml", ...], key=value)`: what `python -m monai.bundle run` does, in this process."""

    def run_in_process(run_id: str | None, configs: Sequence[str | Path], **overrides: Any) -> None:
        files = [str(ROOT / "configs" / config) for config in configs]
        given = {"bundle_root": str(ROOT), "device": "$torch.device('cpu')"} | overrides
        run(
            run_id=run_id,
            config_file=files,
            meta_file=str(ROOT / "configs/metadata.json"),
            logging_file=False,
            **{key: str(value) if isinstance(value, Path) else value for key, value in given.items()},
        )

    return run_in_process


@pytest.fixture(scope="session")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labelled, two unlabelled, one validation and one test phantom of a few dozen pixels."""
    return write_phantoms(
        tmp_path_factory.mktemp("phantoms"),
        labelled=2,
        unlabelled=2,
        validation=1,
        test=1,
        shape_hw=SHAPE_HW,
        pixel_mm=PIXEL_MM,
    )


@pytest.fixture
def edited(datalist: Path, tmp_path: Path) -> Callable[..., Path]:
    """`edited(section=entries, ...)`: a copy of the datalist, with absolute paths, with other sections."""

    def edit(**changes: Any) -> Path:
        content = json.loads(datalist.read_text(encoding="utf-8"))
        for section in ("training", "unlabelled", "validation", "test"):
            for entry in content[section]:
                for key in ("image", "label", "hidden_label"):
                    if key in entry:
                        entry[key] = str(datalist.parent / entry[key])
        for key, change in changes.items():
            content[key] = change(content[key]) if callable(change) else change
        path = tmp_path / "edited.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return edit


@pytest.fixture(scope="session")
def stage1(run_bundle: RunBundle, datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A finished smoke run of stage 1: its `folder`, `models` and `cache`."""
    root = tmp_path_factory.mktemp("stage1")
    made = SimpleNamespace(folder=root / "run", models=root / "models", cache=root / "cache", datalist=datalist)
    run_bundle(
        "pretraining",
        ["pretrain.yaml", "offline_encoders.yaml", "smoke.yaml"],
        datalist=datalist,
        output_dir=made.folder,
        prompt_model_dir=made.models / "prompt",
        cache_dir=made.cache,
    )
    return made


@pytest.fixture(scope="session")
def train(run_bundle: RunBundle, stage1: SimpleNamespace) -> Callable[..., SimpleNamespace]:
    """`train(root, overlays, key=value)`: a smoke run of stage 2 below `root` on the shared stage 1."""

    def train_in_process(
        root: Path, overlays: Sequence[str | Path] = (), run_id: str = "training", **overrides: Any
    ) -> SimpleNamespace:
        made = SimpleNamespace(folder=root / "run", models=root / "models")
        given = {
            "datalist": stage1.datalist,
            "output_dir": made.folder,
            "ckpt_dir": made.models,
            "prompt_model_dir": stage1.models / "prompt",
            "cache_dir": stage1.cache,
        }
        run_bundle(run_id, ["train.yaml", *overlays, "smoke.yaml"], **(given | overrides))
        return made

    return train_in_process


@pytest.fixture(scope="session")
def trained(
    train: Callable[..., SimpleNamespace], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """A finished smoke run of the default method; read it, write elsewhere."""
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def infer(run_bundle: RunBundle, trained: SimpleNamespace) -> Callable[[Path, Path], list[Path]]:
    """`infer(scans, out)`: label scans with the smoke-trained network; the label maps that were written."""

    def infer_in_process(scans: Path, out: Path) -> list[Path]:
        run_bundle("inference", ["inference.yaml"], input_dir=scans, output_dir=out, ckpt_dir=trained.models)
        return sorted(out.glob("*.nii.gz"))

    return infer_in_process
