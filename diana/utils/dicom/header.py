"""Read the ids, dates and other top-level values of a DICOM object without building a data set."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from attrs import frozen

from diana.exceptions import InvalidItem
from diana.utils.dicom import _text
from diana.utils.dicom._found import DEFAULT_TAGS, MAX_KEPT, Found, Kept, Plan, make_plan
from diana.utils.dicom._scan import (
    EXPLICIT_LE,
    EXPLICIT_LITTLE,
    LONG_VRS,
    SHORT_VRS,
    TRANSFER_SYNTAX,
    UNDEFINED,
    Coding,
    Element,
    Opened,
    element,
    open_dataset,
    plausible,
    scan_explicit,
    scan_implicit,
    swap,
)
from diana.utils.dicom._source import Cut, Malformed, OverLimit, Readable, Source, Window, open_source
from diana.utils.dicom._walk import Walker

__all__ = ["DEFAULT_TAGS", "Header", "is_dicom", "read_header"]

MAX_WALKED: Final = 128 << 20
LARGEST_FALLBACK: Final = 16 << 20
_BYTES: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ"))
_USUAL_SYNTAX: Final = b"\x14\x00" + EXPLICIT_LE.encode() + b"\0"
_PIXELS: Final = (b"\xe0\x7f\x10\x00", b"\xe0\x7f\x09\x00", b"\xe0\x7f\x08\x00")


@frozen(eq=False, repr=False)
class Header(Mapping[str, str]):
    """
    Map keywords to text.

    What the object lacks is absent, what is empty is ``""``. Values of several parts are joined by a backslash,
    binary numbers are written in decimal, attribute tags as eight hexadecimal digits. Sequences and bytes are left
    out, and so are numbers of a wrong length. Values are decoded when they are asked for. ``pixel_offset`` is where
    the element that holds the pixels starts in the file; None when there is none, when the data set is deflated, or
    when it could not be told.
    """

    _found: Found
    transfer_syntax: str
    pixel_offset: int | None

    def __getitem__(self, keyword: str) -> str:
        text = self._found.text(keyword)
        if text is None:
            raise KeyError(keyword)
        return text

    def __iter__(self) -> Iterator[str]:
        return iter(self._found.texts())

    def __len__(self) -> int:
        return len(self._found.texts())

    def as_dict(self) -> dict[str, str]:
        """Return all values; quicker than ``dict(header)``."""
        return self._found.texts()

    def __repr__(self) -> str:
        return f"<Header with {len(self)} values, transfer syntax {self.transfer_syntax or 'not stated'}>"

    @property
    def sop_class(self) -> str:
        """Return the SOP Class UID of the file meta, or of the data set when the file has none; may be empty."""
        return self._found.media_class() or self.get("SOPClassUID", "")

    @property
    def patient_id(self) -> str:
        """Return the patient's id, empty when it is absent or was not asked for; so do the others."""
        return self.get("PatientID", "")

    @property
    def study(self) -> str:
        """Return the Study Instance UID."""
        return self.get("StudyInstanceUID", "")

    @property
    def series(self) -> str:
        """Return the Series Instance UID."""
        return self.get("SeriesInstanceUID", "")

    @property
    def instance(self) -> str:
        """Return the SOP Instance UID."""
        return self.get("SOPInstanceUID", "")

    @property
    def accession(self) -> str:
        """Return the accession number."""
        return self.get("AccessionNumber", "")

    @property
    def modality(self) -> str:
        """Return the modality."""
        return self.get("Modality", "")


def read_header(source: Readable, tags: Iterable[str | int] = DEFAULT_TAGS, *, size: int | None = None) -> Header:
    """
    Read the values of ``tags`` from the top level of an object, without its pixels.

    ``source`` is a path, an open descriptor, a buffer, or a seekable binary file object, read from its start; the
    position of the latter two is left as it was. Only the first ``size`` bytes count when it is given. A tag is a
    keyword, a number (0xGGGGEEEE) or eight hexadecimal digits; a tag without keyword is found under its digits.
    The reader is as tolerant as pydicom, and leaves what it does not know to pydicom: use ``check_whole`` to learn
    whether an object is complete. Raises InvalidItem for what is not DICOM or ends inside a value asked for,
    OSError when the file cannot be read.
    """
    plan = make_plan(tags if isinstance(tags, tuple) else tuple(tags))
    opened = open_source(source, size)
    try:
        return read(opened, plan)
    finally:
        opened.close()


def is_dicom(source: Readable) -> bool:
    """
    Tell from the start whether this is DICOM: a prefix after the preamble, or what reads like a data set.

    False also for what cannot seek. Raises OSError when the file cannot be read.
    """
    try:
        opened = open_source(source)
    except InvalidItem:
        return False
    try:
        start = opened.read(0, 4096)
    except InvalidItem:
        return False
    finally:
        opened.close()
    return start[128:132] == b"DICM" or plausible(start)


def read(source: Source, plan: Plan) -> Header:
    """Read a header from an open source. Raises InvalidItem."""
    window = Window(source)
    window.load(0)
    header = _usual(window.data, plan)
    if header is not None:
        return header
    opened = open_dataset(window)
    try:
        return _collect(opened, plan)
    except Malformed:
        if opened.deflated is not None:  # pydicom inflates without limit
            raise
        return _by_pydicom(source, plan)


def _usual(data: bytes, plan: Plan) -> Header | None:
    """
    Read the commonest file in one scan, meta and all: explicit VR little endian, pixels announced in the first bytes.

    None when it is anything else. Elements of the file meta and of the data set cannot be mistaken for each other.
    """
    if data[128:132] != b"DICM":
        return None
    places: dict[int, int] = {}
    i = scan_explicit(data, 132, EXPLICIT_LITTLE, plan.little, places)
    stated = places.get(TRANSFER_SYNTAX)
    if stated is None or data[stated + 6 : stated + 28] != _USUAL_SYNTAX or data[i : i + 4] not in _PIXELS:
        return None
    return Header(Found(data, places, places, plan, True, False), EXPLICIT_LE, i)


def _collect(opened: Opened, plan: Plan) -> Header:
    """Walk the top level up to the pixels and note where the wanted elements are."""
    window, pos, coding, first = opened.window, opened.pos, opened.coding, opened.first
    scan = scan_explicit if coding.explicit else scan_implicit
    wanted = plan.big if coding.big else plan.little
    kept = Kept(first)
    walker = Walker(window, deep=False)
    budget = MAX_WALKED
    pixels: int | None = None
    while True:
        data, base = window.data, window.base
        seen = kept.places if data is first else {}
        i = scan(data, pos - base, coding, wanted, seen)
        budget -= min(i, len(data)) - (pos - base) + 64
        if budget < 0:
            raise OverLimit(f"more than {MAX_WALKED} bytes of header")
        pos = base + i
        place = max((place for place in seen.values() if place < len(data)), default=-1) if i > len(data) else -1
        if place >= 0:
            last = element(window, base + place, coding)
            if last.value + last.length > base + len(data):
                pos = base + seen.pop(last.tag)
        if data is not first:
            _keep(window, coding, seen, kept)
        try:
            this = element(window, pos, coding)
        except Cut:
            break
        if this.tag in coding.pixels:
            pixels = pos
            break
        if this.tag == coding.item_end:
            break
        if this.length == UNDEFINED:
            pos = walker.value(this, coding)
            continue
        if this.tag in wanted:
            _take(window, pos, this, kept)
        pos = this.value + this.length
    found = Found(kept.finish(), kept.places, opened.meta, plan, coding.explicit, coding.big)
    return Header(found, opened.transfer_syntax, None if opened.deflated else pixels)


def _keep(window: Window, coding: Coding, seen: Mapping[int, int], kept: Kept) -> None:
    """Copy what was seen in a later window."""
    for tag, place in seen.items():
        this = element(window, window.base + place, coding)
        kept.add(tag, window.data[place : this.value + this.length - window.base])


def _take(window: Window, pos: int, this: Element, kept: Kept) -> None:
    """Keep an element that the scan left alone. Raises Cut when it is not all there."""
    if this.vr in _BYTES or this.length > MAX_KEPT:
        return
    size = this.value + this.length - pos
    i = window.index(pos, size)
    kept.add(this.tag, window.data[i : i + size])


def _by_pydicom(source: Source, plan: Plan) -> Header:
    """Let pydicom read what is laid out oddly, from the first 16 MiB only; values are still decoded here."""
    from io import BytesIO

    from pydicom import dcmread

    kept = Kept(b"")
    meta: dict[int, int] = {}
    data = source.read(0, LARGEST_FALLBACK)
    try:
        dataset = dcmread(BytesIO(data), stop_before_pixels=True, force=True)
        big = not dataset.original_encoding[1]
        for item in map(dataset.file_meta.get_item, list(dataset.file_meta.keys())):
            meta[swap(item.tag)] = kept.put(_explicit(item, big=False))
        for item in [dataset.get_item(number) for number in plan.big if number in dataset]:
            kept.add(item.tag if big else swap(item.tag), _explicit(item, big=big))
        transfer_syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    except Exception as err:  # noqa: BLE001 - pydicom fails in many ways on hostile bytes, each meaning the same here
        raise InvalidItem(f"not DICOM that pydicom can read ({type(err).__name__})") from None
    if not kept.places and not meta:
        raise InvalidItem("not DICOM: no element could be read")
    return Header(Found(kept.finish(), kept.places, meta, plan, True, big), transfer_syntax, None)


def _explicit(item: Any, *, big: bool) -> bytes:
    """Encode an element of pydicom with explicit VR; sequences and values already converted to numbers are bytes."""
    raw = item.value if isinstance(item.value, bytes) else str(item.value or "").encode(_text.LATIN, "replace")
    vr = item.VR if isinstance(item.value, (bytes, str)) else "OB"
    mark = ">" if big else "<"
    head = struct.pack(mark + "I", item.tag if big else swap(item.tag))
    code = (vr or "UN").encode()
    if vr in SHORT_VRS and len(raw) <= 0xFFFF:
        return head + code + struct.pack(mark + "H", len(raw)) + raw
    return head + (code if vr in LONG_VRS else b"UN") + struct.pack(mark + "HI", 0, len(raw)) + raw
