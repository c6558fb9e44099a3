"""Small instances with made-up patients, as dixels with a file."""

from __future__ import annotations

import io

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from diana.dixel import Dixel
from diana.utils.dicom import read_header


def instance(number: int = 1, *, study: str = "1.2.3", series: int = 1, size: int = 8, **tags: object) -> Dixel:
    """Return instance ``number`` of a study as a dixel, its file a whole secondary capture of ``size`` squared."""
    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = f"{study}.{series}.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.{series}"
    ds.PatientID, ds.PatientName = "TEST1", "Test^Generated"
    ds.AccessionNumber, ds.Modality, ds.StudyDate = "T1", "OT", "20240102"
    ds.SeriesNumber, ds.InstanceNumber = series, number
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = bytes([number % 256]) * (size * size)
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return Dixel.from_header(read_header(out.getvalue()), file=out.getvalue())
