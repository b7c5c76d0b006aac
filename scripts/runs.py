"""What a run does before its first step: check overrides and data, write the effective config, see to stage 1."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import yaml
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.engines import Evaluator

from .data.check import check_datalist, check_entries, check_scans
from .data.datalist import DataError
from .data.problems import Problem, errors, raise_problems
from .labels import ClassTable
from .model_file import check_weights, trained_settings
from .overrides import check_overrides, running_workflow

EFFECTIVE_CONFIG = "config.yaml"
LONGEST_WAIT = timedelta(days=7)
MAX_NAME_BYTES = 230
"""File systems take 255, and results have endings."""
SECTION_WORDS = {"training": "labelled", "unlabelled": "unlabelled", "validation": "for validation"}
LABEL_SERVER_CONF = "MONAI_LABEL_APP_CONF"
"""Where MONAI Label keeps, as JSON, what `--conf NAME VALUE` said; its training processes inherit it."""


def start(
    output_dir: str | Path,
    datalist: str | Path | None,
    data: Mapping[str, str],
    cache_dir: str | Path | None = None,
    class_table: str | Path | None = None,
) -> None:
    """Refuse faulty overrides and faulty data, say how many scans there are, and write the effective config.

    Of several processes the first looks at the data and writes, while the others wait.

    Args:
        output_dir: the run's folder; made if it is missing.
        datalist: the datalist file; its sections are opened and checked, all problems are reported at once.
        data: section that the run reads ("training", "unlabelled", "validation") -> id in the config of its entries,
            which may come without a datalist (MONAI Label's do) and are checked in the same way. Ids, not entries:
            these are read after errors are shown as sentences.
        cache_dir: where the check remembers files that it has already opened.
        class_table: JSON file of the class table; None is the bundle's own.

    Raises:
        DataError: an override that does nothing, no data at all, problems in the data, or tracking without MLflow.
    """
    sys.excepthook = _one_sentence
    check_overrides()
    how = {"cache_folder": cache_dir, "class_table": class_table}
    if datalist:
        if idist.get_rank() == 0:
            raise_problems(check_datalist(datalist, sections=tuple(data), **how))
        idist.barrier()
    entries = {section: _entries(name) for section, name in data.items()}
    if not datalist:
        if not entries.get("training"):
            raise DataError(
                "no datalist was given; add --datalist D.json (python -m scripts prepare FOLDER --out D.json makes "
                "one). In MONAI Label: save the labels of a few scans first; of one or two, train with val_split 0"
            )
        raise_problems(check_entries(entries, **how))
    log = logging.getLogger(__name__)
    log.info("scans: %s", ", ".join(f"{len(found)} {SECTION_WORDS[name]}" for name, found in entries.items()))
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    workflow = running_workflow()
    if workflow is not None:
        _check_tracking(workflow.parser.get("train#handlers", ()))
    if workflow is not None and idist.get_rank() == 0:
        text = yaml.safe_dump(_plain(workflow.parser.config), sort_keys=False, allow_unicode=True)
        (folder / EFFECTIVE_CONFIG).write_text(text, encoding="utf-8")


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

    Returns:
        What is wrong with the scans that were put aside, for :func:`finish_inference`.

    Raises:
        DataError: an override that does nothing, no weights or weights for other classes, no scans, none without
            errors, or, to score, any error.
    """
    sys.excepthook = _one_sentence
    check_overrides()
    if not Path(ckpt_path).is_file():
        raise DataError(f"there is no trained network {ckpt_path}; {made_by} or name its folder with --ckpt_dir")
    _as_data_error(trained_settings, Path(ckpt_path).parent, class_table)
    if network:
        _as_data_error(_component, network)
    else:
        _as_data_error(check_weights, ckpt_path)
    if datalist:
        if idist.get_rank() == 0:
            raise_problems(check_datalist(datalist, sections=[section], class_table=class_table, hidden_labels=True))
        idist.barrier()
    entries = _entries(data)
    if not entries and not input_dir:
        raise DataError("no scans were given; add --input_dir FOLDER (for evaluating: --datalist D.json)")
    aside = [] if datalist else _put_aside(entries, keep_on=bool(input_dir))
    table, folder = ClassTable.load(class_table), Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.json").write_text(json.dumps(table.channel_def(), indent=1) + "\n", encoding="utf-8")
    rows = [f"{c.id} {c.name} {' '.join(map(str, c.colour))} {255 if c.id else 0}" for c in table.classes]
    (folder / "colours.ctbl").write_text("\n".join(rows) + "\n", encoding="utf-8")
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


def prepare_prompt_maps(
    prompt_maps: Any | None, dataset: Any, when_missing: str, pretraining: Mapping[str, Any] | None = None
) -> None:
    """See to it that the attention maps of the unlabelled slices are there before training starts.

    Args:
        prompt_maps: `scripts.data.prompt_maps.PromptMaps`; None for methods that need none.
        dataset: the unlabelled slices.
        when_missing: without a stage-1 checkpoint "error" refuses, "pretrain" runs stage 1 first, "supervised" goes on
            with the labelled slices alone.
        pretraining: `bundle_root` and overrides for stage 1, for "pretrain".

    Raises:
        DataError: there is no stage-1 checkpoint and `when_missing` is "error"; the checkpoint is damaged or for other
            classes; or an unknown `when_missing`.
    """
    log = logging.getLogger(__name__)
    if when_missing not in ("error", "pretrain", "supervised"):
        raise DataError(f"when_no_prompt_model must be error, pretrain or supervised, got {when_missing!r}")
    if not dataset.data:
        log.warning("no unlabelled volumes: training on the labelled ones alone")
        return
    if prompt_maps is None:
        return
    missing = not prompt_maps.checkpoint.is_file()
    idist.barrier()  # no process makes the checkpoint before all have looked for it
    if missing:
        if when_missing == "error":
            raise DataError(
                f"there is no stage-1 checkpoint {prompt_maps.checkpoint}; make one with "
                "python -m monai.bundle run pretraining --config_file configs/pretrain.yaml --datalist D.json"
            )
        if when_missing == "supervised":
            log.warning("no stage-1 checkpoint %s: training without class prompts", prompt_maps.checkpoint)
            return
        pretrain(**dict(pretraining or {}))
    # also where the maps lie in the cache: those of other classes would be taken for these
    _as_data_error(prompt_maps.load_model, prompt_maps.model_dir)
    prompt_maps.build(dataset)


def pretrain(bundle_root: str | Path, configs: Sequence[str] = ("pretrain.yaml",), **overrides: Any) -> None:
    """Run stage 1 in this process: the config files, absolute or relative to `configs/`, with these overrides."""
    logging.getLogger(__name__).info("no stage-1 checkpoint yet: running stage 1 first")
    files = [str(Path(bundle_root) / "configs" / config) for config in configs]
    if missing := [file for file in files if not Path(file).is_file()]:
        raise DataError(f"there is no config {missing[0]} for stage 1; correct its name in the server's --conf stage1")
    given = {k: v for k, v in overrides.items() if v is not None}
    workflow = ConfigWorkflow(
        config_file=files, run_id="pretraining", logging_file=False, bundle_root=str(bundle_root), **given
    )
    with torch.random.fork_rng(devices=[]):  # stage 2 starts from the weights that it would have had without stage 1
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    idist.barrier()  # the first process has written the checkpoint that all read


def stage1_configs(base: str = "pretrain.yaml") -> list[str]:
    """Config files of a stage 1 that has to come first: `base`, and overlays that MONAI Label's server was told.

    `--conf stage1 offline_encoders.yaml,narrow.yaml` adds these; paths are absolute or relative to `configs/`.

    Raises:
        DataError: the server's settings cannot be read.
    """
    settings = os.environ.get(LABEL_SERVER_CONF) or "{}"
    try:
        overlays = str(json.loads(settings).get("stage1") or "")
    except (AttributeError, json.JSONDecodeError) as error:
        raise DataError(f"{LABEL_SERVER_CONF} must be a JSON table, got {settings!r}; correct or unset it") from error
    return [base, *(name.strip() for name in overlays.split(",") if name.strip())]


def _entries(data: str) -> list[dict[str, Any]]:
    """The entries that stand under an id of the running workflow's config; none without a workflow."""
    workflow = running_workflow()
    return workflow.parser.get_parsed_content(data) if workflow is not None and data else []


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


def _check_tracking(handlers: Sequence[Any]) -> None:
    """Refuse `--tracking mlflow` without MLflow in one sentence, before anything is built."""
    tracked = any(isinstance(h, Mapping) and h.get("_target_") == "MLFlowHandler" for h in handlers)
    if tracked and find_spec("mlflow") is None:
        raise DataError("MLflow is not installed; pip install -r requirements-mlflow.txt, or leave out --tracking")


def _component(name: str) -> Any:
    """A component of the running workflow; what its constructor refuses is raised as it is, without MONAI's words."""
    workflow = running_workflow()
    try:
        return workflow.parser.get_parsed_content(name) if workflow is not None else None
    except RuntimeError as error:
        raise error.__cause__ or error from error


def _as_data_error(read: Callable[..., Any], *args: Any) -> None:
    """Call a reader of the user's files whose complaints are sentences for the user.

    Raises:
        DataError: the reader raised a ValueError or did not find a file.
    """
    try:
        read(*args)
    except (ValueError, FileNotFoundError) as error:
        raise DataError(str(error)) from error


def _plain(value: Any) -> Any:
    """A config as YAML can hold it; objects that were passed from Python become their names."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def _one_sentence(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Show faults in the user's data or command as their sentence alone, all others with their traceback."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DataError):
        cause = cause.__cause__  # MONAI wraps what a component raises
    if cause is not None:
        print(f"Error: {cause}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
