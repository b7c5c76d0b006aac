"""Start and end of an inference run: checks of overrides, weights and scans; exclusion of faulty scans."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import Evaluator

from ..bundle.command_line import (
    as_data_error,
    check_overrides,
    component_of,
    entries_of,
    show_data_errors_without_traceback,
)
from ..bundle.model_file import check_weights, trained_settings
from ..data.check.command import check_datalist, check_scans
from ..data.datalist import DataError, Problem, errors, load_datalist, raise_problems
from ..data.dicom.derived import import_highdicom
from ..data.output_folder import OutputFolder
from ..data.transforms import file_stem, scan_name
from ..labels import ClassTable
from ..measure.tables import finish_folder

FILES = ("image", "label", "hidden_label")
"""Keys of the files that an entry of a datalist names."""
LONGEST_WAIT = timedelta(days=7)
MAX_NAME_BYTES = 230
"""File systems take 255, and results have endings."""


def start_inference(
    outputs: OutputFolder,
    ckpt_path: str | Path,
    data: str,
    class_table: str | Path | None = None,
    datalist: str | Path | None = None,
    section: str = "",
    network: str = "",
    made_by: str = "train one with configs/train.yaml",
    input_dir: str = "",
    dicom: bool = False,
    levels: str = "",
    naming: str = "",
) -> list[Problem]:
    """Check overrides and weights, exclude faulty scans, refuse to replace files, write the label names.

    Faulty scans are logged and removed in place from the list that the data set reads. If label maps are to be scored,
    a faulty scan stops the run instead.

    Args:
        outputs: folder of the label maps; gets the files of :func:`texts_of`.
        ckpt_path: weights of the network.
        data: config id of the entries of the scans.
        class_table: JSON file of the class table; None is the bundle's own.
        datalist: for scoring: the datalist, whose labels are checked too.
        section: section of the datalist.
        network: config id of a network that checks its own weights file (ONNX); "" checks `ckpt_path` here.
        made_by: advice in the error if `ckpt_path` is missing.
        input_dir: folder of the scans; if given, an empty list of entries is no error (all may be done already).
        dicom: whether DICOM SEG or SR files are to be written.
        levels: config id of the read-out of the levels that is written.
        naming: config id of the `ChainNaming` that "named" needs; "" if there is none.

    Returns:
        Errors of the excluded scans, for :func:`finish_inference`.

    Raises:
        DataError: an override without effect, missing weights or weights for other classes, no package for DICOM files,
            no usable scan, files in the folder that may not be replaced, or, for scoring, any error.
    """
    show_data_errors_without_traceback()
    check_overrides()
    if dicom:
        import_highdicom()
    if not Path(ckpt_path).is_file():
        raise DataError(f"there is no trained network {ckpt_path}; {made_by} or name its folder with --ckpt_dir")
    as_data_error(trained_settings, Path(ckpt_path).parent, class_table)
    if (
        naming
        and as_data_error(component_of, levels) == "named"
        and as_data_error(component_of, naming).geometry is None
    ):
        raise DataError(
            f"{Path(ckpt_path).parent} holds no geometry of the spine; train again, or add --levels decoded"
        )
    if network:
        as_data_error(component_of, network)
    else:
        as_data_error(check_weights, ckpt_path)
    if datalist:
        if idist.get_rank() == 0:
            raise_problems(check_datalist(datalist, sections=[section], class_table=class_table, hidden_labels=True))
        idist.barrier()
    entries = entries_of(data)
    if not entries and not input_dir:
        raise DataError("no scans were given; add --input_dir FOLDER (for evaluating: --datalist D.json)")
    excluded = [] if datalist else _exclude_faulty(entries, keep_on=bool(input_dir))
    table = ClassTable.load(class_table)
    texts = texts_of(table)
    listed = load_datalist(datalist, class_table=class_table).sections.values() if datalist else [entries]
    read = [entry[key] for found in listed for entry in found for key in FILES if key in entry]
    outputs.refuse(names_of_results(entries), texts, read)
    for name, text in texts.items():
        outputs.write_text(outputs.folder / name, text)
    return excluded


def texts_of(table: ClassTable) -> dict[str, str]:
    """Files that tell programs the names and colours of the classes: `labels.json`, of 3D Slicer, of ITK-SNAP."""
    slicer = [f"{c.id} {c.name} {' '.join(map(str, c.colour))} {255 if c.id else 0}" for c in table.classes]
    # index, red, green, blue, opacity, whether it is shown in slices and in 3D, name
    snap = ["# ITK-SNAP Label Description File", '0 0 0 0 0 0 0 "Clear Label"']
    snap += [f'{c.id} {" ".join(map(str, c.colour))} 1 1 1 "{c.name}"' for c in table.foreground]
    return {
        "labels.json": json.dumps(table.channel_def(), indent=1) + "\n",
        "colours.ctbl": "\n".join(slicer) + "\n",
        "itksnap_labels.txt": "\n".join(snap) + "\n",
    }


def names_of_results(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name with which the results of a scan begin -> its path.

    Raises:
        DataError: two scans have the same.
    """
    names: dict[str, str] = {}
    for entry in entries:
        name, path = file_stem(entry.get("case") or scan_name(entry["image"])), str(entry["image"])
        if name in names:
            raise DataError(f"{names[name]} and {path} have the same name, {name}; give each a `case` of its own")
        names[name] = path
    return names


def finish_inference(excluded: Sequence[Problem], outputs: OutputFolder, ranks: int = 1) -> None:
    """Write the tables of the folder, and raise the errors of the excluded scans, so that the exit code is 1.

    Args:
        excluded: value of :func:`start_inference`.
        outputs: folder of the label maps.
        ranks: number of processes. They wait for each other, since torchrun ends all when one fails.

    Raises:
        DataError: a scan was excluded, or a table may not be replaced.
    """
    if ranks > 1 and torch.distributed.is_torchelastic_launched():
        torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    finish_folder(outputs, excluded)
    if excluded:
        count = len({problem.path for problem in excluded})
        raise DataError("\n".join([f"{_scans(count)} not labelled, all others are:", *map(str, excluded)]))


def run_share(evaluator: Evaluator) -> None:
    """Run an evaluator on this process's share of the data, which may be empty.

    MONAI's engines do not run without data; then only STARTED and COMPLETED are fired, since the handlers may
    communicate between processes.
    """
    if len(evaluator.data_loader):
        evaluator.run()
    else:
        logging.getLogger(__name__).info("there is nothing to do for process %d", idist.get_rank())
        evaluator.fire_event(Events.STARTED)
        evaluator.fire_event(Events.COMPLETED)


def _exclude_faulty(entries: list[dict[str, Any]], keep_on: bool) -> list[Problem]:
    """Remove the scans with errors from the list in place, log errors and warnings, and return the errors.

    Raises:
        DataError: no scan is left, unless `keep_on`.
    """
    found = check_scans([entry["image"] for entry in entries])
    for entry, of_scan in zip(entries, found, strict=True):
        if len(str(entry.get("case", "")).encode(errors="replace")) > MAX_NAME_BYTES:
            advice = f"its results' names are made of it, which may have {MAX_NAME_BYTES} bytes; rename it"
            of_scan.append(Problem(entry["image"], f"has too long a name: {advice}"))
    problems = [problem for of_scan in found for problem in of_scan]
    excluded = errors(problems)
    good = [entry for entry, of_scan in zip(entries, found, strict=True) if not errors(of_scan)]
    if not good and not keep_on:
        raise_problems(excluded)
    log = logging.getLogger(__name__)
    if excluded:
        log.warning("%s of %d cannot be labelled:", _scans(len(entries) - len(good)), len(entries))
    for problem in [*excluded, *(p for p in problems if p.level == "warning")]:
        log.warning("%s", problem)
    entries[:] = good
    return excluded


def _scans(count: int) -> str:
    return f"{count} {'scan' if count == 1 else 'scans'}"
