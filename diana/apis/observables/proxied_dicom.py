"""A DICOM archive behind an Orthanc as a source: it is asked again and again what is new."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final  # Any: tag values, and a cursor is JSON

from attrs import define, field

from diana.apis.proxied_dicom import ProxiedDicom
from diana.apis.proxied_windows import Window, local_span, spans
from diana.exceptions import ConfigError, StateError
from diana.utils.dicom import DicomEventType, DicomLevel, Query
from diana.utils.endpoint import Event, Observable, Page
from diana.utils.endpoint.observable import Seen

log = logging.getLogger(__name__)

PAGE: Final = 500
# seconds by which local time may mislead where clocks were set back
SLACK: Final = 3700.0
EVENTS: Final = {DicomLevel.STUDIES: DicomEventType.STUDY_ADDED, DicomLevel.SERIES: DicomEventType.SERIES_ADDED}
COUNTS: Final = {
    DicomLevel.STUDIES: "NumberOfStudyRelatedInstances",
    DicomLevel.SERIES: "NumberOfSeriesRelatedInstances",
}
TOLD: Final = ("StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", *COUNTS.values())


def _nothing_seen(keys: Any) -> set[str]:
    return set()


def _level(label: DicomLevel | int | str) -> DicomLevel:
    return DicomLevel.from_label(label)


@define(eq=False)
class ObservableProxiedDicom(ProxiedDicom, Observable):
    """
    Announce studies or series (``qlevel``) whose StudyDate and StudyTime are recent.

    Every ``polling_interval`` seconds the archive is asked for what lies between the last successful look, less
    ``qperiod`` seconds, and now: after an outage of any length nothing is left out, as long as an item comes to the
    archive no later than ``qperiod`` after its StudyTime. An item that has grown, by the archive's own count, is
    announced again. ``query`` restricts what is looked for. At least the newest ``history_len`` items that were seen
    are kept with the cursor, and all that the next look can meet again.
    """

    polling_interval: float = 180.0
    _query: dict[str, Any] = field(factory=dict, converter=dict, repr=False, alias="query")
    qlevel: DicomLevel = field(default=DicomLevel.STUDIES, converter=_level)
    qperiod: float = 600
    history_len: int = 200
    name: str = field(default="ObservableProxiedDicom", kw_only=True)

    now: Callable[[], float] = field(init=False, default=time.time, repr=False)
    _seen: Seen = field(init=False, default=_nothing_seen, repr=False)
    _last: float | None = field(init=False, default=None)
    _history: dict[str, float] = field(init=False, factory=dict, repr=False)
    _found: deque[Event] = field(init=False, factory=deque, repr=False)
    _reached: float | None = field(init=False, default=None)
    _sightings: dict[str, float] = field(init=False, factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        problems = []
        if self.qlevel not in EVENTS:
            problems.append(f"{self.name}: qlevel must be studies or series")
        if not (self.qperiod > 0 and self.polling_interval > 0 and self.history_len >= 0):
            problems.append(f"{self.name}: qperiod and polling_interval must be greater than 0, history_len at least 0")
        if problems:
            raise ConfigError(problems)
        Query(self._query).check_keywords()

    def setup_query(self) -> dict[str, str]:
        """Return what is asked for at each look, before the window of time is added."""
        return {"AccessionNumber": "", COUNTS[self.qlevel]: "", **Query(self._query).wire()}

    def setup_history(self) -> None:
        """Forget what was seen and begin anew, ``qperiod`` before now."""
        self._last = self._reached = None
        self._history, self._sightings = {}, {}
        self._found.clear()

    def resume(self, cursor: Any, seen: Seen) -> None:
        """Go on after the last successful look. Raises StateError for a cursor of something else."""
        self.setup_history()
        self._seen = seen
        if cursor is not None:
            self._last, self._history = _checked(cursor, self.name)

    def changes(self) -> Page:
        """Return what is new in the archive. Raises GatewayError, and Unsupported for a query it cannot answer."""
        if not self._found:
            self._look()
        events = list(islice(self._found, PAGE))
        more = len(self._found) > len(events)
        history = {**self._history, **{event.key: self._sightings[event.key] for event in events}}
        last = self._last if more else self._reached
        return Page(events, {"last": last, "recent": history if more else self._remembered(history)}, more)

    def ack(self, page: Page) -> None:
        """Take note that the page and the cursor are durable."""
        self._last, self._history = page.cursor["last"], dict(page.cursor["recent"])
        keys = {event.key for event in page.events}
        while self._found and self._found[0].key in keys:
            self._found.popleft()

    def _look(self) -> None:
        """Ask the archive, and line up what neither the history nor the journal knows."""
        began = self.now()
        answers = {self._key(row): row for row in self._answers(began)}
        self._sightings = {key: _moment(row, began) for key, row in answers.items()}
        unknown = [key for key in answers if key not in self._history]
        known = self._seen(unknown) if unknown else set()
        self._found = deque(self._event(key, answers[key]) for key in unknown if key not in known)
        self._reached = began

    def _answers(self, began: float) -> Iterator[Mapping[str, Any]]:
        since = min(began if self._last is None else self._last, began) - self.qperiod
        for window in spans(*local_span(since, began)):
            yield from self._within(window)

    def _within(self, window: Window) -> Iterator[Mapping[str, Any]]:
        match = {**self.setup_query(), **window.keys()}
        for row in self.archive.rows(match, self.qlevel, lenient=True):
            if window.holds(row) and row.get(self.qlevel.uid_keyword):
                yield row

    def _key(self, row: Mapping[str, Any]) -> str:
        count = str(row.get(COUNTS[self.qlevel]) or "").strip()
        return f"{row[self.qlevel.uid_keyword]}:{count}" if count else str(row[self.qlevel.uid_keyword])

    def _event(self, key: str, row: Mapping[str, Any]) -> Event:
        data = {keyword: str(row[keyword]) for keyword in TOLD if row.get(keyword)}
        study = data.get("StudyInstanceUID", "")
        return Event(EVENTS[self.qlevel], data, key, self.source_id, study=study)

    def _remembered(self, history: Mapping[str, float]) -> dict[str, float]:
        """Return the sightings that the next look can meet again, and the newest others up to ``history_len``."""
        again = {**history, **self._sightings}
        horizon = (self._reached or 0.0) - self.qperiod - SLACK
        newest = sorted(again, key=again.__getitem__, reverse=True)
        kept = [key for at, key in enumerate(newest) if at < self.history_len or again[key] >= horizon]
        return {key: again[key] for key in kept}


def _moment(row: Mapping[str, Any], otherwise: float) -> float:
    """Return study date and time of an answer as seconds since 1970; ``otherwise`` when it does not tell."""
    date, clock = str(row.get("StudyDate") or ""), str(row.get("StudyTime") or "").partition(".")[0]
    try:
        return time.mktime(time.strptime(f"{date} {clock.ljust(6, '0')[:6]}", "%Y%m%d %H%M%S"))
    except (ValueError, OverflowError):
        return otherwise


def _checked(cursor: Any, name: str) -> tuple[float | None, dict[str, float]]:
    last = cursor.get("last") if isinstance(cursor, dict) else False
    recent = cursor.get("recent") if isinstance(cursor, dict) else None
    sound = last is None or (isinstance(last, int | float) and not isinstance(last, bool) and math.isfinite(last))
    if not sound or not isinstance(recent, dict) or not all(isinstance(at, int | float) for at in recent.values()):
        raise StateError(f"{name}: the saved position is not one of a polled archive")
    return None if last is None else float(last), {str(key): float(at) for key, at in recent.items()}
