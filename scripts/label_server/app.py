"""MONAI Label app of this bundle: the monaibundle app with six additions.

`python -m scripts label_app FOLDER` copies this file to `FOLDER/main.py`; `class_labels.py`, `viewer_colours.py` and
MONAI Label's app beside it. It adds

- uncertainty scores for active learning: share of pixels whose decoded level differs from the network's own, and the
  verdict on the levels;
- the active learning strategy "disagreement": the unlabelled scan with the highest score comes next;
- reload of a newly trained network without a restart of the server;
- error messages of inference that name the image and the reason, instead of "Internal Server Error";
- labels that keep their class ids, whatever numbers a viewer or an archive gives them;
- the class table's colours in OHIF.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import monaibundle_app
from class_labels import preserve_class_ids
from fastapi import HTTPException
from monai.bundle import ConfigParser
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.tasks.activelearning.epistemic import Epistemic
from viewer_colours import colour_segments

log = logging.getLogger(__name__)

SCORE, SCORED_WITH, VERDICT = "level_disagreement", "level_disagreement_model", "verdict"
"""What the datastore keeps of a scan beside its label; the first and the last come from the report on its levels."""


class LevelDisagreement(ScoringMethod):
    """Active learning score of every unlabelled scan, written to the datastore; skipped if scored with this network.

    Args:
        app: the server's app.
        model: name of the bundle.
    """

    def __init__(self, app: App, model: str) -> None:
        super().__init__("Share of the pixels to which the network itself gives another name than the decoded one")
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
            kept = {name: result["params"][name] for name in (SCORE, VERDICT)}
            datastore.update_image_info(image, {**kept, SCORED_WITH: trained})
            count["scored"] += 1
        log.info("disagreement: %s", count)
        return count


class App(monaibundle_app.MyApp, MONAILabelApp):  # the server looks for a class that names MONAILabelApp as its base
    """MONAI Label's bundle app with the additions above."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._trained: dict[str, list[int]] = {}
        # With a DICOMweb server MONAI Label runs the programs of dcmqi, which pip installs beside Python.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        super().__init__(app_dir, studies, conf)

    def init_datastore(self) -> Any:
        """Datastore of scans and labels; labels keep the class ids of the bundle, and OHIF gets their colours."""
        bundle = next(iter(self.models.values()))
        config = ConfigParser(ConfigParser.load_config_file(os.path.join(bundle, "configs", "train.yaml")))
        config["bundle_root"] = bundle
        class_table = config.get_parsed_content("class_table")
        colour_segments(class_table)
        return preserve_class_ids(super().init_datastore(), class_table)

    def init_strategies(self) -> dict[str, Any]:
        """Strategies: "disagreement" first, then MONAI Label's own."""
        highest = Epistemic(
            key=SCORE, desc="Get the scan on whose level names the network and the decoding differ most"
        )
        return {"disagreement": highest, **super().init_strategies()}

    def init_scoring_methods(self) -> dict[str, Any]:
        """Scoring methods: disagreement, and MONAI Label's epistemic uncertainty with `--conf epistemic_model`."""
        return {"disagreement": LevelDisagreement(self, next(iter(self.models))), **super().init_scoring_methods()}

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

    def _reload_changed_models(self) -> None:
        """Rebuild the inference tasks, which read the settings once, if weights or settings changed."""
        files = {
            name: [Path(path, "models", f) for f in ("model.json", "model.pt")] for name, path in self.models.items()
        }
        found = {name: [f.stat().st_mtime_ns for f in pair if f.is_file()] for name, pair in files.items()}
        if found != self._trained:
            self._infers, self._trained = self.init_infers(), found
