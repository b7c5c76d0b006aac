"""A real scan beside nnU-Net's predictor: what both get, and the process that answers line by line."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.__main__ import main
from scripts.tools.speed import peer
from scripts.tools.speed.peer import NnunetPredictor, dice, peer_rows, turn, version_of

ANSWERS = """
import json, sys
given = json.loads(sys.argv[1])
for number, _ in enumerate(sys.stdin):
    if number == given["ends_after"]:
        sys.exit("out of memory")
    print("nnU-Net greets")
    print("labelled", flush=True)
"""


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment whose Python is this one; it holds no nnU-Net."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path / "venv"


@pytest.mark.parametrize("axes", [("L", "P", "S"), ("R", "A", "S"), ("P", "I", "L"), ("I", "P", "R"), ("S", "A", "L")])
def test_turned_scan_has_slices_last_and_the_same_voxels(axes: tuple[str, ...], tmp_path: Path) -> None:
    """Reading order of nnU-Net is the reverse: slices, rows down, columns to the back."""
    values = np.random.default_rng(0).permutation(24).reshape(2, 3, 4).astype(np.int16)
    straight = nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0]))
    order = nibabel.orientations.axcodes2ornt(axes)
    image = straight.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(straight.affine), order))
    nibabel.save(image, tmp_path / "scan.nii.gz")
    turned = nibabel.load(turn(tmp_path / "scan.nii.gz", tmp_path / "turned.nii.gz"))
    assert nibabel.aff2axcodes(turned.affine) == ("P", "I", "R")
    # (x, y, z) towards right, front, head -> columns to the back, rows down, slices to the right
    np.testing.assert_array_equal(np.asarray(turned.dataobj), values[:, ::-1, ::-1].transpose(1, 2, 0))


def test_dice_counts_a_pixel_under_its_own_name() -> None:
    one, other = np.array([0, 1, 1, 2, 2, 0]), np.array([0, 1, 2, 2, 0, 3])
    assert dice(one, other) == pytest.approx(2 * 2 / (4 + 4))
    assert dice(one, one) == 1
    assert dice(one, np.zeros_like(one)) == 0


def test_asked_for_without_an_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is left out of all parts; named, it is an error before anything is measured or written."""
    assert main(["benchmark", "speed", "--parts", "peer", "--out", str(tmp_path / "speed.json")]) == 1
    assert "--nnunet" in capsys.readouterr().err
    assert not (tmp_path / "speed.json").exists()


def test_a_folder_without_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "version_of", lambda venv: "2.8.1")
    with pytest.raises(ValueError, match=r"holds no model\.json"):
        next(peer_rows(tmp_path, tmp_path / "scan.nii.gz", tmp_path, tmp_path / "work", 7, 1))
    assert not (tmp_path / "work").exists()


class TestPredictor:
    def given(self, tmp_path: Path, ends_after: int) -> dict[str, object]:
        return {"out": str(tmp_path / "label.npy"), "threads": 1, "ends_after": ends_after}

    @pytest.fixture(autouse=True)
    def script(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "answers.py").write_text(ANSWERS)
        monkeypatch.setattr(peer, "PREDICTOR", tmp_path / "answers.py")

    def test_answers_once_a_line_and_ends_with_the_context(self, venv: Path, tmp_path: Path) -> None:
        with NnunetPredictor(venv, self.given(tmp_path, 9)) as theirs:
            theirs.label()
            theirs.label()
            assert theirs.process.poll() is None
        (tmp_path / "label.npy").write_text("of another scan")
        with NnunetPredictor(venv, self.given(tmp_path, 9)):
            assert not (tmp_path / "label.npy").exists()
        assert theirs.process.poll() is not None

    def test_its_end_is_an_error_with_its_last_words(self, venv: Path, tmp_path: Path) -> None:
        with NnunetPredictor(venv, self.given(tmp_path, 1)) as theirs:
            theirs.label()
            with pytest.raises(RuntimeError, match=r"label.txt\nout of memory"):
                theirs.label()


def test_an_environment_without_nnunet_says_how_to_install_it(venv: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pip install nnunetv2"):
        version_of(venv)
    with pytest.raises(ValueError, match="holds no nnU-Net"):
        version_of(tmp_path / "nowhere")
