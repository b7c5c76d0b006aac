"""Time and score the exports of a trained network on whole volumes, by the inference config.

Times are beside those of MONAI's components (see `PlainLabelling`), scores beside PyTorch's. Both kinds of batch-norm
statistics are exported and scored: those of the volume and the running averages of training. One thread is timed in
CPU time, several in wall time. A second call reuses exports and scores of the same weights.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...bundle.launch import BUNDLE_ROOT, bundle_runs
from ...bundle.model_file import trained_settings
from ...data.datalist import select, select_for_scoring
from ...files import write_whole
from ...report.tables import format_table
from ...weights import SETTINGS, WEIGHTS
from ..accuracy.grid import EVALUATION, read, write_json
from ..quantise import QUANTISED, quantise_folder
from .labelling import OVERLAYS, Labelling, PlainLabelling, configs
from .pairs import Pairs, conditions_here, conditions_in_words, in_turns, median_interval

REFERENCE = "MONAI's SliceInferer, batch 1"
READ_OUTS = ("raw", "decoded", "named")
HEAD = (
    *("network", "statistics", "network, ms a scan", "ratio", "95 % interval"),
    *("labelling, ms a scan", "ratio", "95 % interval", "logits off by"),
    *(f"mDice %, {name} (from PyTorch)" for name in READ_OUTS),
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
        if folder := row.pop("folder", None):
            summary = read(folder / f"scores {row['network']}" / "summary.json")
            row |= {name: (summary if name == "raw" else summary.get(name, {})).get("mdice") for name in READ_OUTS}
            torch_row = next((r for r in rows if r["statistics"] == row["statistics"]), row)
            row |= {f"{name}_difference": row[name] - torch_row[name] for name in READ_OUTS if row[name] is not None}
        rows.append(row)
    made = conditions_here(args.threads)
    write_json(out / "exports.json", {"rows": rows, **made})
    write_whole(out / "exports.md", page(rows, made))
    print(table(rows))
    return 0


Variant = tuple[str, str, Path]
"""Network ("PyTorch" or one of `OVERLAYS`), statistics, folder of its files."""


def place(
    model: Path, out: Path, network: str, statistics: str, settings: Mapping[str, Any], training: Sequence[str]
) -> Path:
    """Make the folder `ckpt_dir` of a variant, with weights or their export; `training` scans calibrate integers."""
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
    """Milliseconds of each variant, the ratio to MONAI's components, and how far its logits are from PyTorch's.

    The last row is the reference itself.

    Args:
        variants: of each statistics PyTorch comes first.
        scan: file of a volume.
        pairs: timed runs of the network on all slices; inference of the whole volume runs a quarter as often.
        clock: in seconds.
    """
    plain = PlainLabelling(Labelling("PyTorch", "running", variants[0][2], scan))
    image = plain.read()["image"]
    logits: dict[str, torch.Tensor] = {}  # of PyTorch, by statistics
    timed: list[tuple[Pairs, Pairs]] = []
    for variant in variants:
        ours = Labelling(*variant, scan)
        difference = (ours.network() - logits.setdefault(variant[1], ours.network())).abs().max()
        network = in_turns(ours.network, lambda: plain.network(image), pairs, 1, clock=clock)
        labelling = in_turns(ours.label, plain.label, max(1, pairs // 4), 1, clock=clock)
        timed.append((network, labelling))
        yield {
            "network": variant[0], "statistics": variant[1], "folder": variant[2], **times(network, labelling, 0),
            "logits_difference": float(difference), "slices": ours.slices.shape[-1], "pairs": pairs,
        }  # fmt: skip
    network, labelling = ([pair for pairs_of in each for pair in pairs_of] for each in zip(*timed, strict=True))
    yield {"network": REFERENCE, "statistics": "running", **times(network, labelling, 1)}


def times(network: Pairs, labelling: Pairs, side: int) -> dict[str, float]:
    """Median milliseconds of ours (side 0) or of the reference (1), and the ratio to the reference."""
    found: dict[str, float] = {}
    for name, pairs in (("network", network), ("labelling", labelling)):
        ratios = [pair[side] / reference for pair in pairs for reference in pair[1:]]
        low, high = median_interval(ratios)
        found |= {f"{name}_ms": 1000 * statistics.median(pair[side] for pair in pairs)}
        found |= {f"{name}_ratio": statistics.median(ratios), f"{name}_low": low, f"{name}_high": high}
    return found


def page(rows: list[dict[str, Any]], made: Mapping[str, Any]) -> str:
    """The table in Markdown, and what it says."""
    return "\n".join(
        [
            "# Exports of a network",
            "",
            "Written by `python -m scripts benchmark exports --model DIR --datalist D.json --out OUT`. Ratios are",
            "beside the last row, the same transforms with MONAI's SliceInferer (a slice at a time, float32), Invertd",
            "and AsDiscreted, without names; medians of pairs measured in turns, with the 95 % interval of the median",
            "(fewer than six pairs: their range). Lower is faster.",
            "*Labelling* is from the file to the label map with all checks and names, the network loaded.",
            "",
            table(rows, markdown=True),
            "",
            f"{conditions_in_words(dict(made))}.",
            "",
        ]
    )


def table(rows: list[dict[str, Any]], *, markdown: bool = False) -> str:
    """The rows as a table."""
    cells = []
    for row in rows:
        line = [row["network"], row["statistics"]]
        for name in ("network", "labelling"):
            line += [f"{row[f'{name}_ms']:.0f}", f"{row[f'{name}_ratio']:.2f}"]
            line += [f"{row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f}"]
        line += [f"{row['logits_difference']:.0e}"] if "logits_difference" in row else [""]
        for name in READ_OUTS:
            scored = row.get(name) is not None
            line += [f"{100 * row[name]:.2f} ({100 * row[f'{name}_difference']:+.2f})" if scored else ""]
        cells.append(line)
    return format_table(HEAD, cells, markdown=markdown)
