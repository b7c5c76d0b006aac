"""Settings that a run cannot start with, through the parser that a run has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.bundle.settings import ROOT, check_folders, check_settings
from scripts.data.datalist import DataError


def refused(**config: Any) -> str:
    parser = ConfigParser(config)
    with pytest.raises(DataError) as caught:  # noqa: PT011 - the sentence is compared
        check_settings(parser)
    return str(caught.value)


class TestCheckSettings:
    @pytest.mark.parametrize("file", ["train.yaml", "pretrain.yaml", "inference.yaml"])
    def test_what_the_bundle_ships_passes(self, file: str, tmp_path: Path) -> None:
        config = ConfigParser.load_config_file(str(ROOT / "configs" / file))
        check_settings(ConfigParser({**config, "bundle_root": str(ROOT), "output_dir": str(tmp_path / "new")}))
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("device", ["cuda:0", "cuda", "$torch.device('cuda:0')"])
    def test_no_cuda(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        message = refused(imports=["$import torch"], device=device)
        assert message.startswith("--device cuda")
        assert message.endswith("is not there: PyTorch finds no CUDA device here; leave it out, or give --device cpu")

    def test_no_such_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert "--device cuda:2 is not there: this machine has 2 of them, from cuda:0 on" in refused(device="cuda:2")
        check_settings(ConfigParser({"device": "cuda:1"}))

    def test_no_device(self) -> None:
        assert refused(device="gpu") == "--device must be cpu, cuda or cuda:N, got 'gpu'"

    @pytest.mark.parametrize("key", ["max_epochs", "iters_per_epoch", "batch_size", "unlabelled_batch_size"])
    @pytest.mark.parametrize("value", ["many", 0, -1, 1.5, True, [3]])
    def test_counts(self, key: str, value: Any) -> None:
        assert refused(**{key: value}) == f"--{key} must be a whole number from 1 on, got {value!r}"

    @pytest.mark.parametrize("value", [96, "96 48", [96], [96, 48, 1], [96, 0], ["96", "48"]])
    def test_image_size(self, value: Any) -> None:
        assert refused(image_size=value) == (
            "--image_size must be height and width in pixels, two whole numbers in brackets and quotes, as in "
            f'--image_size "[256,128]", got {value!r}'
        )

    @pytest.mark.parametrize("value", ["fast", 0, -0.1, float("nan"), float("inf"), False])
    def test_learning_rate(self, value: Any) -> None:
        assert refused(learning_rate=value) == f"--learning_rate must be a number above 0, got {value!r}"

    def test_from_another_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        message = refused(bundle_root=".", class_table="$@bundle_root + '/configs/classes.json'")
        assert message.startswith(f"there is no class_table {tmp_path / 'configs/classes.json'}; from another folder ")
        assert f"add --bundle_root {ROOT}" in message


class TestCheckFolders:
    def test_names_the_key(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file in the place of a folder cannot be written into, also by root, whom permissions do not stop."""
        (tmp_path / "bundle").write_text("", encoding="utf-8")
        folder = tmp_path / "bundle" / "runs"
        assert refused(output_dir=str(folder)).endswith("name another folder with --output_dir")
        parser = ConfigParser({"cache_dir": str(folder), "ckpt_dir": str(tmp_path / "new")})
        check_folders(parser, ["ckpt_dir", "prompt_model_dir"])  # the configuration has no stage 1
        with pytest.raises(DataError, match=f"^{folder} cannot be written: .* name another folder with --cache_dir$"):
            check_folders(parser, ["ckpt_dir", "cache_dir"])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]

    def test_read_only_file_system(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*args: Any, **options: Any) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("tempfile.TemporaryFile", full)
        message = refused(output_dir=str(tmp_path / "runs/cps4"))
        assert message == (
            f"{tmp_path}/runs/cps4 cannot be written: the file system is read-only; name another folder "
            "with --output_dir"
        )
