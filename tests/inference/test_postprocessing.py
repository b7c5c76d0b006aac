from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Flipd, Invertd
from scipy.spatial.transform import Rotation
from torch import Tensor

from scripts.bundle.launch import BUNDLE_ROOT
from scripts.inference.postprocessing import ChooseLevelsd, DetectDomainShiftd, InvertedTopClassd
from scripts.labels import ClassTable

TABLE = ClassTable.load()


def prediction(own: Tensor, ordered: Tensor) -> MetaTensor:
    """Two label maps (H, W, S) -> what an inferer with an order gives, (2N, H, W, S)."""
    both = [6.0 * F.one_hot(label, TABLE.num_classes).movedim(-1, 0).float() for label in (own, ordered)]
    return MetaTensor(torch.cat(both), meta={"filename_or_obj": "scans/anna.nii.gz"})


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    own, ordered = torch.zeros(2, 8, 4, 2, dtype=torch.int64)
    own[0:4], own[4:8] = TABLE.id_of("L3"), TABLE.id_of("L4/L5")
    ordered[0:4], ordered[4:8] = TABLE.id_of("L4"), TABLE.id_of("L4/L5")
    return own, ordered


class TestChooseLevels:
    def test_decoded(self, pair: tuple[Tensor, Tensor]) -> None:
        out = ChooseLevelsd("pred", "decoded", orders=["decoded"], kept=["raw"])({"pred": prediction(*pair)})
        assert torch.equal(out["raw"].argmax(0), pair[0])
        assert torch.equal(out["pred"].argmax(0), pair[1])

    def test_raw_is_left_as_it_is(self) -> None:
        logits = MetaTensor(torch.rand(TABLE.num_classes, 4, 4, 2))
        assert torch.equal(ChooseLevelsd("pred", "raw")({"pred": logits})["pred"], logits)

    def test_three_readouts(self, pair: tuple[Tensor, Tensor]) -> None:
        three = torch.cat([prediction(*pair), prediction(*pair)[: TABLE.num_classes] + 1])
        out = ChooseLevelsd("pred", "named", orders=["decoded", "named"], kept=["decoded"])({"pred": three})
        assert set(out) == {"pred", "decoded"}
        assert torch.equal(out["decoded"].argmax(0), pair[1])
        assert torch.equal(out["pred"], three[2 * TABLE.num_classes :])

    @pytest.mark.parametrize(("levels", "kept"), [("both", []), ("decoded", ["both"])])
    def test_exception(self, levels: str, kept: list[str]) -> None:
        with pytest.raises(ValueError, match="levels must be 'raw' or 'decoded', got 'both'"):
            ChooseLevelsd("pred", levels, orders=["decoded"], kept=kept)


class TestInvertedTopClass:
    def test_twin(self) -> None:
        scan = MetaTensor(torch.rand(1, 4, 3, 2), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
        flip = Flipd("image", spatial_axis=0)
        scores = MetaTensor(torch.rand(5, 4, 3, 2), affine=scan.affine)
        data = {**flip({"image": scan}), "pred": scores}
        label = InvertedTopClassd("pred", flip, orig_keys="image", nearest_interp=False)(data)["pred"]
        assert torch.equal(label.as_tensor(), scores.as_tensor().argmax(0, keepdim=True).flip(1).to(torch.uint8))
        assert torch.equal(label.affine, scan.affine)
        assert label.dtype == torch.uint8

    @pytest.mark.parametrize("kind", ["straight", "oblique", "sheared", "one_slice"])
    def test_twin_of_resampling(self, kind: str, tmp_path: Path) -> None:
        """As MONAI's inverse of all scores, but where two are equal to within its rounding."""
        affine = np.diag([4.0, 0.7, 0.7, 1.0])
        if kind != "straight":
            affine[:3, :3] = Rotation.from_euler("xyz", [4, 7, -5], degrees=True).as_matrix() @ affine[:3, :3]
        if kind == "sheared":
            affine[:3, 1] += 0.1 * affine[:3, 2]
        affine[:3, 3] = -10, 20, 5
        shape = (30, 40, 1) if kind == "one_slice" else (3, 30, 40)
        affine = affine[:, [1, 2, 0, 3]] if kind == "one_slice" else affine
        nib.save(
            nib.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), affine), tmp_path / "a.nii"
        )
        parser = ConfigParser(ConfigParser.load_config_files(str(BUNDLE_ROOT / "configs/inference.yaml")))
        parser.update({"image_size": [32, 14], "pixel_mm": 1.2})
        preprocessing = parser.get_parsed_content("preprocessing")
        image = preprocessing({"image": str(tmp_path / "a.nii")})["image"]
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(1, 5, *(max(1, n // 4) for n in image.shape[1:]), generator=generator)
        scores = F.interpolate(coarse, size=image.shape[1:], mode="trilinear")[0].softmax(0)
        data = {"image": image, "pred": MetaTensor(scores, affine=image.affine)}
        options = {"keys": "pred", "transform": preprocessing, "orig_keys": "image", "nearest_interp": False}
        theirs = Invertd(**options)(data)["pred"]
        ours = InvertedTopClassd(**options)({**data, "pred": MetaTensor(scores, affine=image.affine)})["pred"]
        assert tuple(ours.shape) == (1, *shape)
        torch.testing.assert_close(ours.affine, theirs.affine)
        assert not ours.applied_operations
        first, second = theirs.as_tensor().topk(2, 0).values
        plain = (first - second > 1e-4) | (first == 0)  # 0: cropped away
        assert plain.float().mean() > 0.95
        assert ours.as_tensor().unique().numel() == 5
        assert torch.equal(ours.as_tensor()[0][plain], theirs.as_tensor().max(0).indices[plain].to(torch.uint8))

    def test_monai_label_leaves_it_out(self) -> None:
        # its scoring by dropout filters this class, and takes the last step's scores for probabilities
        assert issubclass(InvertedTopClassd, Invertd)


class TestCompareWithTraining:
    RANGES: ClassVar = {"scans": 2, "planes": ["sagittal"], "ranges": {"height_mm": [250.0, 300.0]}}

    def scan(self, **meta: Any) -> MetaTensor:
        # rows 2 mm apart, slices 4
        affine = np.diag([4.0, 2.0, 2.0, 1.0])
        return MetaTensor(torch.randn(1, 8, 4, 2), meta={"original_affine": affine, "spatial_shape": (2, 4, 8), **meta})

    def test_other_field_of_view(self, pair: tuple[Tensor, Tensor], caplog: pytest.LogCaptureFixture) -> None:
        data = {"image": self.scan(filename_or_obj="scans/anna.nii.gz"), "pred": prediction(*pair)}
        out = DetectDomainShiftd("pred", "image", self.RANGES, TABLE)(data)
        (sentence,) = out["unlike_training"]
        assert "16 mm from head to foot (250 to 300)" in sentence
        assert f"anna: {sentence}" in caplog.text

    def test_alike(self, pair: tuple[Tensor, Tensor]) -> None:
        data = {"image": self.scan(spatial_shape=(2, 4, 140)), "pred": prediction(*pair)}
        assert DetectDomainShiftd("pred", "image", self.RANGES, TABLE)(data)["unlike_training"] == []

    @pytest.mark.parametrize("ranges", [None, {}])
    def test_nothing_to_compare_with(self, pair: tuple[Tensor, Tensor], ranges: Any) -> None:
        data = {"image": self.scan(), "pred": prediction(*pair)}
        assert DetectDomainShiftd("pred", "image", ranges, TABLE)(data)["unlike_training"] == []
