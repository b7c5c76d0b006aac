"""What the names of files and folders say: which file is a scan, which a label, and which sequence it shows.

A word is a whole word: "mask_1" and "case 1 seg" are labels, the patient folder "Maskell" is none.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
SEGMENT_FILE = ".seg.nrrd"
"""Ending of 3D Slicer's segment files, which hold the voxels around the segments alone: all others are background."""
LABEL_FOLDERS = frozenset(("labels", "masks", "segs", "segmentations", "annotations"))
"""Words with which a folder of labels may begin ("labels_by_anna"); with any of `LABEL_WORDS` it may end."""
LABEL_WORDS = LABEL_FOLDERS | {"mask", "msk", "label", "seg", "segmentation", "dseg", "gt", "annotation", "groundtruth"}
CHANNEL = "0000"
"""What nnU-Net puts behind the name of a case for its first channel."""
IMAGE_WORDS = frozenset(("image", "images", "img", "imgs", "mr", "mri", "scan", "scans", "input", "rawdata", CHANNEL))
QUALIFIERS = frozenset(("manual", "final", "original", "corrected", "auto", "edited", "reviewed", "v1", "v2"))
"""Words that may follow a label's: "_seg-manual", "labels/final"."""
DERIVED_ENTITIES = frozenset(("space", "desc", "res", "den", "atlas", *LABEL_WORDS))
"""Keys that BIDS puts into the names of derivatives and not into those of scans."""
SEQUENCE = re.compile(
    r"(?:sag(?:ittal)?|ax(?:ial)?|cor(?:onal)?|tra(?:nsversal)?)?(?:t[12](?:w|star|s)?|pdw?|stir|tirm|flair|dixon|dwi|adc|"
    r"swi|gre|tse|fse|frfse|haste|mprage|vibe|space|vista|cube|ciss|fiesta)(?:w|fs|ce|c|gd|tse|fse|space|dixon|sag|ax|cor|"
    r"tra)*|sag(?:ittal)?|ax(?:ial)?|cor(?:onal)?|tra(?:nsversal)?|fs|fatsat|inphase|outphase|water|ce|gd|contrast|ct"
)
"""A word that names a sequence or its plane ("t2", "t2w", "stir", "sagT2", "dixon")."""
_SPLIT = re.compile(r"(?:tr|ts|val)$")
_BIDS = re.compile(r"(?:^|_)sub-[a-z0-9]+(?:_|$)")


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


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key that counts numbers as numbers (Case2 before Case10)."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", text)]


def words(name: str) -> list[str]:
    """The words of a name, in small letters."""
    return [word for word in re.split(r"[-_.\s]+", unicodedata.normalize("NFC", name).casefold()) if word]


def name_parts(name: str) -> list[str]:
    """The words of a name; in one of BIDS its entities ("sub-01", "seg-vert"), of "mod-T2w" the value alone."""
    plain = unicodedata.normalize("NFC", name).casefold()
    if not _BIDS.search(plain):
        return words(name)
    return [part.removeprefix("mod-") for part in re.split(r"[_.\s]+", plain) if part]


def of_label(part: str) -> bool:
    """True for a part of a name that tells of a label, or of any derivative of a scan."""
    key, *value = part.split("-", 1)
    return part in LABEL_WORDS or part in QUALIFIERS or bool(value and key in DERIVED_ENTITIES)


def names_label(name: str) -> bool:
    """True for a name that begins or ends with a label's word: "mask_1", "x_seg-manual", "Smith T2 seg", "x.seg"."""
    last = words(re.split(r"[_\s]", name)[-1])
    found = words(name)
    while len(found) > 1 and found[-1] in QUALIFIERS:
        found.pop()
    return bool(found) and (bool({found[0], found[-1]} & LABEL_WORDS) or last[:1] in (["seg"], ["label"]))


def folder_role(name: str) -> tuple[str, str]:
    """What a folder holds by its name, and which part of a data set: "imagesTr" holds the images of "tr".

    Returns:
        "image", "label", "other" (what programs write on their way, which is neither), or "" for any other folder.
    """
    found = [
        _SPLIT.sub("", word) if _SPLIT.sub("", word) in LABEL_WORDS | IMAGE_WORDS else word for word in words(name)
    ]
    part = "".join(m[0] for word in words(name) if word not in found and (m := _SPLIT.search(word)))
    if re.match(r"step\d_", name.lower()):  # of TotalSpineSeg
        return ("label" if name.lower() == "step2_output" else "other"), ""
    if not found or not set(found) & (LABEL_WORDS | IMAGE_WORDS):
        return ("derived" if found[:1] == ["derivatives"] else ""), ""
    if found[-1] in LABEL_WORDS or found[0] in LABEL_FOLDERS:
        return "label", part
    if found[0] in LABEL_WORDS and set(found[1:]) <= QUALIFIERS:
        return "label", part
    return ("image" if {found[0], found[-1]} & IMAGE_WORDS else ""), part


def role(path: Path, root: Path) -> str:
    """What a file below `root` is by its name and folders: "scan", "label", or the reason why it is neither."""
    name = case_name(path)
    if re.search(r"(?:^|_)seg-(?:spine|subreg)(?:_|$)", name.lower()):
        return "a mask of SPINEPS without levels"
    inside = [folder_role(part)[0] for part in reversed(path.relative_to(root).parts[:-1])]
    for kind in inside:
        if kind == "other":
            return "what a program wrote on its way to a label map"
        if kind == "label":
            return "label"
        if kind == "image":
            break
    if names_label(name):
        return "label"
    return "neither scan nor label of a folder derivatives" if "derived" in inside else "scan"


def scans_among(files: Iterable[Path], root: Path) -> list[Path]:
    """The files that are scans by their names; that others are passed over is logged."""
    roles = {path: role(path, root) for path in files}
    left = [path.relative_to(root).as_posix() for path, what in roles.items() if what != "scan"]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        text = "%s: passed over, labels or other outputs by their names: %s%s"
        logging.getLogger(__name__).info(text, root, ", ".join(left[:3]), more)
    return [path for path, what in roles.items() if what == "scan"]


def place(path: Path, root: Path) -> tuple[str, ...]:
    """The folders that a scan and its label share: those that hold images or labels count by their part alone."""
    kinds = [(part, *folder_role(part)) for part in path.relative_to(root).parts[:-1]]
    return tuple(part.casefold() if kind == "" else which for part, kind, which in kinds if kind == "" or which)
