"""What a training leaves to look at: progress bar, TensorBoard, `metrics.csv`, curves, pictures, MLflow."""

from __future__ import annotations

import csv
import io
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.handlers import TensorBoardStatsHandler
from torch.utils.tensorboard import SummaryWriter

from ..files import write_whole
from ..report.charts import curves
from .pictures import RunPictures
from .tracking import TrackedRun, named_losses


class RunOutputs:
    """Everything that a training shows and leaves behind, but for its weights and its checkpoint.

    A progress bar for each epoch, where standard error is a terminal, and one line for each epoch in the log; in
    `folder` the TensorBoard events (losses and learning rate of each step, scores and a picture of each validation),
    `metrics.csv` and `curves.png` (:class:`MetricsLog`) and `pictures/`; and, with `--tracking mlflow`, the tags and
    artifacts of MLflow's run.

    Args:
        folder: of the run.
        title: what is trained, in front of the bar.
        evaluator: engine of the validation, whose scores are shown beside the losses; None if there is none.
        volumes: of validation, see :class:`~scripts.training.pictures.RunPictures`; the first is drawn.
        pictures: each is called as `draw(image, label, folder)` when training ends, the first after each validation,
            too.
        tags: of MLflow's run, see :func:`~scripts.training.tracking.run_tags`; None leaves MLflow alone.

    Attach it behind validation and checkpoint. Of several processes the first shows and writes.
    """

    def __init__(
        self,
        folder: str | Path,
        title: str,
        evaluator: Engine | None = None,
        volumes: Any = (),
        pictures: Sequence[Callable[..., Any]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.title, self.evaluator, self.tags = Path(folder), title, evaluator, tags
        self.log = MetricsLog(self.folder / "metrics.csv", evaluator, partial(curves, path=self.folder / "curves.png"))
        self.pictures = RunPictures(volumes, pictures, self.folder / "pictures", self._show)
        self.writer: SummaryWriter | None = None
        self.bar = ProgressBar(desc=title, disable=None)  # None: only on a terminal

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, and with the evaluator."""
        self.log.attach(engine)
        if idist.get_rank() == 0:
            self._attach_tensorboard(engine)
            self.bar.attach(engine, output_transform=lambda output: {k: f"{v:.3f}" for k, v in self.log.latest.items()})
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.tell)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)
        self.pictures.attach(engine, self.evaluator)
        if self.tags is not None:
            files = [self.folder / name for name in ("curves.png", "metrics.csv", "config.yaml")]
            TrackedRun(self.tags, self.folder / "pictures", files).attach(engine)

    def _attach_tensorboard(self, engine: Engine) -> None:
        self.writer = SummaryWriter(str(self.folder / "tensorboard"))
        self.losses = StepLosses(self.writer)
        self.losses.attach(engine)
        if self.evaluator is not None:
            TensorBoardStatsHandler(self.writer, iteration_log=False).attach(self.evaluator)

    def _show(self, path: Path, epoch: int) -> None:
        """A picture of a validation as a TensorBoard event."""
        if self.writer is not None:
            from matplotlib.image import imread

            self.writer.add_image(f"validation/{path.stem}", imread(path), epoch, dataformats="HWC")

    def tell(self, engine: Engine) -> None:
        """Write the loss of the epoch and the last validation score to the log."""
        told = ", ".join(f"{name} {value:.3f}" for name, value in self.log.latest.items())
        state = engine.state
        logging.getLogger(__name__).info("%s, epoch %d of %d: %s", self.title, state.epoch, state.max_epochs, told)

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Close the bar, below which the error is then shown, write the losses so far, and let the error go on."""
        if self.bar.pbar is not None:
            self.bar.pbar.close()
        self.losses.write()
        raise error


class StepLosses:
    """Losses and learning rate of each step as TensorBoard events, written after an epoch.

    To read a loss earlier would wait for a GPU.

    Args:
        writer: of TensorBoard.
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer
        self._kept: list[tuple[int, Mapping[str, Any], dict[str, float]]] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def collect(self, engine: Engine) -> None:
        """Remember the losses of a step; they stay on their device."""
        self._kept.append((engine.state.iteration, engine.state.output, learning_rate(engine)))

    def write(self) -> None:
        """Write what was collected."""
        for step, losses, rate in self._kept:
            for name, value in {**named_losses(losses), **rate}.items():
                self.writer.add_scalar(name, value, step)
        self._kept.clear()
        self.writer.flush()


class MetricsLog:
    """One row for each epoch and quantity in a CSV file: `epoch,step,name,value`; losses are means over the epoch.

    Beside them stand the learning rate of its steps and the scores of its validation. Of several processes the first
    writes, and losses are means over all of them.

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
        self.latest: dict[str, float] = {}
        """The loss of the last epoch, and the scores of the last validation."""
        self._sums: dict[str, list[Any]] = defaultdict(list)
        self._rate: dict[str, float] = {}

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
        self._rate = learning_rate(engine)  # before a schedule moves it at the end of the epoch

    def write(self, engine: Engine) -> None:
        """Write the means of the epoch, and the metrics if this epoch was validated."""
        values = _over_processes({n: float(torch.stack(parts).float().mean()) for n, parts in self._sums.items()})
        self._sums.clear()
        if self.evaluator is not None and self.evaluator.state.metrics:
            values.update({name: float(value) for name, value in self.evaluator.state.metrics.items()})
            self.evaluator.state.metrics = {}
        self.latest.update({name: value for name, value in values.items() if not name.startswith("loss/")})
        values.update(self._rate)
        if idist.get_rank() > 0:
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([engine.state.epoch, engine.state.iteration, n, f"{v:.6g}"] for n, v in values.items())

    def finish(self, engine: Engine) -> None:
        """Draw the curves."""
        if self.draw is not None and idist.get_rank() == 0:
            self.draw(self.path)


def learning_rate(engine: Engine) -> dict[str, float]:
    """`learning_rate` of a trainer's optimiser; empty for an engine that has none."""
    optimizer = getattr(engine, "optimizer", None)
    return {} if optimizer is None else {"learning_rate": optimizer.param_groups[0]["lr"]}


def _over_processes(values: dict[str, float]) -> dict[str, float]:
    """Means over all processes, which all have to call this; a value that some lack is averaged over the others."""
    if idist.get_world_size() == 1:
        return values
    parts: list[Any] = [None] * idist.get_world_size()
    torch.distributed.all_gather_object(parts, values)
    given = {name: [part[name] for part in parts if name in part] for name in values}
    return {name: sum(each) / len(each) for name, each in given.items()}
