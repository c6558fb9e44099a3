"""The header reader agrees with pydicom, and only Header or InvalidItem come out of anything."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from diana.exceptions import InvalidItem
from diana.utils.dicom.header import DEFAULT_TAGS, Header, is_dicom, read_header

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

# one leading byte too many: pydicom reads one nonsense element
NOT_READABLE = {"no_meta.dcm"}
BYTES = {"SQ", "OB", "OW", "OB or OW", "OD", "OF", "OL", "OV", "UN"}


def corpora() -> list[Path]:
    """Return pydicom's own test files, and those of the shared folder where it exists."""
    own = Path(pydicom.__file__).parent / "data"
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"
    return sorted(path for folder in (own, shared) for path in folder.rglob("*") if path.is_file())


def content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def by_pydicom(data: bytes) -> Dataset:
    """Read like the header reader, with pydicom's complaints about odd files left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)


def as_text(dataset: Dataset, keyword: str) -> str | None:
    """Return a value of pydicom's in the words of the header reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        element = dataset[keyword]
        value = element.value
    if element.VR in BYTES:
        return None
    if element.VR == "AT":
        values = value if isinstance(value, list | pydicom.multival.MultiValue) else [value]
        return "\\".join(f"{int(tag):08X}" for tag in values)
    if value is None:
        return ""
    if isinstance(value, list | pydicom.multival.MultiValue):
        return "\\".join("" if part is None else str(part) for part in value)
    return str(value)


def expected(data: bytes, tags: tuple[str, ...] = DEFAULT_TAGS) -> dict[str, str]:
    dataset = by_pydicom(data)
    texts = {keyword: as_text(dataset, keyword) for keyword in tags if keyword in dataset}
    return {keyword: text for keyword, text in texts.items() if text is not None}


def readable(data: bytes) -> bool:
    """Tell whether this is a DICOM file: with prefix, or a data set that names its object."""
    return data[128:132] == b"DICM" or "SOPInstanceUID" in by_pydicom(data)


def make(syntax: str = EXPLICIT, *, name: str = "Sham^Anna", charset: str | None = None, **more: Any) -> bytes:
    """Return a small file written by pydicom."""
    dataset = Dataset()
    if charset:
        dataset.SpecificCharacterSet = charset.split("\\")
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.3"
    dataset.PatientName = name
    dataset.PatientID = "SHAM1"
    dataset.Modality = "OT"
    dataset.AccessionNumber = "A1"
    dataset.Rows, dataset.Columns = 2, 3
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    dataset.add_new(0x7FE00010, "OW", b"\1\2" * 6)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def explicit(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    length = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in ("OB", "OW", "SQ", "UN", "UT", "UC"):
        return head + struct.pack("<HI", 0, length) + value
    return head + struct.pack("<H", length) + value


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def part10(body: bytes, syntax: str = EXPLICIT) -> bytes:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    return b"\0" * 128 + b"DICM" + explicit(0x00020010, "UI", uid) + body


class TestCorpora:
    """Files as they are found."""

    def test_values_agree_with_pydicom_in_every_readable_file(self) -> None:
        seen = 0
        for path in corpora():
            data = content(path)
            if path.name in NOT_READABLE or not readable(data):
                continue
            header = read_header(data)
            assert header.as_dict() == expected(data), path.name
            assert header.transfer_syntax == str(by_pydicom(data).file_meta.get("TransferSyntaxUID", "")), path.name
            seen += 1
        assert seen > 150

    def test_other_tags_agree_with_pydicom(self) -> None:
        tags = ("KVP", "PixelSpacing", "BitsAllocated", "ReferringPhysicianName", "FrameIncrementPointer", "Exposure")
        tags += ("SmallestImagePixelValue", "ImagePositionPatient", "AcquisitionDateTime", "RetrieveAETitle")
        for path in corpora():
            data = content(path)
            if path.name not in NOT_READABLE and readable(data):
                assert read_header(data, tags).as_dict() == expected(data, tags), path.name

    def test_pixel_offset_is_where_pydicom_stops(self) -> None:
        for path in corpora():
            data = content(path)
            if path.name in NOT_READABLE or not readable(data):
                continue
            header = read_header(data)
            if header.pixel_offset is None:
                continue
            tag = data[header.pixel_offset : header.pixel_offset + 4]
            assert tag in (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10", b"\xe0\x7f\x08\0"), path.name

    def test_what_is_not_dicom_is_refused(self) -> None:
        for path in corpora():
            data = content(path)
            if path.name in NOT_READABLE or readable(data):
                assert path.name in NOT_READABLE or is_dicom(data), path.name
                continue
            assert not is_dicom(data), path.name
            with pytest.raises(InvalidItem):
                read_header(data)


class TestSources:
    """Where bytes come from."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "one"
        path.write_bytes(make())
        return path

    def test_all_sources_give_the_same(self, path: Path) -> None:
        data = path.read_bytes()
        fd = os.open(path, os.O_RDONLY)
        try:
            with path.open("rb") as file:
                sources = [path, str(path), fd, file, data, bytearray(data), memoryview(data), io.BytesIO(data)]
                headers = [read_header(source) for source in sources]
        finally:
            os.close(fd)
        assert all(header == headers[0] for header in headers)
        assert {header.pixel_offset for header in headers} == {data.index(b"\xe0\x7f\x10\0")}

    def test_positions_stay(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(7)
            read_header(file)
            assert file.tell() == 7
            before = os.lseek(file.fileno(), 0, os.SEEK_CUR)
            read_header(file.fileno())
            assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == before

    def test_gzip_file_object_is_read_inflated(self, tmp_path: Path) -> None:
        packed = tmp_path / "one.gz"
        packed.write_bytes(gzip.compress(make()))
        with gzip.open(packed) as file:
            assert read_header(file).patient_id == "SHAM1"

    def test_missing_file_is_an_oserror(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_header(tmp_path / "absent")

    def test_folder_and_fifo_are_no_items(self, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        for path in (tmp_path, fifo):
            assert not is_dicom(path)
            with pytest.raises(InvalidItem):
                read_header(path)

    def test_pipe_object_is_no_item(self) -> None:
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb") as file, os.fdopen(write_end, "wb"), pytest.raises(InvalidItem):
            read_header(file)

    def test_only_the_first_size_bytes_count(self, path: Path) -> None:
        end = path.read_bytes().index(b"SHAM1")
        for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
            with pytest.raises(InvalidItem):
                read_header(source, size=end + 2)

    def test_descriptors_are_closed(self, path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            read_header(path)
            is_dicom(path)
        assert len(os.listdir("/proc/self/fd")) == before


class TestHeader:
    """The value."""

    def test_properties(self) -> None:
        header = read_header(make())
        assert (header.patient_id, header.accession, header.modality) == ("SHAM1", "A1", "OT")
        assert (header.study, header.series, header.instance) == ("1.2.3", "1.2.3.3", "1.2.3.4")
        assert header.sop_class == "1.2.840.10008.5.1.4.1.1.7"

    def test_absent_is_absent_and_empty_is_empty(self) -> None:
        header = read_header(make(StudyDate=""))
        assert header["StudyDate"] == ""
        assert "StudyTime" not in header
        assert header.get("StudyTime") is None
        with pytest.raises(KeyError):
            header["StudyTime"]

    def test_repr_holds_no_patient(self) -> None:
        text = repr(read_header(make()))
        assert "Sham" not in text
        assert "SHAM1" not in text

    def test_header_travels_between_processes(self) -> None:
        header = read_header(make())
        assert pickle.loads(pickle.dumps(header)) == header

    def test_header_is_frozen(self) -> None:
        header = read_header(make())
        with pytest.raises(AttributeError):
            header.transfer_syntax = "x"  # type: ignore[misc]

    def test_as_dict_is_the_mapping(self) -> None:
        header = read_header(make())
        assert header.as_dict() == dict(header)
        assert len(header) == len(header.as_dict())


class TestTags:
    """What can be asked for."""

    def test_number_and_digits_find_the_keyword(self) -> None:
        data = make(KVP="120")
        assert dict(read_header(data, (0x00180060,))) == {"KVP": "120"}
        assert dict(read_header(data, ["00180060"])) == {"KVP": "120"}

    def test_file_meta_can_be_asked_for(self) -> None:
        header = read_header(make(), ("TransferSyntaxUID", "MediaStorageSOPInstanceUID", "PatientID"))
        want = {"TransferSyntaxUID": EXPLICIT, "MediaStorageSOPInstanceUID": "1.2.3.4", "PatientID": "SHAM1"}
        assert dict(header) == want

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
    def test_private_elements_are_found_by_their_digits(self, syntax: str) -> None:
        dataset = by_pydicom(make(syntax))
        block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", "1000")
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        out = io.BytesIO()
        pydicom.dcmwrite(out, dataset, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG, overwrite=True)
        assert dict(read_header(out.getvalue(), (0x0019100C,))) == {"0019100C": "1000"}

    def test_unknown_keyword_is_refused(self) -> None:
        with pytest.raises(InvalidItem, match="PatientNmae"):
            read_header(make(), ("PatientNmae",))

    def test_sequences_and_bytes_are_left_out(self) -> None:
        data = make(ReferencedImageSequence=[Dataset()])
        assert dict(read_header(data, ("ReferencedImageSequence", "PixelData", "PatientID"))) == {"PatientID": "SHAM1"}

    @pytest.mark.parametrize(("signed", "text"), [(0, "65535"), (1, "-1")])
    def test_ambiguous_numbers_follow_the_pixel_representation(self, signed: int, text: str) -> None:
        body = implicit(0x00080060, b"CT") + implicit(0x00280103, struct.pack("<H", signed))
        data = part10(body + implicit(0x00280106, b"\xff\xff"), IMPLICIT)
        assert read_header(data, ("SmallestImagePixelValue",))["SmallestImagePixelValue"] == text

    def test_numbers_of_a_wrong_length_are_left_out(self) -> None:
        data = part10(explicit(0x00080060, "CS", b"CT") + explicit(0x00280010, "US", b"\1\2\3"))
        assert dict(read_header(data)) == {"Modality": "CT"}


class TestEncodings:
    """How data sets are written."""

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
    def test_all_uncompressed_syntaxes(self, syntax: str) -> None:
        data = make(syntax)
        header = read_header(data)
        assert dict(header) == expected(data)
        assert header.transfer_syntax == syntax
        assert (header.pixel_offset is None) == (syntax == DEFLATED)

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
    def test_data_set_without_preamble_and_meta(self, syntax: str) -> None:
        data = make(syntax)
        start = data.index(b"\0\x08\0\x16" if syntax == BIG else b"\x08\0\x16\0")
        assert dict(read_header(data[start:])) == dict(read_header(data))
        assert is_dicom(data[start:])

    def test_meta_without_preamble(self) -> None:
        data = make()[132:]
        assert dict(read_header(data)) == expected(data)

    @pytest.mark.parametrize(("stated", "real"), [(EXPLICIT, IMPLICIT), (IMPLICIT, EXPLICIT)])
    def test_stated_syntax_may_be_wrong(self, stated: str, real: str) -> None:
        data = make(real)
        start = data.index(b"\x08\0\x16\0")
        lying = part10(data[start:], stated)
        assert dict(read_header(lying)) == expected(lying)

    def test_file_meta_with_implicit_vr_are_read(self) -> None:
        body = implicit(0x00020010, IMPLICIT.encode() + b"\0") + implicit(0x00100020, b"SHAM1 ")
        data = b"\0" * 128 + b"DICM" + body
        header = read_header(data)
        assert dict(header) == expected(data) == {"PatientID": "SHAM1"}
        assert header.transfer_syntax == IMPLICIT

    def test_long_file_meta_are_read(self) -> None:
        data = part10(explicit(0x00020102, "OB", b"x" * 9000) + explicit(0x00100020, "LO", b"SHAM1 "))
        assert dict(read_header(data)) == expected(data) == {"PatientID": "SHAM1"}
        for n in (4096, 9000):
            with pytest.raises(InvalidItem):
                read_header(data[:n])

    def test_command_set_before_the_data_set_is_passed_over(self) -> None:
        data = part10(implicit(0x00000100, b"\1\0") + implicit(0x00100020, b"SHAM1 "), IMPLICIT)
        assert dict(read_header(data)) == expected(data)

    @pytest.mark.parametrize("form", ["explicit", "implicit"])
    def test_undefined_lengths_are_skipped(self, form: str) -> None:
        inner = implicit(0x00100020, b"NO") if form == "implicit" else explicit(0x00100020, "LO", b"NO")
        item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
        known = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
        value = item + known + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        if form == "implicit":
            body = implicit(0x00081140, value, 0xFFFFFFFF) + implicit(0x00091001, value, 0xFFFFFFFF)
            data = part10(body + implicit(0x00100020, b"SHAM1 "), IMPLICIT)
        else:
            body = explicit(0x00081140, "SQ", value, 0xFFFFFFFF) + explicit(0x00091001, "UN", value, 0xFFFFFFFF)
            data = part10(body + explicit(0x00100020, "LO", b"SHAM1 "))
        assert dict(read_header(data)) == expected(data) == {"PatientID": "SHAM1"}

    def test_undefined_length_without_items_goes_to_pydicom(self) -> None:
        value = b"no items" + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        body = explicit(0x00080060, "CS", b"CT") + explicit(0x00091001, "OB", value, 0xFFFFFFFF)
        data = part10(body + explicit(0x00100020, "LO", b"SHAM1 "))
        assert dict(read_header(data)) == expected(data) == {"Modality": "CT", "PatientID": "SHAM1"}

    def test_values_behind_large_elements_are_found_without_reading_these(self, tmp_path: Path) -> None:
        path = tmp_path / "sparse"
        with path.open("wb") as file:
            file.write(part10(explicit(0x00080060, "CS", b"CT") + explicit(0x00091001, "OB", b"", 1 << 31)))
            file.seek(1 << 31, os.SEEK_CUR)
            file.write(explicit(0x00100020, "LO", b"SHAM1 "))
        assert dict(read_header(path)) == {"Modality": "CT", "PatientID": "SHAM1"}

    def test_values_across_every_window_border_are_whole(self) -> None:
        for filler in range(3700, 4110, 2):
            body = explicit(0x00091001, "UN", b"x" * filler) + explicit(0x00100010, "PN", b"Sham^Anna ")
            body += explicit(0x00100020, "LO", b"SHAM1 ") + explicit(0x0020000D, "UI", b"1.2.3\0")
            want = {"PatientName": "Sham^Anna", "PatientID": "SHAM1", "StudyInstanceUID": "1.2.3"}
            assert dict(read_header(part10(body))) == want

    def test_value_cut_behind_one_with_unknown_vr_is_refused(self) -> None:
        body = explicit(0x00100020, "ZZ", b"SHAM1 ") + explicit(0x00100010, "PN", b"Sham^Anna ")
        assert dict(read_header(part10(body))) == {"PatientID": "SHAM1", "PatientName": "Sham^Anna"}
        with pytest.raises(InvalidItem):
            read_header(part10(body)[:-2])

    def test_last_of_equal_elements_counts(self) -> None:
        body = explicit(0x00100020, "LO", b"A ") + explicit(0x00091001, "UN", b"x" * 5000)
        data = part10(body + explicit(0x00100020, "LO", b"B "))
        assert dict(read_header(data)) == expected(data) == {"PatientID": "B"}


class TestText:
    """Character sets; the corpora have one file for each of the standard's examples."""

    def test_every_character_set_keeps_printable_ascii(self) -> None:
        from pydicom.charset import python_encoding

        ascii_text = bytes(range(0x20, 0x7F))
        for codec in python_encoding.values():
            assert ascii_text.decode(codec) == ascii_text.decode("ascii")

    @pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030", "ISO-IR 144", "ISO 2022 IR 6\\ISO 2022 IR 144", "x"])
    def test_character_sets_agree_with_pydicom(self, charset: str) -> None:
        body = explicit(0x00080005, "CS", charset.encode() + b" " * (len(charset) % 2))
        for raw in (b"\xd0\x9f\xd1\x80^\xd0\x98", b"\xbe\xd5\xb0 ", b"Sham\x1b-L\xbb\xee^\xda", b"\x1b$Z\xff\xff "):
            data = part10(body + explicit(0x00100010, "PN", raw + b" " * (len(raw) % 2)))
            assert dict(read_header(data)) == expected(data)

    def test_file_without_character_set_is_latin_1(self) -> None:
        assert read_header(part10(explicit(0x00100010, "PN", b"M\xfcller")))["PatientName"] == "Müller"

    def test_padding_goes_like_in_pydicom(self) -> None:
        body = explicit(0x00080008, "CS", b"A \\B ") + explicit(0x00080054, "AE", b" ONE \\TWO ")
        body += explicit(0x00081030, "LO", b" a \\b\0 \0") + explicit(0x00100010, "PN", b"A^B== ")
        body += explicit(0x00200013, "IS", b" 7 ") + explicit(0x0020000D, "UI", b"1.2\0")
        data = part10(body)
        tags = (*DEFAULT_TAGS, "RetrieveAETitle")
        assert dict(read_header(data, tags)) == expected(data, tags)


class TestHostile:
    """Bytes that want to hurt."""

    def refused(self, data: bytes) -> None:
        with pytest.raises(InvalidItem):
            read_header(data)

    @pytest.mark.parametrize("data", [b"", b"x", b"DICM", b"\0" * 132, b"\0" * 128 + b"DICM", b"hello " * 99])
    def test_what_is_no_dicom_is_refused(self, data: bytes) -> None:
        self.refused(data)

    def test_cut_inside_a_wanted_value_is_refused(self) -> None:
        data = make()
        self.refused(data[: data.index(b"SHAM1") + 2])

    def test_four_gigabyte_length_ends_the_header(self) -> None:
        data = part10(explicit(0x00080060, "CS", b"CT") + explicit(0x00091001, "OB", b"x" * 99, 0xFFFFFFFE))
        assert dict(read_header(data)) == {"Modality": "CT"}

    def test_four_gigabyte_wanted_value_is_left_out(self) -> None:
        data = part10(explicit(0x00080060, "CS", b"CT") + explicit(0x00189334, "UT", b"x" * 99, 0xFFFFFFF0))
        header = read_header(data, (0x00189334, "Modality"))
        assert dict(header) == {"Modality": "CT"}

    def test_depth_bomb_is_refused(self) -> None:
        level = explicit(0x00081140, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF), 0xFFFFFFFF)
        self.refused(part10(level * 100_000))

    def test_endless_items_are_refused(self) -> None:
        items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 250_000
        self.refused(part10(explicit(0x00081140, "SQ", items, 0xFFFFFFFF)))

    def test_deflate_bomb_is_bounded(self) -> None:
        engine = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = engine.compress(explicit(0x00091001, "OB", b"", 0xFFFFFFF0))
        block = engine.compress(bytes(1 << 20)) + b"".join(engine.compress(bytes(1 << 20)) for _ in range(600))
        self.refused(part10(packed + block + engine.flush(), DEFLATED))

    def test_damaged_deflate_stream_is_refused(self) -> None:
        self.refused(part10(b"\xff" * 500, DEFLATED))

    def test_message_holds_no_patient(self) -> None:
        data = make()
        with pytest.raises(InvalidItem) as caught:
            read_header(data[: data.index(b"Anna") + 2])
        assert "Sham" not in str(caught.value)


class TestIsDicom:
    """Quick look at the start."""

    @pytest.mark.parametrize(
        "data", [b"", b"\0" * 200, b"%PDF-1.7\n" * 9, b"GIF89a\0\0\0\0\0\0", b"PK\3\4" + bytes(50)]
    )
    def test_foreign_files_are_not(self, data: bytes) -> None:
        assert not is_dicom(data)

    def test_prefix_is_enough(self) -> None:
        assert is_dicom(b"x" * 128 + b"DICM")


def test_usual_files_are_read_without_pydicom(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(make())
    program = """
import sys
from diana.utils.dicom.header import read_header
from diana.utils.dicom.structure import check_whole
assert read_header(sys.argv[1]).patient_id == "SHAM1"
assert check_whole(sys.argv[1]).header
sys.exit("pydicom" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 0


def test_header_is_a_mapping_of_text() -> None:
    header = read_header(make())
    assert isinstance(header, Header)
    assert all(isinstance(value, str) for value in header.values())
