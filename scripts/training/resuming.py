"""Settings of a run that goes on, compared with those that it was begun with."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..bundle.command_line import config_ids
from ..data.datalist import DataError

MEANING = {
    *("class_table", "num_classes", "prompts", "wording", "image_size", "pixel_mm", "deterministic_transforms"),
    *("label_transforms", "channels", "norm", "network_def", "vision", "vision_encoder", "text", "text_encoder"),
    *("activation", "method", "scored_network"),
}
"""First parts of the keys that make a run another one: classes, grid, network, method."""
OF_NO_ACCOUNT = {
    *("resume", "device", "num_workers", "rank", "ranks", "bundle_root", "dataset_dir", "datalist", "unlabelled_dir"),
    *("output_dir", "ckpt_dir", "prompt_model_dir", "cache_dir", "max_epochs", "when_no_prompt_model", "overwrite"),
    *("imports", "initialize", "training", "pretraining", "run", "finalize", "backend", "timeout_hours", "start"),
    *("pretraining_settings", "prepare_prompts", "start_from", "finish", "warm_start"),
}
"""First parts of the keys in which a run may be gone on with differently: places, machines, a longer training."""
SHOWN, MOST = 60, 8
"""Letters of a value in a message; settings in a warning."""


def check_resumed(folder: Path, config: Mapping[str, Any], effective: str = "config.yaml") -> None:
    """Compare the settings of a run that goes on with those that it was begun with, key by key.

    Args:
        folder: the run's; nothing is compared without a checkpoint in it.
        config: the settings now, as they are written to the file `effective` in that folder.
        effective: see `config`.

    Raises:
        DataError: a setting differs that makes it another run; of the others that differ the log warns.
    """
    if not ((folder / effective).is_file() and (folder / "checkpoint.pt").is_file()):
        return
    begun = yaml.safe_load((folder / effective).read_text(encoding="utf-8"))
    changes = list(_changes(begun, config))
    refused = [told for key, told in changes if key.split("#")[0] in MEANING]
    if refused:
        raise DataError(
            f"the run in {folder} was begun with other settings and cannot go on with these: {'; '.join(refused)}; "
            "give those that it was begun with, or another --output_dir"
        )
    if changes:
        told = "; ".join(told for _, told in changes[:MOST])
        more = f"; and {len(changes) - MOST} further ones" if len(changes) > MOST else ""
        logging.getLogger(__name__).warning("the run in %s goes on with other settings: %s%s", folder, told, more)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Key and `key value now (before: value)` of all leaves that differ and count."""
    old, new = (dict(_leaves(config)) for config in (before, now))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and key.split("#")[0] not in OF_NO_ACCOUNT and "#data#" not in key:
            words = [repr(values[key])[:SHOWN] if key in values else "not given" for values in (new, old)]
            yield key, f"{key} {words[0]} (before: {words[1]})"


def _leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in config_ids(config) if not isinstance(value, Mapping | list) or not value)
