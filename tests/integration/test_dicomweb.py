"""A MONAI Label server whose studies lie on a DICOMweb server: Orthanc, where it is installed.

The tests of this file are one story and go in order.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from scripts.labels import ClassTable
from scripts.phantom.write import write_phantoms
from tests.label_server import PYTHON, Server, free_port
from tests.scan_files import write_dicom

pytestmark = pytest.mark.label

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SCANS = 3


class Orthanc:
    """A DICOMweb server on this machine."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            **{"HttpPort": port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False},
            **{"DicomServerEnabled": False, "StorageDirectory": str(folder / "archive")},
            **{"IndexDirectory": str(folder / "archive"), "Plugins": [str(PLUGIN)]},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
        with (folder / "orthanc.log").open("w") as log:
            self.process = subprocess.Popen(["Orthanc", folder / "orthanc.json"], stdout=log, stderr=log)
        end = time.monotonic() + 60
        while not (folder / "archive").is_dir() or "has started" not in (folder / "orthanc.log").read_text():
            assert self.process.poll() is None, (folder / "orthanc.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.2)

    def ask(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data=body), timeout=60) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dicomweb")


@pytest.fixture(scope="module")
def orthanc(folder: Path) -> Iterator[Orthanc]:
    if not PYTHON.is_file():
        pytest.skip("there is no .venv-label; `make test-label` makes it")
    if shutil.which("Orthanc") is None or not PLUGIN.is_file():
        pytest.skip("Orthanc is not installed (Debian: orthanc and orthanc-dicomweb)")
    itk = pytest.importorskip("itk")
    made = Orthanc(folder)
    settings: dict[str, Any] = {"shape_hw": (40, 32), "pixel_mm": 7.0}
    write_phantoms(folder / "drawn", labelled=SCANS, unlabelled=0, validation=0, test=0, **settings)
    for number in range(1, SCANS + 1):
        scan = nib.load(folder / f"drawn/images/phantom_{number:04d}.nii.gz")
        write_dicom(itk, np.asarray(scan.dataobj), scan.affine, folder / "series", number=number)
    for file in (folder / "series").glob("*.dcm"):
        made.ask("/instances", file.read_bytes())
    yield made
    made.process.terminate()
    assert made.process.wait(60) is not None


@pytest.fixture(scope="module")
def server(orthanc: Orthanc, folder: Path) -> Iterator[Server]:
    cache = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache")}
    made = Server(folder, studies=f"{orthanc.url}/dicom-web", settings=cache)
    yield made
    made.process.terminate()
    assert made.process.wait(60) is not None


def drawn(folder: Path, number: int) -> nib.Nifti1Image:
    return nib.load(folder / f"drawn/labels/phantom_{number:04d}.nii.gz")


def series(number: int) -> str:
    return f"1.2.826.0.1.{number}"


def test_series_are_found(server: Server) -> None:
    counts = server.json("/info/")["datastore"]
    assert (counts["completed"], counts["total"]) == (0, SCANS)


def test_a_value_of_no_class_is_refused(server: Server, orthanc: Orthanc, folder: Path) -> None:
    label = np.full(drawn(folder, 1).shape, 77, np.uint8)
    nib.save(nib.Nifti1Image(label, drawn(folder, 1).affine), folder / "odd.nii.gz")
    status, content = server.put(f"/datastore/label?image={series(1)}&tag=final", "label", folder / "odd.nii.gz")
    assert status == 422
    assert "the label has the value 77, which is no class" in content.decode()
    assert orthanc.ask("/tools/find", b'{"Level": "Series", "Query": {"Modality": "SEG"}}') == []


def test_classes_survive_the_way_to_the_archive_and_back(server: Server, orthanc: Orthanc, folder: Path) -> None:
    """A label without the lowest structure, of a viewer that lists all names; then a server that has no copy of it."""
    label = np.asarray(drawn(folder, 1).dataobj).copy()
    label[label == 1] = 0
    assert len(np.unique(label)) > 5
    nib.save(nib.Nifti1Image(label, drawn(folder, 1).affine), folder / "label.nii.gz")
    names = ClassTable.load().names
    sent = {"label_info": [{"name": name.lower(), "idx": number} for number, name in enumerate(names[1:], 1)]}
    status, content = server.put(
        f"/datastore/label?image={series(1)}&tag=final", "label", folder / "label.nii.gz", sent
    )
    assert status == 200, content
    assert len(orthanc.ask("/tools/find", b'{"Level": "Series", "Query": {"Modality": "SEG"}}')) == 1
    (labels,) = (folder / "cache").glob("*/labels")
    shutil.rmtree(labels)
    (entry,) = server.json("/datastore/?output=train")
    found = nib.load(entry["label"])
    assert entry["image"].endswith(f"{series(1)}.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), label)
    np.testing.assert_allclose(found.affine, nib.load(entry["image"]).affine, atol=1e-3)


def test_train_and_infer(server: Server, folder: Path) -> None:
    nib.save(drawn(folder, 2), folder / "second.nii.gz")
    assert server.put(f"/datastore/label?image={series(2)}&tag=final", "label", folder / "second.nii.gz")[0] == 200
    status, log = server.train(val_split=0, max_epochs=1)
    assert status == "DONE", log[-3000:]
    assert "scans: 2 labelled," in log
    status, content = server.infer(series(3))
    assert status == 200, content
    (folder / "reply.nii.gz").write_bytes(content)
    assert nib.load(folder / "reply.nii.gz").shape == drawn(folder, 3).shape
