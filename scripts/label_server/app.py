"""The app that MONAI Label's server loads: its own monaibundle app, and five things that a bundle cannot bring along.

`python -m scripts label_app FOLDER` copies this file to `FOLDER/main.py`, `class_labels.py` and MONAI Label's app
beside it. It adds

- scores by disagreement: how often the names decoded along the spine differ from the network's own;
- the strategy "disagreement": the unlabelled scan with the highest score comes next;
- a network that training made, or made anew with other settings, is used at once, without a start of the server;
- errors of inference that say in one sentence which image is at fault, instead of "Internal Server Error";
- labels that keep their classes, however a viewer or an archive numbers them.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import monaibundle_app
from class_labels import keep_classes
from fastapi import HTTPException
from monai.bundle import ConfigParser
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.tasks.activelearning.epistemic import Epistemic

log = logging.getLogger(__name__)

SCORE, SCORED_WITH = "level_disagreement", "level_disagreement_model"


class LevelDisagreement(ScoringMethod):
    """Write the score of every unlabelled scan into the datastore; scans scored with today's network are passed over.

    Args:
        app: the server's app.
        model: name of the bundle.
    """

    def __init__(self, app: App, model: str) -> None:
        super().__init__("Share of the pixels to which the network itself gives another name than the decoded one")
        self.app, self.model = app, model

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, int]:
        """Score, and return how many scans were scored, passed over, or could not be read."""
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
            except HTTPException as error:  # one scan that cannot be read must not keep the others from a score
                log.warning("%s", error.detail)
                count["failed"] += 1
                continue
            Path(result["file"]).unlink()  # MONAI Label cannot infer without writing the label map
            datastore.update_image_info(image, {SCORE: result["params"][SCORE], SCORED_WITH: trained})
            count["scored"] += 1
        log.info("disagreement: %s", count)
        return count


class App(monaibundle_app.MyApp, MONAILabelApp):  # the server looks for a class that names MONAILabelApp as its base
    """MONAI Label's bundle app with the additions above."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._trained: dict[str, list[int]] = {}
        # With a DICOMweb server MONAI Label looks for dcmqi's programs, which pip puts beside Python.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        super().__init__(app_dir, studies, conf)

    def init_datastore(self) -> Any:
        """Where scans and labels lie; its labels keep the classes of the bundle's training."""
        bundle = next(iter(self.models.values()))
        config = ConfigParser(ConfigParser.load_config_file(os.path.join(bundle, "configs", "train.yaml")))
        config["bundle_root"] = bundle
        return keep_classes(super().init_datastore(), config.get_parsed_content("class_table"))

    def init_strategies(self) -> dict[str, Any]:
        """MONAI Label's own, behind "disagreement"."""
        highest = Epistemic(
            key=SCORE, desc="Get the scan on whose level names the network and the decoding differ most"
        )
        return {"disagreement": highest, **super().init_strategies()}

    def init_scoring_methods(self) -> dict[str, Any]:
        """Disagreement for every bundle, and MONAI Label's own if `--conf epistemic_model` asks for it."""
        return {"disagreement": LevelDisagreement(self, next(iter(self.models))), **super().init_scoring_methods()}

    def info(self) -> dict[str, Any]:
        """What `/info/` sends."""
        self._look_for_networks()
        return super().info()

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Label one image.

        Raises:
            HTTPException: the model or the image is unknown, there are no weights yet, or the image cannot be labelled.
                MONAI Label's own exceptions reach a viewer as "Internal Server Error".
        """
        self._look_for_networks()
        model, image = request.get("model"), request.get("image")
        if model not in self._infers:
            raise HTTPException(404, f"there is no model {model!r}; the server has {', '.join(self._infers)}")
        if model in self.models and not self._infers[model].is_valid():
            raise HTTPException(409, f"{model} has no weights yet; train it first")
        store = datastore or self.datastore()
        if isinstance(image, str) and not os.path.exists(image) and not store.get_image_uri(image):
            raise HTTPException(404, f"there is no image {image!r} in the studies")
        try:
            return super().infer(request, datastore)
        except Exception as error:  # readers raise what they like; the user needs the image and the reason
            log.exception("labelling %s failed", image)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise HTTPException(422, f"the image {image!r} cannot be labelled: {reason}") from error

    def _look_for_networks(self) -> None:
        """Make the inference tasks anew when weights appeared or changed: a task reads the settings when it is made."""
        files = {
            name: [Path(path, "models", f) for f in ("model.json", "model.pt")] for name, path in self.models.items()
        }
        found = {name: [f.stat().st_mtime_ns for f in pair if f.is_file()] for name, pair in files.items()}
        if found != self._trained:
            self._infers, self._trained = self.init_infers(), found
