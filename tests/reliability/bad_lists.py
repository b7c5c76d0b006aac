"""Datalists, labels and folders that `check` and `prepare` refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from scripts.phantom.volume import make_phantom
from tests.reliability.bad_scans import PIXEL_MM, SHAPE_HW, Scan

Content = dict[str, Any]


def good_list(d: Scan, name: str = "") -> Content:
    """A valid datalist: one labelled patient in each split."""
    sections: Content = {"label_map": None}
    for number, section in enumerate(("training", "validation", "test")):
        array, ids, affine = make_phantom(0, 1 + number, shape_hw=SHAPE_HW, pixel_mm=PIXEL_MM)
        if section == "training":
            array, ids, affine = d.array, d.label, d.affine
        noise = d.random.integers(0, 9, array.shape).astype(np.int16)
        image = d.save(array + noise, f"{name}images/{section}.nii.gz", affine)
        label = d.save(ids, f"{name}labels/{section}.nii.gz", affine)
        sections[section] = [{"image": str(image), "label": str(label), "case": section, "patient": f"p{number}"}]
    return sections


def _with_label(change: Callable[[Scan], Any], shift_mm: float = 0.0) -> Callable[[Scan], Content]:
    """Replace or shift the label of the training scan."""

    def make(d: Scan) -> Content:
        content = good_list(d)
        affine = d.affine.copy()
        affine[:3, 3] += shift_mm
        d.save(change(d), "labels/training.nii.gz", affine)
        return content

    return make


def _edited(change: Callable[[Content], Any]) -> Callable[[Scan], Content]:
    """Change the content of the datalist."""

    def make(d: Scan) -> Content:
        content = good_list(d)
        result = change(content)
        return content if result is None else result

    return make


def _twin(content: Content) -> None:
    """Put a copy of the training scan, with its label, into the test section."""
    original = Path(content["training"][0]["image"])
    copy = original.with_name("copy.nii.gz")
    copy.write_bytes(original.read_bytes())
    _put(content, "test", image=str(copy), label=content["training"][0]["label"])


def _label_twin(content: Content) -> None:
    """Put a copy of the training label beside the test scan."""
    original = Path(content["training"][0]["label"])
    copy = original.with_name("copy.nii.gz")
    copy.write_bytes(original.read_bytes())
    content["test"][0]["label"] = str(copy)


def _exchanged(label: Any, *pairs: tuple[int, int]) -> Any:
    """A label with the ids of structures exchanged."""
    table = np.arange(256, dtype=np.uint8)
    for one, other in pairs:
        table[[one, other]] = other, one
    return table[label]


def _put(content: Content, section: str, **keys: Any) -> None:
    entry = content[section][0]
    entry.update(keys)
    for key in [key for key, value in entry.items() if value == "gone"]:
        del entry[key]


LISTS: dict[str, Callable[[Scan], Content | str | bytes]] = {
    "label of another shape": _with_label(lambda d: d.label[1:]),
    "label elsewhere": _with_label(lambda d: d.label, 40.0),
    "label with unknown values": _with_label(lambda d: np.where(d.label > 0, 77, 0).astype(np.uint8)),
    "label with fractions": _with_label(lambda d: (d.label * 0.37).astype(np.float32)),
    "label with NaN": _with_label(lambda d: np.where(d.label > 0, np.nan, 0).astype(np.float32)),
    "label with negative values": _with_label(lambda d: -d.label.astype(np.int16)),
    "label without structures": _with_label(lambda d: np.zeros_like(d.label)),
    "label of four axes": _with_label(lambda d: np.stack([d.label] * 3, -1)),
    "label upside down": _with_label(lambda d: np.ascontiguousarray(d.label[:, ::-1])),
    "levels in another order": _with_label(lambda d: _exchanged(d.label, (3, 4))),
    "a disc above its vertebrae": _with_label(lambda d: _exchanged(d.label, (12, 14))),
    "label that is the scan": _with_label(lambda d: d.array),
    "label missing": _edited(lambda c: _put(c, "training", label="gone")),
    "label not there": _edited(lambda c: _put(c, "training", label="nowhere.nii.gz")),
    "label that is a folder": _edited(lambda c: _put(c, "training", label=str(Path(c["training"][0]["label"]).parent))),
    "validation without label": _edited(lambda c: _put(c, "validation", label="gone")),
    "image missing": _edited(lambda c: _put(c, "training", image="gone")),
    "image that is a number": _edited(lambda c: _put(c, "training", image=7)),
    "image that is a list": _edited(lambda c: _put(c, "training", image=["a", "b"])),
    "image with a zero byte": _edited(lambda c: _put(c, "training", image="a\0b.nii.gz")),
    "image of a name too long": _edited(lambda c: _put(c, "training", image="n" * 5000)),
    "image that is a folder": _edited(lambda c: _put(c, "training", image=str(Path(c["training"][0]["image"]).parent))),
    "unlabelled with label": _edited(lambda c: c.update(unlabelled=c["test"])),
    "entry that is text": _edited(lambda c: c.update(training=["scan.nii.gz"])),
    "section that is a table": _edited(lambda c: c.update(training={"image": "a"})),
    "section that is nothing": _edited(lambda c: c.update(training=None)),
    "no training": _edited(lambda c: c.pop("training") and None),
    "patient in two splits": _edited(lambda c: _put(c, "test", patient="p0")),
    "file in two splits": _edited(
        lambda c: _put(c, "test", **{key: c["training"][0][key] for key in ("image", "label")})
    ),
    "copy of a scan in two splits": _edited(_twin),
    "copy of a label in two splits": _edited(_label_twin),
    "label map taken for a scan": _edited(
        lambda c: c.update(unlabelled=[{"image": c["test"][0]["label"], "case": "u", "patient": "u"}])
    ),
    "case twice": _edited(lambda c: c.update(training=c["training"] * 2)),
    "unknown class": _edited(lambda c: c.update(unlabelled_classes=["sacrum of nobody"])),
    "classes that are a number": _edited(lambda c: c.update(unlabelled_classes=3)),
    "unknown label map": _edited(lambda c: c.update(label_map="no such map")),
    "label map with an unknown class": _edited(lambda c: c.update(label_map={"1": "tail"})),
    "label map with words for values": _edited(lambda c: c.update(label_map={"one": "S"})),
    "label map that is a list": _edited(lambda c: c.update(label_map=["S", "L5"])),
    "list that is a list": _edited(lambda c: [c]),
    "list that is a number": lambda d: "7",
    "list that is cut off": lambda d: json.dumps(good_list(d))[: int(d.random.integers(1, 300))],
    "list in another encoding": lambda d: json.dumps(good_list(d)).encode("utf-16"),
    "list of random bytes": lambda d: bytes(d.random.bytes(300)),
    "list without an end": lambda d: "[" * 100_000,
    "empty list": lambda d: "",
}
"""Kinds of datalists that `check` refuses: JSON content, or text or bytes."""


def _mirrored(d: Scan) -> Content:
    """Store the training label with an axis reversed, at the same place in the world."""
    content = good_list(d)
    image = nibabel.Nifti1Image(d.label, d.affine).as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
    nibabel.save(image, content["training"][0]["label"])
    return content


def _rounded(d: Scan) -> Content:
    content = good_list(d)
    d.save(d.label + d.random.uniform(-4e-4, 4e-4, d.label.shape).astype(np.float32), "labels/training.nii.gz")
    return content


TAKEN: dict[str, Callable[[Scan], Content]] = {
    "label with an axis reversed": _mirrored,
    "label of nearly whole numbers": _rounded,
}
"""Kinds of unusual datalists that `check` accepts."""


def scan_folder(d: Scan, *names: str) -> Path:
    """Write the scan, or its label where a name begins with labels/, under each name."""
    for name in names:
        d.save(d.label if name.startswith("labels/") else d.array, name)
    return d.folder


def _named(d: Scan, dataset: str, colours: str = "") -> Path:
    """A labelled scan with the names of nnU-Net and perhaps of 3D Slicer beside it."""
    scan_folder(d, "images/a.nii.gz", "labels/a.nii.gz")
    (d.folder / "dataset.json").write_text(dataset, encoding="utf-8")
    if colours:
        (d.folder / "colours.ctbl").write_text(colours, encoding="utf-8")
    return d.folder


def _spider_space(d: Scan, content: Any) -> Path:
    scan_folder(d, "images/a.nii.gz", "labels/a.nii.gz")
    (d.folder / "split.json").write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return d.folder


def _dicom_noise(d: Scan) -> Path:
    (d.folder / "series").mkdir()
    (d.folder / "series" / "1").write_bytes(bytes(128) + b"DICM" + d.random.bytes(500))
    return d.folder


FOLDERS: dict[str, Callable[[Scan], list[Any]]] = {
    "label values that no names explain": lambda d: [
        d.save(d.array, "images/a.nii.gz") and d.save(np.where(d.label, 40, 0).astype(np.uint8), "labels/a.nii.gz")
        and d.folder
    ],
    "label values in an order that no spine has": lambda d: [
        d.save(d.array, "images/a.nii.gz") and d.save(_exchanged(d.label, (2, 4), (11, 13)), "labels/a.nii.gz")
        and d.folder
    ],
    "names that disagree": lambda d: [_named(d, '{"labels": {"background": 0, "L5": 2}}', "2 L4 9 9 9 255")],
    "names of no structure": lambda d: [_named(d, '{"labels": {"background": 0, "spine": 2}}')],
    "regions of several values": lambda d: [_named(d, '{"labels": {"background": 0, "all": [1, 2]}}')],
    "pattern that finds no patient": lambda d: [scan_folder(d, "images/a.nii.gz"), "--patient", "(zz)"],
    "pattern that is none": lambda d: [scan_folder(d, "images/a.nii.gz"), "--patient", "("],
    "patterns that fit no file": lambda d: [scan_folder(d, "a.nii.gz"), "--images", "b*", "--labels", "c*"],
    "no such folder": lambda d: [d.folder / "none"],
    "folder that is a file": lambda d: [d.save(d.array)],
    "empty folder": lambda d: [d.folder],
    "no scan in the folder": lambda d: [(d.folder / "notes.txt").write_text("x") and d.folder],
    "labels alone": lambda d: [scan_folder(d, "labels/a.nii.gz")],
    "two labels for a scan": lambda d: [scan_folder(d, "images/a.nii.gz", "labels/a.nii.gz", "labels/a.nii")],
    "another layout": lambda d: [
        scan_folder(d, "a.nii.gz"), "--layout", str(d.random.choice(["mrspineseg", "spider", "dicom"]))
    ],
    "split that is no JSON": lambda d: [_spider_space(d, "{"), "--layout", "spider_space"],
    "split without its keys": lambda d: [_spider_space(d, {"test": []}), "--layout", "spider_space"],
    "split that is a list": lambda d: [_spider_space(d, [1]), "--layout", "spider_space"],
    "split of patients who are not there": lambda d: [
        _spider_space(d, {"training_order": ["b"], "validation": [], "test": []}), "--layout", "spider_space"
    ],
    "labelled fraction of 0": lambda d: [
        scan_folder(d, "images/a.nii.gz", "labels/a.nii.gz"), "--labelled-fraction", "0"
    ],
    "more labelled cases than there are": lambda d: [
        scan_folder(d, "images/a.nii.gz", "labels/a.nii.gz"), "--labelled-cases", str(d.random.integers(2, 99))
    ],
    "nobody to train on": lambda d: [
        scan_folder(d, "a.nii.gz"), "--test-fraction", "0.9", "--validation-fraction", "0.4"
    ],
    "negative seed": lambda d: [scan_folder(d, "a.nii.gz"), "--seed", "-3"],
    "unknown label map for a folder": lambda d: [scan_folder(d, "a.nii.gz"), "--label-map", "none such"],
    "label map that is a scan": lambda d: [scan_folder(d, "a.nii.gz"), "--label-map", d.folder / "a.nii.gz"],
    "datalist that is a folder": lambda d: [scan_folder(d, "a.nii.gz"), "--out", d.folder],
    "datalist below a file": lambda d: [scan_folder(d, "a.nii.gz"), "--out", d.folder / "a.nii.gz" / "data.json"],
    "DICOM that cannot be read": lambda d: [_dicom_noise(d)],
}  # fmt: skip
"""Kinds of arguments that `prepare` refuses: the folder and options."""
