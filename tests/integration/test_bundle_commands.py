"""MONAI's own commands on the bundle with trained weights: metadata, properties, input and output, TorchScript."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

from scripts.networks.exported.torchscript_network import TorchScriptNetwork
from scripts.networks.resunet import ResUNet2d
from scripts.ops.batch_norm import batch_norm_statistics

ROOT = Path(__file__).resolve().parents[2]
META = str(ROOT / "configs/metadata.json")
SCHEMA = ROOT / "tests/schema/meta_schema_20240725.json"
HASH = {"hash_val": hashlib.sha256(SCHEMA.read_bytes()).hexdigest(), "hash_type": "sha256"}


class TestVerifyMetadata:
    def test_offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("urllib.request.urlretrieve", lambda *args, **kwargs: pytest.fail("a download"))
        verify_metadata(meta_file=META, filepath=str(SCHEMA), **HASH)

    def test_a_wrong_file_is_refused(self, tmp_path: Path) -> None:
        metadata = json.loads(Path(META).read_text(encoding="utf-8"))
        del metadata["monai_version"]
        path = tmp_path / "metadata.json"
        path.write_text(json.dumps(metadata), encoding="utf-8")
        with pytest.raises(ValueError, match="monai_version"):
            verify_metadata(meta_file=str(path), filepath=str(SCHEMA), **HASH)


class TestProperties:
    @pytest.mark.parametrize(("config", "kind"), [("train", "train"), ("inference", "infer")])
    def test_none_is_missing(self, config: str, kind: str, trained: SimpleNamespace, tmp_path: Path) -> None:
        workflow = ConfigWorkflow(
            config_file=str(ROOT / f"configs/{config}.yaml"),
            meta_file=META,
            logging_file=False,
            workflow_type=kind,
            bundle_root=str(ROOT),
            ckpt_dir=str(trained.models),
            output_dir=str(tmp_path),
            device="$torch.device('cpu')",
        )
        workflow.initialize()
        assert workflow.check_properties() == []


class TestVerifyNetInOut:
    def test_with_trained_settings(self, trained: SimpleNamespace, tmp_path: Path) -> None:
        # the network of the smoke run is another one than the config's defaults
        verify_net_in_out(
            net_id="network_def",
            meta_file=META,
            config_file=str(ROOT / "configs/inference.yaml"),
            device="cpu",
            bundle_root=str(ROOT),
            ckpt_dir=str(trained.models),
        )


class TestExport:
    def test_torchscript_is_the_trained_network(self, trained: SimpleNamespace, tmp_path: Path) -> None:
        file = tmp_path / "model.ts"
        ckpt_export(
            net_id="network_def",
            filepath=str(file),
            ckpt_file=str(trained.models / "model.pt"),
            meta_file=META,
            config_file=str(ROOT / "configs/inference.yaml"),
            key_in_ckpt="",
            bundle_root=str(ROOT),
            ckpt_dir=str(trained.models),
        )
        network = ResUNet2d(in_channels=1, out_channels=20, channels=(4, 8, 8), norm="batch").eval()
        network.load_state_dict(torch.load(trained.models / "model.pt", weights_only=True))
        statistics = json.loads((trained.models / "model.json").read_text(encoding="utf-8"))["statistics"]
        assert statistics == "volume"
        image = torch.randn(2, 1, 40, 24)
        exported = TorchScriptNetwork(file, (40, 24), statistics)
        with torch.no_grad(), batch_norm_statistics(network, statistics):
            torch.testing.assert_close(exported(image), network(image))


class TestTrainedWeights:
    def test_resumable_checkpoint_can_be_used_too(
        self, run_bundle: Callable[..., None], trained: SimpleNamespace, datalist: Path, tmp_path: Path
    ) -> None:
        # a killed run has only its checkpoint; MONAI's loader takes one of its networks by name
        scan = datalist.parent / "images/phantom_0002.nii.gz"
        (tmp_path / "models").mkdir()
        (tmp_path / "models/model.json").write_bytes((trained.models / "model.json").read_bytes())
        run_bundle(
            "inference",
            ["inference.yaml"],
            input_dir=scan,
            output_dir=tmp_path / "out",
            ckpt_dir=tmp_path / "models",
            ckpt_path=trained.folder / "checkpoint.pt",
            ckpt_key="teacher",
        )
        assert (tmp_path / "out/phantom_0002_seg.nii.gz").is_file()
