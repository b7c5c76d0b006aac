"""`python -m scripts demo`: a real scan labelled, then the whole method on phantoms, up to a page of results."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..bundle.launch import BUNDLE_ROOT, bundle_run
from ..files import sha256, write_whole
from ..labels import ClassTable
from ..phantom.write import DRAWING_VERSION, write_phantoms
from ..report.charts import curves, per_class_bars
from ..report.tables import format_table, percent, split_at_block, write_block
from ..weights import WEIGHTS
from .results.document import Chapter, Commands, Picture, Table, markdown, settings_table, write_html
from .speed.pairs import conditions_here, conditions_in_words

log = logging.getLogger(__name__)

METHODS = {"supervised": ["methods/supervised.yaml"], "mean_teacher": ["methods/mean_teacher.yaml"], "cps4": []}
# pseudo-labels are as good as the warm start, so that gets most of the steps; every method goes on for the rest
WARM_START = {"max_epochs": 60, "val_interval": 10}
AFTER_WARM_START = {
    "ramp#start": 0.0, "learning_rate": 0.001, "max_epochs": 12, "val_interval": 3,
    "prior_geometry": "$None",  # the warm start's cohort is this one
}  # fmt: skip
EXAMPLE, SHIPPED = BUNDLE_ROOT / "docs" / "example" / "spider_052.nii.gz", BUNDLE_ROOT / "models"
"""A scan that comes with the bundle, and the folder of the network that does."""
OF_STRUCTURES = {
    "confidence": "confidence", "volume_ml": "volume, ml", "height_anterior_mm": "front",
    "height_middle_mm": "middle", "height_posterior_mm": "back",
}  # fmt: skip
"""Column of structures.csv -> head in the report."""
SCORES = {"mDice %": "mdice", "mIoU %": "miou", "levels right %": "levels_right"}
"""Column of the table of scores -> key of `summary.json`."""
MARK = "demo"
"""Of the block that receives the scores."""
NAMES = {"supervised": "supervised", "mean_teacher": "Mean Teacher", "cps4": "CPS4"}


@dataclass
class Demo:
    """One run of the demo; phases that are already done in its folder are not repeated.

    Attributes:
        folder: everything that the demo makes.
        seed: of the labelled subset's networks and batches; the phantoms stay the same.
        seconds: phase -> seconds; a reused phase keeps the seconds of the run that did it.
        history: settings of all phases so far; a phase is reused only if those before it were the same.
        conditions: machines, versions and dates of all phases, each once, in their order.
    """

    folder: Path
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    history: list[Any] = field(default_factory=list)
    conditions: dict[str, None] = field(default_factory=dict)

    @property
    def datalist(self) -> Path:
        """The phantoms' datalist."""
        return self.folder / "phantoms" / "datalist.json"

    def phase(self, name: str, action: Callable[[], Any], *, config: dict[str, Any] | None = None) -> None:
        """Do a phase, or say that an earlier run with the same settings has done it."""
        here = conditions_in_words(conditions_here(torch.get_num_threads()))
        record = self.folder / "phases" / f"{name.replace(' ', '_')}.json"
        self.history.append(json.loads(json.dumps({name: config})))
        if record.is_file():
            done = json.loads(record.read_text(encoding="utf-8"))
            if done["settings"] == self.history:
                self.seconds[name] = done["seconds"]
                self.conditions[done.get("conditions", here)] = None
                print(f"{name:24s} reused from an earlier run ({done['seconds']:.0f} s then)", flush=True)
                return
        begin = time.perf_counter()
        action()
        self.conditions[here] = None
        self.seconds[name] = round(time.perf_counter() - begin, 1)
        print(f"{name:24s} {self.seconds[name]:6.1f} s", flush=True)
        done = {"settings": self.history, "seconds": self.seconds[name], "conditions": here}
        write_whole(record, json.dumps(done))

    def _start_over_if_changed(self, out: Path) -> None:
        """Remove what a training of other settings left: going on from its checkpoint would pass for these settings."""
        begun = out / "settings.json"
        settings = json.dumps(self.history)
        if out.is_dir() and not (begun.is_file() and begun.read_text(encoding="utf-8") == settings):
            shutil.rmtree(out)
        write_whole(begun, settings)

    def label(self) -> None:
        """Label the example scan with the shipped network, as `python -m scripts label` does."""
        out = self.folder / "example"
        bundle_run("inference", ["inference.yaml"], {"input_dir": EXAMPLE, "output_dir": out}, out / "log.txt")
        print(f"{out / 'index.html'} shows the scan, its levels and measurements", flush=True)

    def train(self, name: str, run_id: str, configs: list[str], **overrides: Any) -> None:
        """Run a training as a phase; killed on the way, it goes on from its last epoch."""
        out = self.folder / name.replace(" ", "_")
        settings = {"seed": self.seed, "resume": True, **overrides}
        paths = {
            "datalist": self.datalist, "output_dir": out, "cache_dir": self.folder / "cache",
            "prompt_model_dir": self.folder / "prompt", "overwrite": True,
        }  # fmt: skip
        if run_id == "training":
            paths["ckpt_dir"] = out / "models"

        def action() -> None:
            self._start_over_if_changed(out)
            bundle_run(run_id, configs, {**paths, **settings}, out / "log.txt")

        self.phase(name, action, config={"configs": configs, **{k: str(v) for k, v in settings.items()}})

    def score(self, method: str) -> None:
        """Label and score the held-out volumes with a method's network."""
        out = self.folder / method / "test"
        models = self.folder / method / "models"
        bundle_run(
            "evaluating",
            ["inference.yaml", "evaluate.yaml"],
            {"datalist": self.datalist, "ckpt_dir": models, "output_dir": out},
            out / "log.txt",
        )

    def scores(self, method: str) -> dict[str, Any]:
        """Scores of the names that a method's label maps have: by geometry, else along the spine, else its own."""
        summary = json.loads((self.folder / method / "test" / "summary.json").read_text(encoding="utf-8"))
        return dict(summary.get("named") or summary.get("decoded") or summary)

    def summary(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Write `summary.json` from what the evaluations wrote."""
        result: dict[str, Any] = {}
        for method in METHODS:
            scores = self.scores(method)
            result[method] = {k: scores[k] for k in ("mdice", "miou", "levels_right", "n_cases")}
        result.update(settings=settings, seconds=self.seconds, conditions=list(self.conditions))
        write_whole(self.folder / "summary.json", json.dumps(result, indent=1) + "\n")
        return result

    def page(self, summary: dict[str, Any]) -> Path:
        """Write `report.html` with the pictures that the runs made."""
        figures = self.folder / "figures"
        figures.mkdir(exist_ok=True)
        curves({NAMES[m]: self.folder / m / "metrics.csv" for m in METHODS}, figures / "curves.png")
        per_class_bars({NAMES[m]: self.scores(m) for m in METHODS}, ClassTable.load(), figures / "classes.png")
        pictures = {
            f"{NAMES[m]} on a held-out phantom": (min((self.folder / m / "test" / "pictures").glob("*.png")), words)
            for m, words in (
                ("cps4", "Image, truth and prediction on three slices, in the scan's own grid."),
                ("supervised", "The same slices after supervised training on the labelled phantoms alone."),
            )
        }
        cps4 = self.folder / "cps4" / "pictures"
        pictures |= {
            "Where training targets come from": (cps4 / "targets.png", "A validation slice at the end of training."),
            "Attention maps of the class prompts": (cps4 / "attention.png", "Stage 1: each map beside its OTSU mask."),
            "Dice of every class": (figures / "classes.png", "Held-out phantoms."),
            "Training": (figures / "curves.png", "Losses, and mean Dice on the validation phantoms."),
        }
        commands = "python -m scripts prepare FOLDER --out D.json\n" + "\n".join(
            f"python -m monai.bundle run {run} --config_file configs/{file}.yaml --datalist D.json"
            for run, file in (("pretraining", "pretrain"), ("training", "train"))
        )
        chapters = [
            *example_chapters(self.folder / "example"),
            Chapter("Training with few labels, on phantoms", [scores_table(summary)]),
            *(Chapter(head, [Picture(*picture)]) for head, picture in pictures.items() if picture[0].is_file()),
            Chapter("Settings", [settings_table(summary["settings"])]),
            Chapter("Time", [seconds_table(summary["seconds"])]),
            Chapter("How to go on", [Commands(commands)]),
        ]
        lead = (
            "Class-prompt driven semi-supervised segmentation of spine MR: a real scan, labelled by the network that "
            "comes with the bundle; then a small run of every part, pretraining, training, inference and evaluation, "
            "on synthetic volumes."
        )
        return write_html(self.folder / "report.html", "CPS4 demonstration", [lead], chapters)


def example_chapters(folder: Path) -> list[Chapter]:
    """The labelled example scan: verdict, picture and measurements; none where nothing was labelled."""
    name = EXAMPLE.name.removesuffix(".nii.gz")
    picture = folder / "pictures" / f"{name}.jpg"
    if not picture.is_file():
        return []
    report = json.loads((folder / f"{name}_levels.json").read_text(encoding="utf-8"))
    words = (
        f"Verdict on the levels: {report['verdict']}. "
        f"{' '.join(report['reasons'])} "
        "The network never saw this patient. Label map, tables and a page of their own: example/index.html."
    )
    caption = (
        f"{EXAMPLE.name}: SPIDER, CC BY 4.0, doi:10.5281/zenodo.10159290. Three sagittal slices and a coronal picture."
    )
    return [Chapter("A real scan, labelled", [words, Picture(picture, caption), structures_table(folder)])]


def structures_table(folder: Path) -> Table:
    """The structures of `structures.csv` from the head down; what was not measured of one is empty, of all left out."""
    found = pd.read_csv(folder / "structures.csv").iloc[::-1].set_index("class")
    cells = found[list(OF_STRUCTURES)].dropna(axis="columns", how="all").rename(columns=OF_STRUCTURES)
    text = cells.map(lambda value: "" if pd.isna(value) else f"{value:.1f}")
    text["confidence"] = cells["confidence"].map("{:.2f}".format)
    note = (
        "Heights in front, in the middle and at the back in mm, measured on the label map; empty where the scan does "
        "not show enough of a structure. All measurements: example/structures.csv and example/scans.csv."
    )
    return Table("structures", note, text.rename_axis("structure"))


def scores_table(summary: Mapping[str, Any]) -> Table:
    """The methods of a summary; the row with the highest mean Dice is bold."""
    scores = pd.DataFrame({NAMES[m]: summary[m] for m in METHODS}).T
    cells = pd.DataFrame({head: scores[key].map(percent) for head, key in SCORES.items()})
    cells["n"] = scores["n_cases"].map("{:.0f}".format)
    best = cells.apply(lambda column: scores["mdice"] == scores["mdice"].max())
    note = (
        "Means over structures, then over volumes, in percent; levels right: volumes with every vertebra from L5 to L1 "
        "above Dice 0.5 under its own name; n volumes that training never saw. "
        "The highest mDice is bold. One short run each: the table shows that everything works, "
        "not which method is best."
    )
    return Table("scores", note, cells.rename_axis("method"), best)


def block(summary: Mapping[str, Any]) -> str:
    """Scores and time in Markdown, and what they depend on."""
    seconds, made = sum(summary["seconds"].values()), ". ".join(summary["conditions"])
    lines = f"Seed {summary['settings']['seed']}; {seconds:.0f} s for all phases. {made}."
    return f"{markdown(scores_table(summary))}\n\n{lines}"


def seconds_table(seconds: Mapping[str, float]) -> Table:
    """What each phase took, and all together."""
    values = {**seconds, "together": sum(seconds.values())}
    return Table("seconds", "", pd.DataFrame({"seconds": values}).map("{:.1f}".format).rename_axis("phase"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the demo")
    parser.add_argument("--seed", type=int, default=0, help="of networks and batches; the phantoms stay the same")
    parser.add_argument(
        "--into", type=Path, metavar="FILE.md", help=f"Markdown file whose block <!-- {MARK} --> receives the scores"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    if args.into:
        split_at_block(args.into, MARK)
    demo = Demo(args.out.absolute(), args.seed)
    begin = time.perf_counter()
    print(f"the demo's folder is {demo.folder}; progress bars show each phase", flush=True)
    if EXAMPLE.is_file():  # Docker's image has none
        network = sha256(SHIPPED / WEIGHTS)
        demo.phase("example scan", demo.label, config={"scan": EXAMPLE.name, "network": network})
    phantoms = {"labelled": 2, "unlabelled": 40, "validation": 6, "test": 16, "seed": 2026}
    drawing: dict[str, Any] = {"shape_hw": (128, 80), "pixel_mm": 2.35}
    draw = lambda: write_phantoms(demo.folder / "phantoms", **phantoms, **drawing)  # noqa: E731
    demo.phase("phantoms", draw, config={"drawing": DRAWING_VERSION, **phantoms, **drawing})
    overlays = ["narrow.yaml", "datasets/phantom.yaml"]
    demo.train("warm start", "training", ["train.yaml", "methods/supervised.yaml", *overlays], **WARM_START)
    demo.train("stage 1", "pretraining", ["pretrain.yaml", "offline_encoders.yaml", overlays[-1]], val_interval=2)
    warm = demo.folder / "warm_start" / "models" / "model.pt"
    for method, configs in METHODS.items():
        demo.train(method, "training", ["train.yaml", *configs, *overlays], warm_start=warm, **AFTER_WARM_START)
        demo.phase(f"{method} scores", partial(demo.score, method))
    settings = {**phantoms, "phantom_seed": phantoms["seed"], "seed": args.seed, "python": platform.python_version()}
    summary = demo.summary(settings)
    page = demo.page(summary)
    if args.into:
        write_block(args.into, MARK, block(summary))
    rows = [[NAMES[m], *(percent(summary[m][key]) for key in SCORES.values())] for m in METHODS]
    print("\n" + format_table(["method", *SCORES], rows))
    print(f"\n{page}\n{time.perf_counter() - begin:.0f} s in all", flush=True)
    return 0
