"""Small DICOM instances of generated patients, made with pydicom alone."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from diana.dixel import Dixel
from diana.utils.dicom import DicomLevel

ROOT = "1.2.826.0.1.3680043.10.43.99"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

# Legal, and each a trap: empty, padded in front, a separator of Orthanc's ids, a path, not ASCII, the longest LO.
ODD_PATIENT_IDS = ("", " LEADING", "A|B", "../../up", "C:D*E?F", "Ünï-42", "L" * 64, "'; DROP--", "[a] {b}")


def uid(*parts: int) -> str:
    """Return a UID under the root of the tests."""
    return ".".join([ROOT, *map(str, parts)])


def dataset(study: int = 0, series: int = 0, instance: int = 0, **tags: Any) -> Dataset:
    """
    Return an 8x8 secondary capture with pixels; the same numbers give the same data set.

    Keywords replace or add elements; None leaves one out.
    """
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": SECONDARY_CAPTURE,
        "SOPInstanceUID": uid(study + 1, series + 1, instance + 1),
        "StudyDate": f"2020{study % 12 + 1:02}11",
        "StudyTime": "101500",
        "SeriesDate": f"2020{study % 12 + 1:02}11",
        "SeriesTime": "101600",
        "InstanceCreationDate": f"2020{study % 12 + 1:02}11",
        "InstanceCreationTime": "101700",
        "AccessionNumber": f"GEN{study:06}",
        "Modality": ("CT", "MR", "US")[study % 3],
        "ConversionType": "SYN",
        "StationName": "SCANNER",
        "StudyDescription": f"GENERATED STUDY {study}",
        "SeriesDescription": f"GENERATED SERIES {series}",
        "PatientName": f"Generated^Patient{study}",
        "PatientID": f"GENPID{study:04}",
        "PatientBirthDate": "19700101",
        "PatientSex": "FM"[study % 2],
        "StudyInstanceUID": uid(study + 1),
        "SeriesInstanceUID": uid(study + 1, series + 1),
        "StudyID": str(study + 1),
        "SeriesNumber": series + 1,
        "InstanceNumber": instance + 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 8,
        "Columns": 8,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
    }
    for keyword, value in {**values, **tags}.items():
        if value is not None:
            setattr(ds, keyword, value)
    ds.PixelData = b"".join(((study + series + instance + at) % 4096).to_bytes(2, "little") for at in range(64))
    ds["PixelData"].VR = "OW"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def file_bytes(ds: Dataset) -> bytes:
    """Return a data set as the bytes of a DICOM file with preamble."""
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


@lru_cache(maxsize=4096)
def _cached_file(study: int, series: int, instance: int) -> bytes:
    return file_bytes(dataset(study, series, instance))


def instance(study: int = 0, series: int = 0, number: int = 0, *, fn: str | None = None, **tags: Any) -> Dixel:
    """
    Return an instance with tags and file; the same numbers give the same bytes.

    ``meta["FileName"]`` is unique for each SOP Instance UID unless given.
    """
    ds = dataset(study, series, number, **tags)
    data = file_bytes(ds) if tags else _cached_file(study, series, number)
    return Dixel.from_pydicom(ds, fn or f"g{study:03}s{series:02}i{number:04}.dcm", data)


def instances(studies: int = 1, series: int = 1, per_series: int = 1, first: int = 0) -> Iterator[Dixel]:
    """Yield the instances of some studies in order: studies x series x instances."""
    for one in range(first, first + studies):
        for two in range(series):
            for three in range(per_series):
                yield instance(one, two, three)


def above(item: Dixel, level: DicomLevel) -> Dixel:
    """Return the patient, study or series of an instance, with the keys that address it and nothing else."""
    keys = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")[:level]
    return Dixel(tags={key: item.tags[key] for key in keys if key in item.tags}, level=level)


def study(number: int = 0, meta: Mapping[str, Any] | None = None, **tags: Any) -> Dixel:
    """Return a study without file, for endpoints that keep summaries."""
    ds = dataset(number)
    keys = (
        "AccessionNumber",
        "PatientID",
        "PatientName",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDescription",
        "Modality",
    )
    known = {key: str(ds.get(key)) for key in keys}
    return Dixel(meta=meta, tags={**known, **tags}, level=DicomLevel.STUDIES)
