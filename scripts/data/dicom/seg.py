"""Write label maps of DICOM series as DICOM SEG files, with coded segments that refer to the source images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import MetaTensor

from ...labels import ClassTable
from ..datalist import DataError
from .derived import SaveDerivedd, import_highdicom, source_images

ANATOMICAL_STRUCTURE = ("91723000", "SCT", "Anatomical Structure")
"""Category of every segment, and type of those whose class has no code."""
ARTIFICIAL_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")
ON_GRID = 0.1
"""Tolerance in voxels between the corners of a slice and the label map's grid; half a voxel across slices."""
SERIES_NUMBERS = 1000
"""Offset of a SEG's series number to its source's."""


class SaveDicomSegd(SaveDerivedd):
    """Write label maps of DICOM series as `<case>_seg.dcm`, see `SaveDerivedd`.

    A file has one binary segment per class found, with name, code and colour, in the study and frame of reference of
    the series.
    """

    ENDING, WHAT = "_seg.dcm", "DICOM SEG"

    def make(self, data: Mapping[Hashable, Any], label_map: MetaTensor, files: Sequence[str]) -> Any:
        """A SEG object; None where no structure was found."""
        label, affine = np.asarray(label_map[0].cpu()), np.asarray(label_map.affine, dtype=np.float64)
        if not label.any():
            return None
        return dicom_seg(label, affine, files, self.table, self.about)


def dicom_seg(
    label: np.ndarray, affine: np.ndarray, files: Sequence[str], table: ClassTable, about: Mapping[str, Any]
) -> Any:
    """Make a DICOM SEG object of a label map.

    Args:
        label: (X, Y[, Z]) class ids in the grid of the series, at least one above 0.
        affine: (4, 4) of the label map to millimetres, RAS.
        files: files of the series, single-frame or one multi-frame file.
        table: the classes.
        about: `name`, `version` and `authors` of what made the label map.

    Returns:
        A `highdicom.seg.Segmentation`.

    Raises:
        DataError: highdicom is not installed, or the slices of the series do not lie on the label map's grid.
    """
    highdicom = import_highdicom()
    from pydicom.sr.coding import Code

    sources = source_images(files)
    if "FrameOfReferenceUID" not in sources[0]:
        raise DataError("its header names no frame of reference")
    for source in sources:
        for measures in _pixel_measures(source):
            if not measures.get("SliceThickness"):  # highdicom needs it; contiguous slices are assumed
                measures.SliceThickness = round(float(np.linalg.norm(affine[:3, 2])), 4)
    frames = np.stack(
        [label.reshape(*label.shape[:2], -1)[..., k].T for k in _slice_numbers(label.shape, affine, sources)]
    )
    found = [c for c in table.foreground if (frames == c.id).any()]
    numbers = np.zeros(table.num_classes, dtype=np.uint8)
    numbers[[c.id for c in found]] = range(1, len(found) + 1)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=about["name"], version=about["version"], family=Code(*ARTIFICIAL_INTELLIGENCE)
    )
    segments = []
    for number, structure in enumerate(found, 1):
        segment = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=structure.name,
            segmented_property_category=Code(*ANATOMICAL_STRUCTURE),
            segmented_property_type=Code(*(structure.code or ANATOMICAL_STRUCTURE)),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            display_color=highdicom.color.CIELabColor.from_rgb(*structure.colour),
        )
        segment.SegmentDescription = structure.long_name
        segments.append(segment)
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=numbers[frames],
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBERS + int(sources[0].get("SeriesNumber") or 0),
        series_description=f"Segmentation by {about['name']}"[:64],
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=about["authors"],
        manufacturer_model_name=about["name"],
        software_versions=about["version"],
        device_serial_number="none",
        content_label="SEGMENTATION",
    )


def _slice_numbers(shape: Sequence[int], affine: np.ndarray, sources: Sequence[Any]) -> list[int]:
    """Index of the label map's slice for every frame of the source images.

    Raises:
        DataError: a frame is off the grid, or two are on one slice.
    """
    to_voxels = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)  # DICOM's axes are LPS
    numbers = []
    for position, orientation, spacing in _planes(sources):
        row, column = orientation[:3] * spacing[1] * (shape[0] - 1), orientation[3:] * spacing[0] * (shape[1] - 1)
        corners = np.stack([position, position + row + column])
        voxels = corners @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        number = round(float(voxels[0, 2]))
        wanted = np.array([[0, 0, number], [shape[0] - 1, shape[1] - 1, number]])
        if (np.abs(voxels - wanted) > (ON_GRID, ON_GRID, 0.5)).any():
            raise DataError("its slices do not lie on the grid of the label map")
        numbers.append(number)
    if sorted(numbers) != list(range(shape[2] if len(shape) > 2 else 1)):
        raise DataError("its slices are not those of the label map")
    return numbers


def _planes(sources: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Position (3,), orientation (6,) and pixel spacing (2,) of every frame of single- or multi-frame images."""

    def plane(position: Any, orientation: Any, spacing: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            np.array(position.ImagePositionPatient, dtype=np.float64),
            np.array(orientation.ImageOrientationPatient, dtype=np.float64),
            np.array(spacing.PixelSpacing, dtype=np.float64),
        )

    if "PerFrameFunctionalGroupsSequence" not in sources[0]:
        return [plane(source, source, source) for source in sources]
    shared = sources[0].SharedFunctionalGroupsSequence[0]

    def group(frame: Any, name: str) -> Any:
        return (frame if name in frame else shared)[name][0]

    return [
        plane(*(group(frame, f"{name}Sequence") for name in ("PlanePosition", "PlaneOrientation", "PixelMeasures")))
        for frame in sources[0].PerFrameFunctionalGroupsSequence
    ]


def _pixel_measures(source: Any) -> list[Any]:
    """Items that hold the pixel spacing: a single-frame image itself, or functional groups of a multi-frame one."""
    if "PerFrameFunctionalGroupsSequence" not in source:
        return [source]
    groups = [*source.SharedFunctionalGroupsSequence, *source.PerFrameFunctionalGroupsSequence]
    return [group.PixelMeasuresSequence[0] for group in groups if "PixelMeasuresSequence" in group]
