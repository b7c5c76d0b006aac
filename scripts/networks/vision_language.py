"""Vision-language model of stage 1: attention maps from patch embeddings and class prompt embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops.attention import ACTIVATIONS, activate, cosine_similarity
from ..ops.contrast import pairwise_cosine
from .encoders import VisionEncoder
from .text_encoder import CaptionEmbeddings, TextEncoder

SIMILARITIES = ("cosine", "dot")


class PromptAttention(nn.Module):
    """Attention maps of class prompts over an image; subclasses provide the prompt embeddings.

    Args:
        vision: encoder (B, 1, H, W) -> (B, D, h, w).
        embed_dim: dimension E of the joint embedding space.
        activation: "softmax_classes" over the classes at each patch, or "sigmoid" per class.
        similarity: "cosine", or "dot" for the dot product divided by √E.
        scale: initial value of the learned logit scale.
        bias: initial value of the learned logit bias; it cancels in a softmax.
        competing: ids of the classes in the softmax, None for all; the maps of the others are 0. A class without a loss
            term has an arbitrary similarity and must be left out.

    Raises:
        ValueError: an unknown activation or similarity.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        embed_dim: int = 512,
        activation: str = "softmax_classes",
        similarity: str = "cosine",
        scale: float = 10.0,
        bias: float = -2.5,
        competing: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if similarity not in SIMILARITIES:
            raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {similarity!r}")
        self.vision = vision
        self.embed_dim = embed_dim
        self.activation = activation
        self.similarity_kind = similarity
        self.competing = None if competing is None else [int(c) for c in competing]
        self.image_projection = nn.Conv2d(vision.embed_dim, embed_dim, 1)  # a linear layer at each patch
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def prompt_embeddings(self) -> Tensor:
        """(N, E) embeddings of the class prompts, not normalised."""
        raise NotImplementedError

    def patch_embeddings(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) z-scored image -> (B, E, h, w) projected patch embeddings, not normalised."""
        return self.image_projection(self.vision(image))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, H, W) image -> patch embeddings (B, E, h, w) and image embedding (B, E), projected, not normalised."""
        patches, whole = self.vision.encode(image)
        return self.image_projection(patches), self.image_projection(whole[:, :, None, None]).flatten(1)

    def similarity(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) image -> (B, N, h, w) float32 similarity of patch and prompt; cosines lie in [-1, 1]."""
        patches, prompts = self.patch_embeddings(image), self.prompt_embeddings()
        if self.similarity_kind == "cosine":
            return cosine_similarity(patches, prompts)
        with torch.autocast(image.device.type, enabled=False):  # float32, as cosine_similarity does
            return torch.einsum("behw,ne->bnhw", patches.float(), prompts.float()) / self.embed_dim**0.5

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) z-scored image -> (B, N, h, w) float32 attention maps in (0, 1), background first."""
        similarity = self.similarity(image)
        if self.competing is None:
            return activate(similarity, self.activation, self.scale, self.bias)
        maps = torch.zeros_like(similarity)
        maps[:, self.competing] = activate(similarity[:, self.competing], self.activation, self.scale, self.bias)
        return maps


class VisionLanguageModel(PromptAttention):
    """Vision encoder and text encoder, each with a linear projection into a joint embedding space.

    Args:
        text: encoder () -> (N, D) of the class prompts.
        centre_prompts: subtract the mean over the classes' embeddings, which are nearly parallel because the prompts
            differ in one or two words.
        vision, embed_dim, activation, similarity, scale, bias, competing: see :class:`PromptAttention`.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        text: TextEncoder,
        embed_dim: int = 512,
        activation: str = "softmax_classes",
        similarity: str = "cosine",
        scale: float = 10.0,
        bias: float = -2.5,
        centre_prompts: bool = True,
        competing: Sequence[int] | None = None,
    ) -> None:
        super().__init__(vision, embed_dim, activation, similarity, scale, bias, competing)
        self.text = text
        self.text_projection = nn.Linear(text.embed_dim, embed_dim)
        self.centre_prompts = centre_prompts

    def prompt_embeddings(self) -> Tensor:
        """(N, E) projected embeddings of the class prompts, of mean 0 if centred."""
        prompts = self.text_projection(self.text())
        return prompts - prompts.mean(0, keepdim=True) if self.centre_prompts else prompts

    def caption_embeddings(self, present: Tensor) -> CaptionEmbeddings:
        """Projected embeddings of captions that name the classes `present` (M, N) bool, centred as the prompts are."""
        sentence, words, word_mask = self.text.captions(present)
        sentence, words = self.text_projection(sentence), self.text_projection(words)
        if self.centre_prompts:
            origin = self.text_projection(self.text()).mean(0)
            sentence, words = sentence - origin, words - origin
        return CaptionEmbeddings(sentence, words, word_mask)


class Prototypes(nn.Module):
    """K learned prototypes of dimension E."""

    def __init__(self, count: int, embed_dim: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(count, embed_dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(A, E) embeddings of any scale -> (A, K) float32 cosines."""
        return pairwise_cosine(embeddings, self.directions)
