"""Time and score the exports of a trained network against PyTorch, on whole volumes, by the inference config.

Both kinds of batch-norm statistics are exported and scored: those of the volume and the running averages of training.
One thread is timed in CPU time, several in wall time. A second call reuses exports and scores of the same weights.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...bundle.launch import BUNDLE_ROOT, bundle_runs
from ...bundle.model_file import load_weights, trained_settings
from ...commands.quantise import QUANTISED, quantise_folder
from ...data.datalist import select, select_for_scoring
from ...files import write_whole
from ...report.tables import format_table
from ...weights import SETTINGS, WEIGHTS
from ..accuracy.grid import EVALUATION, read, write_json
from .pairs import in_turns, median_interval

OVERLAYS = {
    "TorchScript": "inference_torchscript.yaml",
    "ONNX Runtime": "inference_onnx.yaml",
    "OpenVINO INT8": "inference_openvino.yaml",
}
HEAD = (
    *("network", "statistics", "logits off by", "network, ms a scan", "ratio", "95 % interval"),
    *("labelling, ms a scan", "ratio", "mDice %", "difference", "mDice %, decoded", "difference"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="the folder `models` of a run of stage 2")
    add("--datalist", type=Path, required=True, help="its test section is scored, its first test scan timed")
    add("--out", type=Path, required=True, help="folder of the exports, the scores and the table: exports.md and .json")
    add("--pairs", type=int, default=20, help="pairs of timed runs of the network; of whole labellings a quarter")
    add("--threads", type=int, default=1)
    add("--exports", nargs="+", choices=OVERLAYS, default=list(OVERLAYS), help="which to compare with PyTorch")


def run(args: argparse.Namespace) -> int:
    """Export, score, time, print and write the table."""
    torch.set_num_threads(args.threads)
    out, datalist = args.out.absolute(), args.datalist.absolute()
    settings = trained_settings(args.model)
    if not settings or not (args.model / WEIGHTS).is_file():
        raise ValueError(f"{args.model} must hold {WEIGHTS} and {SETTINGS} of a training of stage 2")
    training = [entry["image"] for entry in select(str(datalist), "training")]
    kinds = dict.fromkeys((settings["statistics"], "running")) if settings["norm"] == "batch" else ["running"]
    variants: list[Variant] = [
        (network, statistics, place(args.model.absolute(), out, network, statistics, settings, training))
        for statistics in kinds
        for network in ("PyTorch", *args.exports)
    ]
    common = {"section": "test", "distances": False, "pictures": False, "datalist": datalist}
    runs = [
        ("evaluating", configs(network, EVALUATION[1:]), {**common, "ckpt_dir": folder, "statistics": statistics,
         "device": "$torch.device('cpu')", "output_dir": folder / f"scores {network}"})
        for network, statistics, folder in variants
    ]  # fmt: skip
    runs = [run for run in runs if not (run[2]["output_dir"] / "summary.json").is_file()]
    if runs:
        bundle_runs(runs, out / "log.txt")
    scan = select_for_scoring(str(datalist), "test")[0]["image"]
    rows: list[dict[str, Any]] = []
    for row in measure(variants, scan, args.pairs, time.process_time if args.threads == 1 else time.perf_counter):
        summary = read(row.pop("folder") / f"scores {row['network']}" / "summary.json")
        row |= {"mdice": summary["mdice"], "mdice_decoded": summary["decoded"]["mdice"]}
        for key in ("mdice", "mdice_decoded"):
            row[f"{key}_difference"] = row[key] - (rows or [row])[0][key]
        rows.append(row)
    write_json(out / "exports.json", {"rows": rows, "threads": args.threads, "torch": torch.__version__})
    write_whole(out / "exports.md", table(rows, markdown=True) + "\n")
    print(table(rows))
    return 0


Variant = tuple[str, str, Path]
"""Network ("PyTorch" or one of `OVERLAYS`), statistics, folder of its files."""


def configs(network: str, behind: list[str] | None = None) -> list[str]:
    """Config files of an inference."""
    return ["inference.yaml", *([OVERLAYS[network]] if network in OVERLAYS else []), *(behind or [])]


def place(
    model: Path, out: Path, network: str, statistics: str, settings: Mapping[str, Any], training: Sequence[str]
) -> Path:
    """Make the folder `ckpt_dir` of a variant, with weights or their export; integers are calibrated on training scans."""
    folder = out / statistics
    kept = folder / WEIGHTS
    if kept.is_file() and kept.read_bytes() != (model / WEIGHTS).read_bytes():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model / SETTINGS, folder / SETTINGS)
    shutil.copyfile(model / WEIGHTS, folder / WEIGHTS)
    if network == "ONNX Runtime" and not (folder / "model.onnx").is_file():
        export(folder, settings["image_size"], statistics)
    if network == "TorchScript" and not (folder / "model.ts").is_file():
        export_script(folder, statistics)
    if network == "OpenVINO INT8" and not (folder / QUANTISED).is_file():
        quantise_folder(folder, training, statistics=statistics)
    return folder


def export(folder: Path, image_size: list[int], statistics: str) -> None:
    """Write `model.onnx` beside `model.pt` with MONAI's `onnx_export`.

    Raises:
        ValueError: the packages for it are not installed.
    """
    from monai.bundle import onnx_export
    from monai.utils import OptionalImportError

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # PyTorch's exporter prints its steps
            onnx_export(
                net_id="network_def",
                filepath=str(folder / "model.onnx"),
                ckpt_file=str(folder / WEIGHTS),
                config_file=[str(BUNDLE_ROOT / "configs" / file) for file in configs("ONNX Runtime")],
                input_shape=[2, 1, *image_size],
                converter_kwargs={
                    "input_names": ["image"],
                    "output_names": ["pred"],
                    "dynamic_axes": {"image": {0: "slices"}, "pred": {0: "slices"}},
                },
                bundle_root=str(BUNDLE_ROOT),
                ckpt_dir=str(folder),
                statistics=statistics,
            )
    except (ModuleNotFoundError, OptionalImportError) as error:
        raise ValueError(f"{error.args[0]}; pip install -r requirements-onnx.txt") from error


def export_script(folder: Path, statistics: str) -> None:
    """Write `model.ts` beside `model.pt` with MONAI's `ckpt_export`."""
    from monai.bundle import ckpt_export

    ckpt_export(
        net_id="network_def",
        filepath=str(folder / "model.ts"),
        ckpt_file=str(folder / WEIGHTS),
        meta_file=str(BUNDLE_ROOT / "configs" / "metadata.json"),
        config_file=str(BUNDLE_ROOT / "configs" / "inference.yaml"),
        bundle_root=str(BUNDLE_ROOT),
        ckpt_dir=str(folder),
        statistics=statistics,
    )


def measure(variants: list[Variant], scan: str, pairs: int, clock: Callable[[], float]) -> Iterator[dict[str, Any]]:
    """Milliseconds of each variant, the ratio to the first, and the largest difference of its logits from PyTorch's.

    Args:
        variants: the first is the reference; of each statistics PyTorch comes first.
        scan: file of a volume.
        pairs: timed runs of the network on all slices; inference of the whole volume runs a quarter as often.
        clock: in seconds.
    """
    reference = Labelling(*variants[0], scan)
    logits: dict[str, torch.Tensor] = {}  # of PyTorch, by statistics
    for number, variant in enumerate(variants):
        ours = Labelling(*variant, scan) if number else reference
        difference = (ours.network() - logits.setdefault(variant[1], ours.network())).abs().max()
        network = in_turns(ours.network, reference.network, pairs, 1, clock=clock)
        labelling = in_turns(ours.label, reference.label, max(1, pairs // 4), 1, clock=clock)
        ratios = [a / b for a, b in network]
        low, high = median_interval(ratios)
        yield {
            "network": variant[0], "statistics": variant[1], "folder": variant[2],
            "network_ms": 1000 * _median([a for a, _ in network]), "ratio": _median(ratios), "low": low, "high": high,
            "labelling_ms": 1000 * _median([a for a, _ in labelling]),
            "labelling_ratio": _median([a / b for a, b in labelling]), "pairs": pairs,
            "logits_difference": float(difference), "slices": ours.slices.shape[-1],
        }  # fmt: skip


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


def table(rows: list[dict[str, Any]], *, markdown: bool = False) -> str:
    """The rows as a table."""
    cells = [
        [
            row["network"], row["statistics"], f"{row['logits_difference']:.0e}",
            f"{row['network_ms']:.0f}", f"{row['ratio']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}", f"{row['labelling_ms']:.0f}", f"{row['labelling_ratio']:.2f}",
            f"{100 * row['mdice']:.2f}", f"{100 * row['mdice_difference']:+.2f}",
            f"{100 * row['mdice_decoded']:.2f}", f"{100 * row['mdice_decoded_difference']:+.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    return format_table(HEAD, cells, markdown=markdown)


def _median(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median())
