"""Small DICOM files for tests of the de-identification, and looks into what comes out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def make_ds(**values: Any) -> Any:
    """Return a small CT image of a made-up patient; keywords set or, with None, remove values."""
    from pydicom.dataset import Dataset, FileMetaDataset

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = EXPLICIT
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CT
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.4.5.6", "1.2.3.4.5", "1.2.3.4.5.1"
    ds.StudyDate, ds.StudyTime, ds.SeriesDate = "20230415", "101112.5", "20230416"
    ds.AcquisitionDateTime = "20230415101112.500000+0100"
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = "ACC0815X", "CT", "Example Systems"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Quersfeld^Annegret", "PID-990817", "19310203"
    ds.PatientSex, ds.PatientAge, ds.PatientWeight = "F", "092Y", "61.5"
    ds.StudyDescription, ds.SeriesDescription = "Thorax for Quersfeld", "Thorax axial 5mm"
    ds.InstitutionName, ds.StationName, ds.DeviceSerialNumber = "St. Quirin Clinic", "CTSUITE7", "SN445566"
    ds.KVP, ds.SliceThickness, ds.ConvolutionKernel = "120", "1.25", "B31f"
    ds.InstanceNumber = "7"
    ds.Rows = ds.Columns = 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = bytes(range(128))
    ds["PixelData"].VR = "OW"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in values.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
    return ds


def to_bytes(ds: Any, syntax: str = EXPLICIT) -> bytes:
    """Return a data set as a file."""
    from pydicom.filewriter import dcmwrite

    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = BytesIO()
    big = syntax == "1.2.840.10008.1.2.2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(out, ds, enforce_file_format=True, implicit_vr=syntax == "1.2.840.10008.1.2", little_endian=not big)
    return out.getvalue()


def read(data: bytes) -> Any:
    """Return a file as a data set."""
    from pydicom import dcmread

    return dcmread(BytesIO(data))


def odd_files(shared: Path | None) -> Iterator[Path]:
    """Yield the test files of pydicom and those of the shared folder: charsets, broken ones, all transfer syntaxes."""
    import pydicom

    folders = [Path(pydicom.__file__).parent / "data"]
    if shared is not None:
        folders.append(shared / "data" / "dicom")
    skipped = {".py", ".pyc", ".json", ".md", ".txt", ".zip", ".tsv", ".cache"}
    for folder in folders:
        for at, _, names in sorted(os.walk(folder)):
            yield from (Path(at, name) for name in sorted(names) if Path(name).suffix not in skipped)
