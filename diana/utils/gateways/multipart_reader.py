"""The reader of multipart bodies (RFC 2046 5.1): strict, incremental, nothing searched or copied twice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from attrs import define, field, frozen

from diana.exceptions import GatewayAnswerError, GatewayConnectionError
from diana.utils.blob import Blob
from diana.utils.gateways.multipart_sink import SPILL, Sink

__all__ = ["CHUNK", "Limits", "Part", "PartReader", "Source"]

CHUNK: Final = 1 << 20
MIN_CHUNK: Final = 4 << 10
LONGEST_PADDING: Final = 256
KNOWN_HEADS: Final = 64

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105
_NAME: Final = re.compile(rf"{_TOKEN}\Z")
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_PADDING: Final = b" \t"


class Source(Protocol):
    """Give bytes: an ``Answer``, or whatever else fills a buffer and returns how much it filled, 0 at the end."""

    def read_into(self, target: memoryview) -> int:
        """Fill the start of a buffer."""


@frozen
class Limits:
    """Say what a body may hold: number of parts, bytes of the headers of one, bytes of one, bytes before the first."""

    parts: int = 100_000
    head: int = 64 << 10
    part: int | None = None
    preamble: int = 64 << 10


class Part:
    """Hold one part: its headers (names in lower case, not to be changed) and its content."""

    __slots__ = ("_content", "headers")

    def __init__(self, headers: Mapping[str, str], content: bytes | Blob) -> None:
        self.headers = headers
        self._content = content

    def __len__(self) -> int:
        return len(self._content)

    def __repr__(self) -> str:
        return f"Part({len(self._content)} bytes)"

    @property
    def content_type(self) -> str:
        """Return the media type in lower case, without parameters; empty when the part does not say."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def blob(self) -> Blob:
        """Return the content; closing the blob removes the temporary file of a large one."""
        return self._content if isinstance(self._content, Blob) else Blob(self._content)


@define(eq=False)
class PartReader:
    """
    Yield the parts of a body, one at a time; iterate once.

    A part of at most ``spill`` bytes is in memory, a larger one that does not fit the buffer of ``chunk`` bytes in a
    temporary file in ``folder``. The Content-Length
    of a part is used, and must be right. Text before the first boundary is passed over, what follows the closing one
    is not read. Raises GatewayConnectionError when the body ends before its closing boundary, GatewayAnswerError for
    what is not multipart or exceeds ``limits``, IncompleteTransfer when a temporary file cannot be written.
    """

    source: Source
    boundary: str
    where: str = ""
    spill: int = field(default=SPILL, kw_only=True)
    folder: str | None = field(default=None, kw_only=True)
    limits: Limits = field(factory=Limits, kw_only=True)
    chunk: int = field(default=CHUNK, kw_only=True)
    closed: bool = field(init=False, default=False)

    _mark: bytes = field(init=False, repr=False)
    _buf: bytearray = field(init=False, repr=False)
    _view: memoryview = field(init=False, repr=False)
    _pos: int = field(init=False, default=0, repr=False)
    _end: int = field(init=False, default=0, repr=False)
    _heads: dict[bytes, tuple[Mapping[str, str], int | None]] = field(init=False, factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        self._mark = b"\r\n--" + self.boundary.encode("ascii")
        # headers must fit beside what is still to be looked at
        self._buf = bytearray(max(self.chunk, 4 * self.limits.head, MIN_CHUNK))
        self._view = memoryview(self._buf)
        # a boundary may open the body: it counts as the start of a line
        self._buf[:2] = b"\r\n"
        self._end = 2

    def __iter__(self) -> Iterator[Part]:
        self._skip_preamble()
        buf, view, mark, heads, limit = self._buf, self._view, self._mark, self._heads, self.limits.part
        line, count = mark + b"\r\n", 0
        while not self.closed:
            count += 1
            if count > self.limits.parts:
                raise self._bad(f"has more than {self.limits.parts} parts")
            # _pos is at the end of a boundary's line, which begins an empty line when there are no headers
            begin = self._pos
            blank = buf.find(b"\r\n\r\n", begin, self._end)
            if blank < 0:
                blank = self._blank_line()
                begin = self._pos
            head = bytes(view[begin + 2 : blank])
            headers, length = heads.get(head) or self._parse(head)
            self._pos = body = blank + 4
            if length is None:
                after = buf.find(mark, blank + 2, self._end)
                stop = after + len(mark)
                if after < body or buf[stop : stop + 2] != b"\r\n" or stop + 2 > self._end or limit is not None:
                    yield Part(headers, self._searched())
                else:
                    self._pos = stop
                    yield Part(headers, bytes(view[body:after]))
                continue
            after = body + length
            stop = after + len(mark)
            if stop + 2 <= self._end:
                if buf[after : stop + 2] == line:
                    self._pos = stop
                    yield Part(headers, bytes(view[body:after]))
                    continue
                content: bytes | Blob = bytes(view[body:after])
                self._pos = after
            else:
                content = self._measured(length)
            try:
                self._expect_mark()
            except BaseException:
                _discard(content)
                raise
            yield Part(headers, content)

    def _bad(self, what: str) -> GatewayAnswerError:
        return GatewayAnswerError(f"{self.where}: the multipart answer {what}")

    def _more(self) -> None:
        """Receive behind what is buffered, which is moved to the front only when there is no room behind it."""
        if self._pos and self._end + len(self._buf) // 4 > len(self._buf):
            left = self._end - self._pos
            self._view[:left] = self._view[self._pos : self._end]
            self._pos, self._end = 0, left
        count = self.source.read_into(self._view[self._end :])
        if not count:
            raise GatewayConnectionError(f"{self.where}: the answer ended early, before its closing boundary")
        self._end += count

    def _skip_preamble(self) -> None:
        skipped = 0
        while True:
            found = self._find(self._pos)
            safe = found if found >= 0 else self._safe_end()
            skipped += safe - self._pos
            if skipped > self.limits.preamble:
                raise self._bad("does not begin with its boundary")
            self._pos = safe
            if found >= 0:
                self._pass(found)
                break
            self._more()
        if self.closed:
            raise self._bad("has no parts")

    def _safe_end(self) -> int:
        """Return up to where the buffer surely holds no start of a boundary, which was not found in it."""
        at = max(self._pos, self._end - len(self._mark) + 1)
        low = max(self._pos, self._end - len(self._mark) - LONGEST_PADDING - 4)
        candidate = self._buf.rfind(self._mark, low, self._end)
        return min(at, candidate) if candidate >= 0 and self._tail(candidate) is None else at

    def _tail(self, at: int) -> bool | None:
        """Tell whether a boundary's text is followed by what ends its line; None when that is not here yet."""
        after = at + len(self._mark)
        two = bytes(self._view[after : min(after + 2, self._end)])
        if two in (b"\r\n", b"--"):
            return True
        if len(two) < 2 and two in (b"", b"\r", b"-"):
            return None
        last = min(after + LONGEST_PADDING, self._end)
        rest = bytes(self._view[after:last]).lstrip(_PADDING)
        if rest[:2] == b"\r\n":
            return True
        return None if last == self._end and rest in (b"", b"\r") and last - after < LONGEST_PADDING else False

    def _find(self, start: int) -> int:
        """Return where a boundary begins, -1 when none is complete in the buffer."""
        while True:
            at = self._buf.find(self._mark, start, self._end)
            if at < 0:
                return -1
            true = self._tail(at)
            if true is not False:
                return at if true else -1
            start = at + 2

    def _pass(self, at: int) -> None:
        """Go behind a boundary that begins at a place."""
        after = at + len(self._mark)
        if self._buf[after : after + 2] == b"--":
            self.closed = True
            self._pos = after + 2
        else:
            self._pos = self._buf.index(b"\r\n", after)

    def _expect_mark(self) -> None:
        """Go behind the boundary that must begin here. Raises GatewayAnswerError when none does."""
        while True:
            here = self._buf[self._pos : min(self._pos + len(self._mark), self._end)]
            if not self._mark.startswith(here):
                raise self._bad("has a part that is not as long as its Content-Length says")
            true = self._tail(self._pos) if len(here) == len(self._mark) else None
            if true:
                self._pass(self._pos)
                return
            if true is False:
                raise self._bad("has a part that is not as long as its Content-Length says")
            self._more()

    def _blank_line(self) -> int:
        """Return where the headers end, receiving as much as that takes."""
        search = self._pos
        while True:
            found = self._buf.find(b"\r\n\r\n", search, self._end)
            if found >= 0:
                return found
            if self._end - self._pos > self.limits.head:
                raise self._bad("has a part whose headers do not end")
            search, before = max(self._pos, self._end - 3), self._pos
            self._more()
            search += self._pos - before

    def _parse(self, head: bytes) -> tuple[Mapping[str, str], int | None]:
        """Return the headers of a part and its Content-Length; the same bytes are parsed once."""
        if not head:
            return _NO_HEADERS, None
        if len(head) > self.limits.head:
            raise self._bad("has a part with too many headers")
        found: dict[str, str] = {}
        for line in re.sub(r"\r\n[ \t]+", " ", head.decode("latin-1")).split("\r\n"):
            name, colon, value = line.partition(":")
            name, value = name.strip().lower(), value.strip(" \t")
            if not colon or not _NAME.match(name) or (name in found and found[name] != value):
                raise self._bad("has a part with damaged headers")
            found[name] = value
        parsed = MappingProxyType(found), self._length(found)
        if len(self._heads) < KNOWN_HEADS:
            self._heads[head] = parsed
        return parsed

    def _length(self, headers: Mapping[str, str]) -> int | None:
        coding = headers.get("content-transfer-encoding", "binary").lower()
        if coding not in ("binary", "8bit", "7bit") or headers.get("content-encoding", "identity") != "identity":
            raise self._bad("has a part in an encoding that nobody asked for")
        text = headers.get("content-length")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise self._bad("has a part whose length is no number")
        length = int(text)
        if self.limits.part is not None and length > self.limits.part:
            raise self._bad("has a part that is too large")
        return length

    def _searched(self) -> bytes | Blob:
        """Return the content up to the next boundary; the line end before an empty content may be the boundary's."""
        search = self._pos - 2
        sink: Sink | None = None
        try:
            while True:
                found = self._find(search)
                if found >= 0:
                    piece = self._view[self._pos : max(found, self._pos)]
                    if sink is None:
                        content: bytes | Blob = bytes(piece)
                    else:
                        sink.write(piece)
                        content = sink.finish()
                    self._check_size(len(content))
                    self._pass(found)
                    return content
                safe = self._safe_end()
                if safe > self._pos:
                    sink = sink or Sink(self.spill, self.folder, self.where)
                    sink.write(self._view[self._pos : safe])
                    self._check_size(len(sink))
                    self._pos = safe
                self._more()
                search = self._pos if sink is not None else max(self._pos - 2, 0)
        except BaseException:
            if sink is not None:
                sink.discard()
            raise

    def _check_size(self, size: int) -> None:
        if self.limits.part is not None and size > self.limits.part:
            raise self._bad("has a part that is too large")

    def _measured(self, length: int) -> bytes | Blob:
        """Return a content of known length, of which the buffer does not hold all or not what follows it."""
        here = min(length, self._end - self._pos)
        ready = self._view[self._pos : self._pos + here]
        self._pos += here
        if length <= self.spill:
            whole = bytearray(length)
            whole[:here] = ready
            target = memoryview(whole)
            while here < length:
                here += self._read_into(target[here:])
            return bytes(whole)
        sink = Sink(self.spill, self.folder, self.where)
        try:
            sink.write(ready)
            while here < length:
                count = self._read_into(self._view[: length - here])
                sink.write(self._view[:count])
                here += count
            return sink.finish()
        except BaseException:
            sink.discard()
            raise

    def _read_into(self, target: memoryview) -> int:
        """Receive past the buffer, which is empty."""
        self._pos = self._end = 0
        count = self.source.read_into(target)
        if not count:
            raise GatewayConnectionError(f"{self.where}: the answer ended early, inside a part")
        return count


def _discard(content: bytes | Blob) -> None:
    if isinstance(content, Blob):
        content.close()
