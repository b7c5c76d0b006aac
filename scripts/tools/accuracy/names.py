"""`benchmark names`: what names spines right, geometry, network or prompts, and what the posterior says of it.

Takes the networks that `benchmark accuracy` trained, and trains nothing. Every row's unlabelled and test volumes are
named with all evidence, and with one kind of it left out; the geometry is fitted anew for each, to the training's
volumes. Scores are of the network's own grid.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigParser
from torch import Tensor
from tqdm import tqdm

from ...bundle.launch import BUNDLE_ROOT
from ...bundle.model_file import load_weights
from ...data.cache import SliceDataset
from ...data.datalist import load_datalist, select_for_scoring
from ...evaluation.cases import CaseScores
from ...files import write_whole
from ...labels import ClassTable
from ...ops.levels.geometry import ODD
from ...ops.levels.landmarks import Array, Landmarks
from ...ops.levels.ordering import order_predictions
from ...ops.levels.report import CERTAIN
from ...ops.prompt_map import upsample
from ...report.tables import format_table
from ...training.cohort import CohortNaming, Seen
from ..results.benchmark_folder import RUN, Benchmark, read_benchmark
from ..results.level_tables import counted
from .grid import read, write_csv

OUT = BUNDLE_ROOT / "docs" / "results"
KINDS: dict[str, tuple[str, ...]] = {
    "all": ("network", "prompts"), "no prompts": ("network",), "no network": ("prompts",), "geometry alone": (),
}  # fmt: skip
"""How names are given: which votes stand beside the geometry."""
NO_GEOMETRY = "no geometry"
"""The order of one volume, by the network's levels: what is called `decoded` elsewhere."""
INFERENCE = "no prompts"
"""What inference has for a single scan, called `named` elsewhere."""
SECTIONS = ("unlabelled", "test")
FIELDS = (
    *("method", "labelled", "seed", "section", "case", "evidence"),
    *("right", "other_names", "mdice", "posterior", "odd"),
)


class Volume(NamedTuple):
    """What one volume shows: its tissue and landmarks, the votes on their places, names by order, and the truth."""

    case: str
    section: str
    tissue: Tensor
    landmarks: Landmarks
    votes: Mapping[str, Array]
    decoded: Tensor
    truth: Tensor
    unlabelled_classes: tuple[int, ...] = ()

    def seen(self, kinds: Iterable[str]) -> Seen:
        """With the votes of some kinds; a kind that the volume has not says nothing."""
        none = np.zeros_like(self.votes["network"])
        return Seen(self.landmarks, sum((self.votes.get(kind, none) for kind in kinds), none))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("folder", type=Path, help="the --out of benchmark accuracy")
    add("--methods", nargs="+", metavar="NAME", help="these rows alone")
    add("--cache", type=Path, metavar="DIR", help="folder for prepared slices and maps; default: the benchmark's")
    add("--out", type=Path, default=OUT, help="folder of names.md and names.csv")
    add("--published", type=Path, metavar="START",
        help="an earlier report's START.csv and START_per_case.csv.gz: scans of its runs stay in --out")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Name the volumes of all rows that there are, and write the page.

    Raises:
        ValueError: the folder holds no finished row.
    """
    folder = args.folder.absolute()
    rows = [p.parent for p in sorted(folder.glob("*/row.json")) if (p.parent / "models" / "model.pt").is_file()]
    rows = [row for row in rows if not args.methods or read(row / "row.json")["method"] in args.methods]
    if not rows:
        raise ValueError(f"{folder} holds no finished row with a network; run python -m scripts benchmark accuracy")
    benchmark, table = read_benchmark(folder, args.published), args.out / "names.csv"
    before = pd.DataFrame(columns=FIELDS)
    if args.published is not None and table.is_file():
        before = pd.read_csv(table, dtype=str, keep_default_na=False)
    scans: list[dict[str, Any]] = []
    for row in tqdm(rows, desc="rows"):
        about = {k: read(row / "row.json")[k] for k in ("method", "labelled", "seed")}
        cohort, volumes = look(row, folder, args.cache or folder / "cache")
        scans += [about | scan for scan in name(cohort, volumes)]
    write_csv(table, FIELDS, [*_published(before, benchmark, {_run(scan) for scan in scans}), *scans])
    page = args.out / "names.md"
    named = pd.read_csv(table, dtype={"case": str, "right": str})
    named["right"] = named["right"] == "True"  # empty where no level could be judged
    write_whole(page, markdown(named, {method: of.title for method, of in benchmark.names.items()}))
    print(page.read_text(encoding="utf-8"), page, sep="\n")
    return 0


def _published(before: pd.DataFrame, benchmark: Benchmark, anew: set[tuple[str, ...]]) -> list[dict[str, Any]]:
    """Lines that an earlier call wrote of the benchmark's runs, but for those that were named anew."""
    kept = {_run(run) for run in benchmark.runs.to_dict("records")} - anew
    return [{str(k): v for k, v in scan.items()} for scan in before.to_dict("records") if _run(scan) in kept]


def _run(line: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(line[key]) for key in RUN)


def look(row: Path, folder: Path, cache: Path) -> tuple[CohortNaming, list[Volume]]:
    """The cohort of a row's training, and what its network and class prompts say of unlabelled and test volumes.

    Args:
        row: the row's folder.
        folder: the benchmark's, in which datalist and stage 1 are found wherever they were when it ran.
        cache: see `add_arguments`.
    """
    parser = ConfigParser()
    parser.read_config(row / "config.yaml")
    parser["datalist"] = str(folder / Path(parser["datalist"]).name)
    parser["bundle_root"], parser["cache_dir"] = str(BUNDLE_ROOT), str(cache)
    stage1 = folder / Path(parser["prompt_model_dir"]).parent.name / "prompt"
    parser["prompt_model_dir"] = str(stage1)
    network = parser.get_parsed_content("network")
    load_weights(row / "models" / "model.pt", [network])
    prompts = parser.get_parsed_content("prompt_maps") if (stage1 / "model.pt").is_file() else None
    cohort: CohortNaming = parser.get_parsed_content("cohort")
    inferer, device = parser.get_parsed_content("validate#inferer"), parser.get_parsed_content("device")
    ordered = {"groups": cohort.names.groups, "chain": parser.get_parsed_content("fuse#chain")}
    volumes = []
    for section in SECTIONS:
        entries = _entries(parser["datalist"], section)
        dataset = SliceDataset(entries, parser.get_parsed_content("slice_cache"), parser["num_classes"])
        if prompts is not None and entries:
            prompts.build(dataset)
        for case, entry in enumerate(entries):
            image = torch.from_numpy(dataset.image(case).astype(np.float32))[:, None].to(device)
            with torch.no_grad():
                probs = inferer(image, network.eval()).float().softmax(1)
            spine = cohort.names.spine(probs, cohort.pixel_mm)
            votes = {"network": cohort.names.evidence(probs, spine)}
            if prompts is not None:
                maps = torch.stack([prompts.read(dataset, case, number)[0] for number in range(len(image))])
                maps = upsample(maps.to(device), image.shape[2:])
                votes["prompts"] = cohort.gamma * cohort.names.evidence(maps, spine)
            decoded = order_predictions(probs, **ordered).argmax(1)
            truth = torch.from_numpy(np.array(dataset.label(case))).long()
            hidden = tuple(entry.get("unlabelled_classes", ()))
            volumes.append(Volume(entry["case"], section, spine.tissue, spine.landmarks, votes, decoded, truth, hidden))
    return cohort, volumes


def name(cohort: CohortNaming, volumes: Sequence[Volume]) -> Iterator[dict[str, Any]]:
    """Name all volumes with every kind of evidence and score them: a line a volume and kind.

    The geometry is fitted to the labelled volumes and to the unlabelled ones; test volumes take no part in it. Kinds
    that leave the prompts out, or have nothing but them, are given to rows that have prompts alone.
    """
    table = ClassTable.load()
    has_prompts = any("prompts" in volume.votes for volume in volumes)
    for kind, votes in KINDS.items():
        if kind == "no network" and not has_prompts:
            continue  # nothing else than geometry alone
        geometry = cohort.fit([v.seen(votes) for v in volumes if v.section == "unlabelled"])
        if geometry is None:
            continue
        for volume in volumes:
            seen = volume.seen(votes)
            label = cohort.label(volume.tissue, seen, geometry)
            told = {"posterior": cohort.certainty(seen, geometry), "odd": len(cohort.odd(seen, geometry))}
            yield _scored(volume, kind, label, table) | told
    for volume in volumes:
        yield _scored(volume, NO_GEOMETRY, volume.decoded, table) | {"posterior": None, "odd": None}


def markdown(scans: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """The page: levels right and mDice by evidence, and how many wrong names the posterior flags.

    Args:
        scans: a line for each scan, row and kind of evidence, with the columns `FIELDS`.
        titles: row -> what it is called, in the order of the tables.
    """
    kinds = [kind for kind in (*KINDS, NO_GEOMETRY) if kind in set(scans["evidence"])]
    lines = [
        "# What names a spine right", "",
        f"Written on {datetime.date.today()} by `python -m scripts benchmark names DIR`, DIR being the folder of a "
        "benchmark ([compare.md](../compare.md)); nothing is trained. Each network finds the tissue; names are given "
        "by geometry, the network's levels and the class prompts' levels together (*all*), with one of them left "
        "out, or by geometry alone. *No geometry* is the order of the single volume (`decoded`), *no prompts* what "
        "inference has (`named`). The geometry is fitted anew for each, to the labelled and unlabelled volumes; test "
        "volumes take no part. Scores are of the network's own grid, so they differ a little from those of whole "
        "scans. Prompts vote in rows that have a stage 1. Every scan is in [names.csv](names.csv).",
        "", "## Evidence", "",
    ]  # fmt: skip
    for (section, labelled), part in scans.groupby(["section", "labelled"], sort=False):
        rows = [
            [title, str(of["seed"].nunique()), *(_cell(of[of["evidence"] == kind]) for kind in kinds)]
            for method, title in titles.items()
            if len(of := part[part["method"] == method])
        ]
        words = "levels right, with the 95 % interval (Wilson) and the counts; mDice; %."
        lines += [f"{str(section).capitalize()} volumes, {labelled} labelled: {words}", ""]
        lines += [format_table(["row", "seeds", *kinds], rows, markdown=True), ""]
    return "\n".join([*lines, *_flags(scans)]) + "\n"


def _flags(scans: pd.DataFrame) -> list[str]:
    """What posterior and distances tell, over all rows' predictions together."""
    rows = []
    for kind in ("all", INFERENCE):
        of = scans[scans["evidence"] == kind]
        parts = {"all": of} | {f"{s} volumes": of[of["section"] == s] for s in SECTIONS}
        parts |= {f"{n} labelled": of[of["labelled"] == n] for n in sorted(scans["labelled"].unique())}
        for words, part in parts.items():
            unsure, named = part["posterior"] < CERTAIN, part["other_names"].astype(int) == 0
            flagged = unsure | (part["odd"] > 0)
            right = part["right"].astype(bool) & named
            rows.append([kind, words, str(len(part)), counted(flagged[~named]), counted(unsure[~named])])
            rows[-1] += [counted(flagged[of_these]) for of_these in (named & ~right, right)]
    head = [
        "evidence", "predictions", "n", "flagged of those with a wrong level, %", "by the posterior alone, %",
        "flagged of those with wrong tissue alone, %", "of those that are right, %",
    ]  # fmt: skip
    return [
        "## Flags", "",
        f"A prediction is flagged if the mean posterior of its landmarks' places is below {CERTAIN}, or if two "
        f"neighbouring landmarks are more than {ODD:.0f} standard deviations of the cohort's nearer or farther than "
        "usual; both are rules of a scan's [verdict](../read_the_report.md#the-verdict). The rule of distances was "
        "made on networks of one labelled patient (warm start, supervised, CPS4), at the customary three deviations; "
        "the other rows show whether it holds, on the same patients. A prediction has a wrong level if "
        "a vertebra from L5 to L1 has more of its pixels under another level's name than under its own; wrong tissue "
        "alone, if none has, but one has a Dice of 0.5 or less: names are as they should be there, and the posterior "
        "is of names. In brackets the 95 % interval (Wilson), and the counts; one scan is there once for each network.",
        "", format_table(head, rows, markdown=True),
    ]  # fmt: skip


def _cell(of: pd.DataFrame) -> str:
    """Share of scans with right levels, and mDice: over all scans and seeds."""
    return f"{counted(of['right'])}; {100 * of['mdice'].mean():.1f}" if len(of) else "–"


def _scored(volume: Volume, kind: str, label: Tensor, table: ClassTable) -> dict[str, Any]:
    scores = CaseScores(table, distances=False)
    spacing = [1.0] * volume.truth.ndim  # no distance is measured
    scores.add(volume.case, label.cpu(), volume.truth, spacing, volume.unlabelled_classes)
    score = scores.scores["raw"][volume.case]
    dice = [row["dice"] for row in score.rows if not np.isnan(row["dice"])]
    mean = statistics.fmean(dice) if dice else None
    right = score.levels_right(table.judged_levels)
    other_names = len(set(score.mistakes["wrong_level"]) & set(table.judged_levels))
    about = {"case": volume.case, "section": volume.section, "evidence": kind}
    return about | {"right": right, "other_names": other_names, "mdice": mean}


def _entries(datalist: str, section: str) -> list[dict[str, Any]]:
    """Volumes to score; none where all are labelled."""
    there = load_datalist(datalist).sections
    return select_for_scoring(datalist, section) if there.get(section) else []
