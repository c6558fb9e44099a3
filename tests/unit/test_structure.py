"""Whole, cut or broken: what the structure of a file tells."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest

from diana.exceptions import InvalidItem
from diana.utils.dicom.structure import check_whole
from tests.unit.test_header import (
    BIG,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    NOT_READABLE,
    content,
    corpora,
    explicit,
    make,
    part10,
    readable,
)

BROKEN = {
    "MR_truncated.dcm": "cut",  # the pixel data are shorter than their own length
    "rtplan_truncated.dcm": "cut",  # ends inside a sequence
    "emri_small_jpeg_2k_lossless_too_short.dcm": "cut",  # ends inside the last fragment
    "DICOMDIR-nooffset": "broken",  # elements were taken out, the length of their sequence was not corrected
}

ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def objects() -> list[tuple[Path, bytes]]:
    found = [(path, content(path)) for path in corpora() if path.name not in NOT_READABLE]
    return [(path, data) for path, data in found if readable(data)]


class TestCorpora:
    """Files as they are found."""

    def test_every_sound_file_is_whole(self) -> None:
        for path, data in objects():
            whole = check_whole(data)
            assert whole.state == BROKEN.get(path.name, "whole"), (path.name, whole.reason)
            assert whole.ok == (path.name not in BROKEN)

    def test_every_cut_file_is_cut(self) -> None:
        rng = random.Random(20)
        missed = []
        for path, data in objects():
            if path.name in BROKEN:
                continue
            end = len(data.rstrip(b"\0"))
            for place in [rng.randrange(end) for _ in range(20)]:
                whole = check_whole(data[:place])
                if whole.state != "cut" and not whole.doubt:
                    missed.append((path.name, place))
        # only an object without pixels can be cut between two elements without a trace
        assert len(missed) <= 3, missed

    def test_foreign_files_are_not_dicom(self) -> None:
        for path in corpora():
            data = content(path)
            if len(data) >= 132 and not readable(data):
                with pytest.raises(InvalidItem):
                    check_whole(data)


class TestCuts:
    """Every single place to cut."""

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
    def test_no_cut_of_an_image_passes_for_sure(self, syntax: str) -> None:
        data = make(syntax, SamplesPerPixel=1, BitsAllocated=16, NumberOfFrames=1)
        whole = check_whole(data)
        assert (whole.state, whole.doubt) == ("whole", "")
        for place in range(len(data.rstrip(b"\0"))):
            cut = check_whole(data[:place])
            assert cut.state == "cut" or cut.doubt, place

    def test_cut_inside_a_nested_item_is_cut(self) -> None:
        inner = explicit(0x00080060, "CS", b"CT")
        value = ITEM + inner + ITEM_END + struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner + SEQUENCE_END
        data = part10(explicit(0x00081140, "SQ", value, 0xFFFFFFFF))
        assert check_whole(data).ok
        start = len(part10(b""))
        assert {check_whole(data[:place]).state for place in range(start, len(data))} == {"cut"}

    def test_cut_encapsulated_pixels_are_cut(self) -> None:
        fragments = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, 4) + b"\1\2\3\4" for _ in range(3)) + SEQUENCE_END
        data = part10(explicit(0x7FE00010, "OB", fragments, 0xFFFFFFFF), "1.2.840.10008.1.2.5")
        assert check_whole(data).ok
        start = len(part10(b"", "1.2.840.10008.1.2.5"))
        assert {check_whole(data[:place]).state for place in range(start, len(data))} == {"cut"}


class TestPixels:
    """As long as announced."""

    @pytest.mark.parametrize(
        ("bits", "samples", "frames", "photometric", "need"),
        [
            (16, 1, 1, "MONOCHROME2", 12),
            (8, 3, 2, "RGB", 36),
            (1, 1, 3, "MONOCHROME2", 3),
            (8, 3, 1, "YBR_FULL_422", 12),
            (32, 1, 1, "MONOCHROME2", 24),
        ],
    )
    def test_length_follows_from_the_header(
        self, bits: int, samples: int, frames: int, photometric: str, need: int
    ) -> None:
        body = explicit(0x00280002, "US", struct.pack("<H", samples))
        body += explicit(0x00280004, "CS", photometric.encode() + b" " * (len(photometric) % 2))
        body += explicit(0x00280008, "IS", b"%d " % frames)
        body += explicit(0x00280010, "US", b"\2\0") + explicit(0x00280011, "US", b"\3\0")
        body += explicit(0x00280100, "US", struct.pack("<H", bits))
        assert check_whole(part10(body + explicit(0x7FE00010, "OW", b"x" * need))).ok
        assert check_whole(part10(body + explicit(0x7FE00010, "OW", b"x" * (need + 2)))).ok
        short = check_whole(part10(body + explicit(0x7FE00010, "OW", b"x" * (need - 1))))
        assert short.state == "broken"
        assert "shorter" in short.reason

    def test_image_without_pixels_is_doubtful(self) -> None:
        data = make()
        whole = check_whole(data[: data.index(b"\xe0\x7f\x10\0")])
        assert whole.ok
        assert "pixels" in whole.doubt


class TestEnds:
    """What may follow."""

    def test_zeros_may_follow(self) -> None:
        for n in (1, 7, 8, 100, 200_000):
            assert check_whole(make() + bytes(n)).ok

    def test_padding_element_may_follow(self) -> None:
        assert check_whole(make() + explicit(0xFFFCFFFC, "OB", bytes(64))).ok

    def test_start_of_another_element_is_cut(self) -> None:
        assert check_whole(make() + b"\xfc\xff\xfc").state == "cut"

    def test_something_behind_the_padding_is_broken(self) -> None:
        assert check_whole(make() + bytes(100) + b"x").state == "broken"

    def test_data_set_must_not_be_empty(self) -> None:
        assert check_whole(part10(b"")).state == "cut"

    @pytest.mark.parametrize("data", [b"", b"\0" * 60, b"II*\0"])
    def test_shorter_than_a_prefix_is_cut(self, data: bytes) -> None:
        assert check_whole(data).state == "cut"


class TestSources:
    """Where bytes come from."""

    def test_path_descriptor_and_bytes_agree(self, tmp_path: Path) -> None:
        path = tmp_path / "one"
        path.write_bytes(make())
        fd = os.open(path, os.O_RDONLY)
        try:
            results = [check_whole(source) for source in (path, fd, make())]
        finally:
            os.close(fd)
        assert [whole.header.patient_id for whole in results if whole.header] == ["SHAM1"] * 3

    def test_large_pixels_are_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "large"
        with path.open("wb") as file:
            file.write(part10(explicit(0x00080060, "CS", b"CT") + explicit(0x7FE00010, "OW", b"", 3 << 30)))
            file.truncate(file.tell() + (3 << 30))
        tracemalloc.start()
        try:
            assert check_whole(path).ok
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
        os.truncate(path, path.stat().st_size - 1)
        assert check_whole(path).state == "cut"

    def test_folder_is_not_dicom(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidItem):
            check_whole(tmp_path)


class TestHostile:
    """Bytes that want to hurt."""

    def test_four_gigabyte_length_is_cut(self) -> None:
        data = part10(explicit(0x00091001, "OB", b"x" * 99, 0xFFFFFFFE))
        assert check_whole(data).state == "cut"

    @pytest.mark.parametrize("defined", [True, False])
    def test_depth_is_limited(self, defined: bool) -> None:
        def nested(depth: int) -> bytes:
            value = b""
            for _ in range(depth):
                if defined:
                    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value
                    value = explicit(0x00081140, "SQ", item)
                else:
                    value = explicit(0x00081140, "SQ", ITEM + value + ITEM_END + SEQUENCE_END, 0xFFFFFFFF)
            return part10(value)

        assert check_whole(nested(60)).ok
        assert check_whole(nested(70)).state == "broken"

    def test_depth_bomb_is_broken(self) -> None:
        level = explicit(0x00081140, "SQ", ITEM, 0xFFFFFFFF)
        assert check_whole(part10(level * 100_000)).state == "broken"

    def test_elements_are_limited(self) -> None:
        assert check_whole(part10(explicit(0x00081140, "LO", b"") * 200_001)).state == "broken"
        items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 200_001
        assert check_whole(part10(explicit(0x00081140, "SQ", items))).state == "broken"

    def test_item_longer_than_its_sequence_is_broken(self) -> None:
        item = struct.pack("<HHI", 0xFFFE, 0xE000, 100) + bytes(20)
        data = part10(explicit(0x00081140, "SQ", item) + explicit(0x00091001, "OB", bytes(200)))
        assert check_whole(data).state == "broken"

    def test_bytes_that_look_like_a_sequence_are_bytes(self) -> None:
        blob = struct.pack("<HHI", 0xFFFE, 0xE000, 100) + b"not an item at all"
        assert check_whole(part10(explicit(0x00091001, "UN", blob))).ok

    def test_deflate_bomb_is_broken(self) -> None:
        engine = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = engine.compress(explicit(0x00091001, "OB", b"", 0xFFFFFFF0))
        packed += b"".join(engine.compress(bytes(1 << 20)) for _ in range(600)) + engine.flush()
        tracemalloc.start()
        try:
            assert check_whole(part10(packed, DEFLATED)).state == "broken"
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()

    def test_reason_holds_no_patient(self) -> None:
        data = make()
        assert "Sham" not in check_whole(data[: data.index(b"Anna") + 2]).reason
        assert "Sham" not in repr(check_whole(data))
