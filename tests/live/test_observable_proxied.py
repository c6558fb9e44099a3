"""ObservableProxiedDicom tells every recent study of a real archive once, over midnight, outages and restarts."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from diana.apis import ObservableProxiedDicom
from diana.exceptions import ConfigError, GatewayConnectionError, StateError, Unsupported
from diana.utils.dicom import DicomEventType, DicomLevel
from diana.utils.endpoint import Page
from diana.utils.gateways import dimse
from tests.contract import samples
from tests.live.test_proxied_dicom import Site
from tests.planted import assert_nothing_planted
from tests.servers import ServerPool

DAYS = itertools.count()


class Clock:
    """A clock that the test sets; every test has days of its own."""

    def __init__(self) -> None:
        self.day = dt.date(1990, 3, 1) + dt.timedelta(days=4 * next(DAYS))
        self.time = "12:00:00"

    def set(self, time: str, days: int = 0) -> None:
        self.time = time
        self.moment = dt.datetime.combine(self.day + dt.timedelta(days=days), dt.time.fromisoformat(time))

    def __call__(self) -> float:
        return self.moment.timestamp()

    def tags(self, time: str, days: int = 0) -> dict[str, str]:
        return {"StudyDate": f"{self.day + dt.timedelta(days=days):%Y%m%d}", "StudyTime": time.replace(":", "")}


@pytest.fixture(scope="module", params=["dcmqrscp", "orthanc"])
def pair(request: pytest.FixtureRequest, server_pool: ServerPool) -> Iterator[Site]:
    near = server_pool.orthanc(aet="NEAR")
    if request.param == "dcmqrscp":
        small = server_pool.dcmqrscp(peers={"NEAR": ("127.0.0.1", near.dicom_port)})
        near.add_modality("archive", small.aet, small.port)
        yield Site(near, small)
        small.stop()
    else:
        far = server_pool.orthanc(aet="FAR")
        far.add_modality("NEAR", "NEAR", near.dicom_port)
        near.add_modality("archive", far.aet, far.dicom_port)
        yield Site(near, far)
        far.stop()
    near.stop()


class Life:
    """An observable with a journal that survives it."""

    def __init__(self, site: Site, clock: Clock) -> None:
        self.site, self.clock = site, clock
        self.cursor: Any = None
        self.journal: set[str] = set()
        self.made: list[ObservableProxiedDicom] = []

    def observable(self, *, journal: bool = True, **options: Any) -> ObservableProxiedDicom:
        near = self.site.near
        desc = {"host": "127.0.0.1", "port": near.http_port, "user": near.user, "password": near.password}
        found = ObservableProxiedDicom(desc, "archive", **options)
        found.now = self.clock
        found.resume(self.cursor, lambda keys: self.journal & set(keys) if journal else set())
        self.made.append(found)
        return found

    def look(self, observable: ObservableProxiedDicom) -> list[str]:
        """Let it look, keep what it found, and return the studies it told."""
        told: list[str] = []
        more = True
        while more:
            page = observable.changes()
            self.cursor = json.loads(json.dumps(page.cursor))
            self.journal |= {event.key for event in page.events}
            observable.ack(page)
            told += [event.study for event in page.events]
            more = page.more
        return told


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def life(pair: Site, clock: Clock) -> Iterator[Life]:
    pair.far.start()
    found = Life(pair, clock)
    yield found
    for one in found.made:
        one.close()


def uid(number: int) -> str:
    return samples.uid(number + 1)


def test_a_new_study_is_told_once(life: Life, clock: Clock) -> None:
    clock.set("10:00:00")
    observable = life.observable()
    assert life.look(observable) == []
    number = life.site.fill(**clock.tags("10:01:00"))
    life.site.fill(**clock.tags("07:01:00"))
    clock.set("10:03:00")
    assert life.look(observable) == [uid(number)]
    clock.set("10:06:00")
    assert life.look(observable) == []


def test_an_event_tells_identifiers_and_no_more(life: Life, clock: Clock) -> None:
    clock.set("10:00:00")
    observable = life.observable()
    number = life.site.fill(**clock.tags("09:59:00"))
    [event] = observable.changes().events
    assert event.evtype is DicomEventType.STUDY_ADDED
    assert event.ref.study == uid(number)
    assert set(event.data) <= {"StudyInstanceUID", "AccessionNumber", "NumberOfStudyRelatedInstances"}
    assert event.key.startswith(uid(number))
    assert observable.exists(event.ref)
    assert len(list(observable.pull(event.ref))) == 1


def test_what_is_not_acknowledged_is_told_again(life: Life, clock: Clock) -> None:
    clock.set("10:00:00")
    observable = life.observable()
    life.site.fill(**clock.tags("09:59:00"))
    first, second = observable.changes(), observable.changes()
    assert [event.key for event in first.events] == [event.key for event in second.events] != []


def test_nothing_is_lost_over_midnight(life: Life, clock: Clock) -> None:
    clock.set("23:57:00")
    observable = life.observable(qperiod=60)
    life.look(observable)
    before = life.site.fill(**clock.tags("23:59:59.7"))
    after = life.site.fill(**clock.tags("00:00:00", 1))
    later = life.site.fill(**clock.tags("00:02:30", 1))
    clock.set("00:03:00", 1)
    assert set(life.look(observable)) == {uid(before), uid(after), uid(later)}
    clock.set("00:06:00", 1)
    assert life.look(observable) == []


def test_an_outage_of_three_hours_loses_nothing(life: Life, clock: Clock) -> None:
    clock.set("10:00:00")
    observable = life.observable()
    life.look(observable)
    numbers = [life.site.fill(**clock.tags(time)) for time in ("10:05:00", "11:30:00", "12:59:00")]
    life.site.far.stop()
    for time in ("10:03:00", "11:00:00", "12:00:00"):
        clock.set(time)
        with pytest.raises(GatewayConnectionError):
            observable.changes()
    life.site.far.start()
    clock.set("13:05:00")
    assert set(life.look(observable)) == {uid(number) for number in numbers}


def test_an_outage_of_three_days_loses_nothing(life: Life, clock: Clock) -> None:
    clock.set("10:00:00")
    observable = life.observable()
    life.look(observable)
    numbers = [
        life.site.fill(**clock.tags(time, day)) for time, day in (("11:00:00", 0), ("05:00:00", 1), ("09:00:00", 3))
    ]
    clock.set("10:00:00", 3)
    assert set(life.look(observable)) == {uid(number) for number in numbers}


def test_a_restart_repeats_nothing_and_loses_nothing(life: Life, clock: Clock) -> None:
    clock.set("10:00:00")
    first = life.observable()
    life.site.fill(**clock.tags("09:58:00"))
    assert len(life.look(first)) == 1
    number = life.site.fill(**clock.tags("10:20:00"))
    clock.set("11:40:00")
    assert life.look(life.observable()) == [uid(number)]
    clock.set("11:41:00")
    assert life.look(life.observable(journal=False)) == []


def test_a_crash_before_the_cursor_was_saved_repeats_only_what_the_journal_lacks(life: Life, clock: Clock) -> None:
    clock.set("10:00:00")
    known = life.site.fill(**clock.tags("09:58:00"))
    life.journal = {event.key for event in life.observable().changes().events}
    fresh = life.site.fill(**clock.tags("09:59:00"))
    assert life.look(life.observable()) == [uid(fresh)]
    assert uid(known) != uid(fresh)


def test_a_clock_that_was_set_back_loses_nothing(life: Life, clock: Clock) -> None:
    clock.set("12:00:00")
    observable = life.observable()
    life.look(observable)
    clock.set("10:00:00")
    number = life.site.fill(**clock.tags("09:58:00"))
    assert life.look(observable) == [uid(number)]


def test_a_study_that_grew_is_told_again_where_the_archive_counts(life: Life, clock: Clock) -> None:
    clock.set("10:00:00")
    observable = life.observable()
    number = life.site.fill(**clock.tags("09:59:00"))
    assert life.look(observable) == [uid(number)]
    late = samples.instance(number, 0, 1, **clock.tags("09:59:00")).file
    assert late is not None
    dimse.store([late], "127.0.0.1", life.site.far_port, called_aet=life.site.far.aet)
    counts = bool(observable.find({"StudyInstanceUID": uid(number)})[0].tags.get("NumberOfStudyRelatedInstances"))
    assert life.look(observable) == ([uid(number)] if counts else [])


def test_series_are_told_at_their_level(life: Life, clock: Clock) -> None:
    clock.set("10:00:00")
    observable = life.observable(qlevel="series")
    number = life.site.fill(2, **clock.tags("09:59:00"))
    page = observable.changes()
    assert {event.evtype for event in page.events} == {DicomEventType.SERIES_ADDED}
    assert {event.ref.series for event in page.events} == {samples.uid(number + 1, n) for n in (1, 2)}
    assert {event.study for event in page.events} == {uid(number)}


def test_a_query_restricts_what_is_told(life: Life, clock: Clock) -> None:
    clock.set("10:00:00")
    observable = life.observable(query={"PatientID": "WANTED*"})
    life.site.fill(**clock.tags("09:58:00"), PatientID="OTHER1")
    number = life.site.fill(**clock.tags("09:59:00"), PatientID="WANTED1")
    assert life.look(observable) == [uid(number)]
    assert life.look(life.observable()) != []


def test_logs_and_reprs_hold_no_patient(life: Life, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    clock.set("10:00:00")
    planted = {"PatientID": "PLANTEDPID4711", "PatientName": "Zyxwv^Planted", "AccessionNumber": "PLANTEDACC77001"}
    life.site.fill(**clock.tags("09:58:00"), **planted)
    with caplog.at_level("DEBUG"):
        observable = life.observable(query={"PatientID": "PLANTEDPID4711"})
        page = observable.changes()
    assert page.events
    assert_nothing_planted(f"{caplog.text} {observable!r} {page!r}")


class FakeArchive:
    """Answers without a wire: rows whose date lies in the window, whatever the time asked."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.rows_, self.asked = rows, 0

    def rows(self, match: Mapping[str, str], level: DicomLevel, *, lenient: bool = False) -> Iterator[dict[str, str]]:
        self.asked += 1
        first, _, last = match["StudyDate"].partition("-")
        yield from (row for row in self.rows_ if first <= row["StudyDate"] <= (last or first))


def faked(rows: list[dict[str, str]], clock: Clock, **options: Any) -> tuple[ObservableProxiedDicom, FakeArchive]:
    observable, archive = ObservableProxiedDicom(**options), FakeArchive(rows)
    observable.archive, observable.now = archive, clock  # type: ignore[assignment]
    observable.resume(None, lambda keys: set())
    return observable, archive


def test_an_archive_that_ignores_the_time_is_filtered_here(clock: Clock) -> None:
    clock.set("10:00:00")
    rows = [{"StudyInstanceUID": f"1.{n}", **clock.tags(f"{n:02}:55:00")} for n in range(24)]
    observable, _ = faked(rows, clock)
    assert [event.study for event in observable.changes().events] == ["1.9"]


def test_an_item_without_time_is_told_on_its_day(clock: Clock) -> None:
    clock.set("10:00:00")
    day = clock.tags("09:58:00")["StudyDate"]
    rows = [
        {"StudyInstanceUID": "1.1", "StudyDate": day, "StudyTime": ""},
        {"StudyInstanceUID": "1.2", "StudyDate": day},
    ]
    observable, _ = faked(rows, clock)
    assert [event.study for event in observable.changes().events] == ["1.1", "1.2"]


def test_pages_are_bounded_and_the_archive_is_asked_once_for_them(clock: Clock) -> None:
    clock.set("10:00:00")
    rows = [{"StudyInstanceUID": f"1.2.{n}", **clock.tags("09:58:00")} for n in range(1200)]
    observable, archive = faked(rows, clock)
    told: list[str] = []
    pages: list[Page] = []
    while not pages or pages[-1].more:
        pages.append(observable.changes())
        observable.ack(pages[-1])
        told += [event.key for event in pages[-1].events]
    assert [len(page.events) for page in pages] == [500, 500, 200]
    assert (len(set(told)), archive.asked) == (1200, 1)
    assert pages[0].cursor["last"] is None
    assert pages[-1].cursor["last"] == clock()


def test_a_restart_between_pages_loses_nothing_even_without_a_journal(clock: Clock) -> None:
    clock.set("10:00:00")
    rows = [{"StudyInstanceUID": f"1.2.{n}", **clock.tags("09:58:00")} for n in range(700)]
    observable, _ = faked(rows, clock, history_len=10)
    page = observable.changes()
    again, _ = faked(rows, clock, history_len=10)
    again.resume(json.loads(json.dumps(page.cursor)), lambda keys: set())
    rest = again.changes()
    assert {e.key for e in page.events} | {e.key for e in rest.events} == {row["StudyInstanceUID"] for row in rows}
    assert not {e.key for e in page.events} & {e.key for e in rest.events}


def test_more_items_than_the_history_holds_are_still_told_once(clock: Clock) -> None:
    clock.set("10:00:00")
    rows = [{"StudyInstanceUID": f"1.2.{n}", **clock.tags("09:58:00")} for n in range(300)]
    observable, _ = faked(rows, clock, history_len=20)
    for _ in range(3):
        page = observable.changes()
        observable.ack(page)
    assert page.events == []


def test_the_cursor_does_not_grow_for_ever(clock: Clock) -> None:
    clock.set("10:00:00")
    rows: list[dict[str, str]] = []
    observable, _ = faked(rows, clock, history_len=20, qperiod=60)
    for day in range(30):
        clock.set("10:00:00", day)
        rows += [{"StudyInstanceUID": f"1.{day}.{n}", **clock.tags("09:59:30", day)} for n in range(10)]
        page = observable.changes()
        observable.ack(page)
        assert len(page.events) == 10
    assert len(page.cursor["recent"]) <= 20


def test_names_of_the_ancestor_are_there(clock: Clock) -> None:
    clock.set("10:00:00")
    rows = [{"StudyInstanceUID": "1.2", **clock.tags("09:58:00")}]
    observable, _ = faked(rows, clock, query={"PatientID": "A*"})
    assert observable.setup_query() == {"AccessionNumber": "", "NumberOfStudyRelatedInstances": "", "PatientID": "A*"}
    observable.ack(observable.changes())
    observable.setup_history()
    assert len(observable.changes().events) == 1
    assert (observable.polling_interval, observable.qperiod, observable.history_len) == (180.0, 600, 200)
    assert observable.qlevel == DicomLevel.STUDIES


@pytest.mark.parametrize(
    "cursor",
    [17, "x", [], {}, {"last": "1", "recent": {}}, {"last": 1, "recent": []}, {"last": float("nan"), "recent": {}}],
)
def test_a_damaged_cursor_is_an_error(clock: Clock, cursor: Any) -> None:
    observable, _ = faked([], clock)
    with pytest.raises(StateError):
        observable.resume(cursor, lambda keys: set())


@pytest.mark.parametrize(
    "options", [{"qlevel": "patients"}, {"qlevel": "instances"}, {"qperiod": 0}, {"query": {"PatientIdd": ""}}], ids=str
)
def test_wrong_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ObservableProxiedDicom(**options)


def test_a_query_that_no_archive_understands_is_refused() -> None:
    with pytest.raises(Unsupported):
        ObservableProxiedDicom(query={"any": [{"PatientID": "1"}]}).setup_query()
