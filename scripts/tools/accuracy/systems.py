"""What a benchmark can compare: a system for each file of `configs/methods` and `configs/ablations`, by its header.

Ablations that set a single key are rows of `configs/ablations.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ...bundle.launch import BUNDLE_ROOT

CONFIGS = BUNDLE_ROOT / "configs"
STAGE2_OF_COMPARED = "cps4_literal"
"""Method whose stage 2 follows a stage 1 that CPS4's is compared with: the form closest to the paper."""
ORIGINAL = "_original"
"""End of the name of a method with its original's weights of the loss."""
ALIASES = {"baseline": "mean_teacher", "all": "cps4"}
"""Names of the paper's ablation (fig. 4) for rows that are there anyway, as `token` and `pixel` are."""


@dataclass(frozen=True)
class System:
    """One row of a table of results: how its two stages are configured.

    Attributes:
        name: what it is called in tables, and its folders.
        stage2: config files between train.yaml and those of the benchmark.
        overrides: of stage 2.
        stage1_of: whose stage 1 it takes: "" for CPS4's own, another system's name, None for no stage 1.
        stage1: config files behind all others of stage 1.
        stage1_overrides: of stage 1.
        follows: system whose finished run its stage 1 learns from, and the key of stage 1 that takes the run's folder.
        all_labelled: it is trained on the labels of all training patients, hidden ones too: the upper bound.
    """

    name: str
    stage2: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    stage1_of: str | None = ""
    stage1: tuple[str, ...] = ()
    stage1_overrides: Mapping[str, Any] = field(default_factory=dict)
    follows: tuple[str, str] | None = None
    all_labelled: bool = False


def systems(configs: Path = CONFIGS) -> dict[str, System]:
    """Name -> system.

    A method on `train` is a stage 2; with `prompt_maps: null` it takes no stage 1, else CPS4's. A method on `pretrain`
    is a stage 1, and `STAGE2_OF_COMPARED` follows it. An ablation on `train` changes CPS4's stage 2, one on `pretrain`
    its stage 1, by a file or by one key. What stands in a header as `# equal weights: KEY=VALUE, ...` makes the weights
    of the unlabelled terms sum to 1 for the comparison; `# stage 1: FILE` is an overlay on `pretrain` that a method on
    `train` takes in place of CPS4's own stage 1; `# follows: SYSTEM as KEY` is what a stage 1 learns from. A method
    whose file in `originals` has weights of the loss is a second system, NAME_original, with these and nothing else.

    Args:
        configs: the folder of the config files.

    Raises:
        ValueError: two files of one name, or a file without a header.
    """
    found = {"cps4": System("cps4")}
    methods = {path.stem: path for path in sorted((configs / "methods").glob("*.yaml"))}
    follower = methods.get(STAGE2_OF_COMPARED)
    for name, path in methods.items():
        system = System(name)
        if "train" not in bases(path) and follower:
            system = replace(_with_file(system, follower, configs), stage1=())  # of the method, not of the follower
        _add(found, _with_file(system, path, configs), name)
    for path in sorted((configs / "ablations").glob("*.yaml")):
        _add(found, _with_file(System(path.stem), path, configs), path.stem)
    for name, row in one_key_ablations(configs).items():
        given = {row["key"]: row["value"]}
        on_train = row["base"] == "train"
        changed = System(name, overrides=given) if on_train else System(name, stage1_of=name, stage1_overrides=given)
        _add(found, changed, name)
    if "supervised" in found:
        _add(found, replace(found["supervised"], name="full", all_labelled=True), "full")
    for path in sorted((configs / "originals").glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        weights = {key: value for key, value in content.items() if key.startswith("loss_weights#")}
        for base in header(path, "overlay on") if weights else ():
            method = found[base.rpartition("/")[2]]
            name = method.name + ORIGINAL
            _add(found, replace(method, name=name, overrides={**method.overrides, **weights}), name)
    return found


def one_key_ablations(configs: Path = CONFIGS) -> dict[str, dict[str, Any]]:
    """The table of CPS4 with one key changed: name -> `base` (what the key lies on), `key`, `value` and `about`."""
    file = configs / "ablations.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def variant(words: Sequence[str], known: Mapping[str, System]) -> System:
    """A system from the command line: `NAME [ROW] [FILE.yaml | KEY=VALUE | stage1:KEY=VALUE] ...`.

    Args:
        words: its name, then what it changes; ROW is the system that is changed, cps4 unless named.
        known: all systems so far.

    Raises:
        ValueError: a name that is taken, or a word that is none of these.
    """
    name, *changes = words
    if name in known or name in ALIASES:
        raise ValueError(f"there is a row {name} already; give the variant another name")
    row = changes.pop(0) if changes and changes[0] in known else "cps4"
    system = replace(known[row], name=name)
    for word in changes:
        if word.endswith(".yaml"):
            system = _with_file(system, Path(word).absolute() if Path(word).is_file() else CONFIGS / word, CONFIGS)
        elif "=" not in word:
            raise ValueError(f"variant {name}: {word} is neither a known row, nor a config file, nor KEY=VALUE")
        elif word.startswith("stage1:"):
            given = {**system.stage1_overrides, **pairs([word.removeprefix("stage1:")])}
            system = replace(system, stage1_of=name, stage1_overrides=given)
        else:
            system = replace(system, overrides={**system.overrides, **pairs([word])})
    return system


def chosen(names: Sequence[str], known: Mapping[str, System]) -> list[System]:
    """The named systems, each once.

    Raises:
        ValueError: a name that is not known.
    """
    names = [ALIASES.get(name, name) for name in names]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no method or ablation {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def pairs(items: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` words as a table.

    Raises:
        ValueError: a word without an equals sign.
    """
    if wrong := [item for item in items if "=" not in item]:
        raise ValueError(f"an override is KEY=VALUE, got {', '.join(wrong)}")
    return dict(item.split("=", 1) for item in items)


def bases(path: Path) -> list[str]:
    """Which of the two stages' configs a file says that it lies on; what lies between (`pretrain + X`) is left out.

    Raises:
        ValueError: it says nothing, or there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"there is no config file {path}")
    found = header(path, "overlay on")
    if not found:
        raise ValueError(f"{path}: the header must say what it lies on, for example '# overlay on: train'")
    return [entry.split(" + ")[0] for entry in found]


def header(path: Path, word: str) -> list[str]:
    """The entries of `# word: a, b` among the comments at the head of a file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if match := re.search(rf"\b{word}:\s*([^()]+)", line):
            return re.split(r"\s*,\s*", match.group(1).strip().rstrip(".,"))
    return []


def _with_file(system: System, path: Path, configs: Path) -> System:
    """A system with one more config file, in the stages that its header names."""
    file, on = _relative(path, configs), bases(path)
    if "train" in on:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        weights = {**system.overrides, **pairs(header(path, "equal weights"))}
        system = replace(system, stage2=(*system.stage2, file), overrides=weights)
        if "prompt_maps" in content:
            system = replace(system, stage1_of="" if content["prompt_maps"] is not None else None)
        for name in header(path, "stage 1"):
            system = _with_file(system, configs / name, configs)
    if "pretrain" in on:
        system = replace(system, stage1_of=system.name, stage1=(*system.stage1, file))
        for entry in header(path, "follows"):
            before, key = entry.split(" as ")
            system = replace(system, follows=(before, key))
    return system


def _relative(path: Path, configs: Path) -> str:
    return path.relative_to(configs).as_posix() if path.is_relative_to(configs) else str(path)


def _add(found: dict[str, System], system: System, name: str) -> None:
    if name in found or name in ("warm", "stage1", *ALIASES):
        raise ValueError(f"{name} cannot be the name of a method or ablation: it is taken")
    found[name] = system
