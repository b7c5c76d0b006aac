"""A handler that a test puts into a run of several processes, to look at what each of them holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events


class DumpNetworks:
    """Writes the state of some networks at the end of training, a file for each process."""

    def __init__(self, objects: Mapping[str, Any], folder: str) -> None:
        self.objects, self.folder = objects, Path(folder)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        states = {name: self.objects[name].state_dict() for name in ("student", "teacher")}
        torch.save(states, self.folder / f"rank_{idist.get_rank()}.pt")
