"""Volumes to slices and back: the lists of transforms are the configs' own."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd, LoadImage, SaveImaged

from scripts.data.output_folder import OutputFolder
from scripts.data.transforms import (
    CropEmptyd,
    EnsureVolumed,
    InPlaneSpacingd,
    MapLabelValuesd,
    MatchGridd,
    SaveLabelMapd,
    VolumeLabelMapsd,
    result_name,
    scan_name,
)
from scripts.labels import IGNORE
from tests.tiny import write_volume

RAS = np.diag([4.0, 2.4, 2.4, 1.0])
"""Axes towards right, anterior, superior; pixels of twice the config's size, slices 4 mm apart."""
SHAPE = (5, 16, 12)
AXES = ["".join(axes) for order in permutations(("RL", "AP", "SI")) for axes in product(*order)]


def marks(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Label map with some single voxels of every class."""
    rng = np.random.default_rng(0)
    return np.where(rng.random(shape) < 0.2, rng.integers(1, 20, shape), 0).astype(np.uint8)


def reoriented(array: np.ndarray, affine: np.ndarray, axes: str) -> nibabel.Nifti1Image:
    """The same volume with its voxels stored along other axes."""
    image = nibabel.Nifti1Image(array, affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(axes))
    )
    return image.as_reoriented(turn)


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    return matrix


@pytest.fixture(scope="module")
def pipeline(bundle_root: Path) -> Compose:
    """`deterministic_transforms` of train.yaml on a grid of 40 x 48 pixels."""
    parser = ConfigParser(ConfigParser.load_config_files([str(bundle_root / "configs" / "train.yaml")]))
    parser.update({"image_size": [40, 48], "pixel_mm": 1.2})
    return Compose(parser.get_parsed_content("deterministic_transforms"))


def there_and_back(pipeline: Compose, scan: nibabel.Nifti1Image, folder: Path) -> tuple[torch.Tensor, np.ndarray]:
    """The label as slices, and what becomes of it on the way back to the scan's own grid."""
    nibabel.save(scan, folder / "scan.nii.gz")
    data = pipeline({"image": str(folder / "scan.nii.gz"), "label": str(folder / "scan.nii.gz")})
    data["pred"] = torch.as_tensor(data["label"]).clone()
    back = Invertd("pred", pipeline, orig_keys="image", nearest_interp=True, to_tensor=True)(data)["pred"]
    np.testing.assert_allclose(back.affine.numpy(), scan.affine, atol=1e-4)
    return data["label"], back[0].numpy()


class TestRoundTrip:
    """Every marked voxel comes back to where it was, and slices lie as the convention says."""

    def test_there_are_48_axis_orders(self) -> None:
        assert len(set(AXES)) == 48

    @pytest.mark.parametrize("axes", AXES[::5])
    def test_axis_orders(self, pipeline: Compose, tmp_path: Path, axes: str) -> None:
        scan = reoriented(marks(), RAS, axes)
        slices, back = there_and_back(pipeline, scan, tmp_path)
        assert slices.shape == (1, 40, 48, 5)
        np.testing.assert_array_equal(back, scan.get_fdata())

    @pytest.mark.parametrize("axes", ["RAS", "PIR", "ASL"])
    @pytest.mark.parametrize("degrees", [(12, 0, 0), (0, -20, 0), (8, 10, -15)])
    def test_oblique(self, pipeline: Compose, tmp_path: Path, axes: str, degrees: tuple[float, float, float]) -> None:
        affine = RAS.copy()
        affine[:3, :3] = rotation(degrees) @ RAS[:3, :3]
        affine[:3, 3] = 30, -70, 11
        scan = reoriented(marks(), affine, axes)
        _, back = there_and_back(pipeline, scan, tmp_path)
        np.testing.assert_array_equal(back, scan.get_fdata())

    def test_single_slice(self, pipeline: Compose, tmp_path: Path) -> None:
        scan = nibabel.Nifti1Image(marks((1, 16, 12)), RAS)
        slices, back = there_and_back(pipeline, scan, tmp_path)
        assert slices.shape == (1, 40, 48, 1)
        np.testing.assert_array_equal(back, scan.get_fdata())

    def test_two_dimensions(self, pipeline: Compose, tmp_path: Path) -> None:
        affine = np.array([[0, 0, 4.0, -10], [-2.4, 0, 0, 20], [0, -2.4, 0, 30], [0, 0, 0, 1]])  # PIR
        scan = nibabel.Nifti1Image(marks((16, 12)), affine)
        slices, back = there_and_back(pipeline, scan, tmp_path)
        assert slices.shape == (1, 40, 48, 1)
        assert back.shape == (16, 12)
        np.testing.assert_array_equal(back, scan.get_fdata())

    @pytest.mark.parametrize("axes", ["RAS", "PIR", "LSA"])
    def test_slices_run_down_and_back(self, pipeline: Compose, tmp_path: Path, axes: str) -> None:
        label = np.random.default_rng(0).integers(0, 4, SHAPE, dtype=np.uint8)  # a grey-value range for the image
        label[1, 14, 10] = 7  # left of the middle, near the front, near the top
        label[3, 2, 3] = 9  # right, near the back, low
        slices, _ = there_and_back(pipeline, reoriented(label, RAS, axes), tmp_path)
        front_top, back_low = ((slices[0] == value).nonzero().float().mean(0) for value in (7, 9))
        assert front_top[0] < back_low[0]  # H: from superior to inferior
        assert front_top[1] < back_low[1]  # W: from anterior to posterior
        assert front_top[2] != back_low[2]

    def test_grid_is_isotropic_in_plane(self, pipeline: Compose, tmp_path: Path) -> None:
        slices, _ = there_and_back(pipeline, nibabel.Nifti1Image(marks(), RAS), tmp_path)
        np.testing.assert_allclose(slices.pixdim.numpy(), (1.2, 1.2, 4.0), rtol=1e-6)


class TestEnsureVolumed:
    def test_value(self) -> None:
        slice_ = MetaTensor(torch.arange(12.0).view(1, 3, 4))
        transform = EnsureVolumed("image")
        made = transform({"image": slice_, "case": "x"})
        assert made["image"].shape == (1, 3, 4, 1)
        assert made["case"] == "x"
        torch.testing.assert_close(transform.inverse(made)["image"].as_tensor(), slice_.as_tensor())

    def test_volume_passes(self) -> None:
        volume = MetaTensor(torch.randn(1, 3, 4, 2))
        transform = EnsureVolumed("image")
        made = transform({"image": volume})
        assert made["image"].shape == transform.inverse(made)["image"].shape == (1, 3, 4, 2)

    @pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 4, 4, 3, 2), (1, 4)])
    def test_exception(self, shape: tuple[int, ...]) -> None:
        colour = MetaTensor(torch.zeros(shape), meta={"filename_or_obj": "rgb.nii.gz"})
        with pytest.raises(ValueError, match=r"rgb.nii.gz: expected one channel and two or three axes, got an array"):
            EnsureVolumed("image")({"image": colour})


class TestInPlaneSpacingd:
    def test_keys_that_begin_alike_stay(self) -> None:
        # MONAI Label puts the path beside the image under a name that MONAI takes for the image's dictionary
        image = MetaTensor(torch.zeros(1, 8, 8, 3), affine=torch.diag(torch.tensor([2.0, 2, 5, 1])))
        image.meta["filename_or_obj"] = "scan.nii.gz"
        strong = torch.ones(2)
        data = {"image": image, "image_path": "scan.nii.gz", "image_strong": strong, "image_meta_dict": {"a": 1}}
        made = InPlaneSpacingd("image", 1.0)(data)
        assert made["image"].shape == (1, 15, 15, 3)
        assert made["image_path"] == "scan.nii.gz"
        assert made["image_strong"] is strong
        assert made["image_meta_dict"]["a"] == 1
        assert list(data) == ["image", "image_path", "image_strong", "image_meta_dict"]

    def test_slices_stay(self) -> None:
        ramp = torch.arange(3.0).expand(1, 6, 4, 3).contiguous()
        image = MetaTensor(ramp, affine=torch.diag(torch.tensor([0.5, 0.9, 7.3, 1])))
        made = InPlaneSpacingd("image", 0.7)({"image": image})["image"]
        torch.testing.assert_close(made.pixdim, torch.tensor([0.7, 0.7, 7.3], dtype=made.pixdim.dtype))
        torch.testing.assert_close(made[0, 0, 0].as_tensor().float(), torch.arange(3.0))

    @pytest.mark.parametrize("pixel_mm", [0.7, 1.3])
    def test_the_border_is_no_darker(self, pixel_mm: float) -> None:
        """Points beyond the outermost pixels' centres take their value, not air's."""
        image = MetaTensor(torch.full((1, 9, 7, 2), 5.0), affine=torch.diag(torch.tensor([0.9, 0.9, 4.0, 1])))
        made = InPlaneSpacingd("image", pixel_mm)({"image": image})["image"].as_tensor()
        torch.testing.assert_close(made, torch.full_like(made, 5.0))

    def test_missing_key(self) -> None:
        """A list of transforms that names a key wants it, unless it says that the key may be missing."""
        with pytest.raises(KeyError, match="image"):
            InPlaneSpacingd("image", 1.0)({"label": torch.zeros(1)})
        assert InPlaneSpacingd("image", 1.0, allow_missing_keys=True)({"case": "a"}) == {"case": "a"}


LABEL_MAP = {"map": {"0": 0, "101": "L5", "7": "ignore", "102": 3}}


class TestCountedFromTheBack:
    """A volume wider than the window: tissue in front leaves the values of the others what they are."""

    SPACING = InPlaneSpacingd("image", pixel_mm=3.1, window=8)

    @staticmethod
    def volume(columns: int, front: int = 0) -> MetaTensor:
        voxels = torch.rand(1, 12, columns + 9, 3, generator=torch.Generator().manual_seed(0))[:, :, 9 - front :]
        affine = torch.diag(torch.tensor([1.1, 0.9, 4.0, 1.0], dtype=torch.float64))
        affine[1, 3] = -0.9 * front
        return MetaTensor(voxels, affine=affine)

    @pytest.mark.parametrize("front", range(1, 8))
    def test_tissue_in_front(self, front: int) -> None:
        plain = self.SPACING({"image": self.volume(40)})["image"]
        wide = self.SPACING({"image": self.volume(40, front)})["image"]
        inner = plain.shape[2] - 1  # the first column may lie on the border
        torch.testing.assert_close(wide[:, :, -inner:].as_tensor(), plain[:, :, -inner:].as_tensor())
        last = torch.tensor([0.0, plain.shape[2] - 1, 0, 1], dtype=torch.float64)
        assert float((plain.affine @ last)[1]) == pytest.approx(0.9 * 39)

    def test_as_turned_round(self) -> None:
        volume = self.volume(40)
        turn = Flipd("image", 1)
        expected = turn(InPlaneSpacingd("image", 3.1)(turn({"image": volume})))["image"]
        found = self.SPACING({"image": volume})["image"]
        torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), atol=1e-5, rtol=0)
        torch.testing.assert_close(found.affine, expected.affine)
        torch.testing.assert_close(found.affine[:, 2], volume.affine[:, 2])  # slices lie where they lay

    def test_narrow_is_unchanged(self) -> None:
        volume = self.volume(20)
        narrow, plain = (
            self.SPACING({"image": volume})["image"],
            InPlaneSpacingd("image", 3.1)({"image": volume})["image"],
        )
        assert torch.equal(narrow.as_tensor(), plain.as_tensor())
        assert torch.equal(narrow.affine, plain.affine)

    def test_inverse(self) -> None:
        assert self.SPACING.inverse(self.SPACING({"image": self.volume(40)}))["image"].shape == (1, 12, 40, 3)
        made = self.SPACING({"image": self.volume(40)})["image"]
        back = self.SPACING.inverse_top_class(torch.cat([made, -made]))
        assert back.shape == (1, 12, 40, 3)
        torch.testing.assert_close(back.affine, self.volume(40).affine)

    def test_inverse_of_parallel_axes_makes_no_volume_of_scores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Scores of 20 classes in the scan's grid are a hundred times the scan: only a sheared scan needs them."""
        made = self.SPACING({"image": self.volume(40)})["image"]
        monkeypatch.setattr(self.SPACING.spacing_transform, "inverse", lambda _: pytest.fail("resampled every class"))
        self.SPACING.inverse_top_class(torch.cat([made, -made]))


class TestCropEmptyd:
    def test_zeros_on_every_side(self) -> None:
        inner = torch.rand(1, 6, 5, 4) - 2
        inner[:, 2] = 0  # zeros inside stay
        padded = MetaTensor(torch.nn.functional.pad(inner, (1, 2, 3, 0, 0, 4)), affine=torch.eye(4))
        crop = CropEmptyd("image")
        made = crop({"image": padded})
        assert torch.equal(made["image"].as_tensor(), inner)
        assert made["image"].affine[:3, 3].tolist() == [0, 3, 1]
        assert torch.equal(crop.inverse(made)["image"].as_tensor(), padded.as_tensor())

    @pytest.mark.parametrize("volume", [torch.zeros(1, 4, 4, 3), torch.ones(1, 4, 4, 3)])
    def test_unchanged(self, volume: torch.Tensor) -> None:
        assert torch.equal(CropEmptyd("image")({"image": MetaTensor(volume)})["image"].as_tensor(), volume)


class TestMatchGridd:
    """Labels come onto the grid of their image by their place in the world."""

    MATCH = MatchGridd("label", "image")

    @pytest.mark.parametrize("axes", ["RAS", "LAS", "PIR", "SRA"])
    def test_other_axes(self, axes: str) -> None:
        values = marks()
        stored = reoriented(values, RAS, axes)
        data = {
            "image": MetaTensor(np.zeros((1, *SHAPE), np.float32), affine=RAS),
            "label": MetaTensor(np.ascontiguousarray(stored.dataobj)[None], affine=stored.affine),
        }
        if axes == "LAS":  # scoring: the image was preprocessed, its file's grid is in the meta data
            meta = {"original_affine": RAS, "spatial_shape": np.array(SHAPE)}
            data["image"] = MetaTensor(torch.zeros(1, 3, 4, 2), affine=np.eye(4), meta=meta)
        label = self.MATCH(data)["label"]
        assert (label.dtype, label.applied_operations) == (torch.uint8, [])
        np.testing.assert_array_equal(label[0].numpy(), values)
        np.testing.assert_allclose(label.affine, RAS)

    def test_larger_and_finer(self) -> None:
        values = np.pad(marks(), 2).repeat(2, 0).repeat(2, 1).repeat(2, 2)
        affine = RAS @ np.diag([0.5, 0.5, 0.5, 1])
        affine[:3, 3] = RAS[:3, :3] @ np.full(3, -2.2)
        data = {
            "image": MetaTensor(np.zeros((1, *SHAPE), np.float32), affine=RAS),
            "label": MetaTensor(values[None], affine=affine),
        }
        np.testing.assert_array_equal(self.MATCH(data)["label"][0].numpy(), marks())

    def test_same_grid_is_left_alone(self) -> None:
        label = MetaTensor(marks()[None], affine=RAS)
        data = {"image": MetaTensor(np.zeros((1, *SHAPE), np.float32), affine=RAS + 1e-5), "label": label}
        assert self.MATCH(data)["label"] is label


class TestMapLabelValuesd:
    def test_rounds_to_the_nearest_whole_number(self) -> None:
        """As some programs write labels in floating point."""
        values = torch.tensor([2.9996, 3.0004, 0.0004, -0.0004]).reshape(1, 4, 1, 1)
        made = MapLabelValuesd("label")({"label": values})["label"]
        assert made.flatten().tolist() == [3, 3, 0, 0]
        assert type(made) is torch.Tensor

    def label(self, *values: float) -> MetaTensor:
        return MetaTensor(torch.tensor(values).view(1, 1, -1, 1), meta={"filename_or_obj": "mask_1.nii.gz"})

    def test_value(self) -> None:
        made = MapLabelValuesd("label", LABEL_MAP)({"label": self.label(0.0, 101.0, 7.0, 102.0)})["label"]
        assert made.flatten().tolist() == [0, 2, IGNORE, 3]
        assert made.dtype == torch.uint8
        assert made.meta["filename_or_obj"] == "mask_1.nii.gz"

    def test_identity(self) -> None:
        values = [float(v) for v in (*range(20), IGNORE)]
        assert MapLabelValuesd("label")({"label": self.label(*values)})["label"].flatten().tolist() == values

    def test_nearly_whole_numbers(self) -> None:
        made = MapLabelValuesd("label")({"label": self.label(2.9996, 3.0004, 0.0)})["label"]
        assert made.flatten().tolist() == [3, 3, 0]

    def test_entry_wins(self) -> None:
        data = {"label": self.label(0.0, 101.0), "label_map": LABEL_MAP}
        assert MapLabelValuesd("label")(data)["label"].flatten().tolist() == [0, 2]

    @pytest.mark.parametrize("values", [(300.0, 101.0, 5.0), (5.0, 300.0, 300.0)])
    def test_exception(self, values: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match=r"mask_1.nii.gz: label values \[5, 300\] are not in the label map 'inli"):
            MapLabelValuesd("label", LABEL_MAP)({"label": self.label(*values)})

    def test_negative(self) -> None:
        with pytest.raises(ValueError, match=r"label values \[-1\] are not in the label map 'identity'"):
            MapLabelValuesd("label")({"label": self.label(-1.0, 0.0)})

    def test_unknown_map(self) -> None:
        with pytest.raises(ValueError, match="label map 'spyder' is neither a file nor one of mrspineseg, spider"):
            MapLabelValuesd("label", "spyder")

    def test_missing_key(self) -> None:
        assert MapLabelValuesd("label", allow_missing_keys=True)({"case": "a"}) == {"case": "a"}

    def test_can_be_undone(self, tmp_path: Path) -> None:
        # the trace of earlier transforms is kept
        file = write_volume(tmp_path / "label.nii.gz", np.zeros((4, 4), dtype=np.uint8))
        label = MetaTensor(torch.zeros(1, 4, 4), meta={"filename_or_obj": file})
        before = EnsureVolumed("label")
        made = MapLabelValuesd("label")(before({"label": label}))
        assert before.inverse(made)["label"].shape == (1, 4, 4)


class TestNames:
    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("/a/scan.v2.nii.gz", "scan.v2"),
            ("Case1.MHA", "Case1"),
            ("/dicom/series.2", "series.2"),
            ("/dicom/one.dcm", "one"),
            ("x.nii", "x"),
        ],
    )
    def test_scan_name(self, path: str, name: str) -> None:
        assert scan_name(path) == name

    def test_result_name(self) -> None:
        volume = MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": "/in/scan.v2.nii.gz"})
        assert result_name({}, volume) == "scan.v2"
        assert result_name({"case": "visit1/t2"}, volume) == "visit1_t2"


class TestSaveLabelMapd:
    AFFINE = torch.tensor([[0, 0, 4.0, -10], [-0.9, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 0, 1]], dtype=torch.float64)

    @pytest.mark.parametrize("shape", [(5, 4, 2), (5, 4, 1), (5, 4)])
    def test_value(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        values = torch.arange(20 * (shape[2] if len(shape) == 3 else 1)).reshape(1, *shape)
        data = {"pred": MetaTensor(values.float(), affine=self.AFFINE), "case": "a.b"}
        assert SaveLabelMapd("pred", OutputFolder(tmp_path / "out"))(data).keys() == data.keys()
        assert [f.name for f in (tmp_path / "out").iterdir() if f.suffix == ".gz"] == ["a.b_seg.nii.gz"]
        image = nibabel.load(tmp_path / "out/a.b_seg.nii.gz")
        assert image.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(image.dataobj), values[0].numpy())
        np.testing.assert_allclose(image.affine, self.AFFINE, atol=1e-6)
        codes = [int(image.header[field]) for field in ("qform_code", "sform_code")]
        assert codes == [1, 1]  # "scanner": what a file of another format says of itself

    def test_is_left_out_by_monai_label(self) -> None:
        assert issubclass(SaveLabelMapd, SaveImaged)

    @pytest.mark.parametrize("codes", [(1, 2), (1, 1), (2, 0), (0, 2), (0, 0)])
    @pytest.mark.parametrize("units", ["mm", "meter", "unknown"])
    def test_geometry_of_the_scan(self, tmp_path: Path, codes: tuple[int, int], units: str) -> None:
        """A registered scan has two affines: the label map gets both, and other programs show it where the scan is."""
        itk = pytest.importorskip("itk", reason="the other program is itk")
        scan = nibabel.Nifti1Image(np.ones((6, 5, 4), dtype=np.int16), None)
        turned = np.eye(4)
        turned[:3, :3], turned[:3, 3] = rotation((10, 20, 30)) @ np.diag([4, 0.8, 0.8]), (1, 2, 3)
        scan.header.set_zooms((4, 0.8, 0.8))
        scan.set_qform(turned, codes[0])
        scan.set_sform(np.diag([4, 0.8, 0.8, 1]) + np.eye(4, k=3) * 70, codes[1])
        scan.header.set_xyzt_units(units)
        scan.header["descrip"] = b"Doe, Jane"
        nibabel.save(scan, tmp_path / "scan.nii.gz")
        volume = LoadImage(ensure_channel_first=True)(tmp_path / "scan.nii.gz")
        SaveLabelMapd("pred", OutputFolder(tmp_path / "out"))({"pred": volume})
        made, scan = (nibabel.load(tmp_path / name) for name in ("out/scan_seg.nii.gz", "scan.nii.gz"))
        for field in ("qform_code", "sform_code", "xyzt_units"):
            assert made.header[field] == scan.header[field]
        for form in ("get_qform", "get_sform", "get_best_affine"):
            np.testing.assert_array_equal(getattr(made.header, form)(), getattr(scan.header, form)())
        assert b"Doe" not in made.header.binaryblock
        one, other = (itk.imread(str(tmp_path / name)) for name in ("out/scan_seg.nii.gz", "scan.nii.gz"))
        for get in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_array_equal(np.asarray(getattr(one, get)()), np.asarray(getattr(other, get)()))


class TestVolumeLabelMapsd:
    @pytest.mark.parametrize("logits", [True, False])
    def test_value(self, logits: bool) -> None:
        truth = torch.randint(0, 3, (4, 8, 6))
        pred = torch.nn.functional.one_hot(truth, 3).movedim(-1, 1).float() if logits else truth
        data: dict[str, Any] = {
            "pred": pred,
            "label": truth[:, None],
            "is_unlabelled": torch.tensor([False, True, True]),
            "index": 3,
        }
        made = VolumeLabelMapsd()(data)
        torch.testing.assert_close(made["pred"], truth)
        torch.testing.assert_close(made["label"], truth)
        assert made["unlabelled_classes"] == (1, 2)
        assert made["volume"] == 3
        assert data["pred"] is pred


class TestClassTable:
    def test_label_map_of_another_table(self, tmp_path: Path) -> None:
        classes = [{"id": 0, "name": "background", "long_name": "background", "group": "background"}]
        classes += [{"id": 1, "name": "cord", "long_name": "spinal cord", "group": "cord"}]
        rows = [{**row, "chain": None, "colour": [0, 0, 0]} for row in classes]
        table = {"name": "cord", "prompt_template": "{class_name}", "groups": {"cord": "cord"}, "classes": rows}
        file = tmp_path / "classes.json"
        file.write_text(json.dumps(table), encoding="utf-8")
        label = torch.tensor([0, 9]).view(1, 2, 1, 1)
        made = MapLabelValuesd("label", {"map": {"0": 0, "9": "cord"}}, class_table=str(file))({"label": label})
        assert made["label"].flatten().tolist() == [0, 1]
        with pytest.raises(ValueError, match=r"label: label values \[9\] are not in the label map 'identity'"):
            MapLabelValuesd("label", class_table=str(file))({"label": label})
