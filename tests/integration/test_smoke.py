"""Every configuration from end to end on tiny phantoms: the files that users and other tools rely on are there."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from scripts.data.structure_sizes import measure_label
from scripts.labels import ClassTable, LabelMap
from scripts.networks.prompt_model import load_prompt_model
from scripts.ops.levels.geometry import ChainGeometry
from scripts.ops.levels.sizes import size_words
from scripts.tools.accuracy.systems import one_key_ablations
from tests.overlays import methods_on

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = [*methods_on("train"), ROOT / "configs/paper_schedule.yaml"]
ORIGINALS = {
    base: [path for path in sorted((ROOT / "configs/originals").glob("*.yaml")) if f"on: {base} +" in path.read_text()]
    for base in ("train", "pretrain")
}
REFRESHED = ROOT / "configs/ablations/refreshed.yaml"
ABLATIONS: dict[str, list[Any]] = {
    base: [
        *(
            pytest.param([path], {}, id=path.stem)
            for path in sorted((ROOT / "configs/ablations").glob("*.yaml"))
            if f"# overlay on: {base}" in path.read_text() and path != REFRESHED
        ),
        *(
            pytest.param([], {row["key"]: row["value"]}, id=name)
            for name, row in one_key_ablations().items()
            if row["base"].split(" + ")[0] == base
        ),
    ]
    for base in ("train", "pretrain")
}
"""Files, and keys with their values, of each ablation of a stage."""
TABLE = ClassTable.load()
SCORES = {
    *("mdice", "miou", "n_cases", "per_class", "groups", "level_agnostic_dice", "wrong_level", "missed", "spurious"),
    *("levels_right", "levels_right_interval", "mdice_levels_right", "mdice_levels_wrong"),
}
REPORT = [
    *("verdict", "reasons", "source", "structures", "spine", "not_measured", "notes"),
    *("removed_components", "removed_ml", "level_disagreement", "unlike_training"),
]
PER_CASE = ["case", "class_id", "class", "dice", "iou", "hd95_mm", "assd_mm"]
PNG = b"\x89PNG\r\n\x1a\n"


def json_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a file, which must be a flat table of tensors."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert {type(value) for value in state.values()} == {torch.Tensor}
    return state


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_run_folder(folder: Path, names: set[str], pictures: set[str]) -> None:
    """What every run of either stage leaves: effective config, log of numbers, curves, pictures, TensorBoard events."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert (config["max_epochs"], config["image_size"]) == (2, [32, 16])  # the overlay's values, not the base's
    assert config["output_dir"] == str(folder)
    rows = rows_of(folder / "metrics.csv")
    assert {row["name"] for row in rows} == names
    assert {(row["epoch"], row["step"]) for row in rows} == {("1", "2"), ("2", "4")}
    assert all(np.isfinite(float(row["value"])) for row in rows)
    assert {path.name for path in (folder / "pictures").glob("*.png")} == pictures
    of_validations = sorted((folder / "pictures/epochs").rglob("*.png"))
    assert {path.name for path in of_validations} <= pictures
    assert of_validations
    for picture in [folder / "curves.png", *(folder / "pictures").glob("*.png"), *of_validations]:
        assert picture.read_bytes().startswith(PNG)
    assert len(list((folder / "tensorboard").glob("events*"))) > 0


class TestPretraining:
    def test_run_folder(self, stage1: SimpleNamespace) -> None:
        names = {"loss", "loss/token", "loss/pixel", "learning_rate", "val_prompt_map_dice"}
        check_run_folder(stage1.folder, names, {"attention.png"})

    def test_checkpoint(self, stage1: SimpleNamespace) -> None:
        folder = stage1.models / "prompt"
        assert {path.name for path in folder.iterdir()} == {"model.pt", "model.json", "vocab.txt"}
        assert list(stage1.models.glob("*.pt")) == []
        assert "prompt_matrix" in state_dict(folder / "model.pt")
        info = json_of(folder / "model.json")
        assert info["class_names"] == list(TABLE.names)
        assert info["trained_classes"] == list(range(TABLE.num_classes))
        assert info["maps_reflect_wording"] is False

    def test_vision_transformer(self, run_bundle: Callable[..., None], stage1: SimpleNamespace, tmp_path: Path) -> None:
        run_bundle(
            "run",
            ["pretrain.yaml", "offline_encoders.yaml", "smoke.yaml", self.encoder(tmp_path / "vit.yaml")],
            datalist=stage1.datalist,
            output_dir=tmp_path / "run",
            prompt_model_dir=tmp_path / "models/prompt",
            cache_dir=stage1.cache,
            max_epochs=1,
        )
        info = json_of(tmp_path / "models/prompt/model.json")
        assert info["vision"]["kind"] == "vit"
        assert info["vision"]["options"]["config"]["hidden_size"] == 16

    @pytest.mark.parametrize(("overlays", "keys"), ABLATIONS["pretrain"])
    def test_ablation(
        self,
        run_bundle: Callable[..., None],
        stage1: SimpleNamespace,
        overlays: list[Path],
        keys: dict[str, Any],
        tmp_path: Path,
    ) -> None:
        run_bundle(
            "pretraining",
            ["pretrain.yaml", "offline_encoders.yaml", *overlays, "smoke.yaml"],
            **keys,
            datalist=stage1.datalist,
            output_dir=tmp_path / "run",
            prompt_model_dir=tmp_path / "models/prompt",
            cache_dir=stage1.cache,
            max_epochs=1,
        )
        made, plain = (state_dict(f / "prompt/model.pt")["prompt_matrix"] for f in (tmp_path / "models", stage1.models))
        assert made.shape == plain.shape
        assert not torch.equal(made, plain)  # the ablation did something

    def test_refreshed(
        self, run_bundle: Callable[..., None], stage1: SimpleNamespace, trained: SimpleNamespace, tmp_path: Path
    ) -> None:
        given = {"datalist": stage1.datalist, "cache_dir": stage1.cache, "max_epochs": 1}
        configs = ["pretrain.yaml", "offline_encoders.yaml", REFRESHED, "smoke.yaml"]
        models = tmp_path / "models"
        run_bundle(
            "pretraining", configs, **given, trusted_run=trained.folder, output_dir=tmp_path / "run",
            prompt_model_dir=models,
        )  # fmt: skip
        made, plain = (
            state_dict(folder / "model.pt")["prompt_matrix"] for folder in (models, stage1.models / "prompt")
        )
        assert not torch.equal(made, plain)
        # never the bundle's own folder, in which somebody may have trained
        other = {**given, "output_dir": tmp_path / "other", "prompt_model_dir": tmp_path / "other_models"}
        with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
            run_bundle("pretraining", configs, **other, trusted_run=tmp_path)
        assert "holds no pseudo-labels; name the folder of a run" in str(caught.value.__cause__)

        shutil.copytree(trained.folder / "pseudo_labels", tmp_path / "foreign/pseudo_labels")
        with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
            run_bundle("pretraining", configs, **other, trusted_run=tmp_path / "foreign")
        assert "its pseudo-labels may be of other scans" in str(caught.value.__cause__)

    @pytest.mark.parametrize("overlay", ORIGINALS["pretrain"], ids=lambda path: path.stem)
    def test_original(
        self, run_bundle: Callable[..., None], stage1: SimpleNamespace, overlay: Path, tmp_path: Path
    ) -> None:
        given = {"datalist": stage1.datalist, "output_dir": tmp_path / "run", "cache_dir": stage1.cache}
        given["prompt_model_dir"] = tmp_path / "models/prompt"
        configs = ["pretrain.yaml", "offline_encoders.yaml", f"methods/{overlay.name}", overlay, "smoke.yaml"]
        run_bundle("pretraining", configs, **given, max_epochs=1)
        rows = rows_of(tmp_path / "run/metrics.csv")
        assert all(np.isfinite(float(row["value"])) for row in rows)

    @pytest.mark.parametrize("overlay", methods_on("pretrain"), ids=lambda path: path.stem)
    def test_method(
        self, run_bundle: Callable[..., None], stage1: SimpleNamespace, overlay: Path, tmp_path: Path
    ) -> None:
        given = {"datalist": stage1.datalist, "output_dir": tmp_path / "run", "cache_dir": stage1.cache}
        given["prompt_model_dir"] = tmp_path / "models/prompt"
        configs = ["pretrain.yaml", "offline_encoders.yaml", overlay, "smoke.yaml"]
        run_bundle("pretraining", configs, **given, max_epochs=1)
        rows = rows_of(tmp_path / "run/metrics.csv")
        assert {"loss", "val_prompt_map_dice"} <= {row["name"] for row in rows}
        assert "loss/pixel" not in {row["name"] for row in rows}
        assert all(np.isfinite(float(row["value"])) for row in rows)
        maps = load_prompt_model(tmp_path / "models/prompt", TABLE.names)(torch.zeros(1, 1, 32, 16))
        assert maps.isfinite().all()
        run_bundle("pretraining", configs, **given, resume=True, max_epochs=2)
        assert rows_of(tmp_path / "run/metrics.csv")[-1]["epoch"] == "2"

    @staticmethod
    def encoder(path: Path) -> Path:
        """The bundle's own ViT entry in place of the offline overlay's encoder, built from sizes."""
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        base = yaml.safe_load((ROOT / "configs/pretrain.yaml").read_text(encoding="utf-8"))["vision"]
        vision = {**base, "pretrained": None, "config": {**sizes, "image_size": 16}}
        path.write_text(yaml.safe_dump({"vision": vision}), encoding="utf-8")
        return path


class TestTraining:
    def test_run_folder(self, trained: SimpleNamespace) -> None:
        scores = {"val_mean_dice", "val_mean_dice_raw", "val_levels_right"}
        names = {"loss", "loss/supervised", "loss/enhanced", "learning_rate", *scores}
        check_run_folder(trained.folder, names, {"overlay.png", "attention.png", "targets.png"})

    def test_model(self, trained: SimpleNamespace, stage1: SimpleNamespace) -> None:
        assert {path.name for path in trained.models.iterdir()} == {"model.pt", "model.json"}
        network = torch.load(trained.folder / "checkpoint.pt", weights_only=True)["student"]
        assert state_dict(trained.models / "model.pt").keys() == network.keys()
        settings = json_of(trained.models / "model.json")
        seen, sizes = settings.pop("training_ranges"), settings.pop("structure_sizes")
        geometry = ChainGeometry.from_json(settings.pop("chain_geometry"))
        assert geometry.mean.shape == geometry.spread.shape == (10, 4)
        assert (geometry.spread > 0).all()
        assert (geometry.mean[1:, 3] < geometry.mean[:-1, 3]).all()  # each place lies above the one below it
        assert (seen["scans"], seen["planes"]) == (4, ["any"])  # pixels of 7 mm, slices every 4
        assert seen["ranges"]["height_mm"] == [280.0, 280.0]
        digest = hashlib.sha256((trained.models / "model.pt").read_bytes()).hexdigest()
        assert settings == {
            "sha256": digest,
            "classes": list(TABLE.names),
            "network": "student",
            "image_size": [32, 16],
            "pixel_mm": 8.0,
            "channels": [4, 8, 8],
            "norm": "batch",
            "statistics": "volume",
            "labelled_classes": list(range(TABLE.num_classes)),
        }
        assert (sizes["cases"], set(sizes["structures"])) == (2, set(TABLE.names[1:]))
        # the true labels of a patient that was not trained on are of plausible size
        label = stage1.datalist.parent / "labels/phantom_0001.nii.gz"
        structures, field = measure_label(str(label), LabelMap.load(None, TABLE), TABLE)
        assert len(structures) > 10
        assert not [w for c, of in structures.items() if (w := size_words(TABLE.names[c], of, field, sizes))]

    @pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
    def test_method(self, train: Callable[..., SimpleNamespace], overlay: Path, tmp_path: Path) -> None:
        made = train(tmp_path, [overlay])
        names = {row["name"] for row in rows_of(made.folder / "metrics.csv")}
        assert {"loss", "loss/supervised", "val_mean_dice"} <= names
        # whatever is not the lower bound uses the unlabelled slices
        assert (len(names) > 6) == (overlay.stem != "supervised")
        assert [path.name for path in made.models.glob("*.pt")] == ["model.pt"]
        assert len(state_dict(made.models / "model.pt")) > 0

    @pytest.mark.parametrize(("overlays", "keys"), ABLATIONS["train"])
    def test_ablation(
        self,
        train: Callable[..., SimpleNamespace],
        trained: SimpleNamespace,
        overlays: list[Path],
        keys: dict[str, Any],
        tmp_path: Path,
    ) -> None:
        made = train(tmp_path, overlays, **keys)
        assert {"loss", "loss/supervised"} <= {row["name"] for row in rows_of(made.folder / "metrics.csv")}
        own, plain = (yaml.safe_load((run.folder / "config.yaml").read_text("utf-8")) for run in (made, trained))
        differing = {key for key in own if own[key] != plain.get(key)}
        assert differing - {"output_dir", "ckpt_dir"}  # the ablation changed the config that ran

    @pytest.mark.parametrize("overlay", ORIGINALS["train"], ids=lambda path: path.stem)
    def test_original(self, train: Callable[..., SimpleNamespace], overlay: Path, tmp_path: Path) -> None:
        made = train(tmp_path, [f"methods/{overlay.name}", overlay])
        rows = rows_of(made.folder / "metrics.csv")
        assert len({row["name"] for row in rows}) > 3
        assert all(np.isfinite(float(row["value"])) for row in rows)

    def test_teacher_is_scored(self, train: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
        made = train(tmp_path, ["methods/mean_teacher.yaml"], scored_network="@teacher", val_interval=2)
        teacher = torch.load(made.folder / "checkpoint.pt", weights_only=True)["teacher"]
        kept = state_dict(made.models / "model.pt")
        assert all(torch.equal(kept[name], value) for name, value in teacher.items())
        assert json_of(made.models / "model.json")["network"] == "teacher"

    def test_group_norm(self, train: Callable[..., SimpleNamespace], infer_with: Callable[..., Path], tmp_path: Path):
        # inference follows what training wrote, without being told
        made = train(tmp_path, ["methods/supervised.yaml"], norm="group", channels=[4, 8])
        assert infer_with(made, tmp_path / "out").is_file()

    def test_no_unlabelled_scans(
        self,
        train: Callable[..., SimpleNamespace],
        edited: Callable[..., Path],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        made = train(tmp_path, datalist=edited(unlabelled=[]), prompt_model_dir=tmp_path / "none")
        assert "no unlabelled volumes: training on the labelled ones alone" in caplog.text
        assert {row["name"] for row in rows_of(made.folder / "metrics.csv")} == {
            "loss",
            "loss/supervised",
            "learning_rate",
            "val_mean_dice",
            "val_mean_dice_raw",
            "val_levels_right",
        }

    def test_no_validation_scans(
        self, train: Callable[..., SimpleNamespace], edited: Callable[..., Path], tmp_path: Path
    ) -> None:
        made = train(tmp_path, datalist=edited(validation=[]))
        student = torch.load(made.folder / "checkpoint.pt", weights_only=True)["student"]
        kept = state_dict(made.models / "model.pt")
        assert all(torch.equal(kept[name], value) for name, value in student.items())
        assert "val_mean_dice" not in {row["name"] for row in rows_of(made.folder / "metrics.csv")}


class TestWithoutStage1:
    def test_run_trains_it_first(self, train: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
        stage1 = {
            "configs": ["pretrain.yaml", "offline_encoders.yaml", "smoke.yaml"],
            "output_dir": str(tmp_path / "stage1"),
        }
        overlay = tmp_path / "stage1.yaml"
        overlay.write_text(yaml.safe_dump({"+pretraining_settings": stage1}), encoding="utf-8")
        made = train(tmp_path, [overlay], run_id=None, prompt_model_dir=tmp_path / "models/prompt")
        assert (tmp_path / "models/prompt/model.pt").is_file()
        assert (tmp_path / "stage1/metrics.csv").is_file()
        assert "loss/enhanced" in {row["name"] for row in rows_of(made.folder / "metrics.csv")}
        assert [path.name for path in made.models.glob("*.pt")] == ["model.pt"]

    def test_supervised(
        self, train: Callable[..., SimpleNamespace], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = train(tmp_path, prompt_model_dir=tmp_path / "none", when_no_prompt_model="supervised")
        assert "training without class prompts" in caplog.text
        assert "loss/enhanced" not in {row["name"] for row in rows_of(made.folder / "metrics.csv")}
        assert (made.models / "model.pt").is_file()


class TestInference:
    def test_folder(self, infer: Callable[..., list[Path]], datalist: Path, tmp_path: Path) -> None:
        written = infer(datalist.parent / "images", tmp_path)
        assert [path.name for path in written] == [f"phantom_{n:04d}_seg.nii.gz" for n in range(1, 7)]
        assert {path.name for path in tmp_path.iterdir()} - {path.name for path in written} == {
            "labels.json",
            "colours.ctbl",
            "itksnap_labels.txt",
            "index.html",
            "pictures",
            "manifest.json",
            ".manifest.lock",
            "structures.csv",
            "scans.csv",
            ".tables.lock",
            *(f"phantom_{n:04d}_levels.json" for n in range(1, 7)),
        }
        assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
            f"phantom_{n:04d}.jpg" for n in range(1, 7)
        }
        assert "6 labelled scans" in (tmp_path / "index.html").read_text(encoding="utf-8")
        report = json_of(tmp_path / "phantom_0001_levels.json")
        assert list(report) == REPORT
        assert report["verdict"] in ("ok", "check levels", "do not use")
        assert json_of(tmp_path / "labels.json") == TABLE.channel_def()
        colours = (tmp_path / "colours.ctbl").read_text(encoding="utf-8").splitlines()
        assert [line.split()[:2] for line in colours] == [[str(c.id), c.name] for c in TABLE.classes]
        assert {len(line.split()) for line in colours} == {6}
        image = nib.load(written[0])
        pred = np.asarray(image.dataobj)
        assert pred.dtype == np.uint8
        assert pred.max() < TABLE.num_classes
        # the report is of this file: what it does not list has no voxel in it
        counted = {c: int(n) for c, n in zip(*np.unique(pred[pred > 0], return_counts=True), strict=True)}
        assert {row["class_id"]: row["voxels"] for row in report["structures"]} == counted
        voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
        known = [row for row in report["structures"] if row["volume_ml"] is not None]
        assert [row["volume_ml"] for row in known] == pytest.approx(
            [row["voxels"] * voxel_ml for row in known], abs=1e-3
        )

    def test_verdict_of_a_network_that_knows_nothing(
        self, infer: Callable[..., list[Path]], datalist: Path, tmp_path: Path
    ) -> None:
        """A smoke run of a few steps: no scan may come out as ok, whatever the sentence."""
        infer(datalist.parent / "images", tmp_path)
        reports = [json_of(path) for path in sorted(tmp_path.glob("*_levels.json"))]
        assert len(reports) == 6
        assert all(report["verdict"] != "ok" and report["reasons"] for report in reports)


@pytest.fixture(scope="module", params=["network", "prompt_maps"])
def results(
    request: pytest.FixtureRequest,
    run_bundle: Callable[..., None],
    trained: SimpleNamespace,
    stage1: SimpleNamespace,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    overlays = [] if request.param == "network" else ["evaluate_prompt_maps.yaml"]
    more: dict[str, Any] = {"prompt_model_dir": stage1.models / "prompt"} if overlays else {}
    run_bundle(
        "evaluating",
        ["inference.yaml", "evaluate.yaml", *overlays],
        datalist=stage1.datalist,
        section="unlabelled" if overlays else "test",
        output_dir=folder,
        ckpt_dir=trained.models,
        **more,
    )
    return folder


class TestEvaluating:
    def test_verdicts(self, results: Path) -> None:
        """Beside every label map whose names are decoded; a prompt-guided map's are its own."""
        decoded = "decoded" in json_of(results / "summary.json")
        reports = sorted(results.glob("*_levels.json"))
        assert len(reports) == (len(list(results.glob("*_seg.nii.gz"))) if decoded else 0)
        assert all(list(json_of(path)) == REPORT for path in reports)

    def test_summary(self, results: Path) -> None:
        summary = json_of(results / "summary.json")
        assert set(summary) - {"decoded", "named"} == SCORES
        for readout in ("decoded", "named"):  # a prompt-guided map has neither
            assert set(summary.get(readout, SCORES)) == SCORES
        assert summary["n_cases"] == len(list(results.glob("*_seg.nii.gz")))
        assert 0 <= summary["miou"] <= summary["mdice"] <= 1
        assert set(summary["per_class"]) <= set(TABLE.names[1:])

    def test_per_case(self, results: Path) -> None:
        rows = rows_of(results / "per_case.csv")
        assert list(rows[0]) == PER_CASE
        assert {row["class"] for row in rows} <= set(TABLE.names[1:])
        assert all(TABLE.id_of(row["class"]) == int(row["class_id"]) for row in rows)

    def test_mean_is_that_of_the_cases(self, results: Path) -> None:
        rows = [row for row in rows_of(results / "per_case.csv") if row["dice"] not in ("", "nan")]
        cases = {row["case"] for row in rows}
        means = [np.mean([float(row["dice"]) for row in rows if row["case"] == case]) for case in cases]
        assert np.mean(means) == pytest.approx(json_of(results / "summary.json")["mdice"], abs=1e-4)

    def test_pictures(self, results: Path) -> None:
        scans = {path.name.removesuffix("_seg.nii.gz") for path in results.glob("*_seg.nii.gz")}
        assert {path.name for path in (results / "pictures").iterdir()} == {f"{name}.png" for name in scans}
        assert not (results / "index.html").exists()


class TestUnlabelledClasses:
    def test_they_enter_no_score(
        self, run_bundle: Callable[..., None], trained: SimpleNamespace, edited: Callable[..., Path], tmp_path: Path
    ) -> None:
        path = edited(unlabelled_classes=["S"], test=lambda entries: [{**e, "case": "named"} for e in entries])
        run_bundle(
            "evaluating",
            ["inference.yaml", "evaluate.yaml"],
            datalist=path,
            output_dir=tmp_path / "scores",
            ckpt_dir=trained.models,
            pictures=False,
        )
        rows = rows_of(tmp_path / "scores/per_case.csv")
        assert {row["case"] for row in rows} == {"named"}
        assert "L5" in {row["class"] for row in rows}
        assert "S" not in {row["class"] for row in rows if row["dice"] not in ("", "nan")}
        assert (tmp_path / "scores/named_seg.nii.gz").is_file()

    def test_they_are_not_learned(self, train: Callable[..., SimpleNamespace], edited: Callable[..., Path], tmp_path):
        made = train(tmp_path, ["methods/supervised.yaml"], datalist=edited(unlabelled_classes=["S"]))
        assert all(np.isfinite(float(row["value"])) for row in rows_of(made.folder / "metrics.csv"))


class TestProcess:
    """As users start it: one process from the bundle's root, one from another folder."""

    @pytest.mark.parametrize("elsewhere", [False, True], ids=["root", "elsewhere"])
    def test_training(self, elsewhere: bool, stage1: SimpleNamespace, tmp_path: Path) -> None:
        configs = ["configs/train.yaml", "configs/methods/supervised.yaml", "configs/smoke.yaml"]
        files = [str(ROOT / config) for config in configs] if elsewhere else configs
        line = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(files)]
        line += ["--datalist", str(stage1.datalist), "--cache_dir", str(stage1.cache)]
        line += ["--ckpt_dir", str(tmp_path / "models"), "--output_dir", str(tmp_path / "run")]
        line += ["--max_epochs", "1", *(["--bundle_root", str(ROOT)] if elsewhere else [])]
        done = subprocess.run(line, cwd=tmp_path if elsewhere else ROOT, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
        assert (tmp_path / "models/model.pt").is_file()
        assert (tmp_path / "run/metrics.csv").is_file()


@pytest.fixture
def infer_with(run_bundle: Callable[..., None], datalist: Path) -> Callable[..., Path]:
    """`infer_with(trained, out)`: the label map of one scan, made with a run's own model."""

    def infer_one(made: SimpleNamespace, out: Path) -> Path:
        scan = datalist.parent / "images/phantom_0001.nii.gz"
        run_bundle("run", ["inference.yaml"], input_dir=scan, output_dir=out, ckpt_dir=made.models)
        return out / "phantom_0001_seg.nii.gz"

    return infer_one
