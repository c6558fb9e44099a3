"""XML from the wire: no document types, no entities, bounded in size, depth and number of elements."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import ParseError, TreeBuilder

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from diana.exceptions import GatewayAnswerError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["charset_of", "children_of", "local", "namespace", "parse_xml"]

MAX_BYTES: Final = 64 << 20
MAX_DEPTH: Final = 200
MAX_ELEMENTS: Final = 2_000_000
PIECE: Final = 256 << 10

_DECLARED: Final = re.compile(rb"""\s*<\?xml[^>]*\bencoding\s*=\s*["']""")
_CHARSET: Final = re.compile(r"""charset\s*=\s*["']?([A-Za-z0-9._-]{1,40})""", re.IGNORECASE)
_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


class _TooMuch(ValueError):
    """Say which bound was exceeded."""


class _Bounded:
    """
    Build elements and count them.

    With ``at`` the finished children of that depth are handed out and forgotten, so that memory does not grow.
    """

    def __init__(self, at: int = 0) -> None:
        self._builder = TreeBuilder()
        self._depth = 0
        self._count = 0
        self._at = at
        self._path: list[Element] = []
        self.root: Element | None = None
        self.ready: list[Element] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Open an element."""
        self._depth += 1
        self._count += 1
        if self._depth > MAX_DEPTH:
            raise _TooMuch(f"elements nested more than {MAX_DEPTH} deep")
        if self._count > MAX_ELEMENTS:
            raise _TooMuch(f"more than {MAX_ELEMENTS} elements")
        element = self._builder.start(tag, attributes)
        if self.root is None:
            self.root = element
        if self._depth < self._at:
            self._path.append(element)

    def end(self, tag: str) -> None:
        """Close an element."""
        element = self._builder.end(tag)
        if self._depth == self._at:
            self.ready.append(element)
            del self._path[-1][:]
        elif self._depth < self._at:
            self._path.pop()
        self._depth -= 1

    def data(self, text: str) -> None:
        """Take text."""
        self._builder.data(text)

    def close(self) -> Element:
        """Return the root."""
        return self._builder.close()


def charset_of(headers: Mapping[str, str]) -> str:
    """Return the charset of a Content-Type, empty when it names none."""
    found = _CHARSET.search(headers.get("content-type", ""))
    return found[1] if found else ""


def _parser(target: _Bounded, start: bytes, charset: str) -> DefusedXMLParser:
    """Return a parser; the charset of the transport counts only when the document itself says nothing."""
    says = start.startswith(_MARKS) or _DECLARED.match(start) is not None
    return DefusedXMLParser(target=target, encoding=None if says or not charset else charset, forbid_dtd=True)


def _fed(pieces: Iterable[bytes], target: _Bounded, where: str, charset: str) -> Iterator[None]:
    """Feed a parser; yield after each piece. Raises GatewayAnswerError."""
    parser: DefusedXMLParser | None = None
    size = 0
    try:
        for piece in pieces:
            size += len(piece)
            if size > MAX_BYTES:
                raise _TooMuch(f"larger than {MAX_BYTES >> 20} MiB")
            if parser is None:
                parser = _parser(target, piece[:200], charset)
            for at in range(0, len(piece), PIECE):
                parser.feed(piece[at : at + PIECE])
                yield
        if parser is None:
            raise _TooMuch("empty")
        parser.close()
        yield
    except _TooMuch as error:
        raise GatewayAnswerError(f"{where}: XML that is not taken: {error}") from None
    except DefusedXmlException:
        raise GatewayAnswerError(f"{where}: XML with a document type or entities is not taken") from None
    except (ParseError, LookupError, ValueError, AssertionError):
        raise GatewayAnswerError(f"{where}: the answer is not well-formed XML") from None


def parse_xml(source: bytes | bytearray | Iterable[bytes], where: str = "XML", *, charset: str = "") -> Element:
    """
    Return the root of a document.

    ``charset`` is what the transport says; the document's own declaration goes before. Raises GatewayAnswerError for
    what is not well-formed, has a document type, or exceeds a bound.
    """
    pieces = (bytes(source),) if isinstance(source, bytes | bytearray) else source
    target = _Bounded()
    for _ in _fed(pieces, target, where, charset):
        pass
    if target.root is None:
        raise GatewayAnswerError(f"{where}: XML without a root")
    return target.root


def children_of(
    pieces: Iterable[bytes], where: str = "XML", *, root: str, charset: str = "", depth: int = 2
) -> Iterator[Element]:
    """
    Yield the elements at a depth (2: the children of the root) as they are complete, forgetting each.

    The local name of the root must be ``root``. Raises as ``parse_xml``; a document that ends early raises after the
    elements that came.
    """
    target = _Bounded(depth)
    checked = False
    for _ in _fed(pieces, target, where, charset):
        if not checked and target.root is not None:
            checked = True
            if local(target.root) != root:
                raise GatewayAnswerError(f"{where}: the answer is XML of another kind")
        ready, target.ready = target.ready, []
        yield from ready


def local(element: Element) -> str:
    """Return the name of an element without its namespace."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def namespace(element: Element) -> str:
    """Return the namespace of an element, empty when it has none."""
    return element.tag[1:].partition("}")[0] if isinstance(element.tag, str) and element.tag[:1] == "{" else ""
