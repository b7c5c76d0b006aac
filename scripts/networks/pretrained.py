"""Loading of pretrained Hugging Face transformers, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from ..files import FileError

PATIENCE = 5
"""Seconds that the hub is given to answer."""


def require_pretrained(names: Iterable[str]) -> None:
    """Look whether pretrained models are here or can be fetched, in seconds; loading would try again and again.

    Args:
        names: names on the Hugging Face hub, or local folders.

    Raises:
        FileError: one is no folder, was not fetched earlier, and the hub does not offer it or does not answer.
    """
    from huggingface_hub import model_info, try_to_load_from_cache

    for name in names:
        if Path(name).is_dir() or isinstance(try_to_load_from_cache(name, "config.json"), str):
            continue
        try:
            model_info(name, timeout=PATIENCE)
        except Exception as error:  # of the network, of the hub, of a name that is none: several libraries raise
            raise FileError(
                f"the pretrained encoder {name!r} is no folder here and cannot be fetched from the Hugging Face hub; "
                "without a network add configs/offline_encoders.yaml behind configs/pretrain.yaml (small encoders, "
                "trained from scratch), or name folders with --vision_encoder and --text_encoder"
            ) from error


def load_pretrained(model_class: Any, name: str, part: str, **overrides: Any) -> nn.Module:
    """Load a pretrained model of `transformers` in float32, without its pooling layer.

    Args:
        model_class: class of `transformers` with `from_pretrained`.
        name: name on the Hugging Face hub, or a local folder.
        part: role of the model in error messages ("vision encoder").
        overrides: values of the model's configuration to override.

    Raises:
        RuntimeError: the model is not found, or its weights do not fit the class.
    """
    try:
        model, report = model_class.from_pretrained(
            name, add_pooling_layer=False, output_loading_info=True, weights_only=True, **overrides
        )
    except (OSError, ValueError) as error:
        raise RuntimeError(_not_loaded(part, name, "it is no local folder and the hub gave no such model")) from error
    if report["missing_keys"]:
        raise RuntimeError(_not_loaded(part, name, f"it is no complete {model_class.__name__}"))
    return model.float()


def load_tokenizer(tokenizer_class: Any, name: str) -> Any:
    """Load the tokenizer of a pretrained text encoder; a RuntimeError if there is none."""
    try:
        return tokenizer_class.from_pretrained(name)
    except (OSError, TypeError, ValueError) as error:  # TypeError: transformers 4 without a vocabulary
        raise RuntimeError(_not_loaded("tokenizer", name, "the folder or the hub holds no vocabulary")) from error


def _not_loaded(part: str, name: str, reason: str) -> str:
    """Error message: what failed, why, and what to do."""
    return (
        f"the pretrained {part} {name!r} cannot be loaded, {reason}: set `pretrained` to a local folder that holds it, "
        "or set `config` to train a small one from scratch without any download"
    )
