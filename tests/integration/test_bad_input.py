"""What a user can get wrong ends before training starts, in sentences that name the file or key and the mend."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from scripts.data.datalist import DataError
from scripts.phantom.volume import make_phantom

ROOT = Path(__file__).resolve().parents[2]


def complaint(run: Callable[..., Any], *args: Any, **overrides: Any) -> str:
    """The message of the DataError that a run ends with, which is all that a user sees of it."""
    with pytest.raises((RuntimeError, DataError)) as caught:
        run(*args, **overrides)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, DataError):
        error = error.__cause__
    assert error is not None, caught.getrepr(style="short")
    return str(error)


def change(entry: dict[str, Any], folder: Path, key: str, values: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """The entry with a changed copy of its image or label."""
    image = nib.load(entry[key])
    path = folder / f"changed_{Path(entry[key]).name}"
    nib.save(nib.Nifti1Image(values(np.asarray(image.dataobj)), image.affine), path)
    return {**entry, key: str(path)}


def with_nan(array: np.ndarray) -> np.ndarray:
    return np.where(array == array.max(), np.nan, array).astype(np.float32)


def with_unknown_value(array: np.ndarray) -> np.ndarray:
    return np.where(array > 0, 77, 0).astype(np.uint8)


@pytest.fixture
def refused(train: Callable[..., SimpleNamespace], tmp_path: Path) -> Callable[..., str]:
    """`refused(key=value)`: what a training says that has to stop before its first step."""

    def run(overlays: Sequence[str | Path] = (), **overrides: Any) -> str:
        message = complaint(train, tmp_path, overlays, **overrides)
        assert not (tmp_path / "run/checkpoint.pt").exists()
        assert not (tmp_path / "run/metrics.csv").exists()
        assert not (tmp_path / "models").exists()
        return message

    return run


class TestDatalist:
    def test_no_datalist(self, refused) -> None:
        assert refused(datalist="").startswith(
            "no datalist was given; add --datalist D.json (python -m scripts prepare FOLDER --out D.json makes one)"
        )

    def test_missing_datalist(self, refused, tmp_path) -> None:
        path = tmp_path / "no.json"
        assert refused(datalist=path).startswith(f"{path}: there is no such datalist; write one with `python -m scri")

    def test_not_json(self, refused, tmp_path) -> None:
        path = tmp_path / "bad.json"
        path.write_text("{", encoding="utf-8")
        assert f"{path}: this is not JSON" in refused(datalist=path)

    @pytest.mark.parametrize("training", [[], None], ids=["empty", "missing"])
    def test_no_training_scans(self, refused, edited, training) -> None:
        path = edited(training=training) if training is not None else edited()
        if training is None:
            content = json.loads(path.read_text(encoding="utf-8"))
            del content["training"]
            path.write_text(json.dumps(content), encoding="utf-8")
        message = refused(datalist=path)
        assert f'{path}: the section "training" is empty; add scans with labels, or run prepare' in message

    def test_unknown_class(self, refused, edited) -> None:
        message = refused(datalist=edited(unlabelled_classes=["sacrum"]))
        assert 'has an unknown class in "unlabelled_classes"' in message

    def test_patient_in_two_splits(self, refused, edited) -> None:
        path = edited(validation=lambda v: [{**entry, "patient": "phantom_0003"} for entry in v])
        assert f"{path}: the patient phantom_0003 is in training or unlabelled and in validation" in refused(
            datalist=path
        )


class TestFiles:
    def test_missing_file(self, refused, edited) -> None:
        path = edited(unlabelled=lambda u: [{**u[0], "image": "/nowhere/scan.nii.gz"}, *u[1:]])
        message = refused(datalist=path)
        assert message == (
            "/nowhere/scan.nii.gz: there is no such file; correct the path in the datalist, or put the file there"
        )

    @pytest.mark.parametrize(
        ("key", "values", "words"),
        [
            ("label", lambda a: a[:, 1:], "has the shape (32, 39, "),
            ("label", with_unknown_value, "holds the label value 77, which the label map 'identity' does not know"),
            ("image", with_nan, "voxels that are NaN or infinite; replace them or export it again"),
            ("image", np.zeros_like, "holds 0 in every voxel and shows nothing; take it out of the datalist"),
        ],
        ids=["shapes differ", "label id outside the map", "nan", "constant"],
    )
    def test_bad_volume(self, refused, edited, tmp_path, key, values, words) -> None:
        path = edited(training=lambda t: [change(t[0], tmp_path, key, values), *t[1:]])
        message = refused(datalist=path)
        assert words in message
        assert message.startswith(str(tmp_path / "changed_"))
        assert len(message.splitlines()) == 1

    def test_all_problems_at_once(self, refused, edited, tmp_path) -> None:
        path = edited(
            training=lambda t: [
                change(t[0], tmp_path, "image", with_nan),
                change(t[1], tmp_path, "label", lambda a: a[1:]),
            ],
            unlabelled=lambda u: [{**entry, "image": f"/nowhere/{n}.nii.gz"} for n, entry in enumerate(u)],
            validation=lambda v: [change(v[0], tmp_path, "label", with_unknown_value)],
        )
        head, *problems = refused(datalist=path).splitlines()
        assert head == "5 problems with the data:"
        assert len(problems) == 5
        assert [
            word for word in ("NaN", "shape", "/0.nii.gz", "/1.nii.gz", "77") if word not in "".join(problems)
        ] == []

    def test_pretraining_checks_too(self, run_bundle, stage1, edited, tmp_path) -> None:
        path = edited(training=lambda t: [change(t[0], tmp_path, "image", with_nan), *t[1:]])
        message = complaint(
            run_bundle,
            "pretraining",
            ["pretrain.yaml", "offline_encoders.yaml", "smoke.yaml"],
            datalist=path,
            output_dir=tmp_path / "run",
            prompt_model_dir=tmp_path / "models",
            cache_dir=stage1.cache,
        )
        assert "NaN or infinite" in message
        assert not (tmp_path / "models").exists()


class TestStage1:
    def test_no_checkpoint(self, refused, tmp_path) -> None:
        assert refused(prompt_model_dir=tmp_path / "none") == (
            f"there is no stage-1 checkpoint {tmp_path / 'none/model.pt'}; make one with "
            "python -m monai.bundle run pretraining --config_file configs/pretrain.yaml --datalist D.json"
        )

    def test_unknown_choice(self, refused) -> None:
        message = refused(when_no_prompt_model="ignore")
        assert message == "when_no_prompt_model must be error, pretrain or supervised, got 'ignore'"

    def test_damaged_checkpoint(self, refused, stage1, tmp_path) -> None:
        folder = tmp_path / "prompt"
        folder.mkdir()
        (folder / "model.pt").write_bytes(b"PK")
        (folder / "model.json").write_bytes((stage1.models / "prompt/model.json").read_bytes())
        message = refused(prompt_model_dir=folder)
        assert "does not fit its model.json (its SHA-256 is another), or is damaged: " in message

    def test_other_classes(self, refused, trained, other_table) -> None:
        # the maps of the same scans lie in the cache already: `trained` has made them
        message = refused(class_table=other_table)
        assert "names other classes (background, S, L5" in message
        assert "train stage 1 with this class table" in message

    def test_other_classes_when_maps_are_scored(self, run_bundle, stage1, other_table, tmp_path) -> None:
        message = complaint(
            run_bundle,
            "evaluating",
            ["inference.yaml", "evaluate.yaml", "evaluate_prompt_maps.yaml"],
            datalist=stage1.datalist,
            prompt_model_dir=stage1.models / "prompt",
            output_dir=tmp_path / "out",
            class_table=other_table,
        )
        assert f"{stage1.models / 'prompt/model.json'} was trained for the classes background, S, L5" in message


class TestInference:
    @pytest.fixture
    def refused_inference(self, run_bundle, trained, datalist, tmp_path) -> Callable[..., str]:
        def run(run_id: str = "inference", configs: Sequence[str] = ("inference.yaml",), **overrides: Any) -> str:
            given = {"input_dir": datalist.parent / "images", "output_dir": tmp_path / "out"}
            given |= {"ckpt_dir": trained.models, **overrides}
            message = complaint(run_bundle, run_id, configs, **given)
            assert list((tmp_path / "out").glob("*.nii.gz")) == []
            return message

        return run

    def test_no_network(self, refused_inference, tmp_path) -> None:
        message = refused_inference(ckpt_dir=tmp_path / "none")
        assert message.startswith(f"there is no trained network {tmp_path / 'none/model.pt'}; train one with configs/")

    def test_no_scans(self, refused_inference, tmp_path) -> None:
        assert refused_inference(input_dir="").startswith("no scans were given; add --input_dir FOLDER")
        folder = tmp_path / "nothing"
        assert refused_inference(input_dir=folder).startswith(f"{folder}: there is no such folder or file; give the")
        folder.mkdir()
        assert refused_inference(input_dir=folder).startswith(f"{folder}: there is no scan here")

    def test_bad_scans(self, refused_inference, datalist, tmp_path) -> None:
        entry = {"image": str(datalist.parent / "images/phantom_0001.nii.gz")}
        (tmp_path / "scans").mkdir()
        change(entry, tmp_path / "scans", "image", with_nan)
        (tmp_path / "scans/empty.nii").touch()
        head, *problems = refused_inference(input_dir=tmp_path / "scans").splitlines()
        assert head == "2 problems with the data:"
        assert "NaN or infinite" in problems[0]
        assert problems[1] == f"{tmp_path / 'scans/empty.nii'}: the file is empty; copy it again"

    @pytest.mark.parametrize(("scans", "bad"), [(12, 2), pytest.param(100, 7, marks=pytest.mark.slow)])
    def test_batch_with_bad_scans(self, run_bundle, trained, tmp_path, caplog, scans, bad) -> None:
        folder = tmp_path / "scans"
        folder.mkdir()
        for number in range(scans):
            image, _, affine = make_phantom(5, number, shape_hw=(40, 32), pixel_mm=7.0)
            if number % (scans // bad) == 1 and number // (scans // bad) < bad:
                image = image.astype(np.float32)
                image[0, 0, 0] = np.nan
            nib.save(nib.Nifti1Image(image, affine), folder / f"{number:03d}.nii.gz")
        given = {"input_dir": folder, "output_dir": tmp_path / "out", "ckpt_dir": trained.models}
        head, *problems = complaint(run_bundle, "inference", ["inference.yaml"], **given).splitlines()
        assert head == f"{bad} scans not labelled, all others are:"
        assert len(problems) == bad
        assert all("holds 1 voxels that are NaN" in problem for problem in problems)
        assert all(problem in caplog.text for problem in problems)  # at the beginning, too
        made = {path.name.removesuffix("_seg.nii.gz") for path in (tmp_path / "out").glob("*.nii.gz")}
        assert len(made) == scans - bad
        assert made.isdisjoint(Path(problem.split(": ")[0]).name.removesuffix(".nii.gz") for problem in problems)

    def test_damaged_network(self, refused_inference, trained, tmp_path) -> None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models/model.json").write_bytes((trained.models / "model.json").read_bytes())
        (tmp_path / "models/model.pt").write_bytes((trained.models / "model.pt").read_bytes()[:-500])
        message = refused_inference(ckpt_dir=tmp_path / "models")
        assert message == (
            f"{tmp_path / 'models/model.pt'} does not fit its model.json (its SHA-256 is another), or is damaged: copy "
            "both again, or train again"
        )

    def test_scan_unlike_training(self, run_bundle, trained, tmp_path, caplog) -> None:
        (tmp_path / "scans").mkdir()
        image, _, affine = make_phantom(5, 1, shape_hw=(20, 32), pixel_mm=7.0)  # half the height
        nib.save(nib.Nifti1Image(image, affine), tmp_path / "scans/short.nii.gz")
        given = {"input_dir": tmp_path / "scans", "output_dir": tmp_path / "out", "ckpt_dir": trained.models}
        run_bundle("inference", ["inference.yaml"], **given)
        report = json.loads((tmp_path / "out/short_levels.json").read_text(encoding="utf-8"))
        (sentence,) = report["unlike_training"]
        assert "140 mm from head to foot (280 to 280)" in sentence
        assert f"short: {sentence}" in caplog.text
        assert report["verdict"] != "ok"
        assert f"The scan {sentence}." in report["reasons"]

    def test_other_classes(self, refused_inference, other_table) -> None:
        message = refused_inference(class_table=other_table)
        assert "model.json was trained for the classes background, S, L5" in message
        assert "use the class table it was trained with, or train again" in message

    def test_evaluating_checks_labels(self, refused_inference, edited, tmp_path) -> None:
        path = edited(test=lambda t: [change(t[0], tmp_path, "label", lambda a: a[1:])])
        message = refused_inference("evaluating", ["inference.yaml", "evaluate.yaml"], datalist=path, input_dir="")
        assert "has the shape (31, 40" in message


class TestOverrides:
    @pytest.mark.parametrize(
        ("name", "right"), [("larning_rate", "learning_rate"), ("train#trainer#max_epoch", "train#trainer#max_epochs")]
    )
    def test_misspelt(self, refused, name, right) -> None:
        assert refused(**{name: 3}) == f"--{name} is not a key of this configuration; did you mean --{right}?"

    def test_nothing_near(self, refused) -> None:
        assert refused(qqqqqqqq=3).endswith("; see docs/configs.md for the keys")

    def test_inference(self, run_bundle, trained, datalist, tmp_path) -> None:
        message = complaint(
            run_bundle, "inference", ["inference.yaml"], ckpt_dir=trained.models, input_dri=datalist.parent / "images"
        )
        assert "did you mean --input_dir?" in message

    def test_what_a_user_sees(self, train, tmp_path, capsys) -> None:
        with pytest.raises(RuntimeError) as caught:  # noqa: PT011 - MONAI's wrapping; what counts is what is printed
            train(tmp_path, datalist=tmp_path / "no.json")
        capsys.readouterr()
        sys.excepthook(caught.type, caught.value, caught.tb)  # as Python does with an error that nobody catches
        shown = capsys.readouterr().err
        assert shown.startswith(f"Error: {tmp_path / 'no.json'}: there is no such datalist; write one with")
        assert len(shown.splitlines()) == 1


@pytest.fixture
def other_table(tmp_path: Path) -> Path:
    """The bundle's class table with two names exchanged."""
    table = json.loads((ROOT / "configs/classes.json").read_text(encoding="utf-8"))
    classes = table["classes"]
    classes[1]["name"], classes[2]["name"] = classes[2]["name"], classes[1]["name"]
    path = tmp_path / "other_classes.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    return path
