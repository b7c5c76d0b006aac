"""Stop a training whose loss or weights are no finite numbers (NaN, infinity), and keep such weights from the disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from ignite.engine import Engine
from torch import Tensor

from ..data.datalist import DataError
from ..files import PROGRAM

MEND = (
    "give a smaller --learning_rate or, where mixed precision is on, --amp False, and look at the scans with "
    f"{PROGRAM} check; what was kept before is whole"
)


class FiniteLoss:
    """Stops at the first loss that is NaN or infinite.

    On a GPU the loss is looked at every `interval` steps and at the end of an epoch, since each look waits for the
    device; the step that is named is the first in any case.

    Args:
        interval: steps between two looks.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._first: Tensor | None = None

    def __call__(self, losses: Mapping[str, Tensor], engine: Engine) -> None:
        """Look at the losses of a step.

        Raises:
            DataError: one was not finite.
        """
        loss, step, length = losses["loss"].detach(), engine.state.iteration, engine.state.epoch_length
        if self._first is None:
            self._first = torch.zeros((), dtype=torch.int64, device=loss.device)
        self._first = self._first.where((self._first > 0) | loss.isfinite(), step)
        if loss.device.type != "cpu" and step % self.interval and step % (length or 1):
            return
        if first := int(self._first):
            parts = [name for name, part in losses.items() if name != "loss" and not part.isfinite()]
            told = f" (part {', '.join(parts)})" if parts else ""
            raise DataError(f"the loss is not a finite number from step {first} on{told}; {MEND}")


def require_finite(tensors: Iterable[Tensor], what: str) -> None:
    """Refuse weights that are not finite.

    Raises:
        DataError: the sentence begins with `what`.
    """
    found = [tensor.detach().isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    if found and not torch.stack(found).all():  # one look, however many there are
        raise DataError(f"{what} are not all finite numbers; {MEND}")
