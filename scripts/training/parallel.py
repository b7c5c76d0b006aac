"""Training by several processes, each with its share of every batch: averaged gradients, shared batch normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Objective = Callable[[dict[str, Any], float], dict[str, Tensor]]


class _Objective(nn.Module):
    """An objective and the parameters that it trains, in the form that `DistributedDataParallel` takes."""

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self.objective = objective
        self.trained = nn.ParameterList(p for group in optimizer.param_groups for p in group["params"])

    def forward(self, batch: dict[str, Any], progress: float) -> dict[str, Tensor]:
        return self.objective(batch, progress)


def shared_objective(objective: Objective, optimizer: torch.optim.Optimizer) -> Objective:
    """The objective, whose gradients are averaged over all processes; alone, a process gets it as it is.

    The objective is wrapped, not a network: it may ask several networks, each more than once and by other methods than
    `forward`. Every process must call it in every step. A parameter that no process used in a step keeps no gradient.
    """
    if idist.get_world_size() == 1:
        return objective
    return DistributedDataParallel(_Objective(objective, optimizer), find_unused_parameters=True)


class SharedBatchNorm:
    """Lets networks that several processes train normalise alike, and keeps their buffers equal.

    On GPUs batch normalisation becomes `torch.nn.SyncBatchNorm`, which normalises by the whole batch of all processes.
    There is none for the CPU: there each process normalises by its own share of the batch. After each epoch the
    buffers of the networks, running averages above all, are averaged over the processes.

    Args:
        networks: name -> network; what is no network is passed over.

    Attach before the handlers that validate and that write checkpoints. Alone, a process is left as it is.
    """

    def __init__(self, networks: Mapping[str, Any]) -> None:
        self.networks = [network for network in networks.values() if isinstance(network, nn.Module)]

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.average)

    def start(self, engine: Engine) -> None:
        """Exchange the layers, which keep their parameters and buffers."""
        if idist.get_world_size() > 1 and torch.device(engine.state.device).type == "cuda":
            for network in self.networks:
                nn.SyncBatchNorm.convert_sync_batchnorm(network)

    def average(self, engine: Engine) -> None:
        """Average the buffers of floating point."""
        if idist.get_world_size() == 1:
            return
        for network in self.networks:
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(idist.all_reduce(buffer.clone()) / idist.get_world_size())
