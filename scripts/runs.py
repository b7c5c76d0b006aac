"""What a run does before its first step: check overrides and data, write the effective config, see to stage 1."""

from __future__ import annotations

import difflib
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from .data.check import check_datalist, raise_problems
from .data.datalist import DataError
from .labels import ClassTable

EFFECTIVE_CONFIG = "config.yaml"
LABEL_SERVER_KEYS = {"bundle_root", "dataset_dir", "output_dir", "displayable_configs"}


def start(
    output_dir: str | Path,
    datalist: str | Path | None,
    data: Sequence[Mapping[str, Any]] = (),
    sections: Sequence[str] = ("training", "unlabelled", "validation"),
    cache_dir: str | Path | None = None,
) -> None:
    """Refuse misspelt overrides and faulty data, then write the effective config to the run's folder.

    Args:
        output_dir: the run's folder; made if it is missing.
        datalist: the datalist file; its sections are opened and checked, all problems are reported at once.
        data: entries that were given without a datalist (MONAI Label does so); then only their presence is checked.
        sections: sections of the datalist that the run reads.
        cache_dir: where the check remembers files that it has already opened.

    Raises:
        DataError: an override that no config file knows, no data at all, or problems in the data.
    """
    sys.excepthook = _one_sentence
    workflow = _running_workflow()
    if workflow is not None:
        refuse_unknown_overrides(_command_line_overrides(), _known_ids(workflow))
    if datalist:
        raise_problems(check_datalist(datalist, sections=sections, cache_folder=cache_dir))
    elif not data:
        raise DataError(
            "no datalist was given; add --datalist D.json (python -m scripts prepare FOLDER --out D.json makes one)"
        )
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if workflow is not None:
        text = yaml.safe_dump(_plain(workflow.parser.config), sort_keys=False, allow_unicode=True)
        (folder / EFFECTIVE_CONFIG).write_text(text, encoding="utf-8")


def start_inference(
    output_dir: str | Path,
    ckpt_path: str | Path,
    data: Sequence[Mapping[str, Any]],
    class_table: str | Path | None = None,
) -> None:
    """Refuse misspelt overrides, a missing network or no scans; write the label names beside the results.

    Args:
        output_dir: where the label maps go; `labels.json` and the Slicer colour table `colours.ctbl` are written here.
        ckpt_path: the network's weights.
        data: entries of the scans to label.
        class_table: JSON file of the class table; None is the bundle's own.

    Raises:
        DataError: an override that no config file knows, no weights, or no scans.
    """
    sys.excepthook = _one_sentence
    workflow = _running_workflow()
    if workflow is not None:
        refuse_unknown_overrides(_command_line_overrides(), _known_ids(workflow))
    if not Path(ckpt_path).is_file():
        raise DataError(f"there is no trained network {ckpt_path}; train one with configs/train.yaml or name it with --ckpt_path")
    if not data:
        raise DataError("no scans were given; add --input_dir FOLDER (for evaluating: --datalist D.json)")
    table, folder = ClassTable.load(class_table), Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.json").write_text(json.dumps(table.channel_def(), indent=1) + "\n", encoding="utf-8")
    rows = [f"{c.id} {c.name} {' '.join(map(str, c.colour))} {255 if c.id else 0}" for c in table.classes]
    (folder / "colours.ctbl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def refuse_unknown_overrides(overrides: Sequence[str], known: set[str]) -> None:
    """Refuse overrides that would be added silently and then ignored.

    Raises:
        DataError: an id that is not known, with the nearest one that is.
    """
    for override in overrides:
        name = override.replace("::", "#")
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean --{near[0]}?" if near else "; see docs/configs.md for the keys"
        raise DataError(f"--{name} is not a key of this configuration{hint}")


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
        DataError: there is no stage-1 checkpoint and `when_missing` is "error".
        ValueError: an unknown `when_missing`.
    """
    log = logging.getLogger(__name__)
    if when_missing not in ("error", "pretrain", "supervised"):
        raise ValueError(f"when_no_prompt_model must be error, pretrain or supervised, got {when_missing!r}")
    if not dataset.data:
        log.warning("no unlabelled volumes: training on the labelled ones alone")
        return
    if prompt_maps is None:
        return
    if not prompt_maps.checkpoint.is_file():
        if when_missing == "error":
            raise DataError(
                f"there is no stage-1 checkpoint {prompt_maps.checkpoint}; make one with "
                "python -m monai.bundle run pretraining --config_file configs/pretrain.yaml --datalist D.json"
            )
        if when_missing == "supervised":
            log.warning("no stage-1 checkpoint %s: training without class prompts", prompt_maps.checkpoint)
            return
        pretrain(**dict(pretraining or {}))
    prompt_maps.build(dataset)


def pretrain(bundle_root: str | Path, **overrides: Any) -> None:
    """Run stage 1, `configs/pretrain.yaml`, in this process."""
    logging.getLogger(__name__).info("no stage-1 checkpoint yet: running stage 1 first")
    config = Path(bundle_root) / "configs" / "pretrain.yaml"
    given = {k: v for k, v in overrides.items() if v is not None}
    workflow = ConfigWorkflow(
        config_file=str(config), run_id="pretraining", logging_file=False, bundle_root=str(bundle_root), **given
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def _running_workflow() -> ConfigWorkflow | None:
    """The bundle workflow whose run list is being evaluated; expressions of a config cannot name it."""
    for frame in _frames():
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, ConfigWorkflow):
            return candidate
    return None


def _command_line_overrides() -> list[str]:
    """Names of the overrides that `monai.bundle run` was called with, also from Python; those of an args file too."""
    for frame in _frames():
        if frame.f_code.co_name == "run" and "override" in frame.f_locals and "config_file" in frame.f_locals:
            args_file = frame.f_locals.get("args_file")
            extra = ConfigParser.load_config_file(args_file) if args_file else {}
            own = {"run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking"}
            return [*frame.f_locals["override"], *(k for k in extra if k not in own)]
    return []


def _known_ids(workflow: ConfigWorkflow) -> set[str]:
    """Every id of the config files of this run, and the keys that experiment tracking and MONAI Label add."""
    files: list[str] = []
    for frame in _frames():
        if frame.f_code.co_name == "run" and frame.f_locals.get("config_file"):
            given = frame.f_locals["config_file"]
            files = [given] if isinstance(given, (str, os.PathLike)) else list(given)
            break
    content = ConfigParser.load_config_files(files) if files else workflow.parser.config
    tracking = {key for settings in DEFAULT_EXP_MGMT_SETTINGS.values() for key in settings["configs"]}
    return set(_ids(content)) | tracking | LABEL_SERVER_KEYS


def _frames() -> Iterator[Any]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _ids(config: Any, prefix: str = "") -> Iterator[str]:
    """All ids below a config, as `a#b#0`; a file's own keys may hold `#`, `::` or a leading `+`."""
    items: Any = config.items() if isinstance(config, Mapping) else enumerate(config)
    for key, value in items:
        name = f"{prefix}{str(key).lstrip('+').replace('::', '#')}"
        yield name
        if isinstance(value, (Mapping, list)):
            yield from _ids(value, f"{name}#")


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
