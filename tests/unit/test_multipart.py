"""The reader of multipart bodies: strict, whatever the pieces in which a body arrives."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diana.exceptions import GatewayAnswerError, GatewayConnectionError, GatewayError, IncompleteTransfer
from diana.utils.gateways.multipart import Limits, Part, PartReader, PieceSource, boundary_of, parse_media_type
from diana.utils.gateways.multipart_write import OutPart, body_length, body_pieces, content_type, new_boundary

B = "b0undary"
SMALL = Limits(head=1024)


def cut(data: bytes, size: int) -> PieceSource:
    return PieceSource([data[at : at + size] for at in range(0, len(data), size)])


def read(data: bytes, *, size: int = 1 << 20, boundary: str = B, **options: object) -> list[bytes]:
    limits = options.pop("limits", SMALL)
    reader = PartReader(cut(data, size), boundary, "test", limits=limits, chunk=4096, **options)  # type: ignore[arg-type]
    return [part.blob.read() for part in reader]


def body(*contents: bytes, length: bool = True, preamble: bytes = b"", epilogue: bytes = b"\r\n") -> bytes:
    found = preamble
    for number, content in enumerate(contents):
        found += b"" if number == 0 and not preamble else b"\r\n"
        found += b"--b0undary\r\nContent-Type: application/dicom\r\n"
        found += (b"Content-Length: %d\r\n" % len(content) if length else b"") + b"\r\n" + content
    return found + b"\r\n--b0undary--" + epilogue


# made of what a boundary is made of, so that near misses are common
tricky = st.lists(
    st.sampled_from([b"\r\n", b"--", b"-", B.encode(), b"\r", b"\n", b"\r\n--b0und", b"x", b"--b0undary", b"\0" * 700]),
    max_size=12,
).map(b"".join)
contents_ = st.lists(st.one_of(tricky, st.binary(max_size=9000)), max_size=6)


def ends_a_line(content: bytes) -> bool:
    """Tell whether a content holds a boundary line of its own."""
    whole = b"\r\n" + content + b"\r\n"
    return any(b"\r\n--b0undary" + tail in whole for tail in (b"\r\n", b"--", b" ", b"\t"))


@settings(max_examples=300, deadline=None)
@given(contents_, st.integers(1, 5000), st.sampled_from([b"", b"hello", b"hello\r\n--b0undaryX\r\n"]))
def test_measured_parts_come_back_as_they_are(contents: list[bytes], size: int, preamble: bytes) -> None:
    if contents:
        assert read(body(*contents, preamble=preamble), size=max(size, 50)) == contents


@settings(max_examples=300, deadline=None)
@given(contents_, st.integers(1, 5000), st.booleans())
def test_parts_without_length_come_back_as_they_are(contents: list[bytes], size: int, spilled: bool) -> None:
    contents = [one for one in contents if not ends_a_line(one)]
    if contents:
        data = body(*contents, length=False, epilogue=b"")
        assert read(data, size=max(size, 50), spill=1000 if spilled else 1 << 20) == contents


@settings(max_examples=100, deadline=None)
@given(contents_, st.integers(1, 64), st.booleans())
def test_single_bytes_are_enough(contents: list[bytes], size: int, length: bool) -> None:
    contents = [one[:300] for one in contents if not ends_a_line(one[:300])]
    if contents:
        assert read(body(*contents, length=length), size=size) == contents


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4), st.booleans(), st.data())
def test_every_early_end_raises(contents: list[bytes], length: bool, data: st.DataObject) -> None:
    whole = body(*contents, length=length, epilogue=b"")
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(GatewayConnectionError):
        read(whole[:end])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=400))
def test_rubbish_raises_errors_of_the_tree_only(head: bytes, tail: bytes) -> None:
    try:
        read(head + b"\r\n--b0undary\r\n" + tail)
    except GatewayError:
        return


def test_what_follows_the_closing_boundary_is_not_read() -> None:
    assert read(body(b"one", epilogue=b"\r\n--b0undary\r\n\r\nnot a part")) == [b"one"]


def test_a_part_may_have_no_headers_and_no_content() -> None:
    assert read(b"--b0undary\r\n\r\n\r\n--b0undary\r\n\r\nx\r\n--b0undary\r\n\r\n--b0undary--") == [b"", b"x", b""]


def test_a_boundary_line_may_end_with_blanks() -> None:
    assert read(b"--b0undary \t\r\n\r\nx\r\n--b0undary  \r\n\r\ny\r\n--b0undary--  \r\n") == [b"x", b"y"]


def test_a_longer_word_that_begins_as_the_boundary_is_content() -> None:
    inner = b"a\r\n--b0undary2\r\nb\r\n--b0undary2--\r\nc"
    assert read(body(inner, length=False)) == [inner]


def test_a_boundary_inside_a_line_is_content() -> None:
    inner = b"x--b0undary\r\n\r\n\n--b0undary--"
    assert read(body(inner, length=False)) == [inner]


def test_a_measured_content_may_hold_the_boundary() -> None:
    inner = b"x\r\n--b0undary\r\n\r\ny"
    assert read(body(inner)) == [inner]


@pytest.mark.parametrize("wrong", [0, 2, 4, 200])
def test_a_wrong_length_raises(wrong: int) -> None:
    data = body(b"abc", b"d" * 300).replace(b"Content-Length: 3\r", b"Content-Length: %d\r" % wrong)
    with pytest.raises(GatewayError):
        read(data)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -1",
        b"Content-Length: 1e3",
        b"Content-Length: 99999999999999999999",
        b"Content-Length: 1\r\nContent-Length: 2",
        b"no colon",
        b"Bad Name: x",
        b": x",
        b"Content-Transfer-Encoding: base64",
        b"Content-Encoding: gzip",
        b"X: " + b"y" * 5000,
    ],
)
def test_damaged_headers_raise(head: bytes) -> None:
    with pytest.raises(GatewayAnswerError):
        read(b"--b0undary\r\n" + head + b"\r\n\r\nabc\r\n--b0undary--")


def test_headers_are_in_lower_case_and_unfolded() -> None:
    data = b'--b0undary\r\nContent-TYPE: Application/DICOM;\r\n\ttransfer-syntax="1.2"\r\n\r\nx\r\n--b0undary--'
    (part,) = PartReader(cut(data, 7), B)
    assert part.headers["content-type"] == 'Application/DICOM; transfer-syntax="1.2"'
    assert part.content_type == "application/dicom"


def test_a_large_part_goes_to_a_file_that_closing_removes(tmp_path: Path) -> None:
    for length in (True, False):
        data = body(b"x" * 100_000, b"small", length=length)
        parts = list(PartReader(cut(data, 999), B, spill=50_000, folder=str(tmp_path)))
        assert [part.blob.path is not None for part in parts] == [True, False]
        assert parts[0].blob.read() == b"x" * 100_000
        parts[0].blob.close()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("tail", [b"", b"\r\n--b0undarX"])
def test_no_file_is_left_after_an_early_end(tmp_path: Path, length: bool, tail: bytes) -> None:
    data = body(b"x" * 100_000, length=length)[:100_060] + tail
    with pytest.raises(GatewayError):
        list(PartReader(cut(data, 999), B, spill=50_000, folder=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_raises(tmp_path: Path) -> None:
    with pytest.raises(IncompleteTransfer):
        list(PartReader(cut(body(b"x" * 9000), 999), B, spill=10, folder=str(tmp_path / "absent")))


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (body(*[b"x"] * 11), Limits(parts=10)),
        (body(b"x" * 5000), Limits(head=1024, part=4999)),
        (body(b"x" * 5000, length=False), Limits(head=1024, part=4999)),
        (b"p" * 70_000 + b"\r\n" + body(b"x"), Limits()),
        (b"--b0undary--\r\n", Limits()),
        (b"--b0undary\r\nX: " + b"y" * 70_000, Limits()),
    ],
)
def test_limits_hold(data: bytes, limits: Limits) -> None:
    with pytest.raises(GatewayAnswerError):
        read(data, limits=limits)


def test_parts_can_be_as_many_as_the_limit() -> None:
    assert len(read(body(*[b"x"] * 10), limits=Limits(parts=10))) == 10


@pytest.mark.parametrize(
    ("text", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc', "abc"),
        ('Multipart/Related;boundary="a b\\"c";type=x', 'a b"c'),
        ("multipart/related; boundary=a-b'()+_,./:=?; x=y", "a-b'()+_,./:=?"),
        ("multipart/related;;  BOUNDARY = abc ;", "abc"),
    ],
)
def test_the_boundary_is_read_from_the_content_type(text: str, boundary: str) -> None:
    assert boundary_of(text) == boundary


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text/html",
        "multipart/related",
        "multipart/related; boundary=",
        'multipart/related; boundary=""',
        "multipart/related; boundary=" + "x" * 300,
        "multipart/related; boundary=a; boundary=b",
        'multipart/related; boundary="a',
        'multipart/related; boundary="a\r\nb"',
        "multipart/related; boundary=ä",
    ],
)
def test_no_usable_boundary_raises(text: str) -> None:
    with pytest.raises(GatewayAnswerError):
        boundary_of(text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=500), min_size=1, max_size=5))
def test_what_is_written_is_read(contents: list[bytes]) -> None:
    boundary = new_boundary()
    parts = [OutPart(one, {"Content-Type": "application/dicom"}) for one in contents]
    whole = b"".join(body_pieces(parts, boundary))
    assert len(whole) == body_length(parts, boundary)
    kind, parameters = parse_media_type(content_type(boundary, "application/dicom"))
    assert (kind, parameters["type"]) == ("multipart/related", "application/dicom")
    assert read(whole, boundary=parameters["boundary"]) == contents


def test_a_part_shows_no_content() -> None:
    assert "secret" not in repr(Part({}, b"secret"))
