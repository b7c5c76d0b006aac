"""The page of a folder of results: what is on it, in which order, and what never is."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged
from PIL import Image

from scripts.data.datalist import DataError, Problem
from scripts.data.output_folder import OutputFolder
from scripts.inference.level_report import SavePictured
from scripts.measure.page import PAGE
from scripts.measure.scan_report import read_scan
from scripts.measure.tables import finish_folder
from scripts.ops.levels.verdict import VERDICTS
from tests.spines import PIR, TABLE, Spine
from tests.tiny import write_volume

SECRET = "/patients/DOE^JANE/4711.nii.gz"
STRUCTURE = {"name": "L4", "class_id": 3, "confidence": 0.871, "volume_ml": 14.26, "height_mm": 32.6, "flag": ""}
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """The page's elements, text and addresses; every element has to be closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [str(found[key]) for key in ("href", "src") if key in found]
        self.images += [found] * (tag == "img")
        self.open += [tag] if tag not in VOID else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += [data.strip()] if data.strip() else []


@pytest.fixture
def outputs(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "out", files=[PAGE])


def add(outputs: OutputFolder, name: str, verdict: str = "ok", picture: bool = True, **report: Any) -> None:
    """Write what a run leaves of a scan."""
    content = {"verdict": verdict, "reasons": [], "source": SECRET, "structures": [STRUCTURE], **report}
    outputs.write(f"{name}_levels.json", json.dumps(content).encode(), SECRET)
    outputs.write(f"{name}_seg.nii.gz", b"label map", SECRET)
    if picture:
        outputs.write(f"pictures/{name}.jpg", jpeg(), SECRET)


def jpeg(size: tuple[int, int] = (40, 20)) -> bytes:
    from io import BytesIO

    content = BytesIO()
    Image.new("RGB", size).save(content, "JPEG")
    return content.getvalue()


def page_of(outputs: OutputFolder) -> Page:
    finish_folder(outputs)
    return Page((outputs.folder / PAGE).read_text(encoding="utf-8"))


class TestPage:
    def test_worst_first_then_by_name(self, outputs: OutputFolder) -> None:
        scans = {"b": "ok", "A": "ok", "d": "check levels", "c": "do not use", "a2": "ok"}
        for name, verdict in scans.items():
            add(outputs, name, verdict)
        page = page_of(outputs)
        assert [name for name in page.text if name in scans] == ["c", "d", "A", "a2", "b"]
        assert "1 do not use, 1 check levels, 3 ok. The worst come first." in page.text
        assert [button for button in page.text if re.fullmatch(r"(all|do not use|check levels|ok) \d+", button)] == [
            "all 5",
            "do not use 1",
            "check levels 1",
            "ok 3",
        ]

    def test_verdicts_are_those_of_the_rules(self, outputs: OutputFolder) -> None:
        for verdict in VERDICTS:
            add(outputs, verdict[:2], verdict)
        assert "3 labelled scans" in page_of(outputs).text

    def test_what_a_report_holds(self, outputs: OutputFolder) -> None:
        measured = {"height_anterior_mm": 27.14, "height_middle_mm": 24.0, "height_posterior_mm": None}
        upper = {**STRUCTURE, "name": "L3", "flag": "size", **measured, "tilt_degrees": -4.4}
        add(
            outputs, "a", "check levels", reasons=["L3 is too small."], notes=["T10 is cut."],
            structures=[{**STRUCTURE, "tilt_degrees": -0.3}, upper], spine={"lordosis_degrees": 41.27, "slip_mm": None},
            not_measured={"slip_mm": "S is missing"},
        )  # fmt: skip
        page = page_of(outputs)
        heads = ["structure", "confidence", "volume, ml", "height in front, in the middle, at the back, mm"]
        heads += ["tilt, °", "remark"]
        start = page.text.index("structure")
        assert page.text[start : start + len(heads)] == heads
        cells = page.text[start + len(heads) :]
        assert cells[9] == "0"
        assert cells[:8] == ["L3", "0.87", "14.3", "27.1 / 24.0 / –", "−4", "size", "L4", "0.87"]  # from the head down
        assert [words in page.text for words in ("L3 is too small.", "T10 is cut.")] == [True, True]
        assert page.text[page.text.index("lumbar lordosis, °") + 1] == "41.3"
        assert page.text[page.text.index("slip, mm") + 1] == "S is missing"
        assert page.text.count("slip, mm") == 1

    def test_what_a_report_does_not_hold(self, outputs: OutputFolder) -> None:
        report = {"verdict": "ok", "reasons": [], "source": "", "structures": []}
        outputs.write("old_levels.json", json.dumps(report).encode())
        page = page_of(outputs)
        assert "There is no picture of this scan." in page.text
        assert "Nothing speaks against the names." in page.text
        assert "structure" not in page.text
        assert [link for link in page.links if "nii" in link] == []

    def test_neither_paths_nor_code_nor_the_network(self, outputs: OutputFolder) -> None:
        """A scan's path may name a patient; a scan's name may hold what a browser would run."""
        name = "<script>alert(1)<&'\""
        add(outputs, name, reasons=["<b>bold</b>"])
        page = page_of(outputs)
        text = (outputs.folder / PAGE).read_text(encoding="utf-8")
        assert {name, "<b>bold</b>"} <= set(page.text)
        assert "DOE" not in text
        assert "4711" not in text
        assert re.findall(r"https?:|//\w|url\(|@import|fetch\(", text) == []
        assert [link for link in page.links if ":" in link] == []

    def test_scans_that_could_not_be_labelled(self, outputs: OutputFolder) -> None:
        add(outputs, "anna")
        finish_folder(outputs, [Problem(SECRET, "the file is empty <now>; copy it again")])
        text = (outputs.folder / PAGE).read_text(encoding="utf-8")
        assert "4711.nii.gz: the file is empty <now>; copy it again" in " ".join(Page(text).text)
        assert "DOE" not in text
        finish_folder(outputs)
        assert "Not labelled" not in (outputs.folder / PAGE).read_text(encoding="utf-8")

    def test_links_lead_to_the_files(self, outputs: OutputFolder) -> None:
        for name in ("100 % of it#2?", "größe_東", "a+b&c"):
            add(outputs, name)
            outputs.write(f"{name}_seg.dcm", b"")
        (outputs.folder / "a+b&c_seg.dcm").unlink()
        links = page_of(outputs).links
        assert all((outputs.folder / unquote(link)).is_file() for link in links)
        assert (
            len(links) == 3 * 5 - 1 + 2
        )  # picture and the link round it, three files, one of which is gone; two tables

    def test_dicom_files_have_links(self, outputs: OutputFolder) -> None:
        add(outputs, "anna")
        for ending in ("_seg.dcm", "_sr.dcm"):
            outputs.write(f"anna{ending}", b"")
        assert {"anna_seg.dcm", "anna_sr.dcm"} <= set(page_of(outputs).links)

    def test_pictures_are_loaded_when_seen(self, outputs: OutputFolder) -> None:
        add(outputs, "a")
        (image,) = page_of(outputs).images
        assert (image["loading"], image["width"], image["height"]) == ("lazy", "40", "20")
        assert str(image["alt"]).startswith("a: sagittal slices")

    def test_500_scans(self, outputs: OutputFolder) -> None:
        picture, files = jpeg((1000, 560)), {}
        outputs.folder.mkdir(parents=True)
        (outputs.folder / "pictures").mkdir()
        structures = [{**STRUCTURE, "name": name} for name in TABLE.names[2:]]
        for number in range(500):
            report = {"verdict": VERDICTS[number % 3], "reasons": ["L3/L4 is missing."] * 3, "structures": structures}
            report["source"] = ""
            for name, content in (
                (f"scan_{number:03}_levels.json", json.dumps(report).encode()),
                (f"scan_{number:03}_seg.nii.gz", b""),
                (f"pictures/scan_{number:03}.jpg", picture),
            ):
                (outputs.folder / name).write_bytes(content)
                files[name] = {"source": "", "sha256": hashlib.sha256(content).hexdigest()}
        (outputs.folder / "manifest.json").write_text(json.dumps({"files": files}), encoding="utf-8")
        start = time.process_time()
        finish_folder(outputs)
        assert time.process_time() - start < 10
        assert (outputs.folder / PAGE).stat().st_size < 5_000_000
        page = Page((outputs.folder / PAGE).read_text(encoding="utf-8"))
        assert len(page.images) == 500
        assert {image["loading"] for image in page.images} == {"lazy"}


class TestNetwork:
    def knows(self, outputs: OutputFolder, settings: dict[str, Any] | None) -> str:
        outputs.weights = outputs.folder.parent / "model.pt"
        if settings is not None:
            outputs.weights.with_suffix(".json").write_text(json.dumps(settings), encoding="utf-8")
        add(outputs, "a")
        return next(text for text in page_of(outputs).text if text.startswith("For research only"))

    def test_what_it_cannot_name(self, outputs: OutputFolder) -> None:
        found = self.knows(outputs, {"classes": ["background", "S", "L5", "L4"], "labelled_classes": [0, 2, 3]})
        names = "This network names L5, L4, and nothing else: not S, no other level and no other tissue."
        assert found == f"For research only, not for diagnosis. {names}"

    def test_what_no_label_showed(self, outputs: OutputFolder) -> None:
        sizes = {"structures": {"L5": {"cases": 3}, "L4": {"cases": 0}}}
        found = self.knows(outputs, {"classes": ["background", "L5", "L4"], "structure_sizes": sizes})
        assert "names L5, and nothing else: not L4, no other level" in found

    def test_all_classes(self, outputs: OutputFolder) -> None:
        found = self.knows(outputs, {"classes": ["background", "S", "L5"], "labelled_classes": None})
        assert found.endswith("names S, L5, and nothing else: no other level and no other tissue.")

    @pytest.mark.parametrize("settings", [None, {"channels": [16]}])
    def test_not_known(self, outputs: OutputFolder, settings: dict[str, Any] | None) -> None:
        assert self.knows(outputs, settings) == "For research only, not for diagnosis."


class TestFolder:
    def test_nothing_without_a_report(self, outputs: OutputFolder) -> None:
        finish_folder(outputs)
        outputs.write("a_seg.nii.gz", b"")
        finish_folder(outputs)
        assert not (outputs.folder / PAGE).exists()

    def test_only_what_this_program_wrote(self, outputs: OutputFolder) -> None:
        for name in "abc":
            add(outputs, name)
        (outputs.folder / "b_levels.json").unlink()
        (outputs.folder / "other_levels.json").write_text('{"verdict": "ok"}', encoding="utf-8")
        assert "2 labelled scans" in page_of(outputs).text

    @pytest.mark.parametrize("content", ["{", "[]", '{"verdict": "ok"}', '{"verdict": "fine", "reasons": []}'])
    def test_a_damaged_report_is_named(self, outputs: OutputFolder, content: str) -> None:
        add(outputs, "a")
        (outputs.folder / "a_levels.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"a_levels\.json is damaged; remove it, and label or measure"):
            finish_folder(outputs)

    def test_a_second_run_adds_its_scans(self, outputs: OutputFolder) -> None:
        add(outputs, "a")
        assert "1 labelled scan" in page_of(outputs).text
        add(outputs, "b")
        assert "2 labelled scans" in page_of(OutputFolder(outputs.folder, files=[PAGE])).text

    def test_somebody_s_page_is_kept(self, outputs: OutputFolder) -> None:
        add(outputs, "a")
        (outputs.folder / PAGE).write_text("mine", encoding="utf-8")
        with pytest.raises(DataError, match=r"index.html was not written by this program"):
            finish_folder(outputs)
        assert (outputs.folder / PAGE).read_text(encoding="utf-8") == "mine"

    def test_several_processes(self, outputs: OutputFolder) -> None:
        """Each writes its scans and then the page; the last page has all, and the manifest knows it."""

        def work(name: str) -> None:
            own = OutputFolder(outputs.folder, files=[PAGE])
            add(own, name)
            finish_folder(own)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcdef"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        content = (outputs.folder / PAGE).read_bytes()
        assert "6 labelled scans" in Page(content.decode()).text
        assert outputs.entries()[PAGE]["sha256"] == hashlib.sha256(content).hexdigest()


class TestPicture:
    def test_of_the_scan_s_file(self, outputs: OutputFolder, tmp_path: Path) -> None:
        label = Spine().draw()
        path = write_volume(tmp_path / "anna.nii.gz", label.astype(np.int16), affine=PIR)
        pred = MetaTensor(torch.from_numpy(label)[None], affine=PIR, meta={"filename_or_obj": path})
        step = SavePictured("pred", outputs, TABLE)
        assert isinstance(step, SaveImaged)  # MONAI Label removes those
        scan = read_scan(str(path), label.shape, PIR).array
        data = {"pred": pred, "case": "folder/anna", "scan": scan}
        assert step(data) == data
        with Image.open(outputs.folder / "pictures/folder_anna.jpg") as picture:
            assert picture.size[0] > picture.size[1] > 300
        assert outputs.entries()["pictures/folder_anna.jpg"]["source"] == str(path)
