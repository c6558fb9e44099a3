"""Generated objects for the tests of leaks and pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from diana.utils.blob import Blob

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)


def image(
    pixels: np.ndarray[Any, Any] | None = None, *, syntax: str = ExplicitVRLittleEndian, frames: int = 0, **tags: Any
) -> Dataset:
    """Return an image with the usual modules; `tags` are added, None removes one."""
    pixels = np.arange(64, dtype="<u2").reshape(8, 8) if pixels is None else pixels
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "2.25.4711.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.4711.2", "2.25.4711.3"
    ds.Modality, ds.PatientName, ds.PatientID = "CT", "PSN-A", "PSN-A"
    ds.Manufacturer, ds.ManufacturerModelName = "ACME MEDICAL SYSTEMS", "Lightning 64"
    shape = pixels.shape[1:] if frames else pixels.shape
    ds.Rows, ds.Columns = shape[0], shape[1]
    ds.SamplesPerPixel = shape[2] if len(shape) > 2 else 1
    ds.PhotometricInterpretation = "RGB" if ds.SamplesPerPixel == 3 else "MONOCHROME2"
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = 0
    if frames:
        ds.NumberOfFrames = frames
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    ds.PixelData = data + bytes(len(data) % 2)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 and syntax != ImplicitVRLittleEndian else "OW"
    for keyword, value in tags.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def data(ds: Dataset) -> bytes:
    """Return a data set as a file."""
    out = io.BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def blob(ds: Dataset) -> Blob:
    """Return a data set as a blob."""
    return Blob(data(ds))
