"""What a run that labels scans does around its evaluator: refuse, put aside, share, and say at the end what is left."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import Evaluator

from ..bundle.command_line import as_data_error, check_overrides, component_of, entries_of, show_as_sentences
from ..bundle.model_file import check_weights, trained_settings
from ..data.check.command import check_datalist, check_scans
from ..data.datalist import DataError, Problem, errors, raise_problems
from ..data.dicom.seg import import_highdicom
from ..files import write_whole
from ..labels import ClassTable

LONGEST_WAIT = timedelta(days=7)
MAX_NAME_BYTES = 230
"""File systems take 255, and results have endings."""


def start_inference(
    output_dir: str | Path,
    ckpt_path: str | Path,
    data: str,
    class_table: str | Path | None = None,
    datalist: str | Path | None = None,
    section: str = "",
    network: str = "",
    made_by: str = "train one with configs/train.yaml",
    input_dir: str = "",
    dicom_seg: bool = False,
) -> list[Problem]:
    """Refuse faulty overrides and a missing or other network, put faulty scans aside; write the label names.

    A batch of scans is labelled but for the faulty ones: these are logged, and taken out of the entries, the very list
    that the run's data set reads. Scores are of all scans or of none: to score, a faulty one stops the run.

    Args:
        output_dir: where the label maps go; `labels.json` and the Slicer colour table `colours.ctbl` are written here.
        ckpt_path: the network's weights.
        data: id in the config of the entries of the scans to label.
        class_table: JSON file of the class table; None is the bundle's own.
        datalist: to score label maps: the datalist, whose labels are opened and checked too.
        section: the section of it.
        network: id in the config of a network that looks at its own file, and may refuse it, when it is made.
        made_by: what to do without `ckpt_path`.
        input_dir: for runs that leave out what is done, or another process's: where scans were looked for. With it, no
            entries are no mistake.
        dicom_seg: DICOM SEG files are to be written.

    Returns:
        What is wrong with the scans that were put aside, for :func:`finish_inference`.

    Raises:
        DataError: an override that does nothing, no weights or weights for other classes, no package for DICOM SEG, no
            scans, none without errors, or, to score, any error.
    """
    show_as_sentences()
    check_overrides()
    if dicom_seg:
        import_highdicom()
    if not Path(ckpt_path).is_file():
        raise DataError(f"there is no trained network {ckpt_path}; {made_by} or name its folder with --ckpt_dir")
    as_data_error(trained_settings, Path(ckpt_path).parent, class_table)
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
    aside = [] if datalist else _put_aside(entries, keep_on=bool(input_dir))
    table, folder = ClassTable.load(class_table), Path(output_dir)
    write_whole(folder / "labels.json", json.dumps(table.channel_def(), indent=1) + "\n")
    rows = [f"{c.id} {c.name} {' '.join(map(str, c.colour))} {255 if c.id else 0}" for c in table.classes]
    write_whole(folder / "colours.ctbl", "\n".join(rows) + "\n")
    return aside


def finish_inference(aside: Sequence[Problem], ranks: int = 1) -> None:
    """Say again at the end what was not labelled, so that the run's exit code tells.

    Args:
        aside: what :func:`start_inference` returned.
        ranks: number of processes that share the scans; torchrun ends all with the first that fails, so they wait.

    Raises:
        DataError: a scan was put aside.
    """
    if ranks > 1 and torch.distributed.is_torchelastic_launched():
        torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if aside:
        count = len({problem.path for problem in aside})
        raise DataError("\n".join([f"{_scans(count)} not labelled, all others are:", *map(str, aside)]))


def run_share(evaluator: Evaluator) -> None:
    """Run an evaluator on this process's share of the data, which may be empty.

    MONAI's engines do not run without data; then the handlers are told of beginning and end alone, because what they do
    at the end may need every process.
    """
    if len(evaluator.data_loader):
        evaluator.run()
    else:
        logging.getLogger(__name__).info("there is nothing to do for process %d", idist.get_rank())
        evaluator.fire_event(Events.STARTED)
        evaluator.fire_event(Events.COMPLETED)


def _put_aside(entries: list[dict[str, Any]], keep_on: bool) -> list[Problem]:
    """Take the scans with errors out of the list; return the errors, and log these and all warnings.

    Raises:
        DataError: no scan is left, and the run is not to keep on without.
    """
    found = check_scans([entry["image"] for entry in entries])
    for entry, of_scan in zip(entries, found, strict=True):
        if len(str(entry.get("case", "")).encode(errors="replace")) > MAX_NAME_BYTES:
            mend = f"its results' names are made of it, which may have {MAX_NAME_BYTES} bytes; rename it"
            of_scan.append(Problem(entry["image"], f"has too long a name: {mend}"))
    problems = [problem for of_scan in found for problem in of_scan]
    aside = errors(problems)
    good = [entry for entry, of_scan in zip(entries, found, strict=True) if not errors(of_scan)]
    if not good and not keep_on:
        raise_problems(aside)
    log = logging.getLogger(__name__)
    if aside:
        log.warning("%s of %d cannot be labelled:", _scans(len(entries) - len(good)), len(entries))
    for problem in [*aside, *(p for p in problems if p.level == "warning")]:
        log.warning("%s", problem)
    entries[:] = good
    return aside


def _scans(count: int) -> str:
    return f"{count} {'scan' if count == 1 else 'scans'}"
