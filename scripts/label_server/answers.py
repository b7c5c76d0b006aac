"""Answers of the server to what it cannot do: one sentence, in words of MONAI Label and not of the command line.

MONAI Label itself answers "Internal Server Error", or starts a task that ends with an exception of Python.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import HTTPException
from monailabel.endpoints import activelearning, datastore, infer
from monailabel.interfaces.exception import MONAILabelException
from monailabel.utils.async_tasks.task import AsyncTask

log = logging.getLogger(__name__)

ENDPOINTS: dict[Any, tuple[str, ...]] = {
    infer: ("run_inference",),
    activelearning: ("sample",),
    datastore: ("add_image", "remove_image", "save_label", "remove_label", "update_image_info", "update_label_info"),
}
"""Module of MONAI Label -> its functions that answer a request."""
TABLES = ("params", "info")
"""Their arguments that come as the text of a JSON table."""
WORDS = {
    r"no datalist was given; add .* In MONAI Label: save": "no scan has a final label yet: save",
    r"the same command with --resume True goes on after the last epoch that was kept": (
        "press Train again, which starts from the last network that was kept"
    ),
    r"give both stages the same grid .*": (
        "delete the folder of stage 1 and press Train, which makes it anew on this grid"
    ),
    r"; make one with python -m monai\.bundle run pretraining .*": "; press Train, which makes it",
    r"add configs/offline_encoders\.yaml behind configs/pretrain\.yaml": (
        "start the server with --conf stage1 offline_encoders.yaml"
    ),
    r",? or (leave out|name folders with) --.*": "",
    r"\S*pip install -r (\S+)": r"install \1 beside MONAI Label",
    r"python -m scripts check": "a viewer",
    r"--(?!conf\b)([a-z][a-z0-9_]*(?:#\w+)*) True\b": r"`\1: true`",
    r"--(?!conf\b)([a-z][a-z0-9_]*(?:#\w+)*)": r"`\1`",
}
"""Advice of the command line -> the same of a server; keys that it names are those of the bundle's configuration."""


def answer_in_sentences(check: Callable[[str, Mapping[str, Any]], None]) -> None:
    """Let MONAI Label's endpoints answer in sentences.

    Args:
        check: called with the kind of a task ("train", "scoring", "batch_infer") and what was asked, before it starts;
            raises an HTTPException.
    """
    for module, names in ENDPOINTS.items():
        for name in names:
            setattr(module, name, in_a_sentence(inspect.unwrap(getattr(module, name))))
    run = inspect.unwrap(AsyncTask.run)

    @functools.wraps(run)
    def checked(method: str, request: Any = None, params: Any = None, *args: Any, **kwargs: Any) -> Any:
        check(method, {**(request or {}), **(params or {})})
        return run(method, request, params, *args, **kwargs)

    AsyncTask.run = staticmethod(checked)


def in_a_sentence(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of an endpoint whose exceptions reach the viewer as a sentence."""

    @functools.wraps(function)
    def answering(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        for name in TABLES:
            if isinstance(given.get(name), str) and given[name]:
                require_table(name, given[name])
        try:
            return function(*args, **kwargs)
        except HTTPException:
            raise
        except MONAILabelException as error:  # of the datastore: an image or label that it does not have
            raise HTTPException(404, f"{error.msg}; ask for /datastore/?output=all for what there is") from error
        except Exception as error:
            log.exception("%s failed", function.__name__)
            raise HTTPException(500, f"the server failed in {function.__name__}: {reason_of(error)}") from error

    return answering


def require_table(name: str, text: str) -> None:
    """Refuse a text that is no JSON table with an HTTPException."""
    try:
        kind = type(json.loads(text)).__name__
    except ValueError as error:
        raise HTTPException(422, f'{name} is no JSON ({error}); send a table, as {{"device": "cpu"}}') from error
    if kind != "dict":
        raise HTTPException(422, f'{name} must be a JSON table, as {{"device": "cpu"}}, got a {kind}')


def check_training(asked: Mapping[str, Any]) -> None:
    """Refuse values with which a training would break off, perhaps after hours of stage 1, with an HTTPException."""
    epochs, share = asked.get("max_epochs", 50), asked.get("val_split", 0.2)
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise HTTPException(422, f"max_epochs must be a whole number from 1 on, got {epochs!r}")
    if not isinstance(share, int | float) or isinstance(share, bool) or not -1 <= share < 1:
        raise HTTPException(
            422, f"val_split must be the share of the labelled scans for validation, from 0 to below 1, got {share!r}"
        )
    if asked.get("pretrained") is False:
        raise HTTPException(
            422, "pretrained must be true: training starts from models/model.pt of the bundle; delete it to begin anew"
        )


def problem_of(error: BaseException) -> str | None:
    """What the bundle says of an error of a user's files, settings or machine, in a server's words; None of others."""
    command_line = sys.modules.get("scripts.bundle.command_line")  # of the bundle, which MONAI Label imports anew
    problem = command_line.problem_of(error) if command_line else None
    return problem and in_server_words(problem)


def reason_of(error: BaseException) -> str:
    """One line on any error."""
    return problem_of(error) or (str(error).strip().splitlines() or [type(error).__name__])[0]


def in_server_words(problem: str) -> str:
    """A sentence of the bundle with a server's advice, see `WORDS`."""
    told = problem
    for pattern, words in WORDS.items():
        told = re.sub(pattern, words, told)
    keys = told.count("`") > problem.count("`")
    return told + (" (keys of settings.yaml in the app's folder, taken when label_app makes it anew)" if keys else "")
