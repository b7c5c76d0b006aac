"""Checkpoint of stage 1: frozen vision encoder and prompt embeddings, without text encoder or download."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_whole
from ..ops.batch_norm import STATISTICS, batch_norm_statistics
from ..weights import SETTINGS, WEIGHTS, model_settings, write_model_files
from .encoders import VisionEncoder, build_vision_encoder
from .vision_language import PromptAttention, VisionLanguageModel

VOCABULARY = "vocab.txt"
"""File of a checkpoint beside weights and settings."""


class PromptModel(PromptAttention):
    """Frozen :class:`VisionLanguageModel` with precomputed prompt embeddings; always in evaluation mode.

    Args:
        vision: encoder as in :class:`PromptAttention`.
        info: the checkpoint's description, see :func:`describe_prompt_model`.
        statistics: of batch normalisation: "running" averages, or those of the "volume" whose slices are the batch, see
            :mod:`scripts.ops.batch_norm`.

    Raises:
        ValueError: unknown statistics.
    """

    def __init__(self, vision: VisionEncoder, info: dict[str, Any], statistics: str = "running") -> None:
        # in a checkpoint without this key all classes compete
        competing = info.get("competing")
        super().__init__(vision, info["embed_dim"], info["activation"], info["similarity"], competing=competing)
        if statistics not in STATISTICS:
            raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}, got {statistics!r}")
        self.info = info
        self.statistics = statistics
        self.prompt_matrix: Tensor
        self.register_buffer("prompt_matrix", torch.zeros(len(info["class_names"]), info["embed_dim"]))
        self.requires_grad_(False)
        self.train(False)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Short names of the classes in the order of the maps, background first."""
        return tuple(self.info["class_names"])

    @property
    def trained_classes(self) -> tuple[int, ...]:
        """Ids of the classes that were labelled in stage 1."""
        return tuple(self.info["trained_classes"])

    def prompt_embeddings(self) -> Tensor:
        """(N, E) embeddings of the class prompts."""
        return self.prompt_matrix

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) z-scored image -> (B, N, h, w) attention maps, 0 for classes without labels in stage 1."""
        with batch_norm_statistics(self.vision, self.statistics):
            maps = super().forward(image)
        untrained = [c for c in range(maps.shape[1]) if c not in self.trained_classes]
        maps[:, untrained] = 0  # a constant map is empty after thresholding
        return maps

    def train(self, mode: bool = True) -> PromptModel:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)


def describe_prompt_model(
    model: VisionLanguageModel, class_names: Sequence[str], trained_classes: Sequence[int]
) -> dict[str, Any]:
    """Contents of `model.json`: classes, prompts, architecture, versions.

    `maps_reflect_wording` is false for a text encoder trained from random weights, whose maps do not tell how the
    method depends on the wording of the prompts.

    Raises:
        ValueError: the number of class names is not that of the prompts.
    """
    if len(class_names) != len(model.text.prompts):
        raise ValueError(f"{len(class_names)} class names for {len(model.text.prompts)} class prompts")
    return {
        "class_names": list(class_names),
        "prompts": list(model.text.prompts),
        "trained_classes": sorted(int(c) for c in trained_classes),
        "activation": model.activation,
        "similarity": model.similarity_kind,
        "centre_prompts": model.centre_prompts,
        "competing": model.competing,
        "embed_dim": model.embed_dim,
        "vision": model.vision.spec(),
        "text": model.text.description(),
        "maps_reflect_wording": model.text.pretrained is not None,
        "transformers": _transformers_version(),
    }


def freeze_prompt_model(
    model: VisionLanguageModel, class_names: Sequence[str], trained_classes: Sequence[int], statistics: str = "running"
) -> PromptModel:
    """Frozen copy of a stage-1 model, on the same device; see :class:`PromptModel` for `statistics`."""
    info = describe_prompt_model(model, class_names, trained_classes)
    was_training = model.training
    model.eval()  # no dropout
    with torch.no_grad():
        prompts = model.prompt_embeddings().float()
    model.train(was_training)
    frozen = PromptModel(copy.deepcopy(model.vision), info, statistics).to(prompts.device)
    frozen.image_projection.load_state_dict(model.image_projection.state_dict())
    frozen.scale.copy_(model.scale.detach())
    frozen.bias.copy_(model.bias.detach())
    frozen.prompt_matrix.copy_(prompts)
    return frozen


def save_prompt_model(
    model: VisionLanguageModel,
    folder: str | Path,
    class_names: Sequence[str],
    trained_classes: Sequence[int],
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a stage-1 checkpoint, weights and settings as a pair; return the path of the weights.

    The files are `model.pt` (tensors only), `model.json`, and `vocab.txt` for a vocabulary built from the prompts.

    Args:
        model: stage-1 model; it is not changed.
        folder: output folder.
        class_names: short names of the class table, background first.
        trained_classes: ids of the classes that are labelled in the training data.
        extra: further entries of `model.json` (score, step, ...).
    """
    folder = Path(folder)
    frozen = freeze_prompt_model(model, class_names, trained_classes)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in frozen.state_dict().items()}
    content = io.BytesIO()
    torch.save(state, content)
    if model.text.vocabulary:
        write_whole(folder / VOCABULARY, "\n".join([*model.text.vocabulary, ""]))
    write_model_files(folder, content.getvalue(), {**(extra or {}), **frozen.info})
    return folder / WEIGHTS


def load_prompt_model(
    folder: str | Path, class_names: Sequence[str] | None = None, statistics: str = "running"
) -> PromptModel:
    """Load a stage-1 checkpoint on the CPU, without network access.

    Args:
        folder: what :func:`save_prompt_model` wrote.
        class_names: short names of stage 2's class table; must equal the checkpoint's.
        statistics: see :class:`PromptModel`.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the checkpoint is for other classes, or its two files do not belong together.
    """
    folder = Path(folder)
    info = model_settings(folder) if (folder / WEIGHTS).is_file() else None
    if info is None:
        missing = SETTINGS if (folder / WEIGHTS).is_file() else WEIGHTS
        raise FileNotFoundError(f"no stage-1 checkpoint in {folder} ({missing} is missing): train stage 1 first")
    if class_names is not None and list(class_names) != info["class_names"]:
        raise ValueError(
            f"the stage-1 checkpoint in {folder} names other classes ({', '.join(info['class_names'])}) than asked for "
            f"({', '.join(class_names)}): train stage 1 with this class table, or give the folder of one that was"
        )
    with torch.random.fork_rng(devices=[]):  # loading must not change the global random state
        model = PromptModel(build_vision_encoder(info["vision"]), info, statistics)
    try:
        model.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises errors of several kinds for a damaged file
        raise ValueError(
            f"{folder / WEIGHTS} does not fit its {SETTINGS} (written with transformers "
            f"{info['transformers']}, here {_transformers_version()}), or is damaged: train stage 1 again"
        ) from error
    return model


def _transformers_version() -> str | None:
    """Version of `transformers`, None if not installed; weight names differ between versions."""
    try:
        return version("transformers")
    except PackageNotFoundError:
        return None
