"""What a run that `--tracking mlflow` keeps is found by, and what it shows: tags, and pictures as artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler

from ..bundle.command_line import config_files, running_workflow


def run_tags(method: Any, seed: int, labelled: Sequence[Any], unlabelled: Sequence[Any]) -> dict[str, str]:
    """Tags of a run.

    Args:
        method: the objective; its class is named.
        seed: of the run.
        labelled: labelled volumes.
        unlabelled: unlabelled volumes.

    Returns:
        `method`, `configs` (the run's files, where the command line tells), `seed`, `labelled`, `unlabelled`, and
        `labelled_ratio` in [0, 1], 1 without unlabelled volumes.
    """
    total = len(labelled) + len(unlabelled)
    return {
        "method": type(method).__name__,
        "configs": " ".join(Path(file).name for file in config_files()),
        "seed": str(seed),
        "labelled": str(len(labelled)),
        "unlabelled": str(len(unlabelled)),
        "labelled_ratio": f"{len(labelled) / total:.3f}" if total else "1.000",
    }


def named_losses(output: Mapping[str, Any]) -> dict[str, float]:
    """The losses of a step under the names that they have in MLflow: `train_loss`, and `train_loss/PART` for a part."""
    return {"train_loss" if name == "loss" else f"train_loss/{name}": float(v) for name, v in output.items()}


class TrackedRun:
    """Tags the run that MLflow keeps of a training, and gives it the pictures and curves when training ends.

    The tag `loss_terms` names the parts of the loss that there were; where `supervised` was the only one, `method` is
    `Supervised`, whatever was asked for: a method without unlabelled scans or prompts trains on labels alone.

    `--tracking mlflow` appends MONAI's own handler to the trainer's; this one works on the same run, and does nothing
    where there is no such handler. In the list it stands behind the handlers that draw.

    Args:
        tags: name -> value.
        pictures: a folder; what lies in it becomes artifacts below `pictures`.
        files: further files, as the curves; those that are missing are left out.
        handlers: id of the trainer's handlers in the config.
    """

    def __init__(
        self,
        tags: Mapping[str, str],
        pictures: str | Path,
        files: Sequence[str | Path] = (),
        handlers: str = "train#handlers",
    ) -> None:
        self.tags, self.pictures, self.files = dict(tags), Path(pictures), [Path(file) for file in files]
        self.handlers = handlers
        self._tagged = False
        self._terms: dict[str, None] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.tag)  # MONAI's handler makes the run when training starts
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.complete)  # before MONAI's, which closes the run

    def tag(self, engine: Engine) -> None:
        """Set the tags, once."""
        if self._tagged:
            return
        self._tagged = True
        for handler in self._running():
            # MONAI's default expects a list of outputs, one for each image; a step of ours has one for its batch.
            handler.output_transform = named_losses
            for name, value in self.tags.items():
                handler.client.set_tag(handler.cur_run.info.run_id, name, value)

    def collect(self, engine: Engine) -> None:
        """Remember the names of a step's losses."""
        self._terms.update(dict.fromkeys(name for name in engine.state.output if name != "loss"))

    def complete(self, engine: Engine) -> None:
        """Log the pictures and the files, and tell what the loss was made of."""
        for handler in self._running():
            client, run_id = handler.client, handler.cur_run.info.run_id
            client.set_tag(run_id, "loss_terms", " ".join(self._terms))
            if list(self._terms) == ["supervised"]:
                client.set_tag(run_id, "method", "Supervised")
            if self.pictures.is_dir():
                client.log_artifacts(run_id, str(self.pictures), "pictures")
            for file in self.files:
                if file.is_file():
                    client.log_artifact(run_id, str(file))

    def _running(self) -> list[MLFlowHandler]:
        """The MLflow handlers of the trainer that have a run; on one rank there is one, on others none."""
        workflow = running_workflow()
        handlers = workflow.parser.get_parsed_content(self.handlers) if workflow is not None else []
        return [handler for handler in handlers if isinstance(handler, MLFlowHandler) and handler.cur_run]
