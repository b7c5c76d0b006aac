"""Labels on a DICOMweb server: segments get the names of their classes, and class ids are told by these names.

MONAI Label itself names the segments of a DICOM SEG by their place in what the viewer sends, and reads their numbers,
which run without a gap, as label values: a label without the sacrum comes back with each structure under another's id.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import dicom_seg_to_itk_image
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from SimpleITK import GetArrayFromImage, GetImageFromArray, ReadImage, WriteImage

ANATOMICAL_STRUCTURE = ("91723000", "SCT", "Anatomical Structure")


class DicomLabels(DICOMWebDatastore):
    """MONAI Label's DICOMweb datastore with labels that keep their classes."""

    classes: list[dict[str, Any]]
    """Rows of the class table, see `scripts.labels.StructureClass`."""

    @classmethod
    def of(cls, store: Datastore, class_table: str | Path) -> Datastore:
        """Let a datastore that MONAI Label has made keep the classes of its labels; others than DICOMweb already do.

        Args:
            store: made of the server's many settings, hence not here.
            class_table: the bundle's `configs/classes.json`.
        """
        if type(store) is DICOMWebDatastore:
            store.__class__ = cls
            store.classes = json.loads(Path(class_table).read_text(encoding="utf-8"))["classes"]
        return store

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Keep a label and, if it is final, send it to the DICOMweb server, its segments named by their class ids.

        Raises:
            HTTPException: a value is no class.
        """
        if label_tag == DefaultLabelTag.FINAL:
            label_info = {**label_info, "label_info": [self._segment(value) for value in _values(label_filename)]}
        return super().save_label(image_id, label_filename, label_tag, label_info, label_id)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Path of a label map with class ids, fetched from the DICOMweb server unless it lies here already.

        Raises:
            ValueError: a segment has the name of no class.
        """
        if label_tag != DefaultLabelTag.FINAL or not image_id:
            return super().get_label_uri(label_id, label_tag, image_id)
        labels = Path(self._datastore.label_path(label_tag)).resolve()
        kept, series = labels / f"{image_id}.nii.gz", labels / label_id
        if not kept.exists():
            if not series.is_dir() or not any(series.iterdir()):
                dicom_web_download_series(None, label_id, str(series), self._client, self._fetch_by_frame)
            with tempfile.TemporaryDirectory() as folder:
                label = str(Path(folder, "label.nii.gz"))
                self._write_class_ids(series, label)
                LocalDatastore.save_label(self, image_id, label, label_tag, self._dicom_info(label_id))
        return str(kept)

    def _segment(self, value: int) -> dict[str, Any]:
        """What MONAI Label and dcmqi need to know of the segment of a class."""
        if not 0 < value < len(self.classes):
            raise HTTPException(
                422, f"the label has the value {value}, which is no class; correct it and send it again"
            )
        row = self.classes[value]
        attribute = {
            "labelID": value,
            "SegmentLabel": row["name"],
            "SegmentDescription": row["long_name"],
            "SegmentAlgorithmType": "SEMIAUTOMATIC",
            "SegmentAlgorithmName": "MONAI Label",
            "SegmentedPropertyCategoryCodeSequence": _code(ANATOMICAL_STRUCTURE),
            "SegmentedPropertyTypeCodeSequence": _code(row.get("code") or ANATOMICAL_STRUCTURE),
            "recommendedDisplayRGBValue": row["colour"],
        }
        return {"name": row["name"], "segmentAttribute": attribute}

    def _write_class_ids(self, series: Path, target: str) -> None:
        """Convert a DICOM SEG to NIfTI."""
        import pydicom

        ids = {row["name"].casefold(): row["id"] for row in self.classes[1:]}
        segments = pydicom.dcmread(next(series.iterdir()), stop_before_pixels=True).SegmentSequence
        names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in segments}
        if unknown := sorted(name for name in names.values() if name.casefold() not in ids):
            raise ValueError(
                f"the segmentation {series.name} has segments of no class ({', '.join(unknown)}); "
                f"name them as the classes, or remove it from the DICOMweb server"
            )
        table = np.zeros(max(names) + 1, np.uint8)
        table[list(names)] = [ids[name.casefold()] for name in names.values()]
        converted = Path(dicom_seg_to_itk_image(str(series)))
        numbers = ReadImage(str(converted))
        converted.unlink()
        label = GetImageFromArray(table[GetArrayFromImage(numbers)])
        label.CopyInformation(numbers)
        WriteImage(label, target, True)


def _values(file: str) -> list[int]:
    """The values of a label map but 0, in their order."""
    if file.endswith(".bin"):
        voxels = np.fromfile(file, np.uint8)
    elif file.endswith((".nii", ".nii.gz")):
        voxels = np.asarray(nibabel.load(file).dataobj)
    else:
        voxels = GetArrayFromImage(ReadImage(file))
    return [int(value) for value in np.unique(voxels) if value]


def _code(code: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("CodeValue", "CodingSchemeDesignator", "CodeMeaning"), code, strict=True))
