"""Labelling of one scan in memory, by the bundle's inference config or by MONAI's components as documented."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd
from torch import Tensor

from ...bundle.launch import BUNDLE_ROOT
from ...bundle.model_file import load_weights
from ...weights import WEIGHTS

OVERLAYS = {
    "TorchScript": "inference_torchscript.yaml",
    "ONNX Runtime": "inference_onnx.yaml",
    "OpenVINO INT8": "inference_openvino.yaml",
}


def configs(network: str, behind: list[str] | None = None) -> list[str]:
    """Config files of an inference."""
    return ["inference.yaml", *([OVERLAYS[network]] if network in OVERLAYS else []), *(behind or [])]


class Labelling:
    """Inference of one scan by the config, nothing saved: the network alone, or file to label map.

    Args:
        network: "PyTorch" or one of `OVERLAYS`.
        statistics: of batch normalisation.
        folder: `ckpt_dir`.
        scan: file of a volume.
        more: overrides of the config.
    """

    def __init__(self, network: str, statistics: str, folder: Path, scan: str, **more: Any) -> None:
        from monai.bundle import ConfigParser

        self.parser = ConfigParser()
        self.parser.read_config([str(BUNDLE_ROOT / "configs" / file) for file in configs(network)])
        self.parser.update({
            "bundle_root": str(BUNDLE_ROOT), "ckpt_dir": str(folder), "input_dir": scan, "statistics": statistics,
            "device": "$torch.device('cpu')", "save_labels": False, "handlers": [], **more,
        })  # fmt: skip
        get = self.parser.get_parsed_content
        self.evaluator, self.net = get("evaluator"), get("network").eval()
        if network == "PyTorch":
            load_weights(folder / WEIGHTS, [self.net])
        self.inferer = get("inferer")
        self.slices = get("dataset")[0]["image"][None].as_tensor()

    @torch.no_grad()
    def network(self) -> torch.Tensor:
        """Logits (1, N, H, W, S) of the scan, without level decoding."""
        orders, self.inferer.orders = self.inferer.orders, ()
        logits = self.inferer(self.slices, self.net)
        self.inferer.orders = orders
        return logits

    def label(self) -> None:
        """Run the evaluator: file to label map in the scan's grid."""
        self.evaluator.run()


class PlainLabelling:
    """Reference inference: a volume's file to a label map in its grid, by MONAI's components as documented.

    Args:
        labelling: gives the network, the preprocessing and the size of the window.
    """

    def __init__(self, labelling: Labelling) -> None:
        get = labelling.parser.get_parsed_content
        self.scan, self.preprocessing, self.device = get("dataset#data")[0], get("preprocessing"), get("device")
        self.net = copy.deepcopy(labelling.net).to(memory_format=torch.contiguous_format)
        inferer = get("inferer")
        window = {"roi_size": inferer.orig_roi_size, "overlap": inferer.overlap, "mode": inferer.mode}
        self.inferer = SliceInferer(**window, spatial_dim=2, sw_batch_size=1)
        self.softmax = Activationsd("pred", softmax=True)
        self.invert = Invertd("pred", self.preprocessing, orig_keys="image", nearest_interp=False)
        self.top = AsDiscreted("pred", argmax=True)

    def read(self) -> dict[str, Any]:
        """Read and preprocess the volume."""
        return self.preprocessing(self.scan)

    @torch.no_grad()
    def network(self, image: MetaTensor) -> Tensor:
        """Logits (N, H, W, S)."""
        return self.inferer(image[None].as_tensor().to(self.device), self.net)[0]

    def back(self, data: dict[str, Any], logits: Tensor) -> Tensor:
        """Label map (1, X, Y, Z) in the volume's own grid."""
        data = {**data, "pred": MetaTensor(logits.clone())}
        return Compose([self.softmax, self.invert, self.top])(data)["pred"].as_tensor()

    def label(self) -> Tensor:
        """Label map (1, X, Y, Z) of the file."""
        data = self.read()
        return self.back(data, self.network(data["image"]))
