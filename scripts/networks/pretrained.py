"""Loading of pretrained Hugging Face transformers, with errors that say what to do."""

from __future__ import annotations

from typing import Any

from torch import nn


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
