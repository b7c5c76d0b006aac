"""MONAI Label app of this bundle: the monaibundle app with six additions.

`python -m scripts label_app FOLDER` copies this file to `FOLDER/main.py`; `answers.py`, `class_labels.py`,
`viewer_colours.py` and MONAI Label's app beside it. It adds

- scores for active learning: how uncertain the names of the levels are, and the verdict on them;
- the active learning strategy "uncertainty": the unlabelled scan with the highest score comes next;
- reload of a newly trained network without a restart of the server;
- sentences that name what is wrong and what to do, instead of "Internal Server Error";
- labels that keep their class ids, whatever numbers a viewer or an archive gives them;
- the class table's colours in OHIF.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monaibundle_app
from answers import answer_in_sentences, check_training, problem_of, reason_of
from class_labels import preserve_class_ids
from fastapi import HTTPException
from monai.bundle import ConfigParser
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.tasks.activelearning.epistemic import Epistemic
from viewer_colours import colour_segments

log = logging.getLogger(__name__)

SCORE, SCORED_WITH, VERDICT = "level_uncertainty", "level_uncertainty_model", "verdict"
"""What the datastore keeps of a scan beside its label; the first and the last come from the report on its levels."""


def level_uncertainty(report: Mapping[str, Any]) -> float:
    """How uncertain the names of a scan are: 1 - the mean confidence of its structures; 1 if none was found."""
    known = [row["confidence"] for row in report["structures"] if row["confidence"] is not None]
    return round(1 - sum(known) / len(known), 5) if known else 1.0


class LevelUncertainty(ScoringMethod):
    """Active learning score of every unlabelled scan, written to the datastore; skipped if scored with this network.

    Args:
        app: the server's app.
        model: name of the bundle.
    """

    def __init__(self, app: App, model: str) -> None:
        super().__init__("How uncertain the names of the levels are, by the report on them")
        self.app, self.model = app, model

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, int]:
        """Score all scans; return how many were scored, skipped, or failed."""
        count = {"scored": 0, "skipped": 0, "failed": 0}
        weights = Path(self.app.models[self.model], "models", "model.pt")
        if not weights.is_file():
            log.info("no scores: %s has not been trained yet", self.model)
            return count
        trained = weights.stat().st_mtime_ns
        ask = {"model": self.model, "device": request.get("device", "cuda")}
        for image in datastore.get_unlabeled_images():
            if datastore.get_image_info(image).get(SCORED_WITH) == trained:
                count["skipped"] += 1
                continue
            try:
                result = self.app.infer({**ask, "image": image}, datastore)
            except HTTPException as error:  # go on with the other scans
                log.warning("%s", error.detail)
                count["failed"] += 1
                continue
            Path(result["file"]).unlink()  # MONAI Label cannot infer without writing the label map
            report = result["params"]
            kept = {SCORE: level_uncertainty(report), VERDICT: report[VERDICT], SCORED_WITH: trained}
            datastore.update_image_info(image, kept)
            count["scored"] += 1
        log.info("uncertainty: %s", count)
        return count


class App(monaibundle_app.MyApp, MONAILabelApp):  # the server looks for a class that names MONAILabelApp as its base
    """MONAI Label's bundle app with the additions above."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._trained: dict[str, list[int]] = {}
        # With a DICOMweb server MONAI Label runs the programs of dcmqi, which pip installs beside Python.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        super().__init__(app_dir, studies, conf)
        answer_in_sentences(self.check_task)

    def check_task(self, kind: str, asked: Mapping[str, Any]) -> None:
        """Refuse a task that cannot come to its end, before it starts.

        Args:
            kind: "train", "scoring" or "batch_infer".
            asked: the request.

        Raises:
            HTTPException: the server has no such model or scoring method, or a value of a training cannot be.
        """
        there = {"train": self._trainers, "scoring": self._scoring_methods, "batch_infer": self._infers}[kind]
        key = "method" if kind == "scoring" else "model"
        self._require(there, asked.get(key), "scoring method" if kind == "scoring" else "model")
        if kind == "train":
            check_training(asked)

    def init_datastore(self) -> Any:
        """Datastore of scans and labels; labels keep the class ids of the bundle, and OHIF gets their colours."""
        bundle = next(iter(self.models.values()))
        config = ConfigParser(ConfigParser.load_config_file(os.path.join(bundle, "configs", "train.yaml")))
        config["bundle_root"] = bundle
        class_table = config.get_parsed_content("class_table")
        colour_segments(class_table)
        return preserve_class_ids(super().init_datastore(), class_table)

    def init_strategies(self) -> dict[str, Any]:
        """Strategies: "uncertainty" first, then MONAI Label's own."""
        highest = Epistemic(key=SCORE, desc="Get the scan whose level names are the most uncertain")
        return {"uncertainty": highest, **super().init_strategies()}

    def init_scoring_methods(self) -> dict[str, Any]:
        """Scoring methods: of the names, and MONAI Label's epistemic uncertainty with `--conf epistemic_model`."""
        return {"uncertainty": LevelUncertainty(self, next(iter(self.models))), **super().init_scoring_methods()}

    def info(self) -> dict[str, Any]:
        """Answer of `/info/`, with changed networks reloaded."""
        self._reload_changed_models()
        return super().info()

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Label one image.

        Raises:
            HTTPException: the model or the image is unknown, there are no weights yet, or the image cannot be labelled.
                MONAI Label's own exceptions reach a viewer as "Internal Server Error".
        """
        self._reload_changed_models()
        model, image = request.get("model"), request.get("image")
        self._require(self._infers, model, "model")
        if model in self.models and not self._infers[model].is_valid():
            raise HTTPException(409, f"{model} has no weights yet; train it first")
        store = datastore or self.datastore()
        if not image:
            raise HTTPException(404, "no image was named, and there is no such session")
        if isinstance(image, str) and not os.path.exists(image) and not store.get_image_uri(image):
            raise HTTPException(404, f"there is no image {image!r} in the studies")
        try:
            return super().infer(request, datastore)
        except Exception as error:  # readers raise what they like; the user needs the image and the reason
            log.exception("labelling %s failed", image)
            raise HTTPException(422, f"the image {image!r} cannot be labelled: {reason_of(error)}") from error

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train; an error of data, settings or machine ends the task with one sentence in a server's words."""
        try:
            return super().train(request)
        except Exception as error:
            if not (problem := problem_of(error)):
                raise
            if self._server_mode:  # asked to be done at once, in the server's own process
                raise HTTPException(422, problem) from error
            raise SystemExit(f"Error: {problem}") from error

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The next scan to label.

        Raises:
            HTTPException: there is no such strategy.
        """
        self._require(self._strategies, request.get("strategy"), "strategy")
        return super().next_sample(request)

    def _require(self, there: Mapping[str, Any], name: Any, kind: str) -> None:
        if name not in there:
            raise HTTPException(404, f"there is no {kind} {name!r}; the server has {', '.join(there) or 'none'}")

    def _reload_changed_models(self) -> None:
        """Rebuild the inference tasks, which read the settings once, if weights or settings changed."""
        files = {
            name: [Path(path, "models", f) for f in ("model.json", "model.pt")] for name, path in self.models.items()
        }
        found = {name: [f.stat().st_mtime_ns for f in pair if f.is_file()] for name, pair in files.items()}
        if found != self._trained:
            self._infers, self._trained = self.init_infers(), found
