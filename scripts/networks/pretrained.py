"""Loading of pretrained transformers, with errors that name the mend."""

from __future__ import annotations

from typing import Any

from torch import nn


def load_pretrained(model_class: Any, name: str, part: str, **overrides: Any) -> nn.Module:
    """A pretrained model of `transformers` in float32, without its pooling layer.

    Args:
        model_class: class of `transformers` with `from_pretrained`.
        name: name on the Hugging Face hub, or a local folder.
        part: what the model is for, for the error's text ("vision encoder").
        overrides: values of the model's configuration to replace.

    Raises:
        RuntimeError: the model cannot be found, or it is of another kind, so that weights would stay random.
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
    """The tokenizer that belongs to a pretrained text encoder.

    Raises:
        RuntimeError: there is none.
    """
    try:
        return tokenizer_class.from_pretrained(name)
    except (OSError, TypeError, ValueError) as error:  # TypeError: transformers 4 without a vocabulary
        raise RuntimeError(_not_loaded("tokenizer", name, "the folder or the hub holds no vocabulary")) from error


def _not_loaded(part: str, name: str, reason: str) -> str:
    """One sentence: what failed, why, and what to do."""
    return (
        f"the pretrained {part} {name!r} cannot be loaded, {reason}: set `pretrained` to a local folder that holds it, "
        "or set `config` to train a small one from scratch without any download"
    )
