"""Pictures of finished benchmarks: one slice as every method labels it, attention maps of several stage-1 models."""

from __future__ import annotations

import re
import statistics
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data.utils import affine_to_spacing
from monai.transforms import LoadImage

from ...data.datalist import select_for_scoring
from ...data.transforms import MapLabelValuesd
from ...labels import ClassTable
from ...networks.prompt_model import load_prompt_model
from ...ops.prompt_map import average_slices, upsample
from ...report.figures import attention_rows, method_strip, representative_slices
from ...training.pictures import canonical
from .benchmark_folder import Benchmark
from .row_names import REFERENCE, method_name

BUNDLE_ROOT = Path(__file__).resolve().parents[3]
STAGE1 = re.compile(r"stage1_(?:(?P<variant>.+)_)?(?P<labelled>\d+)_(?P<seed>\d+)")
COMPARED = "clip"


class PictureError(Exception):
    """A picture whose files are not there; the message says which."""


def strip_of_methods(
    benchmark: Benchmark,
    labelled: int,
    table: ClassTable,
    path: str | Path,
    *,
    seed: int | None = None,
    case: str | None = None,
    slice_number: int | None = None,
) -> tuple[Path, str]:
    """All methods beside the truth on one slice of one test case, from the label maps that their runs saved.

    Args:
        benchmark: the runs.
        labelled: number of labelled patients.
        table: the classes.
        path: PNG to write.
        seed: of the runs; None is the first that CPS4 (or else any row) has.
        case: name of the case; None is the one whose score of the reference is the median.
        slice_number: slice of the case, counted from 1; None is the most telling one of the truth.

    Returns:
        The PNG, and a caption that says what was chosen and how.

    Raises:
        PictureError: no label maps, no such case, or its image is not on this machine.
    """
    rows = [m for m, name in benchmark.names.items() if name.group != "Ablations"]
    reference = rows[0] if benchmark.of(REFERENCE, labelled).empty else REFERENCE
    seeds = benchmark.of(reference, labelled)["seed"].tolist()
    if not seeds or (seed is not None and seed not in seeds):
        raise PictureError(f"no run of {reference} with {labelled} labelled patients and this seed")
    seed = seeds[0] if seed is None else seed
    found = {m: benchmark.of(m, labelled).set_index("seed")["folder"] for m in rows}
    folders = {m: by_seed[seed] for m, by_seed in found.items() if seed in by_seed.index}
    readout = benchmark.written("test")  # as the label maps
    means = {m: benchmark.patient_means(m, labelled, readout).reindex([seed]).loc[seed] for m in folders}
    scores = {m: cases.dropna().to_dict() for m, cases in means.items()}
    if not scores[reference]:
        raise PictureError(f"{folders[reference]} holds no scores of test cases")
    chosen = case or median_case(scores[reference])
    entries = {e["case"]: e for e in _entries(benchmark, labelled, seed, "test")}
    if chosen not in entries:
        raise PictureError(f"there is no test case {chosen}; there are {', '.join(entries)}")
    item = _read_case(entries[chosen])
    image, truth = (np.asarray(canonical(item[key])[0]) for key in ("image", "label"))
    spacing: list[float] = affine_to_spacing(canonical(item["image"]).affine)[:2].tolist()
    if slice_number is not None and not 1 <= slice_number <= image.shape[-1]:
        raise PictureError(f"{chosen} has slices 1 to {image.shape[-1]}")
    at = representative_slices(truth, 1)[0] if slice_number is None else slice_number - 1
    hidden = entries[chosen]["unlabelled_classes"]
    predictions = {}
    for method, folder in folders.items():
        file = folder / "network_test" / f"{chosen.replace('/', '_')}_seg.nii.gz"
        if file.is_file():
            label = np.asarray(canonical(LoadImage(ensure_channel_first=True, image_only=True)(file))[0, ..., at])
            dice = f"Dice {100 * scores[method][chosen]:.1f}" if chosen in scores[method] else ""
            predictions[_short(benchmark.names[method].title)] = np.where(np.isin(label, hidden), 0, label), dice
    if not predictions:
        raise PictureError(f"no run with {labelled} labelled patients and seed {seed} saved a label map of {chosen}")
    done = method_strip(image[..., at], truth[..., at], predictions, table, path, spacing=spacing)
    how = "given" if case else f"the median of {benchmark.names[reference].title} among {len(scores[reference])} cases"
    unseen = ", ".join(table.names[i] for i in hidden)
    return done, (
        f"Test case {chosen} ({how}), slice {at + 1} of {image.shape[-1]}, {labelled} labelled, seed {seed}; the "
        f"numbers are mean Dice (%) of the whole volume, {readout.variant}."
        + (f" Not painted, since the truth does not label it: {unseen}." if unseen else "")
    )


def attention_of_models(
    benchmark: Benchmark,
    labelled: int,
    table: ClassTable,
    path: str | Path,
    *,
    seed: int | None = None,
    beside: str = COMPARED,
    classes: Sequence[str] = (),
    case: str | None = None,
) -> tuple[Path, str]:
    """Attention maps of CPS4's stage 1 beside another one's on a slice of an unlabelled patient.

    Args:
        benchmark: the runs.
        labelled: number of labelled patients.
        table: the classes.
        path: PNG to write.
        seed: of the runs; None is the first.
        beside: the other stage-1 model, by the name in its folder's; left out if there is none.
        classes: short names; None are some from the lowest structure of the slice to the highest.
        case: name of an unlabelled or test case; None is the first unlabelled one.

    Returns:
        The PNG, and its caption.

    Raises:
        PictureError: no stage-1 checkpoint, or no such case.
    """
    folders = stage1_folders(benchmark.folder, labelled)
    seeds = sorted({s for _, s in folders})
    if not seeds or (seed is not None and seed not in seeds):
        raise PictureError(f"{benchmark.folder} holds no stage-1 checkpoint for {labelled} labelled patients")
    seed = seeds[0] if seed is None else seed
    models = {v: folders[v, seed] for v in (REFERENCE, beside) if (v, seed) in folders}
    if not models:
        raise PictureError(f"{benchmark.folder} holds no stage-1 checkpoint of {REFERENCE} or {beside}")
    entries = {e["case"]: (s, e) for s in ("test", "unlabelled") for e in _entries(benchmark, labelled, seed, s)}
    chosen = case or next((c for c, (section, _) in entries.items() if section == "unlabelled"), next(iter(entries)))
    if chosen not in entries:
        raise PictureError(f"there is no case {chosen}; there are {', '.join(entries)}")
    section, entry = entries[chosen]
    maps: dict[str, np.ndarray] = {}
    for variant, folder in models.items():
        item = _network_item(folder, entry)
        image, truth = (np.asarray(item[key][0]) for key in ("image", "label"))  # (H, W, S)
        at = representative_slices(truth, 1)[0]
        maps[_short(method_name(variant).title)] = attention(folder, table, item["image"], at)
    ids = _class_ids(classes, table, truth[..., at])
    mm: list[float] = affine_to_spacing(item["image"].affine)[:2].tolist()
    done = attention_rows(image[..., at], truth[..., at], maps, ids, table, path, spacing=mm)
    return done, (
        f"Attention maps of the class prompts on slice {at + 1} of {chosen} ({section} patients), {labelled} labelled, "
        f"seed {seed}; outlined is the true structure, the number is the share of the map's sum inside it."
    )


def stage1_folders(folder: Path, labelled: int) -> dict[tuple[str, int], Path]:
    """(variant, seed) -> folder with a stage-1 checkpoint; a folder without a variant in its name is CPS4's."""
    found = {}
    for path in sorted(folder.glob("stage1_*")):
        match = STAGE1.fullmatch(path.name)
        if match and int(match["labelled"]) == labelled and (path / "prompt" / "model.pt").is_file():
            found[match["variant"] or REFERENCE, int(match["seed"])] = path / "prompt"
    return found


def attention(folder: Path, table: ClassTable, volume: torch.Tensor, at: int) -> np.ndarray:
    """(N, H, W) maps of one slice of a volume (1, H, W, S), as stage 2 takes them: averaged with both neighbours."""
    model = load_prompt_model(folder, table.names, statistics="volume")
    slices = torch.as_tensor(np.asarray(volume[0])).permute(2, 0, 1)[:, None].float()
    with torch.no_grad():
        maps = average_slices(model(slices), 1)
        return upsample(maps, (slices.shape[-2], slices.shape[-1]))[at].clamp_min(0).numpy()


def median_case(scores: Mapping[str, float]) -> str:
    """The case whose score is the (lower) median."""
    middle = statistics.median_low(scores.values())
    return next(case for case, score in sorted(scores.items()) if score == middle)


def _entries(benchmark: Benchmark, labelled: int, seed: int, section: str) -> list[dict[str, Any]]:
    datalist = benchmark.folder / f"datalist_{labelled}_{seed}.json"
    if not datalist.is_file():
        raise PictureError(f"there is no {datalist}")
    entries = select_for_scoring(datalist, section)
    missing = [str(e["image"]) for e in entries if not Path(e["image"]).is_file()]
    if missing:
        raise PictureError(f"{missing[0]} is not on this machine")
    return entries


def _read_case(entry: Mapping[str, Any]) -> Mapping[Hashable, Any]:
    """Image and label of a scan in its own grid, labels as class ids."""
    load = LoadImage(ensure_channel_first=True, image_only=True)
    item: dict[Hashable, Any] = {k: entry[k] for k in ("label_map",) if k in entry}
    item |= {key: load(entry[key]) for key in ("image", "label")}
    return MapLabelValuesd("label")(item)


def _network_item(folder: Path, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Image and label (1, H, W, S) as a stage-1 model saw its volumes, by the configuration that its run left."""
    parser = ConfigParser()
    parser.read_config(folder.parent / "config.yaml")
    parser["bundle_root"] = str(BUNDLE_ROOT)
    transform = parser.get_parsed_content("slice_cache#transform")
    return transform({k: entry[k] for k in ("image", "label", "label_map") if k in entry})


def _class_ids(classes: Sequence[str], table: ClassTable, truth: np.ndarray) -> list[int]:
    """Ids of the named classes; without names three vertebrae and two discs, spread over what the slice shows."""
    if classes:
        return [table.id_of(name) for name in classes]
    ids: list[int] = []
    for group, count in (("vertebra", 3), ("disc", 2)):
        areas = {i: int((truth == i).sum()) for i in table.group(group)}
        usual = statistics.median([area for area in areas.values() if area] or [0])
        seen = [i for i, area in areas.items() if area and area >= usual / 2]  # not one that the border cuts off
        places = np.linspace(0, len(seen) - 1, min(count, len(seen))).round().astype(int)
        ids += [seen[place] for place in places]
    return ids


def _short(title: str) -> str:
    """A title that fits above a narrow panel: what stands in brackets or behind a comma is left out."""
    return re.split(r"[(,]", title)[0].strip() if "MSE" not in title else "Mean Teacher, MSE"
