"""Tell whether a DICOM object is complete to its end, without reading its pixels."""

from __future__ import annotations

from typing import Final, Literal

from attrs import frozen

from diana.utils.dicom._found import STRUCTURE_TAGS, make_plan
from diana.utils.dicom._scan import (
    EXPLICIT_BE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    UNDEFINED,
    Coding,
    Element,
    Opened,
    element,
    open_dataset,
    swap,
)
from diana.utils.dicom._source import LARGEST_READ, Cut, Malformed, OverLimit, Readable, Source, Window, open_source
from diana.utils.dicom._walk import Walker
from diana.utils.dicom.header import Header, read

__all__ = ["Whole", "check_whole"]

_NATIVE: Final = frozenset(("", IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, "1.2.840.113619.5.2"))
_SERIES: Final = 0x0020000E
_DIRECTORY: Final = "1.2.840.10008.1.3.10"
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_IMAGE_FAMILIES: Final = frozenset(  # families of image classes, by what follows the storage root (PS3.4 B.5)
    ("1", "2", "3", "5", "6", "7", "12", "13", "14", "20", "30", "128")
)
_IMAGE_CLASSES: Final = frozenset(("4", "4.1", "4.3", "4.4", "66.4", "66.7", "481.1"))


@frozen
class Whole:
    """
    Say what the structure of an object looks like.

    ``whole``: complete. ``cut``: the data end too early, which a file still being written does. ``broken``: all bytes
    that were announced may be there, but they contradict each other or exceed a limit; more bytes will not help.
    ``reason`` says why it is not whole. ``doubt`` is set when a whole object may still be cut exactly between two
    elements, because something that should follow is missing: give it more time than others before taking it.
    ``header`` has the default tags of a whole object, and what its pixels need.
    """

    state: Literal["whole", "cut", "broken"]
    reason: str = ""
    doubt: str = ""
    header: Header | None = None

    @property
    def ok(self) -> bool:
        """Tell whether the object is whole, doubtful or not."""
        return self.state == "whole"


def check_whole(source: Readable, *, size: int | None = None) -> Whole:
    """
    Walk the structure of an object from start to end.

    Every length must fit, sequences nest at most 64 deep, there are at most 200,000 elements, native pixels are as
    long as the header announces, encapsulated ones end with their delimiter, and nothing follows but zeros. Memory
    is bounded and large values are skipped by position. A deflated data set is inflated to at most 512 MiB. What is
    shorter than a DICOM prefix is cut. The end of an object without pixels cannot be told from a cut between two
    elements of its top level. ``source`` is that of ``read_header``. Raises InvalidItem for what is not DICOM at
    all, OSError when the file cannot be read.
    """
    opened = open_source(source, size)
    try:
        return _check(opened)
    except Cut as err:
        return Whole("cut", str(err))
    except (Malformed, OverLimit) as err:
        return Whole("broken", str(err))
    finally:
        opened.close()


def _check(source: Source) -> Whole:
    window = Window(source, size=source.length())
    window.load(0)
    opened = open_dataset(window)
    last, pixels = _walk(opened)
    if opened.deflated is not None and not opened.deflated.finished:
        raise Cut("the data end inside the deflated data set")
    header = read(source, make_plan(STRUCTURE_TAGS))
    if not last:
        raise Cut("the data end before the data set")
    if pixels is not None:
        _check_pixels(header, pixels, opened.coding)
    return Whole("whole", doubt=_doubt(header, last, pixels), header=header)


def _walk(opened: Opened) -> tuple[int, Element | None]:
    """Walk the top level; return the last tag, 0 without any, and the element that holds the pixels."""
    window, pos, coding = opened.window, opened.pos, opened.coding
    walker = Walker(window, deep=True)
    pixels: Element | None = None
    last = 0
    while True:
        start = window.peek(pos, 8)
        if len(start) < 8 or start == b"\0" * 8:
            _check_padding(window, pos)
            return last, pixels
        this = element(window, pos, coding)
        walker.count()
        if this.tag in (coding.item, coding.item_end, coding.sequence_end):
            raise Malformed("an item outside of any sequence")
        last = this.tag if coding.big else swap(this.tag)
        if this.tag not in coding.pixels:
            pos = walker.value(this, coding)
            continue
        pixels = this
        if this.length == UNDEFINED:
            pos = walker.fragments(this.value, coding)
        else:
            pos = this.value + this.length
            window.reach(pos)


def _check_padding(window: Window, pos: int) -> None:
    """Accept nothing but zeros up to the end. Raises Cut for the start of an element, Malformed for more."""
    begin = pos
    while data := window.source.read(pos, LARGEST_READ):
        if data.count(0) != len(data):
            raise (
                Cut("the data end inside an element")
                if pos == begin and len(data) < 8
                else Malformed("something follows the padding at the end")
            )
        pos += len(data)


def _check_pixels(header: Header, pixels: Element, coding: Coding) -> None:
    """Compare the length of native pixels with the one announced (PS3.5 8.1). Raises Malformed when they lack some."""
    if pixels.length == UNDEFINED or header.transfer_syntax not in _NATIVE:
        return
    rows, columns, samples, bits, frames = (
        _count(header, keyword) for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames")
    )
    need = rows * columns * (samples or 1) * (frames or 1) * bits
    if header.get("PhotometricInterpretation", "").endswith("_422"):
        need = need * 2 // 3
    if pixels.length < (need + 7) // 8:
        raise Malformed("the pixel data are shorter than rows, columns and frames announce")


def _count(header: Header, keyword: str) -> int:
    try:
        return max(0, int(header.get(keyword, "").split("\\")[0]))
    except ValueError:
        return 0


def _doubt(header: Header, last: int, pixels: Element | None) -> str:
    if pixels is None and _count(header, "Rows") and _count(header, "Columns"):
        return "rows and columns are there, pixels are not"
    if pixels is None and header.sop_class.startswith(_STORAGE):
        kind = header.sop_class[len(_STORAGE) :]
        if kind in _IMAGE_CLASSES or kind.split(".")[0] in _IMAGE_FAMILIES:
            return "an image without pixels"
    if last < _SERIES and header.sop_class != _DIRECTORY:
        return "ends before the series UID"
    return ""
