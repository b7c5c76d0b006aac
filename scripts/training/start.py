"""What a training does before its first step: check overrides and data, write the effective config, see to stage 1."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow

from ..bundle.command_line import (
    as_data_error,
    check_overrides,
    entries_of,
    plain_data,
    refuse_expressions,
    running_workflow,
    show_data_errors_without_traceback,
)
from ..bundle.launch import config_paths
from ..bundle.run_record import datalist_entries, hide_secret, record_run
from ..bundle.settings import check_folders
from ..data.check.command import check_datalist, check_entries
from ..data.datalist import DataError, raise_problems
from ..files import PROGRAM, FileError, lock_folder, write_whole
from ..weights import is_unfinished, restore_model_files
from .earlier_run import forget_checkpoints, refuse_earlier_results
from .resuming import check_resumed

EFFECTIVE_CONFIG = "config.yaml"
WRITTEN = (("prompt_model_dir", "cache_dir"), ("ckpt_dir", "cache_dir"))
"""Keys of the folders that stage 1 writes beside the run's, and stage 2."""
SECTION_WORDS = {"training": "labelled", "unlabelled": "unlabelled", "validation": "for validation"}
LABEL_SERVER_CONF = "MONAI_LABEL_APP_CONF"
"""Where MONAI Label keeps, as JSON, what `--conf NAME VALUE` said; its training processes inherit it."""


def start(
    output_dir: str | Path,
    datalist: str | Path | None,
    data: Mapping[str, str],
    cache_dir: str | Path | None = None,
    class_table: str | Path | None = None,
    models: str | Path = "",
    models_key: str = "",
    resume: bool = False,
    overwrite: bool = False,
    pretrained: Callable[[list[str]], Any] | None = None,
    window: Mapping[str, Any] | None = None,
) -> None:
    """Refuse faulty overrides, faulty data and a folder that is taken; write the effective config and `run.json`.

    Of several processes the first looks at the data and writes, while the others wait.

    Args:
        output_dir: the run's folder; made if it is missing.
        datalist: the datalist file; its sections are opened and checked, all problems are reported at once.
        data: section that the run reads ("training", "unlabelled", "validation") -> id in the config of its entries,
            which may come without a datalist (MONAI Label's do) and are checked in the same way. Ids, not entries:
            these are read after errors are shown as sentences.
        cache_dir: where the check remembers files that it has already opened.
        class_table: JSON file of the class table; None is the bundle's own.
        models: folder of the network that is kept; "" for none.
        models_key: of the config, that names `models`.
        resume: the run goes on from its checkpoint.
        overwrite: replace what another run left, see :func:`.earlier_run.refuse_earlier_results`.
        pretrained: called first, with the names of pretrained encoders; refuses those that cannot be had.
        window: `image_size` (height, width) in pixels and `pixel_mm`, that are cut out of the scans; labelled voxels
            outside are warned of.

    Raises:
        DataError: an override that does nothing, a setting that cannot be or that makes a resumed run another, encoders
            that cannot be had, no data at all, problems in the data, tracking without MLflow, or results of an earlier
            run that would be replaced.
        FolderInUseError: another run writes into the folder.
        StorageError: the folder cannot be written.
    """
    show_data_errors_without_traceback()
    check_overrides()
    workflow = running_workflow()
    if workflow is not None:
        check_folders(workflow.parser, WRITTEN["ckpt_dir" in workflow.parser.config])
        if pretrained is not None:
            pretrained(_pretrained_names(workflow.parser))
    window_mm = [size * window["pixel_mm"] for size in window["image_size"]] if window else None
    refuse_earlier_results(output_dir, models, models_key, resume, overwrite)
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
                f"no datalist was given; add --datalist D.json ({PROGRAM} prepare FOLDER --out D.json makes "
                "one). In MONAI Label: save the labels of a few scans first; of one or two, train with val_split 0"
            )
        raise_problems(check_entries(entries, cache_folder=cache_dir, class_table=class_table, window_mm=window_mm))
    log = logging.getLogger(__name__)
    log.info("scans: %s", ", ".join(f"{len(found)} {SECTION_WORDS[name]}" for name, found in entries.items()))
    if workflow is not None:
        _check_tracking(workflow.parser.get("train#handlers", ()))
    if idist.get_rank() > 0:
        return
    folder = Path(output_dir)
    config = _plain(workflow.parser.config) if workflow is not None else {}
    if resume:
        check_resumed(folder, config, EFFECTIVE_CONFIG)
    lock_folder(folder, owner=workflow)
    if overwrite and not resume:
        forget_checkpoints(folder)
    if models:
        restore_model_files(models)
    read = [entry for found in entries.values() for entry in found]
    recorded = datalist_entries(datalist, tuple(data), class_table) if datalist else read
    record_run(folder, datalist, recorded, cache_dir, models)
    if workflow is not None:
        write_whole(folder / EFFECTIVE_CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def prepare_prompt_maps(
    prompt_maps: Any | None,
    dataset: Any,
    when_missing: str,
    pretraining: Mapping[str, Any] | None = None,
    grid: Mapping[str, Any] | None = None,
) -> None:
    """See to it that the attention maps of the unlabelled slices are there before training starts.

    Args:
        prompt_maps: `scripts.data.attention_map_cache.PromptMaps`; None for methods that need none.
        dataset: the unlabelled slices.
        when_missing: without a stage-1 checkpoint "error" refuses, "pretrain" runs stage 1 first, "supervised" goes on
            with the labelled slices alone.
        pretraining: `bundle_root` and overrides for stage 1, which "pretrain" needs.
        grid: `image_size` and `pixel_mm` of this run, which stage 1 must have had.

    Raises:
        DataError: there is no stage-1 checkpoint and `when_missing` is "error"; the checkpoint is damaged, for other
            classes or for another grid; or an unknown `when_missing`.
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
    model = as_data_error(prompt_maps.load_model, prompt_maps.model_dir)
    _check_grid(prompt_maps.model_dir, getattr(model, "info", {}), grid or {})
    prompt_maps.build(dataset)


def pretrain(bundle_root: str | Path, configs: Sequence[str] = ("pretrain.yaml",), **overrides: Any) -> None:
    """Run stage 1 in this process: the config files, absolute or relative to `configs/`, with these overrides."""
    logging.getLogger(__name__).info("no stage-1 checkpoint yet: running stage 1 first")
    try:
        files = config_paths(configs, Path(bundle_root))
    except FileError as error:
        raise DataError(f"stage 1: {error}; correct its name in the server's --conf stage1") from error
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


def _check_grid(folder: Path, trained: Mapping[str, Any], grid: Mapping[str, Any]) -> None:
    """Refuse maps of a stage 1 on another grid: its patches are of another size in the spine, or do not fit at all."""
    for key, value in grid.items():
        if key in trained and trained[key] != value:
            raise DataError(
                f"stage 1 in {folder} was trained with {key} {trained[key]}, this run has {value}; give both stages "
                f'the same grid (--{key} "{trained[key]}"), or this one another --prompt_model_dir'
            )


def _pretrained_names(parser: ConfigParser) -> list[str]:
    """What the encoders of stage 1 are loaded from; nothing for those that are built from a `config`."""
    ids = [f"{part}#pretrained" for part in ("vision", "text") if not parser.get(f"{part}#config")]
    return [str(name) for key in ids if key in parser and (name := parser.get_parsed_content(key))]


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
