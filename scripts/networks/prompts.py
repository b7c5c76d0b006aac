"""Class prompts and captions: sentences that name classes for the text encoder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from ..labels import ClassTable

# "an intervertebral disc", and "an L5" because the letter is spelled out
_SPOKEN_VOWEL = re.compile(r"[aeiouAEIOU]|[FHLMNRSX](?![a-z])")


def class_prompts(table: ClassTable, wording: str | Path = "long") -> list[str]:
    """Class prompts in the order of the class ids, background first.

    Args:
        table: class table with the prompt template.
        wording: "long" ("fifth lumbar vertebra L5"), "short" ("L5"), or a JSON file `{class name: wording}`;
            a class that the file leaves out keeps its long name.

    Raises:
        ValueError: another wording, an unknown class in the file, or two classes with the same prompt.
    """
    prompts = [_sentence(table.prompt_template, words) for words in _wordings(table, wording)]
    for first, prompt in enumerate(prompts):
        if prompt in prompts[first + 1 :]:
            raise ValueError(f"wording {str(wording)!r}: two classes have the same prompt, {prompt!r}")
    return prompts


class Caption:
    """Caption of a slice: the prompt template filled with the names of its structures, joined by commas.

    Args:
        table: see :func:`class_prompts`.
        wording: see :func:`class_prompts`.
    """

    def __init__(self, table: ClassTable, wording: str | Path = "long") -> None:
        self.template, self.words = table.prompt_template, _wordings(table, wording)

    def __call__(self, classes: Iterable[int]) -> str:
        """Caption of class ids, in their order; background is named only if there is nothing else."""
        words = [self.words[c] for c in sorted(classes) if c]
        return _sentence(self.template, ", ".join(words) if words else self.words[0])


def _wordings(table: ClassTable, wording: str | Path) -> list[str]:
    """Name of each class for the template."""
    if wording == "short":
        return list(table.names)
    long_names = [c.long_name for c in table.classes]
    if wording == "long":
        return long_names
    path = Path(wording)
    if not path.is_file():
        raise ValueError(f"wording {str(wording)!r} is neither 'long' nor 'short' nor a JSON file")
    for name, words in json.loads(path.read_text(encoding="utf-8")).items():
        long_names[table.id_of(name)] = words
    return long_names


def _sentence(template: str, words: str) -> str:
    """Fill the template with the right English article."""
    if words == "background":
        template = template.replace(" a {class_name}", " the {class_name}")
    elif _SPOKEN_VOWEL.match(words):
        template = template.replace(" a {class_name}", " an {class_name}")
    return template.format(class_name=words)
