"""MONAI image reader in which a DICOM file stands for its whole series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection, PathLike
from monai.data import ITKReader
from monai.transforms import LoadImaged
from monai.utils import ensure_tuple

from .series import files_of, is_dicom, read_series


class SeriesReader(ITKReader):
    """MONAI's `ITKReader`, which reads a DICOM file together with all other files of its series.

    Folders are read as by `ITKReader`, which takes the first of several series.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """True for a single DICOM file; MONAI's other readers take everything else."""
        names = ensure_tuple(filename)
        return len(names) == 1 and is_dicom(Path(names[0]))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Read a file or folder as an ITK image, with ITK's order of slices."""
        names = ensure_tuple(data)
        files = files_of(Path(names[0])) if len(names) == 1 else ()
        if not self.verify_suffix(data) and len(files) != 1:  # a folder of one file may hold many frames
            return super().read(data, **kwargs)
        return read_series(files, **{**self.kwargs, **kwargs})


class LoadScand(LoadImaged):
    """MONAI's `LoadImaged`, which reads DICOM files by `SeriesReader` and leaves all else to MONAI's choice.

    Args:
        keys: keys of paths.
        kwargs: as `LoadImaged` takes them, but `reader`.
    """

    def __init__(self, keys: KeysCollection, **kwargs: Any) -> None:
        super().__init__(keys, **kwargs)
        self.register(SeriesReader())
