"""nnU-Net's predictor on one scan, for `benchmark speed`; run by the Python of nnU-Net's own environment.

Answers every line of its input with a line, once it has labelled the scan from its file to the label map in its grid.
The first label map is kept. Network, window and pixels are given, so that nothing but the predictor differs; its
preprocessing, windows at half a patch, Gaussian weights and resampling are those of nnU-Net's 2D configuration.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

RESAMPLING: dict[str, Any] = {"order_z": 0, "force_separate_z": None}


def plans(image_size: list[int], pixel_mm: float) -> dict[str, Any]:
    """Plans of a 2D configuration with nnU-Net's own choices but for patch and pixel."""
    configuration = {
        "data_identifier": "2d", "preprocessor_name": "DefaultPreprocessor", "batch_size": 1,
        "patch_size": image_size, "spacing": [pixel_mm, pixel_mm], "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False], "batch_dice": True, "architecture": {},  # the network is given
    }  # fmt: skip
    for kind, is_seg, order in (("data", False, 3), ("seg", True, 1), ("probabilities", False, 1)):
        configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{kind}_kwargs"] = {"is_seg": is_seg, "order": order, **RESAMPLING}
    return {
        "dataset_name": "peer", "plans_name": "peer", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"2d": configuration},
        "foreground_intensity_properties_per_channel": {"0": {}},  # for CT alone
    }  # fmt: skip


def main(given: dict[str, Any]) -> None:
    """Label a scan for every line of the input.

    Args:
        given: `network` (TorchScript file), `scan` (slices along its last axis), `classes`, `image_size`, `pixel_mm`,
            `threads`, `out` (.npy of the first label map, (slices, rows, columns)).
    """
    torch.set_num_threads(given["threads"])
    manager = PlansManager(plans(given["image_size"], given["pixel_mm"]))
    network = torch.jit.load(given["network"]).eval()
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    labels = {name: value for value, name in enumerate(given["classes"])}
    dataset = {"labels": labels, "channel_names": {"0": "MR"}, "file_ending": ".nii.gz"}
    predictor.manual_initialization(
        network, manager, manager.get_configuration("2d"), [network.state_dict()], dataset, "peer", None
    )
    for _ in sys.stdin:
        image, properties = SimpleITKIO().read_images([given["scan"]])
        label = predictor.predict_single_npy_array(image, properties)
        if not Path(given["out"]).exists():
            np.save(given["out"], label)
        print("labelled", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
