from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.bundle.model_file import check_weights, load_weights, save_atomically, trained_settings, write_model
from scripts.files import FileError
from scripts.labels import ClassTable
from tests.tiny import network

NAMES = list(ClassTable.load().names)


def interrupted(state: Any, file: Any) -> None:
    """`torch.save`, killed half way."""
    file.write(b"half")
    raise KeyboardInterrupt


class TestSaveAtomically:
    def test_value(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "x.pt"
        save_atomically({"a": torch.ones(2)}, path)
        torch.testing.assert_close(torch.load(path, weights_only=True), {"a": torch.ones(2)})
        assert [f.name for f in path.parent.iterdir()] == ["x.pt"]
        assert path.stat().st_mode & 0o777 == 0o644  # a colleague can read it

    def test_failure_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "x.pt"
        save_atomically({"a": torch.ones(2)}, path)
        old = path.read_bytes()
        monkeypatch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_atomically({"a": torch.zeros(2)}, path)
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path]


class TestWriteModel:
    def test_flat_state_dict_of_tensors(self, tmp_path: Path) -> None:
        model = network()
        write_model(model, tmp_path / "models", {"classes": NAMES, "norm": "batch"})
        state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
        assert state.keys() == model.state_dict().keys()
        assert all(isinstance(value, torch.Tensor) and not value.requires_grad for value in state.values())
        other = network(seed=1)
        other.load_state_dict(state)
        image = torch.randn(1, 1, 16, 16)
        torch.testing.assert_close(other.eval()(image), model.eval()(image))
        assert sorted(f.name for f in (tmp_path / "models").iterdir()) == ["model.json", "model.pt"]

    def test_settings_come_back(self, tmp_path: Path) -> None:
        write_model(network(), tmp_path, {"classes": NAMES, "image_size": [8, 4]})
        settings = trained_settings(tmp_path, image_size=[16, 16], pixel_mm=1.2)
        assert settings == {"classes": NAMES, "image_size": [8, 4], "pixel_mm": 1.2}

    def test_what_is_known_late(self, tmp_path: Path) -> None:
        write_model(network(), tmp_path, {"training_ranges": lambda: {"scans": 2}})
        assert trained_settings(tmp_path) == {"training_ranges": {"scans": 2}}

    def test_no_pair_is_refused(self, tmp_path: Path) -> None:
        write_model(network(), tmp_path / "a", {"pixel_mm": 1.2})
        write_model(network(seed=1), tmp_path / "b", {"pixel_mm": 2.4})
        (tmp_path / "b/model.pt").replace(tmp_path / "a/model.pt")
        with pytest.raises(FileError, match=r"a/model.pt does not fit its model.json"):
            trained_settings(tmp_path / "a")
        with pytest.raises(FileError, match=r"a/model.pt does not fit its model.json"):
            load_weights(tmp_path / "a/model.pt", [network()])


class TestCheckWeights:
    def test_value(self, tmp_path: Path) -> None:
        write_model(network(), tmp_path, {})
        check_weights(tmp_path / "model.pt")

    def test_exception(self, tmp_path: Path) -> None:
        write_model(network(), tmp_path, {})
        file = tmp_path / "model.pt"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(
            ValueError, match=r"model.pt cannot be read, it is damaged or holds more than weights; copy"
        ):
            check_weights(file)
        torch.save({"a": Path("x")}, file)  # more than tensors
        with pytest.raises(
            ValueError, match=r"model.pt cannot be read, it is damaged or holds more than weights; copy"
        ):
            check_weights(file)


class TestTrainedSettings:
    def test_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "model.json").write_text("{", encoding="utf-8")
        with pytest.raises(ValueError, match=r"model.json is damaged .*; copy it again, or train again"):
            trained_settings(tmp_path)

    def test_nothing_trained_yet(self, tmp_path: Path) -> None:
        assert trained_settings(tmp_path / "nowhere", pixel_mm=1.2) == {"pixel_mm": 1.2}

    def test_other_classes(self, tmp_path: Path) -> None:
        (tmp_path / "model.json").write_text(json.dumps({"classes": ["background", "cord"]}), encoding="utf-8")
        with pytest.raises(ValueError, match="was trained for the classes background, cord, the class table has backg"):
            trained_settings(tmp_path)


class TestLoadWeights:
    def test_value(self, tmp_path: Path) -> None:
        source, student, teacher = network(seed=3), network(), network()
        write_model(source, tmp_path, {})
        load_weights(tmp_path / "model.pt", [student, teacher])
        for model in (student, teacher):
            torch.testing.assert_close(model.state_dict(), source.state_dict())
        student.head.bias.data.zero_()
        assert teacher.head.bias.abs().max() > 0  # nothing is shared

    @pytest.mark.parametrize("path", [None, ""])
    def test_no_path(self, path: str | None) -> None:
        model = network()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        load_weights(path, [model])
        torch.testing.assert_close(model.state_dict(), before)

    def test_exception(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"there are no weights .*x.pt; correct --warm_start or leave it out"):
            load_weights(tmp_path / "x.pt", [network()])
        write_model(network(classes=3), tmp_path, {})
        with pytest.raises(ValueError, match=r"model.pt are of another network \(channels, norm or classes differ\)"):
            load_weights(tmp_path / "model.pt", [network()])
