"""Handlers of a training: the EMA teacher, checkpoints, the model file, calls at events. No mathematics here."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events

from ..bundle.model_file import load_tensors, save_atomically
from ..files import FileError
from ..ops.ema import update_ema_, warmup_decay
from .finite import require_finite


class EMATeacher:
    """Move the teacher after every step: teacher = decay · teacher + (1 - decay) · student.

    Args:
        student: network that is trained.
        teacher: its moving average.
        decay: share of the teacher that is kept, warmed up as min(1 - 1 / (step + 1), decay).
        buffers: "batch", "average" or "copy"; see `scripts.ops.ema.update_ema_`.
        first_step: steps that count as taken already; a teacher that starts from trained weights needs no warm-up.
    """

    def __init__(
        self,
        student: torch.nn.Module,
        teacher: torch.nn.Module,
        decay: float = 0.99,
        buffers: str = "batch",
        first_step: int = 0,
    ) -> None:
        self.student, self.teacher, self.decay, self.buffers = student, teacher, decay, buffers
        self.first_step = first_step

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Update the teacher."""
        update_ema_(
            self.teacher, self.student, warmup_decay(self.first_step + engine.state.iteration, self.decay), self.buffers
        )


class On:
    """Call something whenever an engine comes to an event.

    Args:
        event: name of an event of `ignite.engine.Events`: "STARTED", "EPOCH_STARTED", "COMPLETED", ...
        call: takes the engine, or nothing.
    """

    def __init__(self, event: str, call: Callable[..., Any]) -> None:
        self.event, self.call = Events[event], call

    def attach(self, engine: Engine) -> None:
        """Register with an engine."""
        engine.add_event_handler(self.event, self.call)


class TrainingCheckpoint:
    """Everything that a killed run needs to go on, written after each epoch, at once or not at all.

    Of several processes the first writes and all read: their networks, optimisers and random states are equal.

    Args:
        path: checkpoint file of the run.
        objects: name -> whatever has `state_dict` and `load_state_dict`.
        loader: has `start_at(step)`; told where to go on.
        resume: load the file, if there is one, when training starts.
        interval: epochs between two checkpoints.
    """

    def __init__(self, path: str | Path, objects: Mapping[str, Any], loader: Any, resume: bool, interval: int = 1):
        self.path, self.objects, self.loader = Path(path), dict(objects), loader
        self.resume, self.interval = resume, interval

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self.load)
        # The other handlers go by what is loaded, and have done their part of an epoch when it is saved: what is kept
        # is never ahead of the log, nor behind it.
        engine.add_event_handler(Events.STARTED, self._attach_last)

    def _attach_last(self, engine: Engine) -> None:
        if not engine.has_event_handler(self.save):
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.save)

    def load(self, engine: Engine) -> None:
        """Go on from the file, if resuming was asked for and there is one.

        Raises:
            FileError: it is damaged, or of a run of another network or method.
        """
        if not (self.resume and self.path.is_file()):
            self.loader.start_at(engine.state.iteration)  # not 0 where training comes in rounds
            return
        state = load_tensors(self.path, "remove it to begin anew, or name the folder of another run")
        for name, thing in self.objects.items():
            try:
                thing.load_state_dict(state[name])
            except (KeyError, RuntimeError, ValueError) as error:
                holds = f"holds no {name}" if name not in state else f"has another {name} than this run"
                raise FileError(
                    f"{self.path} {holds}: it is of another method or network; give the config files and overrides "
                    "that it was begun with, or another --output_dir"
                ) from error
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        if "python_rng" in state:
            random.setstate(state["python_rng"])
            np.random.set_state(state["numpy_rng"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and _device(engine).type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], _device(engine))
        self.loader.start_at(state["iteration"])
        logging.getLogger(__name__).info("resuming %s after epoch %d", self.path, state["epoch"])

    def save(self, engine: Engine) -> None:
        """Write the file."""
        if idist.get_rank() > 0:
            return
        state = {name: thing.state_dict() for name, thing in self.objects.items()}
        state.update(epoch=engine.state.epoch, iteration=engine.state.iteration)
        # of the device that the process trains on: on the others of the machine other processes may be at work
        cuda_rng = torch.cuda.get_rng_state(_device(engine)) if _device(engine).type == "cuda" else None
        kind, keys, *rest = cast("tuple[Any, ...]", np.random.get_state())
        state.update(python_rng=random.getstate(), numpy_rng=(kind, keys.tolist(), *rest))
        state.update(rng=torch.get_rng_state(), cuda_rng=cuda_rng)
        save_atomically(state, self.path)


def _device(engine: Engine) -> torch.device:
    """Where an engine of MONAI works; an engine of ignite does not say, and works on the CPU."""
    return torch.device(getattr(engine.state, "device", None) or "cpu")


class ModelFile:
    """Write the network that is kept: the best on validation, or the last where no validation has a score.

    Args:
        write: writes the weights; takes no argument.
        metric: name of the validation score to compare, larger is better; None writes when the engine completes.
        within_error: keep the latest network that is not below the best by more than the standard error of the best's
            mean over the volumes, in place of the best itself. A few volumes of validation cannot tell more, and by
            chance the best of many is an early one.

    Attach to the evaluator with a metric, to the trainer without one. Of several processes, which all have the same
    score, the first writes. A score of NaN (nothing to score) is below all others.

    References: the one-standard-error rule, Breiman et al., Classification and regression trees, 1984, section 3.4.3.
    """

    def __init__(self, write: Callable[[], Any], metric: str | None = None, within_error: bool = False) -> None:
        self.write, self.metric, self.within_error = write, metric, within_error
        self.best, self.error = float("-inf"), 0.0

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator or a trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write if this is the best score so far, or near to it, or if there has been none.

        Raises:
            DataError: weights of the engine's network are not finite; nothing is written.
        """
        score = float(engine.state.metrics[self.metric]) if self.metric else float("inf")
        better = score > self.best  # NaN is not larger
        near = self.within_error and score >= self.best - self.error
        if better or near or self.best == float("-inf"):
            if isinstance(network := getattr(engine, "network", None), torch.nn.Module):
                require_finite(network.state_dict().values(), "the weights that were to be kept")
            if better:
                self.best, self.error = score, self._error(engine)
            if idist.get_rank() == 0:
                self.write()

    def _error(self, engine: Engine) -> float:
        """Standard error of the score: of the mean over the volumes; 0 for a single one."""
        if not self.within_error:
            return 0.0
        scores = engine.state.metric_details[self.metric].nanmean(1)
        scores = scores[~scores.isnan()]
        return float(scores.std() / len(scores) ** 0.5) if len(scores) > 1 else 0.0

    def state_dict(self) -> dict[str, float]:
        """The best score so far, and its error."""
        return {"best": self.best, "error": self.error}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Remember the best score of the run that goes on."""
        self.best, self.error = state["best"], state.get("error", 0.0)
