"""A MONAI Label server with this bundle, driven over REST: infer, train, score, and input that it has to refuse.

The server runs in `.venv-label`, which `make test-label` makes; the tests of this file are one story and go in order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.label_server.demo import write_studies
from scripts.labels import ClassTable
from scripts.phantom.write import write_phantoms
from tests.label_server import MODEL, PYTHON, Server

pytestmark = pytest.mark.label

LABELLED, UNLABELLED = 4, 3
TABLE = ClassTable.load()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not PYTHON.is_file():
        pytest.skip("there is no .venv-label; `make test-label` makes it")
    folder = tmp_path_factory.mktemp("label")
    settings: dict[str, Any] = {"shape_hw": (40, 32), "pixel_mm": 7.0}
    drawn = write_phantoms(folder / "drawn", labelled=LABELLED, unlabelled=UNLABELLED, validation=0, test=0, **settings)
    final = folder / "studies" / "labels" / "final"
    final.mkdir(parents=True)
    for number, entry in enumerate(json.loads(drawn.read_text(encoding="utf-8"))["training"]):
        name = f"scan_{number}.nii.gz"
        shutil.copy(drawn.parent / entry["image"], folder / "studies" / name)
        shutil.copy(drawn.parent / entry["label"], final / name)
    for number, entry in enumerate(json.loads(drawn.read_text(encoding="utf-8"))["unlabelled"]):
        scan = nib.load(drawn.parent / entry["image"])
        axes = ("LPS", "PIR", "SAL")[number]  # whatever order a scanner or a converter writes
        turn = nib.orientations.ornt_transform(nib.io_orientation(scan.affine), nib.orientations.axcodes2ornt(axes))
        nib.save(scan.as_reoriented(turn), folder / "studies" / f"new_{axes}.nii.gz")
    made = Server(folder)
    yield made
    made.close()


def labelled(server: Server, name: str, folder: Path) -> nib.Nifti1Image:
    """The server's label map of a study."""
    status, content = server.infer(name)
    assert status == 200, content
    (folder / "reply.nii.gz").write_bytes(content)
    return nib.load(folder / "reply.nii.gz")


class TestServer:
    def test_info_of_a_fresh_bundle(self, server: Server) -> None:
        info = server.json("/info/")
        assert info["models"] == {}
        assert list(info["trainers"]) == [MODEL]
        assert next(iter(info["strategies"])) == "uncertainty"
        assert list(info["scoring"]) == ["uncertainty"]
        counts = info["datastore"]
        assert (counts["completed"], counts["total"]) == (LABELLED, LABELLED + UNLABELLED)

    def test_ohif_has_the_class_table_s_colours(self, server: Server) -> None:
        """The viewer takes the first of its colours whose name fits; the installed file has none of ours."""
        (file,) = [
            f for f in PYTHON.parents[1].rglob("static/ohif/*.js") if b"const GenericAnatomyColors" in f.read_bytes()
        ]
        status, served = server.ask(f"/ohif/{file.name}")
        own = file.read_bytes()
        assert status == 200
        for c in TABLE.classes[1:]:
            entry = f'{{label: "{c.name.lower()}", value: rgbToHex{c.colour}}}'.encode()
            assert entry in served
            assert entry not in own
        start = served.index(b"[{label") + 1
        assert served[:start] + served[start + len(served) - len(own) :] == own

    def test_infer_before_training(self, server: Server) -> None:
        status, content = server.infer("new_PIR")
        assert status >= 400
        assert f"{MODEL} has no weights yet; train it first" in content.decode()

    def test_train_refuses_a_foreign_label(self, server: Server, tmp_path: Path) -> None:
        """First of all, so that nothing has been made yet that it could spoil."""
        before = server.state()
        scan = nib.load(server.studies / "new_PIR.nii.gz")
        odd = tmp_path / "odd.nii.gz"
        nib.save(nib.Nifti1Image(np.full(scan.shape, 77, np.uint8), scan.affine), odd)
        status, content = server.put("/datastore/label?image=new_PIR", "label", odd)
        assert status == 422
        assert "the label has the value 77, which is no class" in content.decode()
        assert server.state() == before
        shutil.copy(odd, server.studies / "labels/final/new_PIR.nii.gz")  # a label that nobody sent
        server.wait(lambda: server.json("/info/")["datastore"]["completed"] == LABELLED + 1, "the label to be seen")
        status, log = server.train(val_split=0.25)
        assert status == "ERROR"
        assert "new_PIR.nii.gz: holds the label value 77, which the label map 'identity' does not know" in log
        assert server.ask("/datastore/label?id=new_PIR&tag=final", method="DELETE")[0] == 200
        server.wait(lambda: server.json("/info/")["datastore"]["completed"] == LABELLED, "the label to go")
        assert server.state() == before

    def test_a_label_on_another_grid_is_refused(self, server: Server, tmp_path: Path) -> None:
        """When it is sent, and not by the training; one at the same place in another order of axes is no other grid."""
        before, place = server.state(), "/datastore/label?image=new_PIR"
        scan = nib.load(server.studies / "new_PIR.nii.gz")
        label = nib.Nifti1Image(np.ones(scan.shape, np.uint8), scan.affine)
        moved = scan.affine + np.pad([[60.0]], ((1, 2), (3, 0)))
        others = {
            "size": (label.slicer[:-3], "voxels of"),
            "place": (
                nib.Nifti1Image(np.asarray(label.dataobj), moved),
                "lies on another grid than the image 'new_PIR'",
            ),
        }
        for name, (odd, words) in others.items():
            nib.save(odd, tmp_path / f"{name}.nii.gz")
            status, content = server.put(place, "label", tmp_path / f"{name}.nii.gz")
            assert status == 422, content
            assert words in content.decode()
        assert server.state() == before
        nib.save(nib.as_closest_canonical(label), tmp_path / "same.nii.gz")
        assert server.put(place, "label", tmp_path / "same.nii.gz")[0] == 200
        assert server.ask("/datastore/label?id=new_PIR&tag=final", method="DELETE")[0] == 200
        server.wait(lambda: server.json("/info/")["datastore"]["completed"] == LABELLED, "the label to go")

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"max_epochs": "many"}, "max_epochs must be a whole number from 1 on, got 'many'"),
            ({"max_epochs": 0}, "max_epochs must be a whole number from 1 on, got 0"),
            ({"val_split": "half"}, "val_split must be the share"),
            ({"val_split": 1}, "val_split must be the share"),
            ({"pretrained": False}, "delete it to begin anew"),
        ],
    )
    def test_wrong_values_start_no_training(self, server: Server, given: dict[str, Any], words: str) -> None:
        tasks = server.ask("/train/?all=true")
        status, content = server.ask(f"/train/{MODEL}", json.dumps(given).encode())
        assert status == 422
        assert words in content.decode()
        assert server.ask("/train/?all=true") == tasks

    @pytest.mark.parametrize(
        ("method", "path", "words"),
        [
            ("POST", "/activelearning/nothing", "there is no strategy 'nothing'; the server has uncertainty, random"),
            ("POST", "/scoring/nothing", "there is no scoring method 'nothing'; the server has uncertainty"),
            ("POST", "/train/nothing", f"there is no model 'nothing'; the server has {MODEL}"),
            ("POST", "/batch/infer/nothing", f"there is no model 'nothing'; the server has {MODEL}"),
            ("DELETE", "/datastore/image?id=nobody", "Image nobody not found"),
        ],
    )
    def test_what_is_not_there_is_told(self, server: Server, method: str, path: str, words: str) -> None:
        status, content = server.ask(path, b"{}" if method == "POST" else None, method=method)
        assert status == 404, content
        assert words in content.decode()

    @pytest.mark.parametrize(
        ("params", "words"), [("{broken", "params is no JSON"), ("[1]", "params must be a JSON table")]
    )
    def test_broken_params(self, server: Server, params: str, words: str) -> None:
        scan = server.studies / "new_PIR.nii.gz"
        before = server.state()
        answers = [
            server.infer("new_PIR", params=params),
            server.put("/datastore/label?image=new_PIR", "label", scan, params),
            server.put("/datastore/image?image=other", "file", scan, params),
        ]
        assert [status for status, _ in answers] == [422, 422, 422]
        assert [words in content.decode() for _, content in answers] == [True, True, True]
        assert server.state() == before

    def test_label_of_no_image(self, server: Server) -> None:
        status, content = server.put("/datastore/label?image=nobody", "label", server.studies / "new_PIR.nii.gz")
        assert status == 404
        assert "there is no image 'nobody' in the studies" in content.decode()

    def test_names_tell_the_classes(self, server: Server, tmp_path: Path) -> None:
        """3D Slicer numbers segments in their order: without the first class all numbers are one too low."""
        scan = nib.load(server.studies / "new_PIR.nii.gz")
        label = np.zeros(scan.shape, np.uint8)
        label[0, 0, :3] = (1, 2, 18)
        sheared = scan.affine + np.pad([[0.02]], ((0, 3), (1, 2)))  # as some converters write them
        nib.save(nib.Nifti1Image(label, sheared), tmp_path / "label.nii.gz")
        sent = [{"name": name.lower(), "idx": number} for number, name in enumerate(TABLE.names[2:], 1)]
        place = "/datastore/label?image=new_PIR"
        odd = {"label_info": [*sent[:-1], {"name": "odd", "idx": 18}]}
        assert server.put(place, "label", tmp_path / "label.nii.gz", odd)[0] == 422
        status, content = server.put(place, "label", tmp_path / "label.nii.gz", {"label_info": sent})
        assert status == 200, content
        found = nib.load(server.studies / "labels/final/new_PIR.nii.gz")
        np.testing.assert_allclose(found.affine, sheared, atol=1e-3)
        kept = np.asarray(found.dataobj)
        assert kept[0, 0, :3].tolist() == [2, 3, 19]
        assert np.count_nonzero(kept) == 3
        about = server.json("/datastore/?output=all")["objects"]["new_PIR"]["labels"]["final"]["info"]
        assert {row["name"]: row["idx"] for row in about["label_info"]} == {"L5": 2, "L4": 3, "T9/T10": 19}
        assert server.ask("/datastore/label?id=new_PIR&tag=final", method="DELETE")[0] == 200
        server.wait(lambda: server.json("/info/")["datastore"]["completed"] == LABELLED, "the label to go")

    def test_train(self, server: Server) -> None:
        status, log = server.train(val_split=0.25)
        assert status == "DONE", log[-3000:]
        assert f"scans: {LABELLED - 1} labelled, {UNLABELLED} unlabelled, 1 for validation" in log
        assert "no stage-1 checkpoint yet: running stage 1 first" in log
        assert sorted(p.name for p in server.models.iterdir()) == ["model.json", "model.pt", "prompt"]
        effective = (server.models.parent / "runs/cps4/metrics.csv").read_text(encoding="utf-8")
        assert "loss/enhanced" in effective  # unlabelled slices were trained on

    @pytest.mark.parametrize("name", ["scan_0", "new_LPS", "new_PIR", "new_SAL"])
    def test_infer_after_training(self, server: Server, tmp_path: Path, name: str) -> None:
        scan, reply = nib.load(server.studies / f"{name}.nii.gz"), labelled(server, name, tmp_path)
        assert reply.shape == scan.shape
        np.testing.assert_allclose(reply.affine, scan.affine, atol=1e-3)
        assert reply.get_data_dtype() == np.uint8
        assert set(np.unique(np.asarray(reply.dataobj))) <= set(range(TABLE.num_classes))

    def test_reply_tells_about_the_names(self, server: Server) -> None:
        status, content = server.infer("new_PIR", "json")
        params = json.loads(content)
        assert status == 200
        assert 0 <= params["level_disagreement"] <= 1
        assert params["verdict"] in ("ok", "check levels", "do not use")
        assert {"reasons", "structures", "removed_components"} <= params.keys()
        assert params["label_names"] == {c.name.lower(): c.id for c in TABLE.classes if c.id}

    def test_info_lists_the_network_without_a_new_start(self, server: Server) -> None:
        info = server.json("/info/")
        assert list(info["models"]) == [MODEL]
        assert info["models"][MODEL]["type"] == "segmentation"
        assert info["labels"] == [name.lower() for name in TABLE.names[1:]]

    def test_next_image_is_the_most_uncertain_one(self, server: Server) -> None:
        def scores() -> dict[str, float]:
            objects = server.json("/datastore/?output=all")["objects"]
            return {k: v["image"]["info"].get("level_uncertainty", -1) for k, v in objects.items() if not v["labels"]}

        server.wait_for_scoring()  # training starts one by itself; the server answers 429 to another one meanwhile
        found = scores()
        assert len(found) == UNLABELLED
        assert min(found.values()) >= 0
        begin = server.log.stat().st_size
        server.json("/scoring/uncertainty", {"device": "cpu"})
        server.wait_for_scoring()
        passed_over = {"scored": 0, "skipped": UNLABELLED, "failed": 0}  # each scan once per network
        assert f"uncertainty: {passed_over}" in server.log.read_text(encoding="utf-8")[begin:]
        assert scores() == found
        first = server.json("/activelearning/uncertainty", {})["id"]
        assert found[first] == max(found.values())
        second = server.json("/activelearning/uncertainty", {})["id"]
        assert second != first  # one that was handed out waits

    def test_unknown_image_and_model(self, server: Server) -> None:
        before = server.state()
        status, content = server.infer("nobody")
        assert status >= 400
        assert "there is no image 'nobody' in the studies" in content.decode()
        status, content = server.ask("/infer/nothing?image=new_PIR", b"", "application/x-www-form-urlencoded")
        assert status >= 400
        assert "nothing" in content.decode()
        assert server.state() == before

    def test_what_is_no_scan(self, server: Server, tmp_path: Path) -> None:
        before = server.state()
        (tmp_path / "text.nii.gz").write_text("this is no scan", encoding="utf-8")
        assert server.put("/datastore/image?image=text", "file", tmp_path / "text.nii.gz")[0] == 200
        status, content = server.infer("text")
        assert status >= 400
        assert "the image 'text' cannot be labelled" in content.decode()
        status, log = server.train(val_split=0.25)
        assert status == "ERROR"
        assert "text.nii.gz: cannot be unpacked" in log
        assert "Traceback" not in log[log.index("text.nii.gz: cannot be unpacked") :]
        assert server.ask("/datastore/image?id=text", method="DELETE")[0] == 200
        assert server.state() == before

    def test_train_again_without_validation(self, server: Server) -> None:
        """The last weights are where it starts, stage 1 is not repeated, and bad input has left no trace."""
        status, log = server.train(val_split=0, max_epochs=1)
        assert status == "DONE", log[-3000:]
        assert f"scans: {LABELLED} labelled, {UNLABELLED} unlabelled, 0 for validation" in log
        assert "Add Checkpoint Loader" in log
        assert "running stage 1 first" not in log
        assert server.infer("new_PIR")[0] == 200

    def test_advice_is_a_server_s(self, server: Server) -> None:
        """Stage 1 lies there for another grid than the settings say by now."""
        path = server.models / "prompt/model.json"
        kept = path.read_text(encoding="utf-8")
        path.write_text(json.dumps({**json.loads(kept), "pixel_mm": 1.0}, indent=1), encoding="utf-8")
        status, log = server.train(val_split=0, max_epochs=1)
        path.write_text(kept, encoding="utf-8")
        assert status == "ERROR"
        said = log[log.index("Error: stage 1 in") :]
        assert "was trained with pixel_mm 1.0" in said
        assert "press Train, which makes it anew on this grid" in said
        assert "--" not in said.splitlines()[0]
        assert "Traceback" not in said

    def test_train_without_unlabelled_scans(self, server: Server, tmp_path: Path) -> None:
        for scan in server.studies.glob("new_*.nii.gz"):
            shutil.move(scan, tmp_path)
        server.wait(lambda: server.json("/info/")["datastore"]["total"] == LABELLED, "the scans to go")
        status, log = server.train(val_split=0.25, max_epochs=1)
        assert status == "DONE", log[-3000:]
        assert f"scans: {LABELLED - 1} labelled, 0 unlabelled, 1 for validation" in log
        assert "no unlabelled volumes: training on the labelled ones alone" in log


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as `label_app` makes it: the shipped network, of which later training takes grid and width."""
    if not PYTHON.is_file():
        pytest.skip("there is no .venv-label; `make test-label` makes it")
    folder = tmp_path_factory.mktemp("shipped")
    drawn = write_phantoms(
        folder / "drawn", labelled=2, unlabelled=1, validation=0, test=0, shape_hw=(64, 48), pixel_mm=4.7
    )
    write_studies(folder / "studies", drawn)
    small = {"iters_per_epoch": 1, "batch_size": 1, "unlabelled_batch_size": 1, "rounds": 0}
    made = Server(folder, overlays=(), keys=small)
    yield made
    made.close()


class TestShippedNetwork:
    def test_is_there_at_once(self, shipped: Server) -> None:
        assert list(shipped.json("/info/")["models"]) == [MODEL]
        status, content = shipped.infer("phantom_0001", "json")
        assert status == 200
        assert json.loads(content)["structures"]

    def test_score_is_the_names_confidence(self, shipped: Server) -> None:
        shipped.json("/scoring/uncertainty", {"device": "cpu"}) if not shipped.json("/scoring/?all=true") else None
        shipped.wait_for_scoring()
        (name,) = [k for k, v in shipped.json("/datastore/?output=all")["objects"].items() if not v["labels"]]
        rows = json.loads(shipped.infer(name, "json")[1])["structures"]
        kept = shipped.json(f"/datastore/image/info?image={name}")["level_uncertainty"]
        assert kept == pytest.approx(1 - np.mean([row["confidence"] for row in rows]), abs=1e-4)
        assert shipped.json("/activelearning/uncertainty", {})["id"] == name

    def test_training_starts_from_it_and_does_not_make_it_worse(self, shipped: Server) -> None:
        """One step makes a trained network no better: what was there competes and stays."""
        before = torch.load(shipped.models / "model.pt", weights_only=True)
        status, log = shipped.train(val_split=0.5, max_epochs=1)
        assert status == "DONE", log[-3000:]
        after = torch.load(shipped.models / "model.pt", weights_only=True)
        assert [name for name in before if not torch.equal(before[name], after[name])] == []
