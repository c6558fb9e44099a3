"""The texts that an output still holds, for a person to look over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from attrs import define, field

from diana.exceptions import InvalidItem
from diana.utils.dicom.dictionary import keyword_of
from diana.utils.lazy import parent_first

if TYPE_CHECKING:
    from diana.deid.raw import Nodes
    from diana.utils.blob import Blob

TEXT: Final = frozenset(("AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT", ""))
MADE: Final = frozenset((0x00100010, 0x00100020))  # the pseudonym, another for each patient
CHARACTER_SET: Final = 0x00080005
LONGEST: Final = 4000
REMEMBERED: Final = 500_000


@define
class Review:
    """Find the texts in outputs that were not in those before."""

    _seen: set[tuple[tuple[int, ...], bytes]] = field(init=False, factory=set)

    def novel(self, blob: Blob) -> list[tuple[str, str]]:
        """
        Return (attribute, text) for each new value of a text VR, at every depth.

        Left out are UIDs, numbers, dates and the pseudonym; long texts are cut. An attribute is named by keywords
        joined by dots, private ones by tag. Raises InvalidItem for what cannot be read.
        """
        from diana.deid.source import open_blob

        opened = open_blob(blob)
        try:
            charset = next((node.content() for node in opened.nodes if node.tag == CHARACTER_SET), b"")
            found = [(".".join(map(_name, path)), _decoded(raw, charset)) for path, raw in self._walk(opened.nodes, ())]
        finally:
            opened.reader.close()
        return [(name, text) for name, text in found if text]

    def _walk(self, nodes: Nodes, above: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], bytes]]:
        for node in nodes:
            if node.items is not None:
                for item in node.items:
                    yield from self._walk(item.nodes, (*above, node.tag))
            elif node.vr in TEXT and (above or node.tag not in MADE):
                key = ((*above, node.tag), node.content()[:LONGEST])
                if key[1] and key not in self._seen:
                    if len(self._seen) >= REMEMBERED:
                        self._seen.clear()
                    self._seen.add(key)
                    yield key


def _decoded(raw: bytes, charset: bytes) -> str:
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii").strip(" \0")
    parent_first("pydicom")
    from pydicom.charset import convert_encodings, decode_bytes

    try:
        names = convert_encodings([one.strip() for one in charset.decode("ascii").split("\\")])
        return str(decode_bytes(raw, names, set(b"\\^=\r\n\f\t"))).strip(" \0")
    except Exception as error:  # noqa: BLE001  # pydicom raises any type for what it cannot decode
        raise InvalidItem(f"a text of the output cannot be decoded ({type(error).__name__})") from None


def _name(tag: int) -> str:
    return ("" if tag >> 16 & 1 else keyword_of(tag)) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
