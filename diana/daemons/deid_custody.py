"""What the custodian keeps of a batch de-identification: crosswalk, review list, audit, quarantine."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any  # records are JSON

from attrs import define, field, frozen

from diana.daemons.deid_work import Done
from diana.deid.audit import Audit
from diana.exceptions import ConfigError, StateError, StateUnavailable
from diana.utils.files import make_private

CROSSWALK = "crosswalk.jsonl"
REVIEW = "review.csv"


@frozen
class Places:
    """Name the custodian's folder, the audit and the quarantine; all lie outside of what is handed out."""

    custody: Path
    audit: Path
    quarantine: Path

    @staticmethod
    def below(custody: Path, audit: Path | None = None, quarantine: Path | None = None) -> Places:
        """Return the usual places in a folder, or others where they are given."""
        return Places(custody, audit or custody / "audit.jsonl", quarantine or custody / "quarantine")

    def check(self, out: Path, others: Mapping[str, Path | None]) -> None:
        """Raise ConfigError with each thing that is secret and lies in the output folder."""
        named = {"custody": self.custody, "audit": self.audit, "quarantine": self.quarantine, **others}
        base = _resolved(out)
        inside = [what for what, path in named.items() if path is not None and _resolved(path).is_relative_to(base)]
        if inside:
            raise ConfigError([f"the {what} must not lie in the output folder" for what in inside])


@frozen
class Known:
    """Say how an object ended in an earlier run."""

    run: str
    state: str
    out: str
    size: int


@define(eq=False)
class Custody:
    """
    Keep the records of runs in one folder, for one run at a time.

    Each object gets a line in the crosswalk (its source, its old and new ids) and one in the audit (no original value);
    distinct texts that outputs hold go to the review list. What is entered is durable.
    """

    places: Places
    audit: Audit
    known: dict[str, Known] = field(init=False, factory=dict)
    _texts: set[tuple[str, str]] = field(init=False, factory=set)
    _lock: int | None = field(init=False, default=None)

    def open(self) -> None:
        """Read what earlier runs left. Raises StateError when another run is at work here, or the files are damaged."""
        try:
            make_private(self.places.custody)
            handle = os.open(self.places.custody / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"the custodian's folder cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise StateError("another run uses the same custodian's folder") from None
        self._lock = handle
        for row in self._rows():
            uid = row["out"]
            self.known[row["item"]] = Known(row["run"], row["state"], uid, int(row["size"]))
        self._texts = set(self._reviewed())

    @property
    def private(self) -> list[int]:
        """Return the descriptors that other processes must not hold on to."""
        return [] if self._lock is None else [self._lock]

    def close(self) -> None:
        """Let another run use the folder; twice does no harm."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def enter(self, run: str, batch: Sequence[Done]) -> None:
        """Write down how objects ended. Raises StateUnavailable when the disk takes nothing."""
        if not batch:
            return
        rows = [_crosswalk_row(run, one) for one in batch]
        fresh = list(dict.fromkeys(pair for one in batch for pair in one.strings if pair not in self._texts))
        try:
            if fresh:
                _append(self.places.custody / REVIEW, _csv(fresh), head=_csv([("attribute", "text")]))
                self._texts.update(fresh)
            self.audit.add(*(one.record for one in batch))
            # last, because it decides whether an object is done
            _append(self.places.custody / CROSSWALK, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
        except OSError as error:
            raise StateUnavailable(f"the custodian's folder cannot be written: {error.strerror}") from None
        for one in batch:
            self.known[one.item] = Known(run, one.state, one.out, one.size)

    def _rows(self) -> Iterator[dict[str, Any]]:
        path = self.places.custody / CROSSWALK
        if not path.exists():
            return
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict) or not {"item", "run", "state", "out", "size"} <= row.keys():
                        raise ValueError
                except ValueError:
                    if not line.endswith(b"\n"):
                        return  # a killed run was writing it
                    raise StateError(f"line {number} of the crosswalk is damaged") from None
                yield row

    def _reviewed(self) -> Iterator[tuple[str, str]]:
        path = self.places.custody / REVIEW
        if path.exists():
            with path.open(newline="", encoding="utf-8", errors="surrogatepass") as stream:
                for row in csv.reader(stream):
                    if len(row) == 2:
                        yield row[0], row[1]


def _crosswalk_row(run: str, one: Done) -> dict[str, Any]:
    issuer, patient, *uids = one.ids or ("",) * 5
    return {
        "item": one.item,
        "run": run,
        "state": one.state,
        "reason": one.reason,
        "out": one.out,
        "size": one.size,
        "source": one.source,
        "issuer": issuer,
        "patient_id": patient,
        "uids": uids,
    }


def _append(path: Path, data: bytes, head: bytes = b"") -> None:
    """Append to a file of mode 0600, durably; an unfinished last line is removed first."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(handle, "r+b") as stream:
        end = _end_of_lines(stream)
        stream.seek(end)
        stream.truncate()
        stream.write(data if end else head + data)
        stream.flush()
        os.fsync(handle)


def _end_of_lines(stream: Any) -> int:
    end = int(stream.seek(0, os.SEEK_END))
    while end:
        begin = max(0, end - 65536)
        stream.seek(begin)
        at = stream.read(end - begin).rfind(b"\n")
        if at >= 0:
            return begin + int(at) + 1
        end = begin
    return 0


def _csv(rows: Sequence[tuple[str, str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))
