"""What a training does before its first step: check overrides and data, write the effective config, see to stage 1."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import yaml
from monai.bundle import ConfigWorkflow

from ..bundle.command_line import (
    as_data_error,
    check_overrides,
    entries_of,
    plain_data,
    refuse_expressions,
    running_workflow,
    show_data_errors_without_traceback,
)
from ..bundle.run_record import datalist_entries, hide_secret, record_run
from ..data.check.command import check_datalist, check_entries
from ..data.datalist import DataError, raise_problems
from ..files import is_unfinished, lock_folder, write_whole

EFFECTIVE_CONFIG = "config.yaml"
SECTION_WORDS = {"training": "labelled", "unlabelled": "unlabelled", "validation": "for validation"}
LABEL_SERVER_CONF = "MONAI_LABEL_APP_CONF"
"""Where MONAI Label keeps, as JSON, what `--conf NAME VALUE` said; its training processes inherit it."""


def start(
    output_dir: str | Path,
    datalist: str | Path | None,
    data: Mapping[str, str],
    cache_dir: str | Path | None = None,
    class_table: str | Path | None = None,
    window_mm: Sequence[float] | None = None,
) -> None:
    """Refuse faulty overrides and faulty data, take the run's folder, write the effective config and `run.json` to it.

    Of several processes the first looks at the data and writes, while the others wait.

    Args:
        output_dir: the run's folder; made if it is missing.
        datalist: the datalist file; its sections are opened and checked, all problems are reported at once.
        data: section that the run reads ("training", "unlabelled", "validation") -> id in the config of its entries,
            which may come without a datalist (MONAI Label's do) and are checked in the same way. Ids, not entries:
            these are read after errors are shown as sentences.
        cache_dir: where the check remembers files that it has already opened.
        class_table: JSON file of the class table; None is the bundle's own.
        window_mm: height and width that are cut out of the scans; labelled voxels outside of it are warned of.

    Raises:
        DataError: an override that does nothing, no data at all, problems in the data, or tracking without MLflow.
        FolderInUseError: another run writes into the folder.
        StorageError: the folder cannot be written.
    """
    show_data_errors_without_traceback()
    check_overrides()
    for name in data.values():
        refuse_expressions(name)
    if datalist:
        if idist.get_rank() == 0:
            sections = tuple(data)
            found = check_datalist(
                datalist, sections=sections, cache_folder=cache_dir, class_table=class_table, window_mm=window_mm
            )
            raise_problems(found)
        idist.barrier()
    entries = {section: entries_of(name) for section, name in data.items()}
    if not datalist:
        if not entries.get("training"):
            raise DataError(
                "no datalist was given; add --datalist D.json (python -m scripts prepare FOLDER --out D.json makes "
                "one). In MONAI Label: save the labels of a few scans first; of one or two, train with val_split 0"
            )
        raise_problems(check_entries(entries, cache_folder=cache_dir, class_table=class_table, window_mm=window_mm))
    log = logging.getLogger(__name__)
    log.info("scans: %s", ", ".join(f"{len(found)} {SECTION_WORDS[name]}" for name, found in entries.items()))
    workflow = running_workflow()
    if workflow is not None:
        _check_tracking(workflow.parser.get("train#handlers", ()))
    if idist.get_rank() > 0:
        return
    folder = Path(output_dir)
    lock_folder(folder, owner=workflow)
    read = [entry for found in entries.values() for entry in found]
    record_run(folder, datalist, datalist_entries(datalist, tuple(data), class_table) if datalist else read, cache_dir)
    if workflow is not None:
        text = yaml.safe_dump(_plain(workflow.parser.config), sort_keys=False, allow_unicode=True)
        write_whole(folder / EFFECTIVE_CONFIG, text)


def prepare_prompt_maps(
    prompt_maps: Any | None, dataset: Any, when_missing: str, pretraining: Mapping[str, Any] | None = None
) -> None:
    """See to it that the attention maps of the unlabelled slices are there before training starts.

    Args:
        prompt_maps: `scripts.data.attention_map_cache.PromptMaps`; None for methods that need none.
        dataset: the unlabelled slices.
        when_missing: without a stage-1 checkpoint "error" refuses, "pretrain" runs stage 1 first, "supervised" goes on
            with the labelled slices alone.
        pretraining: `bundle_root` and overrides for stage 1, which "pretrain" needs.

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
    unfinished = is_unfinished(prompt_maps.model_dir)
    missing = not prompt_maps.checkpoint.is_file()
    idist.barrier()  # no process makes the checkpoint before all have looked for it
    if unfinished and not missing and when_missing != "pretrain":
        log.warning("stage 1 in %s has not come to its end: its best network so far is used", prompt_maps.model_dir)
    elif missing or unfinished:
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
    as_data_error(prompt_maps.load_model, prompt_maps.model_dir)
    prompt_maps.build(dataset)


def pretrain(bundle_root: str | Path, configs: Sequence[str] = ("pretrain.yaml",), **overrides: Any) -> None:
    """Run stage 1 in this process: the config files, absolute or relative to `configs/`, with these overrides."""
    logging.getLogger(__name__).info("no stage-1 checkpoint yet: running stage 1 first")
    files = [str(Path(bundle_root) / "configs" / config) for config in configs]
    if missing := [file for file in files if not Path(file).is_file()]:
        raise DataError(f"there is no config {missing[0]} for stage 1; correct its name in the server's --conf stage1")
    given = {k: plain_data(v) for k, v in overrides.items() if v is not None}
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


def _check_tracking(handlers: Sequence[Any]) -> None:
    """Refuse `--tracking mlflow` without MLflow in one sentence, before anything is built."""
    tracked = any(isinstance(h, Mapping) and h.get("_target_") == "MLFlowHandler" for h in handlers)
    if tracked and find_spec("mlflow") is None:
        raise DataError("MLflow is not installed; pip install -r requirements-mlflow.txt, or leave out --tracking")


def _plain(value: Any, name: str = "") -> Any:
    """A config as YAML can hold it, without secrets; objects that were passed from Python become their names."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        return hide_secret(name, value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
