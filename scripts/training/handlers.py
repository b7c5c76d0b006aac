"""Event adapters: the EMA teacher, checkpoints, the model file, logs, the progress bar. No mathematics here."""

from __future__ import annotations

import csv
import io
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from tqdm import tqdm

from ..bundle.model_file import load_tensors, save_atomically
from ..files import mark_unfinished, write_whole
from ..ops.ema import update_ema_, warmup_decay


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


class TeacherFromStudent:
    """Give the teacher the student's weights when training starts, behind whatever loads weights into the student.

    MONAI Label puts a handler in front that loads the last model into the student alone. A resumed run gets both from
    its checkpoint, whose handler comes later.

    Args:
        student: network that is trained.
        teacher: the same network.
    """

    def __init__(self, student: torch.nn.Module, teacher: torch.nn.Module) -> None:
        self.student, self.teacher = student, teacher

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Copy parameters and buffers."""
        update_ema_(self.teacher, self.student, 0.0, "copy")


class StartRounds:
    """Tell rounds of pseudo-labels that an epoch begins; behind the teacher's own handler, before the checkpoint's.

    Args:
        rounds: has `start(epoch)`.
    """

    def __init__(self, rounds: Any) -> None:
        self.rounds = rounds

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda engine: self.rounds.start(engine.state.epoch))


class AtStart:
    """Do something before the first step, for trainers that are run without the bundle's run ids.

    Args:
        call: takes no argument.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, lambda engine: self.call())


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
            FileError: it is damaged.
        """
        if not (self.resume and self.path.is_file()):
            self.loader.start_at(engine.state.iteration)  # not 0 where training comes in rounds
            return
        state = load_tensors(self.path, "remove it to begin anew, or name the folder of another run")
        for name, thing in self.objects.items():
            thing.load_state_dict(state[name])
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


class MarkUnfinished:
    """Mark the folder of a model that a later stage reads, from the first step of its training to the last.

    Args:
        folder: where the model file goes; of several processes the first marks it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, behind all handlers that write when it completes."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, lambda: mark_unfinished(self.folder, True))
            engine.add_event_handler(Events.COMPLETED, lambda: mark_unfinished(self.folder, False))


class ModelFile:
    """Write the network that is kept: the best on validation, or the last where there is no validation.

    Args:
        write: writes the weights; takes no argument.
        metric: name of the validation score to compare, larger is better; None writes when the engine completes.

    Attach to the evaluator with a metric, to the trainer without one. Of several processes, which all have the same
    score, the first writes.
    """

    def __init__(self, write: Callable[[], Any], metric: str | None = None) -> None:
        self.write, self.metric = write, metric
        self.best = float("-inf")

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator or a trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write if this is the best score so far."""
        score = float(engine.state.metrics[self.metric]) if self.metric else float("inf")
        if score > self.best or not self.metric:
            self.best = score
            if idist.get_rank() == 0:
                self.write()

    def state_dict(self) -> dict[str, float]:
        """The best score so far."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Remember the best score of the run that goes on."""
        self.best = state["best"]


class MetricsLog:
    """One row for each epoch and quantity in a CSV file: `epoch,step,name,value`; losses are means over the epoch.

    Of several processes the first writes, and losses are means over all of them.

    Args:
        path: the CSV file; rows of epochs that a resumed run repeats are dropped.
        evaluator: engine whose metrics are logged beside the losses; None if there is no validation.
        draw: called as `draw(path)` when training ends, to draw the curves.
    """

    FIELDS = ("epoch", "step", "name", "value")

    def __init__(
        self, path: str | Path, evaluator: Engine | None = None, draw: Callable[[Path], Any] | None = None
    ) -> None:
        self.path, self.evaluator, self.draw = Path(path), evaluator, draw
        self._sums: dict[str, list[Any]] = defaultdict(list)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after its validation handler; its checkpoint comes first."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Keep the rows up to the epoch that the run starts after."""
        if idist.get_rank() > 0:
            return
        rows = []
        if engine.state.epoch > 0 and self.path.is_file():
            text = self.path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a killed run may have left half a row
            rows = [r for r in csv.DictReader(whole.splitlines()) if int(r["epoch"]) <= engine.state.epoch]
        kept = io.StringIO(newline="")
        writer = csv.DictWriter(kept, self.FIELDS)
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path, kept.getvalue())

    def collect(self, engine: Engine) -> None:
        """Remember the losses of a step; they stay on their device."""
        for name, value in engine.state.output.items():
            self._sums["loss" if name == "loss" else f"loss/{name}"].append(value)

    def write(self, engine: Engine) -> None:
        """Write the means of the epoch, and the metrics if this epoch was validated."""
        values = _over_processes({n: float(torch.stack(parts).float().mean()) for n, parts in self._sums.items()})
        self._sums.clear()
        if self.evaluator is not None and self.evaluator.state.metrics:
            values.update({name: float(value) for name, value in self.evaluator.state.metrics.items()})
            self.evaluator.state.metrics = {}
        if idist.get_rank() > 0:
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([engine.state.epoch, engine.state.iteration, n, f"{v:.6g}"] for n, v in values.items())

    def finish(self, engine: Engine) -> None:
        """Draw the curves."""
        if self.draw is not None and idist.get_rank() == 0:
            self.draw(self.path)


def _over_processes(values: dict[str, float]) -> dict[str, float]:
    """Means over all processes, which all have to call this; a value that some lack is averaged over the others."""
    if idist.get_world_size() == 1:
        return values
    parts: list[Any] = [None] * idist.get_world_size()
    torch.distributed.all_gather_object(parts, values)
    given = {name: [part[name] for part in parts if name in part] for name in values}
    return {name: sum(each) / len(each) for name, each in given.items()}


class ProgressBar:
    """A bar over all steps of a run, with the loss and the last validation score."""

    def __init__(self, description: str, evaluator: Engine | None = None) -> None:
        self.description, self.evaluator = description, evaluator
        self._bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def start(self, engine: Engine) -> None:
        """Open the bar where the run starts."""
        total = engine.state.max_epochs * engine.state.epoch_length
        self._bar = tqdm(total=total, initial=engine.state.iteration, desc=self.description, mininterval=1.0)

    def step(self, engine: Engine) -> None:
        """Advance by a step."""
        self._bar.update()

    def epoch(self, engine: Engine) -> None:
        """Show the loss; reading it waits for the device, hence once an epoch."""
        output = engine.state.output
        shown = {"loss": f"{float(output['loss']):.3f}"} if isinstance(output, Mapping) and "loss" in output else {}
        if self.evaluator is not None:
            shown.update({k: f"{float(v):.3f}" for k, v in self.evaluator.state.metrics.items()})
        self._bar.set_postfix(shown)

    def close(self, engine: Engine) -> None:
        """Close the bar."""
        self._bar.close()

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Close the bar and let the error go on."""
        if self._bar is not None:
            self._bar.close()
        raise error
