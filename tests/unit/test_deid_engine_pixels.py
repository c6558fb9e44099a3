"""The engine and pixels: left as they are, comments in their streams taken out, large ones never held."""

from __future__ import annotations

import struct
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from diana.deid import Deidentifier, Key, Recipe
from diana.deid.result import Result
from diana.deid.source import open_blob
from diana.utils.blob import Blob
from tests.fakes.deid_files import make_ds, read, to_bytes

KEY = Key(b"p" * 32)
JPEG = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"


def jpeg(number: int, comment: bytes = b"") -> bytes:
    """Return a stream with the markers of JPEG and a comment; no decoder would like it."""
    said = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment if comment else b""
    table = b"\xff\xdb\x00\x04" + bytes((number, number))
    scan = b"\xff\xda\x00\x02" + bytes(range(1, 20)) * (number + 1)
    data = b"\xff\xd8" + said + table + scan + b"\xff\xd9"
    return data + b"\0" * (len(data) & 1)


def encapsulated(frames: list[list[bytes]], *, table: bool, syntax: str = JPEG, extended: bool = False) -> bytes:
    """Return a file with frames of fragments, with a basic offset table or an extended one."""
    ds = make_ds(PixelData=None, NumberOfFrames=str(len(frames)), SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1")
    offsets, at = [], 0
    for fragments in frames:
        offsets.append(at)
        at += sum(len(one) + 8 for one in fragments)
    if extended:
        ds.add_new(0x7FE00001, "OV", struct.pack(f"<{len(offsets)}Q", *offsets))
        ds.add_new(0x7FE00002, "OV", struct.pack(f"<{len(offsets)}Q", *(len(frame[0]) for frame in frames)))
    head = to_bytes(ds, syntax)
    bot = struct.pack(f"<{len(offsets)}I", *offsets) if table else b""
    items = b"".join(b"\xfe\xff\x00\xe0" + len(one).to_bytes(4, "little") + one for frame in frames for one in frame)
    pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0" + len(bot).to_bytes(4, "little") + bot
    return head + pixels + items + b"\xfe\xff\xdd\xe0\0\0\0\0"


def frames_of(data: bytes) -> list[bytes]:
    from pydicom.encaps import generate_frames

    ds = read(data)
    return list(generate_frames(ds.PixelData, number_of_frames=int(ds.NumberOfFrames)))


def deid(data: bytes | Path) -> Result:
    return Deidentifier(Recipe(), KEY).apply(Blob(data))


@pytest.mark.parametrize("table", [True, False])
def test_comments_in_jpeg_go_and_the_rest_stays(table: bool) -> None:
    before = [jpeg(1, b"Quersfeld^Annegret"), jpeg(2), jpeg(3, b"PID-990817")]
    result = deid(encapsulated([[one] for one in before], table=table))
    assert result.done, result.text
    assert result.blob is not None
    data = result.blob.read()
    assert b"Quersfeld" not in data
    assert b"PID-990817" not in data
    assert [one.rstrip(b"\0") for one in frames_of(data)] == [jpeg(at).rstrip(b"\0") for at in (1, 2, 3)]


def test_comment_in_a_frame_of_two_fragments_goes() -> None:
    first = jpeg(1, b"Quersfeld^Annegret")
    half = len(first) // 4 * 2
    result = deid(encapsulated([[first[:half], first[half:]], [jpeg(2)]], table=True))
    assert result.blob is not None
    data = result.blob.read()
    assert b"uersfeld" not in data
    assert [one.rstrip(b"\0") for one in frames_of(data)] == [jpeg(at).rstrip(b"\0") for at in (1, 2)]


def test_extended_offset_table_follows() -> None:
    result = deid(encapsulated([[jpeg(1, b"Quersfeld^Annegret")], [jpeg(2)]], table=False, extended=True))
    assert result.blob is not None
    ds = read(result.blob.read())
    offsets = struct.unpack("<2Q", ds[0x7FE00001].value)
    lengths = struct.unpack("<2Q", ds[0x7FE00002].value)
    items = ds.PixelData[8:]
    for offset, length, number in zip(offsets, lengths, (1, 2), strict=True):
        assert items[offset + 8 : offset + 8 + length].rstrip(b"\0") == jpeg(number).rstrip(b"\0")


def test_fragments_without_comments_are_copied_as_they_are() -> None:
    data = encapsulated([[b"\1\2\3\4", b"\5\6"], [b"\7\10"]], table=True, syntax=RLE)
    result = deid(data)
    assert result.blob is not None
    assert read(result.blob.read()).PixelData == read(data).PixelData


def test_pixels_that_are_cut_are_refused() -> None:
    data = encapsulated([[jpeg(1)]], table=True)
    assert deid(data[:-20]).reason == "broken"
    assert deid(to_bytes(make_ds())[:-20]).reason == "broken"


def large(path: Path, size: int, **values: Any) -> bytes:
    """Write a file with native pixels of that size, and return the bytes before them."""
    ds = make_ds(PixelData=b"\0\0", NumberOfFrames=str(size // 128), **values)
    head = to_bytes(ds)[:-6]
    with path.open("wb") as stream:
        stream.write(head + size.to_bytes(4, "little"))
        for at in range(0, size, 1 << 20):
            stream.write(bytes((at >> 20 & 0xFF,)) * min(1 << 20, size - at))
    return head


def test_large_pixels_are_spliced_and_never_held(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    size = 48 << 20
    large(path, size)
    deid(to_bytes(make_ds()))  # tables are loaded once
    tracemalloc.start()
    try:
        result = Deidentifier(Recipe(), KEY, folder=tmp_path).apply(Blob(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.done, result.text
    assert result.blob is not None
    assert result.blob.path is not None
    assert result.blob.path.parent == tmp_path
    assert peak < 8 << 20
    with result.blob.open() as stream, path.open("rb") as source:
        stream.seek(-size, 2)
        source.seek(-size, 2)
        assert all(stream.read(1 << 20) == source.read(1 << 20) for _ in range(size >> 20))
    assert result.digest_out == result.blob.digest("sha256")
    result.blob.close()
    assert not [one for one in tmp_path.iterdir() if one != path]


def test_long_header_before_large_pixels_is_read_whole(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    path = tmp_path / "groups.dcm"
    items = []
    for number in range(8_000):
        one = Dataset()
        one.ReferencedSOPInstanceUID = f"1.2.3.{number}"
        items.append(one)
    large(path, 17 << 20, SourceImageSequence=Sequence(items))
    result = deid(path)
    assert result.done, result.text
    assert result.blob is not None
    opened = open_blob(result.blob)
    sequence = opened.find(0x00082112)
    opened.reader.close()
    result.blob.close()
    assert sequence is not None
    assert len(sequence.items or ()) == 8_000


def test_large_binary_values_before_the_pixels_stay_in_the_source(tmp_path: Path) -> None:
    path = tmp_path / "wave.dcm"
    table = bytes(range(256)) * (3 << 12)
    large(path, 17 << 20, ICCProfile=table)
    result = deid(path)
    assert result.blob is not None
    with result.blob.open() as stream:
        assert table in stream.read(8 << 20)
    result.blob.close()


def test_file_that_shrinks_while_it_is_read_raises_and_leaves_nothing(tmp_path: Path) -> None:
    path, out = tmp_path / "in.dcm", tmp_path / "out"
    out.mkdir()
    large(path, 20 << 20)
    blob = Blob(path)
    with path.open("r+b") as stream:
        stream.truncate(18 << 20)
    with pytest.raises(OSError, match="shorter"):
        Deidentifier(Recipe(), KEY, folder=out).apply(blob)
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("values", "state", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "quarantined", "pixel-review"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "quarantined", "pixel-review"),
        ({"ConversionType": "SD"}, "refused", "pixels"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "refused", "encapsulated-document"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.1.1"}, "refused", "video"),
        ({"SOPClassUID": "1.2.840.113619.4.30"}, "refused", "private-sop-class"),
        ({"SOPClassUID": "1.2.840.10008.1.3.10"}, "refused", "dicomdir"),
    ],
)
def test_what_is_not_released(values: dict[str, str], state: str, reason: str) -> None:
    result = deid(to_bytes(make_ds(**values)))
    assert (result.state, result.reason, result.blob) == (state, reason, None)
    assert result.text


def test_masked_image_says_that_nothing_is_burned_in() -> None:
    from diana.deid.recipe_files import parse

    recipe = parse(
        "name: masked\noptions: [clean-pixel-data]\n"
        "pixel_rules:\n  - {name: corner, action: mask, when: {Modality: CT}, blank: [[0, 0, 4, 2]]}\n"
    )
    result = Deidentifier(recipe, KEY).apply(Blob(to_bytes(make_ds(PixelData=b"\x11\x02" * 64))))
    assert result.done, result.text
    assert result.blob is not None
    ds = read(result.blob.read())
    assert ds.BurnedInAnnotation == "NO"
    assert "113101" in result.codes
    assert ds.PixelData[:8] == bytes(8)
    assert ds.PixelData[8:16] == b"\x11\x02" * 4


def test_masking_rule_without_the_option_is_held_back() -> None:
    from attrs import evolve

    from diana.deid.recipe_files import parse

    recipe = parse(
        "name: masked\noptions: [clean-pixel-data]\n"
        "pixel_rules:\n  - {name: corner, action: mask, when: {Modality: CT}, blank: [[0, 0, 4, 2]]}\n"
    )
    result = Deidentifier(evolve(recipe, options=()), KEY).apply(Blob(to_bytes(make_ds())))
    assert (result.state, result.reason) == ("quarantined", "pixel-review")


def test_bomb_of_deflated_zeros_is_refused() -> None:
    import zlib

    meta = to_bytes(make_ds(), "1.2.840.10008.1.2.1.99")
    start = 144 + int.from_bytes(meta[140:144], "little")
    maker = zlib.compressobj(9, wbits=-15)
    out = BytesIO()
    out.write(meta[:start])
    for _ in range(300):
        out.write(maker.compress(bytes(1 << 20)))
    out.write(maker.flush())
    assert deid(out.getvalue()).state == "refused"


def test_nested_bomb_is_refused() -> None:
    deep = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    head = to_bytes(make_ds(PixelData=None))
    result = deid(head + deep)
    assert (result.state, result.reason) == ("refused", "too-deep")
