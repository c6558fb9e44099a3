"""The audit: one JSON line for each thing done, chained by hashes, without original values."""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO  # records are JSON

from attrs import field, frozen

from diana.exceptions import StateError, StateUnavailable
from diana.utils.files import make_private

if TYPE_CHECKING:
    from diana.deid.key import Key

BEGIN = "0" * 64
MAX_LINE = 4 << 20
TAIL = 64 << 10


@frozen
class Verdict:
    """
    Say whether an audit is what was written.

    ``records`` counts the lines that are well; ``problem`` names the first that is not. ``head`` is the hash of the
    last record: who keeps it elsewhere can tell that the end was not cut off.
    """

    records: int
    problem: str = ""
    head: str = BEGIN

    @property
    def ok(self) -> bool:
        """Tell whether nothing was changed."""
        return not self.problem


@frozen
class Audit:
    """
    Append records to a file and check them.

    Each line holds its number ``n``, the Unix time ``at``, the record, ``prev`` (the hash of the line before) and
    ``hash``. With a ``key`` each batch ends in a ``seal``, which nobody can make again without the key. Many processes
    may write to one file. The file has mode 0600.
    """

    path: Path = field(converter=Path)
    key: Key | None = field(default=None, repr=False)

    def add(self, *records: Mapping[str, Any]) -> str:
        """
        Append records durably and return the hash of the last.

        What a killed writer left of an unfinished line is removed. Raises StateUnavailable when the disk takes nothing,
        StateError for a file that is not an audit.
        """
        if not records:
            return self._head()
        try:
            make_private(self.path.parent)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(handle, "r+b") as stream:
                fcntl.flock(handle, fcntl.LOCK_EX)
                number, prev, end = _last(stream)
                lines, head = self._chained(records, number, prev)
                stream.seek(end)
                stream.truncate()
                stream.write(b"".join(lines))
                stream.flush()
                os.fsync(handle)
                return head
        except OSError as error:
            raise StateUnavailable(f"the audit cannot be written: {error.strerror}") from None

    def verify(self, head: str = "") -> Verdict:
        """
        Return whether the chain holds, else the record at which it breaks.

        With the key the seals are checked too; with ``head`` that the audit still contains this hash, so that its end
        was not cut off. Raises StateError when there is no audit.
        """
        prev, count, seen, sealed = BEGIN, 0, not head or head == BEGIN, 0
        for number, line in self._lines():
            problem = self._problem(number, line, prev)
            if problem:
                return Verdict(count, problem, prev)
            record = json.loads(line)
            prev, count = record["hash"], number
            seen = seen or prev == head
            sealed = number if "seal" in record else sealed
        if not seen:
            return Verdict(count, f"the record with the hash {head[:16]} is gone: the end was cut off", prev)
        if self.key is not None and sealed < count:
            return Verdict(count, f"record {count} has no seal", prev)
        return Verdict(count, "", prev)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records, oldest first, without checking them. Raises StateError for a line that is not JSON."""
        for number, line in self._lines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise StateError(f"record {number} of the audit is damaged") from None
            yield record

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with self.path.open("rb") as stream:
                number = 0
                while line := stream.readline(MAX_LINE):
                    number += 1
                    yield number, line
        except OSError as error:
            raise StateError(f"the audit cannot be read: {error.strerror}") from None

    def _chained(self, records: Sequence[Mapping[str, Any]], number: int, prev: str) -> tuple[list[bytes], str]:
        lines: list[bytes] = []
        for at, record in enumerate(records, 1):
            body: dict[str, Any] = {"n": number + at, "at": round(time.time(), 3), **record}
            if self.key is not None and at == len(records):
                body["seal"] = ""
                body["seal"] = self._seal(_text(body, prev))
            text = _text(body, prev)
            prev = sha256(text.encode()).hexdigest()
            lines.append(f'{text[:-1]},"hash":"{prev}"}}\n'.encode())
        return lines, prev

    def _seal(self, text: str) -> str:
        return "" if self.key is None else self.key.mac("audit", text).hex()[:32]

    def _problem(self, number: int, line: bytes, prev: str) -> str:
        """Return what is wrong with a line, or nothing."""
        if not line.endswith(b"\n"):
            return f"record {number} is cut"
        try:
            record = json.loads(line)
            body, found = {key: value for key, value in record.items() if key != "hash"}, record["hash"]
            own, claimed = record["n"], body.pop("prev")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return f"record {number} was edited: it is no record"
        text = _text(body, claimed)
        if found != sha256(text.encode()).hexdigest() or line != f'{text[:-1]},"hash":"{found}"}}\n'.encode():
            return f"record {number} was edited"
        if claimed != prev or own != number:
            return f"before record {number} records were removed, added or moved"
        if "seal" in body and self.key is not None and not self._is_sealed(body, prev):
            return f"record {number} was edited: its seal is of no known key"
        return ""

    def _is_sealed(self, body: dict[str, Any], prev: str) -> bool:
        if self.key is None:
            return True
        text = _text({**body, "seal": ""}, prev)
        seals = [one.mac("audit", text).hex()[:32] for one in (self.key, *self.key.before())]
        return any(hmac.compare_digest(one, str(body["seal"])) for one in seals)

    def _head(self) -> str:
        if not self.path.exists():
            return BEGIN
        with self.path.open("rb") as stream:
            return _last(stream)[1]


def _text(body: Mapping[str, Any], prev: str) -> str:
    return json.dumps({**body, "prev": prev}, separators=(",", ":"))


def _last(stream: BinaryIO) -> tuple[int, str, int]:
    """Return number and hash of the last whole record, and where it ends."""
    size = stream.seek(0, os.SEEK_END)
    if not size:
        return 0, BEGIN, 0
    window = TAIL
    while True:
        begin = max(0, size - window)
        stream.seek(begin)
        tail = stream.read(size - begin)
        end = tail.rfind(b"\n")
        start = tail.rfind(b"\n", 0, end) + 1 if end >= 0 else 0
        if start or not begin or window > MAX_LINE:
            break
        window *= 4
    if end < 0:
        if begin:
            raise StateError("the file is no audit")
        return 0, BEGIN, 0
    try:
        record = json.loads(tail[start : end + 1])
        return int(record["n"]), str(record["hash"]), begin + end + 1
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StateError("the last record of the audit is damaged; verify it") from None
