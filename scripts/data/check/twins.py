"""Copies: scans and labels of the same voxels under several names, which must not stand in two splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import nibabel
import numpy as np

from ..datalist import Problem

Digests = dict[str, str]
"""Digests of the voxels of an "image" and a "label", as far as there are any."""


def digest_of(array: np.ndarray, affine: np.ndarray) -> str:
    """Digest of the voxels (X, Y, Z), the same for a copy in another type, or with axes in another order or direction.

    Args:
        array: real numbers.
        affine: (4, 4) to millimetres.
    """
    turned = nibabel.orientations.apply_orientation(array, nibabel.io_orientation(affine))
    content = np.ascontiguousarray(turned, dtype=np.float32)
    digest = hashlib.sha1(str(content.shape).encode(), usedforsecurity=False)
    digest.update(content.data)
    return digest.hexdigest()


def twins(jobs: Sequence[Mapping[str, Any]], digests: Sequence[Digests], split: Mapping[str, str]) -> Iterator[Problem]:
    """Images, and labels, of the same voxels: an error where they are in two splits; of images else a warning.

    Labels of one split may be equal: T1 and T2 of a patient have one.

    Args:
        jobs: `section`, `image` and `label` (or None) of every entry.
        digests: of the voxels of each.
        split: section -> split.
    """
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for job, found in zip(jobs, digests, strict=True):
        said = False
        for key, digest in found.items():
            other = first.setdefault((key, digest), job)
            if other["image"] == job["image"]:  # the same file; a list that names it in two splits is told so
                continue
            same = f"has the same voxels as {other[key]}"
            if split[other["section"]] != split[job["section"]] and not said:
                why = "two scans of one patient? " if key == "label" else ""
                mend = f"{why}keep all copies in one split, or take one of them out"
                yield Problem(job[key], f"{same}, which is in {other['section']}; {mend}", job["section"])
                said = True
            elif key == "image":
                often = "training sees it more often than others"
                does = often if split[job["section"]] == "training" else "it counts twice"
                yield Problem(job[key], f"{same}; {does}", job["section"], "warning")
