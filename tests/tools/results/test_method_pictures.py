from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import yaml

from scripts.labels import ClassTable
from scripts.networks.encoders import UNetTransformerEncoder
from scripts.networks.prompt_model import save_prompt_model
from scripts.networks.prompts import class_prompts
from scripts.networks.text_encoder import ClassVectors
from scripts.networks.vision_language import VisionLanguageModel
from scripts.tools.results.benchmark_folder import read_benchmark
from scripts.tools.results.method_pictures import (
    PictureError,
    attention_of_models,
    median_case,
    stage1_folders,
    strip_of_methods,
)
from tests.tools.results.synthetic import write_benchmark

TABLE = ClassTable.load()
LEVELS = {"mean_teacher": 0.5, "cps4": 0.6}
AFFINE = np.array([[0, 0, 3.0, 0], [1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory, bundle_root):
    """A benchmark of two methods with scans, label maps and two stage-1 checkpoints."""
    folder = write_benchmark(
        tmp_path_factory.mktemp("table"), LEVELS, (1,), (0,), decoded=False, n_test=3, n_unlabelled=1
    )
    generator = np.random.default_rng(0)
    label = np.zeros((32, 48, 4), dtype=np.uint8)
    label[10:22, 4:14, 1:3], label[10:22, 15:18, 1:3], label[10:22, 20:30, 1:3] = 3, 12, 2

    def save(array: np.ndarray, path) -> str:
        nib.save(nib.Nifti1Image(array, AFFINE), path)
        return str(path)

    sections: dict[str, list[dict[str, str]]] = {"test": [], "unlabelled": []}
    for section, number in (("test", 3), ("unlabelled", 1)):
        for i in range(number):
            image = generator.random(label.shape).astype(np.float32) + label
            files = [save(array, folder / f"{section}_{i}_{k}.nii.gz") for k, array in (("i", image), ("l", label))]
            key = "label" if section == "test" else "hidden_label"
            sections[section].append({"image": files[0], key: files[1], "case": f"{section}_{i}"})
            for method in LEVELS:
                save(
                    np.roll(label, i, axis=1),
                    folder / f"{method}_1_0" / f"network_{section}" / f"{section}_{i}_seg.nii.gz",
                )
    datalist = {"label_map": "mrspineseg", "unlabelled_classes": ["S"], "training": [], **sections}
    (folder / "datalist_1_0.json").write_text(json.dumps(datalist))
    trunk = UNetTransformerEncoder(channels=(4, 8), width=16, layers=1, heads=2, output_stride=1)
    model = VisionLanguageModel(trunk, ClassVectors(class_prompts(TABLE), 8), embed_dim=24)
    config = yaml.safe_load((bundle_root / "configs" / "pretrain.yaml").read_text()) | {"image_size": [32, 16]}
    for name in ("stage1_1_0", "stage1_clip_1_0"):
        save_prompt_model(model, folder / name / "prompt", TABLE.names, range(2, 20))
        (folder / name / "config.yaml").write_text(yaml.safe_dump(config | {"bundle_root": "/elsewhere"}))
    return read_benchmark(folder)


class TestStripOfMethods:
    def test_of_the_median_case(self, benchmark, tmp_path):
        path, caption = strip_of_methods(benchmark, 1, TABLE, tmp_path / "strip.png")
        assert path.read_bytes().startswith(b"\x89PNG")
        assert "the median of CPS4 (ours) among 3 cases" in caption
        assert "slice 2 of 4" in caption or "slice 3 of 4" in caption
        assert caption.endswith("the truth does not label it: S.")

    def test_of_what_was_asked_for(self, benchmark, tmp_path):
        _, caption = strip_of_methods(benchmark, 1, TABLE, tmp_path / "a.png", seed=0, case="test_1", slice_number=2)
        assert caption.startswith("Test case test_1 (given), slice 2 of 4, 1 labelled, seed 0;")

    @pytest.mark.parametrize(
        ("choice", "message"),
        [
            ({"seed": 5}, "no run of cps4"),
            ({"case": "nobody"}, "there is no test case nobody; there are test_0, test_1"),
            ({"case": "test_1", "slice_number": 9}, "has slices 1 to 4"),
        ],
    )
    def test_exception(self, benchmark, tmp_path, choice, message):
        with pytest.raises(PictureError, match=message):
            strip_of_methods(benchmark, 1, TABLE, tmp_path / "a.png", **choice)

    def test_of_a_benchmark_without_scans(self, tmp_path):
        bare = read_benchmark(write_benchmark(tmp_path, LEVELS, (1,), (0,)))
        with pytest.raises(PictureError, match=r"there is no .*datalist_1_0\.json"):
            strip_of_methods(bare, 1, TABLE, tmp_path / "a.png")
        with pytest.raises(PictureError, match="holds no stage-1 checkpoint"):
            attention_of_models(bare, 1, TABLE, tmp_path / "a.png")


class TestAttentionOfModels:
    def test_beside_another(self, benchmark, tmp_path):
        path, caption = attention_of_models(benchmark, 1, TABLE, tmp_path / "a.png", classes=["L5", "L4/L5"])
        assert path.read_bytes().startswith(b"\x89PNG")
        assert "unlabelled_0 (unlabelled patients), 1 labelled, seed 0" in caption

    def test_exception(self, benchmark, tmp_path):
        with pytest.raises(PictureError, match="there is no case nobody"):
            attention_of_models(benchmark, 1, TABLE, tmp_path / "a.png", case="nobody")


class TestStage1Folders:
    def test_names(self, tmp_path):
        for name in ("stage1_1_0", "stage1_clip_1_2", "stage1_token_only_1_0", "stage1_2_0", "stage1_1_3"):
            (tmp_path / name / "prompt").mkdir(parents=True)
            if name != "stage1_1_3":
                (tmp_path / name / "prompt" / "model.pt").touch()
        assert set(stage1_folders(tmp_path, 1)) == {("cps4", 0), ("clip", 2), ("token_only", 0)}


def test_median_case():
    assert median_case({"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.4}) == "d"
