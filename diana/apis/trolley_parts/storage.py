"""Where a download goes: files named by UIDs below one folder, or whatever a storage of your own does."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from diana.apis.trolley_parts.datasets import dataset_of_file
from diana.exceptions import InvalidItem, StateUnavailable
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.dicom.ref import is_uid
from diana.utils.files import whole_file
from diana.utils.lazy import parent_first

if TYPE_CHECKING:
    from pydicom import Dataset

    from diana.dixel import Dixel

__all__ = ["DICOMDiskStorage", "FlatStorageDir", "StorageDir", "StorageError"]

SUFFIX = ".dcm"


class StorageError(StateUnavailable):
    """Say that the disk does not take what is downloaded."""


class DICOMDiskStorage:
    """
    Keep what is downloaded; write ``save`` to have a storage of your own.

    One that can tell what it has (``has``) lets a second download skip it, one that takes files as they are (``keep``)
    spares parsing them.
    """

    def save(self, dataset: Dataset, path: str | os.PathLike[str]) -> None:
        """Keep a data set below the folder ``path``."""
        raise NotImplementedError

    def keep(self, dixel: Dixel, folder: Path) -> Path | None:
        """Keep an instance with its file; return where it is, if it is a file of its own."""
        self.save(dataset_of_file(dixel), folder)
        return None

    def has(self, ref: Ref, folder: Path) -> bool:
        """Tell whether an instance is there already, whole."""
        return False


class StorageDir(DICOMDiskStorage):
    """
    Keep each instance as ``<study>/<series>/<instance>.dcm``.

    A file appears under its name when it is whole. Names are UIDs, so that none leads out of the folder; folders that
    are links are refused. ``path`` is the folder for ``save`` without one, the system's temporary folder when None.
    ``durable`` flushes each file to disk.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, durable: bool = False) -> None:
        self.path = None if path is None else Path(path)
        self.durable = durable

    def parts(self, ref: Ref) -> tuple[str, ...]:
        """Return folders and name of an instance."""
        return ref.study, ref.series, ref.instance

    def path_of(self, ref: Ref, folder: Path) -> Path:
        """Return where an instance belongs. Raises InvalidItem when it is not named by UIDs."""
        names = self.parts(ref)
        if ref.level != DicomLevel.INSTANCES or not all(map(is_uid, names)):
            raise InvalidItem("an instance without usable UIDs cannot be stored under them")
        return folder.joinpath(*names[:-1], names[-1] + SUFFIX)

    def has(self, ref: Ref, folder: Path) -> bool:
        """Tell whether the instance's file is there, and is that instance."""
        from diana.utils.dicom.header import read_header

        path = self.path_of(ref, folder)
        try:
            return not path.is_symlink() and read_header(path, ("SOPInstanceUID",)).instance == ref.instance
        except (InvalidItem, OSError):
            return False

    def keep(self, dixel: Dixel, folder: Path) -> Path:
        """Store the file as it is."""
        if dixel.blob is None:
            raise InvalidItem("the instance has no file")
        return self._stored(dixel.ref, dixel.blob, folder)

    def save(self, dataset: Dataset, path: str | os.PathLike[str] | None = None) -> None:
        """Store a data set, with file meta information when it has none."""
        ref = Ref(
            DicomLevel.INSTANCES,
            study=str(dataset.get("StudyInstanceUID", "")),
            series=str(dataset.get("SeriesInstanceUID", "")),
            instance=str(dataset.get("SOPInstanceUID", "")),
        )
        folder = Path(path) if path is not None else self.path or Path(tempfile.gettempdir())
        self._stored(ref, Blob(_file_of(dataset)), folder)

    def _stored(self, ref: Ref, blob: Blob, folder: Path) -> Path:
        target = self.path_of(ref, folder)
        self._check_way(target, folder)
        try:
            if blob.path is not None and getattr(blob, "_owned", False) and self._moved(blob.path, target):
                return target
            with whole_file(target, durable=self.durable) as out:
                blob.copy_to(out)
        except OSError as error:
            raise StorageError(f"a file cannot be stored: {error.strerror or type(error).__name__}") from None
        return target

    @staticmethod
    def _check_way(target: Path, folder: Path) -> None:
        """Refuse a folder on the way that is a link, wherever it leads."""
        place = folder
        for name in target.relative_to(folder).parts[:-1]:
            place = place / name
            if place.is_symlink():
                raise InvalidItem("a folder below the output folder is a link, which is not followed")

    def _moved(self, source: Path, target: Path) -> bool:
        """Move a temporary file of ours; False when it lies on another file system."""
        from diana.utils.files import make_private, sync_folder

        make_private(target.parent)
        if source.stat().st_dev != target.parent.stat().st_dev:
            return False
        if self.durable:
            with source.open("rb") as stream:
                os.fsync(stream.fileno())
        os.replace(source, target)
        if self.durable:
            sync_folder(target.parent)
        return True


class FlatStorageDir(StorageDir):
    """Keep each instance as ``<instance>.dcm``."""

    def parts(self, ref: Ref) -> tuple[str, ...]:
        """Return the name of an instance."""
        return (ref.instance,)


def _file_of(dataset: Dataset) -> bytes:
    """Return a data set as the bytes of a file. Raises InvalidItem when pydicom cannot write it."""
    parent_first("pydicom")
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    out = io.BytesIO()
    try:
        if not getattr(dataset, "file_meta", None):
            dataset.file_meta = FileMetaDataset()
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(out, enforce_file_format=True)
    except Exception as error:  # noqa: BLE001  # pydicom raises any type for what it cannot write
        raise InvalidItem(f"a data set cannot be written ({type(error).__name__})") from None
    return out.getvalue()
