"""An Orthanc that tells what is new."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Final  # Any: JSON

from attrs import define, evolve, field, frozen

from diana.apis.orthanc import Orthanc
from diana.exceptions import GatewayAnswerError, GatewayError, StateError
from diana.utils.dicom import DicomEventType
from diana.utils.dicom.ref import OID_PATTERN
from diana.utils.endpoint.observable import Event, Observable, Page, Seen
from diana.utils.files import whole_file

log = logging.getLogger(__name__)

PAGE: Final = 1000
NOW: Final = -1
MAX_STATE: Final = 4096
MAX_ANCHORED: Final = 64
MAX_SEQ: Final = 2**63 - 1

EVENTS: Final[Mapping[str, DicomEventType]] = {
    "NewInstance": DicomEventType.INSTANCE_ADDED,
    "StableSeries": DicomEventType.SERIES_ADDED,
    "StableStudy": DicomEventType.STUDY_ADDED,
    "NewPatient": DicomEventType.PATIENT_ADDED,
}


def _as_text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


@frozen
class Position:
    """
    Say how far a log of changes was read.

    ``generation`` counts the databases seen at this source; ``anchor`` is the id of change number ``last``, by which a
    database is recognized.
    """

    last: int = 0
    generation: int = 1
    anchor: str = ""

    @classmethod
    def from_json(cls, data: Any, name: str) -> Position:
        """Return the position that JSON holds. Raises StateError."""
        try:
            found = cls(data["last"], data["generation"], data["anchor"])
        except (TypeError, KeyError, IndexError):
            raise StateError(f"{name}: the saved position is damaged or of another kind of source") from None
        numbers = (found.last, found.generation)
        if not all(type(one) is int and one >= 0 for one in numbers) or not isinstance(found.anchor, str):
            raise StateError(f"{name}: the saved position is damaged")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the position as JSON."""
        return {"last": self.last, "generation": self.generation, "anchor": self.anchor}


@define(eq=False)
class ObservableOrthanc(Orthanc, Observable):
    """
    Read Orthanc's log of changes: new instances and patients, stable series and studies.

    The first start tells the whole history, or what came after change ``start_from_change`` (0: all, -1: only what
    comes from now on). Later starts go on from the Watcher's journal; only without a journal is ``persist_file`` used.
    A database that was replaced by another one is noticed by its change numbers, said as a WARNING, and read from the
    start. An event's data is ``{"oid": ...}``; stable series and studies may be announced again when they grow.
    """

    shortest_pause: ClassVar[float | None] = 0.01

    polling_interval: float = field(default=1.0, converter=float)
    start_from_change: int | None = None
    persist_file: str | None = field(default=None, converter=_as_text)
    name: str = field(default="ObsOrthanc", kw_only=True)
    _at: Position | None = field(init=False, default=None, repr=False)
    _unsaved: bool = field(init=False, default=False, repr=False)
    _doubtful: bool = field(init=False, default=False, repr=False)
    _stuck: int = field(init=False, default=0, repr=False)

    def resume(self, cursor: Any, seen: Seen) -> None:
        """Go on from a saved cursor. Raises StateError when it is none of this kind of source."""
        if cursor is None:
            self.set_current_change()
        else:
            self._at = Position.from_json(cursor, self.name)
            self._doubtful = True

    def changes(self) -> Page:  # type: ignore[override]  # the endpoint's own verb gives the server's raw page
        """
        Return at most a page of events after the last acknowledged position, in one request.

        Raises GatewayError; GatewayAnswerError also for a log that says there is more and does not give it.
        """
        at = self._position()
        try:
            if self._doubtful and not self._is_same_database(at):
                return self._restart(at)
            self._doubtful = False
            found = self.gateway.changes(at.last, PAGE)
        except GatewayError:
            self._doubtful = True
            raise
        rows, done = found["Changes"], bool(found.get("Done"))
        if not rows:
            if found["Last"] < at.last:
                return self._restart(at)
            return self._without_rows(at, done)
        self._stuck = 0
        last, anchor = self._checked(rows, at.last)
        events = [event for row in rows if (event := self._event(row, at.generation)) is not None]
        return Page(events, evolve(at, last=last, anchor=anchor).to_json(), more=not done)

    def _without_rows(self, at: Position, done: bool) -> Page:
        self._stuck = 0 if done else self._stuck + 1
        if self._stuck > 1:
            raise GatewayAnswerError(f"{self.name}: the log of changes claims more and gives nothing")
        # a start is kept at once, so that a restart before the first event does not begin anew
        return Page([], at.to_json() if self._unsaved else None)

    def _is_same_database(self, at: Position) -> bool:
        """Tell whether the change that was read last is still the same one; a deleted one tells nothing."""
        if not at.anchor or not at.last:
            return True
        rows = self.gateway.changes(at.last - 1, 1)["Changes"]
        first = rows[0] if rows and isinstance(rows[0], dict) else {}
        return first.get("Seq") != at.last or str(first.get("ID"))[:MAX_ANCHORED] == at.anchor

    def _restart(self, at: Position) -> Page:
        log.warning("%s: another database answers than before; its whole log is read again", self.name)
        self._doubtful = False
        return Page([], Position(0, at.generation + 1).to_json(), more=True)

    def _checked(self, rows: list[Any], since: int) -> tuple[int, str]:
        """Return number and id of the last change. Raises GatewayAnswerError when the rows are no rising changes."""
        last = since
        if len(rows) > PAGE:
            raise GatewayAnswerError(f"{self.name}: the log of changes gives more than was asked for")
        for row in rows:
            number, oid = (row.get("Seq"), row.get("ID")) if isinstance(row, dict) else (None, None)
            known = type(number) is int and isinstance(oid, str) and OID_PATTERN.match(oid) is not None
            if not known or not last < int(number or 0) <= MAX_SEQ:
                raise GatewayAnswerError(f"{self.name}: the log of changes is out of order")
            last = int(number or 0)
        return last, str(rows[-1]["ID"])[:MAX_ANCHORED]

    @staticmethod
    def _event(row: Mapping[str, Any], generation: int) -> Event | None:
        kind = EVENTS.get(str(row.get("ChangeType")))
        if kind is None:
            return None
        oid = row["ID"]
        study = oid if kind == DicomEventType.STUDY_ADDED else ""
        return Event(kind, {"oid": oid}, key=f"{generation}:{row['Seq']}:{oid[:8]}", source_id="", study=study)

    def ack(self, page: Page) -> None:
        """Take note that a page is durable; the next look goes on after it."""
        if page.cursor is not None:
            self._at = Position.from_json(page.cursor, self.name)
            self._unsaved = False
            if self.persist_file is not None:
                self.persist_current_change()

    def _position(self) -> Position:
        if self._at is None:
            self.set_current_change()
        return self._at or Position()

    def set_current_change(self, number: int | None = None) -> int:
        """
        Go to a change number and return it.

        None: where a first start begins, which is ``start_from_change``, else what ``persist_file`` holds, else 0.
        Raises StateError when that file is damaged.
        """
        wanted = self.start_from_change if number is None else number
        self._unsaved = True
        if wanted is None:
            self._at = self._read_file() or Position()
            self._doubtful = bool(self._at.last)
        else:
            self._at = Position(self.gateway.last_change() if wanted == NOW else max(wanted, 0))
        return self._at.last

    def set_persist_file(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Choose the file that keeps the position; None: one of this source in the user's state folder."""
        if path is None:
            home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
            digest = sha256(f"{self.gateway.http.base_url} {self.name}".encode()).hexdigest()
            path = Path(home, "diana", f"changes-{digest[:16]}.json")
        self.persist_file = os.fspath(path)
        return Path(self.persist_file)

    def persist_current_change(self) -> None:
        """Write the acknowledged position to ``persist_file``, whole or not at all. Raises StateError."""
        path = Path(self.persist_file) if self.persist_file is not None else self.set_persist_file()
        text = json.dumps(self._position().to_json(), sort_keys=True)
        try:
            with whole_file(path) as out:
                out.write(json.dumps({"position": text, "sha256": sha256(text.encode()).hexdigest()}).encode())
        except OSError as error:
            raise StateError(f"{self.name}: cannot write the position ({error.strerror})") from None

    def persist_last_change(self) -> None:
        """Skip everything up to the newest change, and write that position."""
        self.set_current_change(NOW)
        self.persist_current_change()

    def _read_file(self) -> Position | None:
        """Return the position of ``persist_file``, None when there is no such file. Raises StateError."""
        if self.persist_file is None:
            return None
        try:
            with open(self.persist_file, "rb") as stream:
                data = json.loads(stream.read(MAX_STATE))
            text, digest = data["position"], data["sha256"]
            if sha256(text.encode()).hexdigest() != digest:
                raise ValueError
            return Position.from_json(json.loads(text), self.name)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise StateError(f"{self.name}: the file of the position is damaged") from None
