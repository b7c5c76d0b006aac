"""MONAI's way of reading scans, and one thing more: a DICOM file stands for the series that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection, PathLike
from monai.data import ITKReader
from monai.transforms import LoadImaged
from monai.utils import ensure_tuple

from .series import files_of, import_itk, is_dicom


class SeriesReader(ITKReader):
    """MONAI's `ITKReader`, which reads a DICOM file together with all other files of its series.

    A folder is read as `ITKReader` does; it cannot choose among several series in one folder by anything but the first.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether it is one DICOM file: all else is left to MONAI's other readers."""
        names = ensure_tuple(filename)
        return len(names) == 1 and is_dicom(Path(names[0]))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Read a file or folder as an ITK image, slices in the order in which ITK has those of a folder."""
        if not self.verify_suffix(data):
            return super().read(data, **kwargs)
        files = files_of(Path(ensure_tuple(data)[0]))
        return import_itk().imread(files[0] if len(files) == 1 else list(files), **{**self.kwargs, **kwargs})


class LoadScand(LoadImaged):
    """MONAI's `LoadImaged`, which reads DICOM files by `SeriesReader` and leaves all else to MONAI's choice.

    Args:
        keys: keys of paths.
        kwargs: as `LoadImaged` takes them, but `reader`.
    """

    def __init__(self, keys: KeysCollection, **kwargs: Any) -> None:
        super().__init__(keys, **kwargs)
        self.register(SeriesReader())
