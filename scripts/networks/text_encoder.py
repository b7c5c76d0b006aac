"""Text encoders of stage 1: BERT embeddings of class prompts, learned prompts (CoOp), learned class vectors."""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .pretrained import load_pretrained, load_tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def prompt_vocabulary(prompts: Sequence[str]) -> list[str]:
    """WordPiece vocabulary of the prompts' whole words, lower-cased and without accents as by BERT's tokenizer."""
    words: set[str] = set()
    for prompt in prompts:
        letters = unicodedata.normalize("NFD", prompt.lower())
        plain = "".join(c for c in letters if unicodedata.category(c) != "Mn")
        words.update(re.findall(r"[^\W_]+|[^\w\s]|_", plain))
    return [*SPECIAL_TOKENS, *sorted(words)]


class CaptionEmbeddings(NamedTuple):
    """Embeddings of M captions.

    Attributes:
        sentence: (M, D) embeddings of the captions.
        words: (M, L, D) embeddings of their words, zero-padded.
        word_mask: (M, L) bool, false at padding.
    """

    sentence: Tensor
    words: Tensor
    word_mask: Tensor


class TextEncoder(nn.Module):
    """Interface of text encoders; `forward` takes nothing and returns the class prompts' embeddings (N, D).

    Attributes:
        prompts: N class prompts in the order of the class ids.
        embed_dim: D, the dimension of an embedding.
        pretrained: source of its weights; None for random weights.
        vocabulary: tokens in the order of their ids if built from the prompts, else empty.
    """

    prompts: list[str]
    embed_dim: int
    pretrained: str | None
    vocabulary: list[str]

    def captions(self, present: Tensor) -> CaptionEmbeddings:
        """Embeddings of captions that name the classes `present` (M, N) bool."""
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        """Kind and settings of the encoder, as JSON for the checkpoint."""
        raise NotImplementedError

    def new_parameters(self) -> list[nn.Parameter]:
        """Newly initialised parameters (prompt vectors), trained at the learning rate of the projections."""
        return []


class BertTextEncoder(TextEncoder):
    """BERT's [CLS] embedding of each class prompt; the default is Bio_ClinicalBERT, about 108 M weights.

    Args:
        prompts: N sentences in the order of the class ids.
        pretrained: name on the Hugging Face hub or a local folder; ignored if there is a `config`.
        config: arguments of `transformers.BertConfig`, for random weights and a vocabulary of the prompts' words;
            its `vocab_size` follows from them.
        dropout: of all layers, in training. With random weights, BERT's usual 0.1 adds noise far above the difference
            of two prompts of one template.
        caption: ids of classes -> caption that names them, for objectives with captions; see
            `scripts.networks.prompts.Caption`.

    Raises:
        RuntimeError: the pretrained transformer cannot be loaded.
        ValueError: neither `pretrained` nor `config`, or a word that the vocabulary cannot spell.

    Convention: the tokenizer keeps its own casing. Bio_ClinicalBERT is a cased model whose published tokenizer
    lower-cases; this is kept for comparability, and `lower_case` records it.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        pretrained: str | None = "emilyalsentzer/Bio_ClinicalBERT",
        config: dict[str, Any] | None = None,
        dropout: float = 0.0,
        caption: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel, BertTokenizer

        self.prompts = list(prompts)
        self.vocabulary = []
        self.caption = caption
        texts = [*self.prompts, caption(range(len(self.prompts)))] if caption else self.prompts
        rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        if config is not None:
            self.pretrained = None
            self.vocabulary = prompt_vocabulary(texts)
            with tempfile.TemporaryDirectory() as folder:
                # All versions of transformers read a vocabulary file in the same way.
                Path(folder, "vocab.txt").write_text("\n".join(self.vocabulary) + "\n", encoding="utf-8")
                tokenizer = load_tokenizer(BertTokenizer, folder)
            bert_config = BertConfig(**{**config, **rates, "vocab_size": len(self.vocabulary)})
            self.bert = BertModel(bert_config, add_pooling_layer=False)
        elif pretrained:
            self.pretrained = pretrained
            self.bert = load_pretrained(BertModel, pretrained, "text encoder", **rates)
            tokenizer = load_tokenizer(BertTokenizer, pretrained)
        else:
            raise ValueError("BertTextEncoder needs `pretrained` or `config`")
        self.embed_dim = self.bert.config.hidden_size
        self.lower_case = all(tokenizer.tokenize(p) == tokenizer.tokenize(p.lower()) for p in self.prompts)
        self.tokenizer = tokenizer
        tokens = tokenizer(self.prompts, padding=True, return_tensors="pt")
        unknown = [p for p, ids in zip(self.prompts, tokens["input_ids"], strict=True) if tokenizer.unk_token_id in ids]
        if unknown:
            raise ValueError(f"the text encoder's vocabulary cannot spell the prompt {unknown[0]!r}")
        self.input_ids: Tensor
        self.attention_mask: Tensor
        # Not part of the checkpoint, since they follow from the prompts.
        self.register_buffer("input_ids", tokens["input_ids"], persistent=False)
        self.register_buffer("attention_mask", tokens["attention_mask"], persistent=False)

    def description(self) -> dict[str, Any]:
        """See :meth:`TextEncoder.description`."""
        return {"kind": "bert", "pretrained": self.pretrained, "lower_case": self.lower_case}

    def forward(self) -> Tensor:
        """(N, D) embeddings of the class prompts."""
        return self.bert(input_ids=self.input_ids, attention_mask=self.attention_mask).last_hidden_state[:, 0]

    def captions(self, present: Tensor) -> CaptionEmbeddings:
        """See :meth:`TextEncoder.captions`; [CLS] embedding of the caption, words as means of their sub-words.

        Raises:
            ValueError: the encoder was built without `caption`.
        """
        if self.caption is None:
            raise ValueError("this objective reads captions: give the text encoder a `caption`, as its overlay does")
        distinct, index = present.unique(dim=0, return_inverse=True)  # many slices show the same structures
        sentences = [self.caption(row.nonzero()[:, 0].tolist()) for row in distinct.cpu()]
        tokens = self.tokenizer(sentences, padding=True, return_tensors="pt").to(present.device)
        hidden = self.bert(**tokens).last_hidden_state  # (U, T, D)
        word_index = self._word_index(tokens["input_ids"].cpu()).to(present.device)  # (U, T)
        of_word = (
            word_index[:, None] == torch.arange(int(word_index.max()) + 1, device=word_index.device)[:, None]
        )  # (U, L, T)
        counts = of_word.sum(2)  # (U, L)
        words = of_word.to(hidden.dtype) @ hidden / counts.clamp_min(1)[..., None]
        return CaptionEmbeddings(hidden[index, 0], words[index], (counts > 0)[index])

    def _word_index(self, input_ids: Tensor) -> Tensor:
        """Index of the word of each token (U, T), from 0; -1 for special tokens and punctuation."""
        word_index = torch.full_like(input_ids, -1)
        for row, ids in enumerate(input_ids.tolist()):
            word = -1
            for column, token in enumerate(self.tokenizer.convert_ids_to_tokens(ids)):
                if token in SPECIAL_TOKENS or not any(c.isalnum() for c in token):
                    continue
                word += not (token.startswith("##") and word >= 0)
                word_index[row, column] = word
        return word_index


class LearnedPrompts(BertTextEncoder):
    """Prompt learning (CoOp, unified context): learned context vectors, shared by all classes, before the class names.

    The vectors replace the first tokens of the prompts and are initialised by their embeddings, so the embeddings
    before the first step are those of :class:`BertTextEncoder`.

    Args:
        context: M, number of learned vectors; the first M tokens must be the same in all prompts.
        frozen: train the context vectors only, with BERT frozen; else both are trained.
        prompts, pretrained, config, dropout, caption: see :class:`BertTextEncoder`.

    Raises:
        ValueError: prompts that do not begin with M tokens in common; or as :class:`BertTextEncoder`.

    References: Zhou et al., Learning to Prompt for Vision-Language Models (CoOp), IJCV 2022, unified context.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        pretrained: str | None = "emilyalsentzer/Bio_ClinicalBERT",
        config: dict[str, Any] | None = None,
        dropout: float = 0.0,
        caption: Callable[[Sequence[int]], str] | None = None,
        context: int = 4,
        frozen: bool = True,
    ) -> None:
        super().__init__(prompts, pretrained, config, dropout, caption)
        first = self.input_ids[:, 1 : 1 + context]  # behind [CLS]
        inside = self.attention_mask[:, : context + 2].all()  # [SEP] is no word
        if context < 1 or not inside or not (first == first[0]).all():
            raise ValueError(f"context must be a number of tokens that all prompts begin with, got {context}")
        self.frozen = frozen
        self.bert.requires_grad_(not frozen)
        self.context = nn.Parameter(self.bert.get_input_embeddings()(first[0]).detach().clone())  # (M, D)

    def description(self) -> dict[str, Any]:
        """See :meth:`TextEncoder.description`."""
        return {**super().description(), "learned_context": len(self.context), "frozen": self.frozen}

    def new_parameters(self) -> list[nn.Parameter]:
        """See :meth:`TextEncoder.new_parameters`."""
        return [self.context]

    def forward(self) -> Tensor:
        """(N, D) embeddings of the class prompts."""
        words = self.bert.get_input_embeddings()(self.input_ids)  # (N, T, D)
        context = self.context.to(words.dtype).expand(len(words), -1, -1)
        tokens = torch.cat([words[:, :1], context, words[:, 1 + len(self.context) :]], 1)
        return self.bert(inputs_embeds=tokens, attention_mask=self.attention_mask).last_hidden_state[:, 0]


class ClassVectors(TextEncoder):
    """One learned vector per class in place of a text encoder: the control without text."""

    def __init__(self, prompts: Sequence[str], embed_dim: int = 64) -> None:
        super().__init__()
        self.prompts = list(prompts)
        self.vocabulary = []
        self.pretrained = None
        self.embed_dim = embed_dim
        self.vectors = nn.Parameter(torch.randn(len(self.prompts), embed_dim))

    def description(self) -> dict[str, Any]:
        """See :meth:`TextEncoder.description`."""
        return {"kind": "class_vectors", "pretrained": None, "lower_case": None}

    def forward(self) -> Tensor:
        """(N, D) vectors of the classes."""
        return self.vectors

    def captions(self, present: Tensor) -> CaptionEmbeddings:
        """See :meth:`TextEncoder.captions`; words are the class vectors, the caption is their mean."""
        words = self.vectors * present[..., None]  # (M, N, D)
        return CaptionEmbeddings(words.sum(1) / present.sum(1, keepdim=True).clamp_min(1), words, present)
