from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

from scripts.data.prepare.nnunet import APART, write_raw_dataset
from scripts.labels import IGNORE

NAMES = ["background", "S", "L5", "L4"]


def write(folder: Path, label: np.ndarray) -> Path:
    image = np.arange(label.size, dtype=np.float16).reshape(label.shape)
    return write_raw_dataset(folder, NAMES, [("a/b", image, label)], [("c", image[:1])], 3.0)


class TestWriteRawDataset:
    def test_value(self, tmp_path: Path) -> None:
        label = np.zeros((2, 3, 4), dtype=np.uint8)
        label[1, 2, 3], label[0, 0, 1] = 3, 2
        root = write(tmp_path, label)
        files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        expected = ["dataset.json", "imagesTr/a_b_0000.nii.gz", "imagesTs/c_0000.nii.gz", "labelsTr/a_b.nii.gz"]
        assert files == expected
        content = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
        assert content["labels"] == {"background": 0, "S": 1, "L5": 2, "L4": 3}
        assert (content["numTraining"], content["channel_names"]) == (1, {"0": "noNorm"})
        found = nibabel.load(root / "labelsTr/a_b.nii.gz")
        # (W, H, S) in the file; nnU-Net's reader turns it into (S, H, W)
        assert found.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(found.dataobj).transpose(2, 1, 0), label)
        np.testing.assert_allclose(found.header.get_zooms(), (3.0, 3.0, 3.0 * APART))
        image = np.asarray(nibabel.load(root / "imagesTr/a_b_0000.nii.gz").dataobj)
        np.testing.assert_array_equal(image.transpose(2, 1, 0), np.arange(24).reshape(2, 3, 4))

    def test_ignored_pixels(self, tmp_path: Path) -> None:
        label = np.zeros((1, 2, 2), dtype=np.uint8)
        label[0, 1, 1] = IGNORE
        root = write(tmp_path, label)
        labels = json.loads((root / "dataset.json").read_text(encoding="utf-8"))["labels"]
        assert labels["ignore"] == 4  # the largest label, as nnU-Net wants it
        assert np.asarray(nibabel.load(root / "labelsTr/a_b.nii.gz").dataobj)[1, 1, 0] == 4
