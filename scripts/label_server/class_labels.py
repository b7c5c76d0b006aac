"""MONAI Label datastores that restore class ids of labels by segment names.

3D Slicer and DICOM SEG number the segments of a label consecutively, so that without the sacrum every structure would
have the id of another; MONAI Label reads these numbers as label values.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from fastapi import HTTPException
from label_grid import fits
from monai.transforms import LoadImage
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import binary_to_image, dicom_seg_to_itk_image
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

ANATOMICAL_STRUCTURE = ("91723000", "SCT", "Anatomical Structure")


def preserve_class_ids(store: Datastore, class_table: str | Path) -> Datastore:
    """Make a folder or DICOMweb datastore preserve class ids, in place; `class_table` is the table's JSON file."""
    kinds = {LocalDatastore: FolderLabels, DICOMWebDatastore: DicomLabels}
    if type(store) in kinds:
        store.__class__ = kinds[type(store)]
        store.classes = json.loads(Path(class_table).read_text(encoding="utf-8"))["classes"]
    return store


class ClassIdMixin:
    """Mixin of datastores: segment names to class ids."""

    classes: list[dict[str, Any]]
    """Rows of the class table, see `scripts.labels.StructureClass`."""

    @contextmanager
    def with_class_ids(self, image_id: str, file: str, label_info: Any) -> Iterator[tuple[str, list[int]]]:
        """Context with a label map file that holds class ids, and the ids found in it.

        Args:
            image_id: id of the scan.
            file: uploaded label map.
            label_info: names of the label values, `[{"name": "l4", "idx": 2}, ...]`; None if they are class ids.

        Raises:
            HTTPException: there is no such scan, the file cannot be read, it does not lie on the scan, or a value or
                name is no class.
        """
        ids = self._ids_of(label_info)
        if not (uri := self.get_image_uri(image_id)):  # type: ignore[attr-defined]
            raise HTTPException(404, f"there is no image {image_id!r} in the studies")
        with tempfile.TemporaryDirectory() as folder:
            if file.endswith(".bin"):
                file = shutil.move(binary_to_image(uri, file), folder)
            label = _read(file, f"the label of {image_id!r} cannot be read; send it again")
            require_grid(image_id, _read(uri, f"the image {image_id!r} cannot be read; replace it"), label)
            found = [value for value in np.unique(label.numpy()).tolist() if value]
            for value in found:
                if not ids.get(value):
                    raise HTTPException(422, f"the label has the value {value:g}, which is no class; correct it first")
            if any(ids[value] != value for value in found):
                file = str(Path(folder, "label.nii.gz"))
                write_with_ids(label, ids, file)
            yield file, sorted(ids[value] for value in found)

    def names_of(self, found: Sequence[int]) -> list[dict[str, Any]]:
        """Rows of `label_info` for these class ids."""
        return [{"name": self.classes[number]["name"], "idx": number} for number in found]

    def _ids_of(self, label_info: Any) -> dict[int, int]:
        """Value -> class id."""
        rows = [row for row in label_info or () if "idx" in row]
        if not rows:
            return {number: number for number in range(len(self.classes))}
        return {int(row["idx"]): self.id_of(str(row.get("name", ""))) for row in rows}

    def id_of(self, name: str) -> int:
        """Id of the class of that name, ignoring case; 0 for none."""
        names = [row["name"].casefold() for row in self.classes]
        return names.index(name.strip().casefold()) if name.strip().casefold() in names else 0


class FolderLabels(ClassIdMixin, LocalDatastore):
    """MONAI Label's datastore of a folder."""

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label with class ids; see :meth:`ClassIdMixin.with_class_ids`."""
        with self.with_class_ids(image_id, label_filename, label_info.get("label_info")) as (file, found):
            named = {**label_info, "label_info": self.names_of(found)}
            return super().save_label(image_id, file, label_tag, named)


class DicomLabels(ClassIdMixin, DICOMWebDatastore):
    """MONAI Label's datastore of a DICOMweb server."""

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Save a label with class ids and, if final, upload it as DICOM SEG with class names."""
        with self.with_class_ids(image_id, label_filename, label_info.get("label_info")) as (file, found):
            rows = [{**row, "segmentAttribute": self._attribute(row["idx"])} for row in self.names_of(found)]
            named = {**label_info, "label_info": rows}
            return super().save_label(image_id, file, label_tag, named, label_id)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Path of a label map with class ids, downloaded from the DICOMweb server if needed.

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
                self._convert(series, label)
                LocalDatastore.save_label(self, image_id, label, label_tag, self._dicom_info(label_id))
        return str(kept)

    def _convert(self, series: Path, target: str) -> None:
        """Write a DICOM SEG as NIfTI with class ids."""
        import pydicom

        segments = pydicom.dcmread(next(series.iterdir()), stop_before_pixels=True).SegmentSequence
        names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in segments}
        if unknown := sorted(name for name in names.values() if not self.id_of(name)):
            raise ValueError(
                f"the segmentation {series.name} has segments of no class ({', '.join(unknown)}); "
                f"name them as the classes, or remove it from the DICOMweb server"
            )
        converted = Path(dicom_seg_to_itk_image(str(series)))
        write_with_ids(
            LoadImage(image_only=True)(converted), {number: self.id_of(name) for number, name in names.items()}, target
        )
        converted.unlink()

    def _attribute(self, number: int) -> dict[str, Any]:
        """Segment attributes of a class for dcmqi."""
        row = self.classes[number]
        return {
            "labelID": number,
            "SegmentLabel": row["name"],
            "SegmentDescription": row["long_name"],
            "SegmentAlgorithmType": "SEMIAUTOMATIC",
            "SegmentAlgorithmName": "MONAI Label",
            "SegmentedPropertyCategoryCodeSequence": _code(ANATOMICAL_STRUCTURE),
            "SegmentedPropertyTypeCodeSequence": _code(row.get("code") or ANATOMICAL_STRUCTURE),
            "recommendedDisplayRGBValue": row["colour"],
        }


def _read(file: str, problem: str) -> Any:
    try:
        return LoadImage(image_only=True)(file)
    except Exception as error:  # readers raise what they like
        raise HTTPException(422, problem) from error


def require_grid(name: str, image: Any, label: Any) -> None:
    """Refuse a label (a MetaTensor) that training could not bring onto its image's voxels with an HTTPException."""
    one, other = ({"shape": (*v.shape, 1)[:3], "affine": v.affine.numpy().astype(np.float64)} for v in (image, label))
    if not fits(other, one):
        raise HTTPException(
            422,
            f"the label lies on another grid than the image {name!r}: {_size(label)} voxels of {_side(label)} mm, the "
            f"image {_size(image)} of {_side(image)}; draw it on this image, or resample it onto the image's grid",
        )


def _size(volume: Any) -> str:
    return " x ".join(map(str, volume.shape))


def _side(volume: Any) -> str:
    return " x ".join(f"{side:.3g}" for side in np.linalg.norm(volume.affine.numpy()[:3, :3], axis=0))


def write_with_ids(label: Any, ids: dict[int, int], target: str) -> None:
    """Write a label map (a MetaTensor) as NIfTI with values mapped by `ids`; 0 stays 0."""
    table = np.zeros(max(ids) + 1, np.uint8)
    table[list(ids)] = list(ids.values())
    nibabel.save(nibabel.Nifti1Image(table[label.numpy().astype(np.int64)], label.affine.numpy()), target)


def _code(code: Sequence[str]) -> dict[str, str]:
    return dict(zip(("CodeValue", "CodingSchemeDesignator", "CodeMeaning"), code, strict=True))
