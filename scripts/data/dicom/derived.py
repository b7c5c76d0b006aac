"""DICOM objects that are made of a series and its label map: source images, writing, quiet logs."""

from __future__ import annotations

import io
import json
import logging
import warnings
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from ...files import StorageError
from ...labels import ClassTable
from ..datalist import DataError
from ..output_folder import OutputFolder
from ..transforms import result_name, source_of
from .series import files_of

MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""Type 2 attributes (required, may be empty), which anonymised series may lack."""


class SaveDerivedd(SaveImaged):
    """Write a DICOM object for each label map of a DICOM series to the folder of results; leaves the data unchanged.

    Patient attributes are copied as the standard requires, and are not logged. Scans of other formats are skipped; an
    unsuitable header is logged as an error.

    A subclass of `SaveImaged`, because MONAI Label removes those.

    Args:
        keys: label maps (1, X, Y[, Z]) in the scan's own grid, class ids.
        outputs: folder of the label maps.
        table: the classes.
        metadata: the bundle's metadata.json, for name and version of the algorithm.

    Raises:
        DataError: highdicom is not installed.
    """

    ENDING, WHAT = "", ""
    """Of the file's name; what it is called in the log."""

    def __init__(self, keys: KeysCollection, outputs: OutputFolder, table: ClassTable, metadata: str | Path) -> None:
        super().__init__(keys, output_dir=outputs.folder, print_log=False)
        import_highdicom()
        self.outputs, self.table = outputs, table
        self.about = json.loads(Path(metadata).read_text(encoding="utf-8"))

    @abstractmethod
    def make(self, data: Mapping[Hashable, Any], label_map: MetaTensor, files: Sequence[str]) -> Any:
        """The object of a label map of the series in `files`; None where there is nothing to write."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files and return the data."""
        log = logging.getLogger(type(self).__module__)
        for key in self.key_iterator(data):
            label_map = data[key]
            name = result_name(data, label_map)
            files = files_of(Path(str(label_map.meta.get("filename_or_obj", ""))))
            if not files:
                log.info("%s: not read from DICOM, so no %s is written", name, self.WHAT)
                continue
            try:
                content = io.BytesIO()
                with _silence():
                    made = self.make(data, label_map, files)
                    if made is not None:
                        made.save_as(content)
                if made is None:
                    log.warning("%s: no structure was found, so no %s is written", name, self.WHAT)
                else:
                    self.outputs.write(f"{name}{self.ENDING}", content.getvalue(), source_of(label_map))
            except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
                # messages of other libraries may quote the header with a patient's name
                ours = isinstance(error, DataError | StorageError)
                reason = str(error) if ours else f"its header does not fit, {type(error).__name__}"
                log.error("%s: no %s can be written (%s); the label map is", name, self.WHAT, reason)
        return dict(data)


def source_images(files: Sequence[str]) -> list[Any]:
    """Headers of a series' files, with an empty value for what anonymised series may lack."""
    from pydicom import dcmread

    sources = [dcmread(file, stop_before_pixels=True) for file in files]
    for source in sources:
        for keyword in MAY_BE_EMPTY:
            if keyword not in source:
                setattr(source, keyword, "")
    return sources


@contextmanager
def _silence() -> Iterator[None]:
    """Silence warnings and logs of pydicom and highdicom, which quote values of the header."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def import_highdicom() -> ModuleType:
    """Import highdicom; a DataError with advice if it is not installed."""
    try:
        import highdicom
    except ModuleNotFoundError as error:
        advice = "run `pip install -r requirements-dicom.txt`, or leave out --dicom_seg and --dicom_sr"
        raise DataError(f"DICOM SEG and SR files are written with highdicom; {advice}") from error
    return highdicom
