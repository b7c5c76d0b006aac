"""What the tests of the text-guided objectives share: a small model with real captions, and batches with gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from scripts.networks.encoders import UNetTransformerEncoder
from scripts.networks.text_encoder import BertTextEncoder
from scripts.networks.vision_language import VisionLanguageModel
from tests.tiny import stream

NAMES = ["background", "sacrum", "lower vertebra", "upper vertebra"]
BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def caption(classes: Sequence[int]) -> str:
    return "image of " + ", ".join(NAMES[c] for c in classes)


def model(dropout: float = 0.0) -> VisionLanguageModel:
    torch.manual_seed(0)
    vision = UNetTransformerEncoder((4, 8), width=16, layers=1, heads=2, output_stride=2, norm="group", dropout=dropout)
    text = BertTextEncoder([f"image of {name}" for name in NAMES], config=BERT, caption=caption)
    return VisionLanguageModel(vision, text, embed_dim=12, scale=1 / 0.07)


def batch() -> dict[str, Any]:
    """Four slices: all classes; no class 3; all but with class 2 unlabelled; all again, with pixels left out."""
    labelled = stream(batch=4, seed=1)
    label = labelled["label"]
    label[1][label[1] == 3] = 1
    labelled["is_unlabelled"][2, 2] = True
    label[2][label[2] == 2] = 0
    label[3, 0, :5] = 255
    label[3, 0, 5] = 0
    return {"labelled": labelled, "unlabelled": None}


def present() -> list[set[int]]:
    """Classes that the slices of `batch` show and label, read off by hand."""
    return [{0, 1, 2, 3}, {0, 1, 2}, {0, 1, 3}, {0, 1, 2, 3}]


def matches() -> torch.Tensor:
    """Which captions of `batch` fit which slices: the third agrees with whoever differs in class 2 alone."""
    return torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]]).bool()


def with_hidden_structure(data: dict[str, Any]) -> dict[str, Any]:
    """The same batch, whose third slice carries labels of the class that it does not label."""
    labelled = {**data["labelled"], "label": data["labelled"]["label"].clone()}
    background = (labelled["label"][2] == 0).nonzero()
    for position in background[: len(background) // 2]:
        labelled["label"][2][tuple(position)] = 2
    return {**data, "labelled": labelled}
