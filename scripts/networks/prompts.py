"""Class prompts: the sentence that names each class to the text encoder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from ..labels import ClassTable

# "an intervertebral disc", and "an L5" because the letter is read out: el five.
_SPOKEN_VOWEL = re.compile(r"[aeiouAEIOU]|[FHLMNRSX](?![a-z])")


def class_prompts(table: ClassTable, wording: str | Path = "long") -> list[str]:
    """Sentences that name the classes, in the order of their ids, background first.

    Args:
        table: class table with the sentence's template.
        wording: "long" ("fifth lumbar vertebra L5"), "short" ("L5"), or a JSON file `{class name: wording}`;
            a class that the file leaves out keeps its long name.

    Raises:
        ValueError: neither of these, a class that the table does not have, or two classes with the same sentence,
            which no text encoder could tell apart.
    """
    prompts = [_sentence(table.prompt_template, words) for words in _wordings(table, wording)]
    for first, prompt in enumerate(prompts):
        if prompt in prompts[first + 1 :]:
            raise ValueError(f"wording {str(wording)!r}: two classes have the same prompt, {prompt!r}")
    return prompts


class Caption:
    """The sentence that names all structures of a slice: the prompts' template with their names, joined by commas.

    Args:
        table: see :func:`class_prompts`.
        wording: see :func:`class_prompts`.
    """

    def __init__(self, table: ClassTable, wording: str | Path = "long") -> None:
        self.template, self.words = table.prompt_template, _wordings(table, wording)

    def __call__(self, classes: Iterable[int]) -> str:
        """The caption, in the order of the ids; background, which every slice shows, is named where it is alone."""
        words = [self.words[c] for c in sorted(classes) if c]
        return _sentence(self.template, ", ".join(words) if words else self.words[0])


def _wordings(table: ClassTable, wording: str | Path) -> list[str]:
    """What stands for each class in the template's gap."""
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
    """Fill the template with the article that English wants: there is one background, and a disc is *an* object."""
    if words == "background":
        template = template.replace(" a {class_name}", " the {class_name}")
    elif _SPOKEN_VOWEL.match(words):
        template = template.replace(" a {class_name}", " an {class_name}")
    return template.format(class_name=words)
