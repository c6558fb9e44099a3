"""Random data sets read like in pydicom, random bytes never do harm."""

from __future__ import annotations

import io
import time
from datetime import date, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from diana.exceptions import InvalidItem
from diana.utils.dicom.header import DEFAULT_TAGS, read_header
from diana.utils.dicom.structure import check_whole
from tests.unit.test_header import BIG, DEFLATED, EXPLICIT, IMPLICIT, expected, make

CALM = settings(
    max_examples=150, deadline=timedelta(seconds=5), suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

LATIN = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\\=^\x7f", exclude_categories=["Cc"])
ASCII = st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\=^")
WORD = st.text(ASCII, min_size=1, max_size=12)
UIDS = st.lists(st.integers(0, 10**9), min_size=1, max_size=5).map(lambda parts: "1.2." + ".".join(map(str, parts)))
DATES = st.dates(date(1900, 1, 1)).map(lambda day: day.strftime("%Y%m%d"))
TEXTS = st.text(LATIN, max_size=30).map(str.strip)
NUMBERS = st.integers(-(2**31), 2**31 - 1).map(str)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "SOPClassUID": UIDS,
    "SOPInstanceUID": UIDS,
    "StudyInstanceUID": UIDS,
    "SeriesInstanceUID": UIDS,
    "StudyDate": DATES,
    "StudyTime": st.times().map(lambda moment: moment.strftime("%H%M%S.%f")),
    "AccessionNumber": st.text(LATIN, max_size=16).map(str.strip),
    "Modality": st.sampled_from(["CT", "MR", "US", ""]),
    "ImageType": st.lists(st.sampled_from(["ORIGINAL", "PRIMARY", "AXIAL"]), min_size=1, max_size=4),
    "StudyDescription": TEXTS,
    "Manufacturer": TEXTS,
    "PatientName": st.lists(TEXTS, min_size=1, max_size=3).map("^".join),
    "PatientID": WORD,
    "SeriesNumber": NUMBERS,
    "InstanceNumber": NUMBERS,
    "Rows": st.integers(0, 65535),
    "KVP": st.floats(0, 1000).map(lambda number: f"{number:.3f}"),
    "ImagePositionPatient": st.lists(st.integers(-999, 999).map(str), min_size=3, max_size=3),
    "FrameIncrementPointer": st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3),
    "RecommendedDisplayFrameRateInFloat": st.floats(width=32, allow_nan=False),
    "RetrieveAETitle": WORD,
    "PatientComments": st.text(LATIN, max_size=3000).map(str.strip),
    "DataSetTrailingPadding": st.binary(max_size=5000).map(lambda data: data + b"\0" * (len(data) % 2)),
}
TAGS = (*DEFAULT_TAGS, *(keyword for keyword in VALUES if keyword not in DEFAULT_TAGS))


@st.composite
def data_sets(draw: st.DrawFn) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    for keyword in draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True)):
        setattr(dataset, keyword, draw(VALUES[keyword]))
    if draw(st.booleans()):
        dataset.ReferencedStudySequence = draw(st.lists(data_sets(), max_size=2))
        dataset["ReferencedStudySequence"].is_undefined_length = draw(st.booleans())
    if draw(st.booleans()):
        block = dataset.private_block(0x0009, "SHAM", create=True)
        block.add_new(1, "OB", draw(st.binary(max_size=200).map(lambda data: data + b"\0" * (len(data) % 2))))
    return dataset


def write(dataset: Dataset, syntax: str) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


@CALM
@given(data_sets(), st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED]))
def test_random_data_sets_read_like_in_pydicom(dataset: Dataset, syntax: str) -> None:
    data = write(dataset, syntax)
    assert read_header(data, TAGS).as_dict() == expected(data, TAGS)
    assert check_whole(data).ok


def harmless(data: bytes) -> None:
    """Read in every way; only the errors that are promised may come out, and soon."""
    start = time.monotonic()
    for read in (read_header, check_whole):
        try:
            result = read(data)
        except InvalidItem:
            continue
        if read is read_header:
            assert all(isinstance(value, str) for value in dict(result).values())
    assert time.monotonic() - start < 3


@CALM
@given(st.binary(max_size=600))
def test_random_bytes_do_no_harm(data: bytes) -> None:
    harmless(data)
    harmless(b"\0" * 128 + b"DICM" + data)


@CALM
@given(
    st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED]),
    st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
)
def test_damaged_files_do_no_harm(syntax: str, damage: list[tuple[float, bytes]]) -> None:
    data = bytearray(make(syntax, ReferencedStudySequence=[Dataset()]))
    for where, what in damage:
        place = int(where * len(data))
        data[place : place + len(what)] = what
    harmless(bytes(data))
