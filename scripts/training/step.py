"""One optimisation step: batch to device, augmentation, objective, backward, optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn

from ..ops.precision import autocast, half_precision
from .finite import FiniteLoss, require_finite
from .parallel import shared_objective


class OptimizationStep:
    """`iteration_update` of a MONAI trainer: batch to device, augment, objective, backward, optimiser.

    Args:
        objective: (batch, progress) -> {"loss": (), named parts}.
        optimizer: moves what the objective trains.
        augment: (batch, step) -> batch, on the device; None leaves the batch as it is.
        complete: batch -> batch, as the loader gave it, on the CPU: adds what a loader cannot know, as pseudo-labels of
            this run.
        max_grad_norm: gradients are clipped to this norm; None leaves them.
        total_steps: steps of the whole training, by which its progress is measured; None takes the engine's own epochs,
            which are those of the present round alone where training comes in rounds.

    A loss that is no finite number stops the run, and so do such weights at the end of an epoch.
    Where several processes train together, each with its share of the batch, their gradients are averaged.
    Mixed precision follows the engine's `amp`, see `scripts.ops.precision`; float16 with the engine's scaler.
    """

    def __init__(
        self,
        objective: Callable[[dict[str, Any], float], dict[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        augment: Callable[[dict[str, Any], int], dict[str, Any]] | None = None,
        max_grad_norm: float | None = None,
        complete: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        total_steps: int | None = None,
    ) -> None:
        self.total_steps = total_steps
        self.objective, self.optimizer = objective, optimizer
        self.augment, self.max_grad_norm, self.complete = augment, max_grad_norm, complete
        self._shared: Callable[..., dict[str, Tensor]] | None = None
        self._check_loss = FiniteLoss()

    def __call__(self, engine: Engine, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Take one step and return the detached losses.

        Raises:
            DataError: the loss, or at the end of an epoch a weight, is not finite.
        """
        state = engine.state
        if self._shared is None:  # not before the first step: a run that starts from weights has loaded them by then
            self._shared = shared_objective(self.objective, self.optimizer)
        engine.network.train()
        if self.complete is not None:
            batch = self.complete(batch)
        batch = to_device(batch, state.device, engine.non_blocking)
        if self.augment is not None:
            batch = self.augment(batch, state.iteration)
        progress = (state.iteration - 1) / (self.total_steps or state.max_epochs * state.epoch_length)
        with autocast(state.device, engine.amp):
            losses = self._shared(batch, progress)
        self._check_loss(losses, engine)
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(losses["loss"], engine.scaler if half_precision(state.device) == torch.float16 else None)
        if state.iteration % state.epoch_length == 0:
            require_finite(self._trained(), f"the weights after epoch {state.epoch}")
        return {name: loss.detach() for name, loss in losses.items()}

    def _backward(self, loss: Tensor, scaler: Any | None) -> None:
        if scaler is None:
            loss.backward()
        else:
            scaler.scale(loss).backward()
            scaler.unscale_(self.optimizer)
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._trained(), self.max_grad_norm)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()

    def _trained(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def to_device(batch: Any, device: torch.device | str, non_blocking: bool = False) -> Any:
    """Move every tensor of a nested batch; what is not a tensor stays."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=non_blocking)
    if isinstance(batch, dict):
        return {key: to_device(value, device, non_blocking) for key, value in batch.items()}
    return batch
