"""What the names of files tell: whether one is an image volume or a label, and what its case is called."""

from __future__ import annotations

import os
import re
from pathlib import Path

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
_LABEL = r"(?:masks?|msk|labels?|seg|segmentations?)"
_IMAGE = r"(?:0000|images?|img)"
_IS_LABEL = re.compile(rf"^{_LABEL}[-_]|[-_]{_LABEL}$|^{_LABEL}$", re.IGNORECASE)
_WORDS = re.compile(rf"^(?:{_LABEL}|{_IMAGE})[-_]|[-_](?:{_LABEL}|{_IMAGE})$", re.IGNORECASE)
_LABEL_FOLDER = re.compile(r"^(?:labels?|masks?|segmentations?)(?!l?ed)", re.IGNORECASE)  # not "labelled"
_IMAGE_FOLDER = re.compile(r"^(?:images?|mr)", re.IGNORECASE)


def case_name(path: str | Path) -> str:
    """Name of a scan: its file name without the ending; for a DICOM series its folder's name."""
    name = Path(path).name
    ending = next((s for s in IMAGE_SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(ending)]


def is_image(path: Path) -> bool:
    """True for the name of a NIfTI, MetaImage or NRRD file that is not hidden."""
    return path.name.lower().endswith(IMAGE_SUFFIXES) and not path.name.startswith(".")


def image_files(root: Path) -> list[Path]:
    """Image files below a folder, sorted; hidden folders are passed over, linked ones are entered once.

    A link to a file that is not there counts: it is for the check to name it, not to be left out in silence.
    """
    found: list[Path] = []
    entered: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = () if real in entered else sorted(f for f in folders if not f.startswith("."))
        found += [Path(folder) / name for name in names if real not in entered and is_image(Path(name))]
        entered.add(real)
    return sorted(found)


def is_label(path: Path, root: Path) -> bool:
    """True for a label: "mask_1", "x_seg", "x_label", or a file in a folder "labels..." or "masks..." below `root`."""
    return bool(_IS_LABEL.search(case_name(path))) or home(path, root)[2]


def home(path: Path, root: Path) -> tuple[Path, str, bool]:
    """Where a file and its partner are at home.

    Returns:
        The folder that holds both, the ending of an image or label folder ("Tr" of "imagesTr"), and whether the file
        lies in a label folder.
    """
    name = path.parent.name if path.parent != root else ""
    for word, holds_labels in ((_LABEL_FOLDER, True), (_IMAGE_FOLDER, False)):
        if word.match(name):
            return path.parent.parent, word.sub("", name), holds_labels
    return path.parent, "", False


def pair_key(path: Path) -> str:
    """What a scan and its label have in common: the file name without the words for image and label."""
    return _WORDS.sub("", case_name(path)).lower()


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key that counts numbers as numbers (Case2 before Case10)."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", text)]
