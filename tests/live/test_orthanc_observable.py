"""What Orthanc's log of changes tells, over restarts, lost pages, cleared logs and replaced databases."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from diana.apis import Memory, ObservableOrthanc, Orthanc
from diana.exceptions import DianaError, GatewayAnswerError, GatewayConnectionError, StateError
from diana.utils.dicom import DicomEventType, DicomLevel
from diana.utils.endpoint import Event, Factory
from tests.contract import samples
from tests.fakes.http_server import Reply, ScriptedServer, json_reply
from tests.helpers import accepts, free_port, wait_for
from tests.planted import PASSWORD
from tests.servers import OrthancServer

pytestmark = pytest.mark.live

INSTANCE, SERIES, STUDY = DicomEventType.INSTANCE_ADDED, DicomEventType.SERIES_ADDED, DicomEventType.STUDY_ADDED


def nothing_seen(keys: Sequence[str]) -> set[str]:
    """Say that the journal knows no event."""
    return set()


def watch(server: OrthancServer, **options: Any) -> ObservableOrthanc:
    """Return an observable of a server."""
    return ObservableOrthanc(url=server.url, user=server.user, password=server.password, **options)


def drain(source: ObservableOrthanc) -> list[Event]:
    """Take and acknowledge pages until there is no more."""
    return drain_and_stand(source)[0]


def drain_and_stand(source: ObservableOrthanc) -> tuple[list[Event], Any]:
    """Take and acknowledge pages until there is no more; return the events and the last cursor."""
    found: list[Event] = []
    cursor = None
    while True:
        page = source.changes()
        found += page.events
        cursor = cursor if page.cursor is None else page.cursor
        source.ack(page)
        if not page.more:
            return found, cursor


@pytest.fixture
def server(orthanc_factory: Callable[..., OrthancServer]) -> OrthancServer:
    """An Orthanc of its own, for its numbers of changes."""
    return orthanc_factory()


def test_the_first_start_tells_the_whole_history(server: OrthancServer) -> None:
    there = Orthanc(url=server.url, user=server.user, password=PASSWORD)
    oids = [there.put(item) for item in samples.instances(2, 1, 2)]
    source = watch(server)
    source.resume(None, nothing_seen)
    events = drain(source)
    assert [one.data["oid"] for one in events if one.evtype == INSTANCE] == oids
    assert {one.ref.level for one in events if one.evtype == INSTANCE} == {DicomLevel.INSTANCES}
    assert drain(source) == []


def test_stable_series_and_studies_are_told(server: OrthancServer) -> None:
    item = samples.instance()
    server.upload(item.file or b"")
    source = watch(server)
    found: list[Event] = []
    wait_for(lambda: found.extend(drain(source)) or {SERIES, STUDY} <= {one.evtype for one in found}, 15)
    oids = {one.evtype: one.data["oid"] for one in found}
    assert oids[SERIES] == item.parent_oid(DicomLevel.SERIES)
    assert oids[STUDY] == item.parent_oid(DicomLevel.STUDIES)
    assert next(one.study for one in found if one.evtype == STUDY) == oids[STUDY]


def test_a_page_that_was_not_acknowledged_comes_again_with_the_same_keys(server: OrthancServer) -> None:
    server.upload(samples.instance().file or b"")
    source = watch(server)
    first, second = source.changes(), source.changes()
    assert [one.key for one in first.events] == [one.key for one in second.events] != []
    source.ack(first)
    assert not source.changes().events


def test_a_restart_goes_on_from_the_cursor(server: OrthancServer) -> None:
    server.upload(samples.instance(0).file or b"")
    source = watch(server)
    page = source.changes()
    again = watch(server)
    again.resume(page.cursor, nothing_seen)
    server.upload(samples.instance(1).file or b"")
    assert [one.data["oid"] for one in drain(again) if one.evtype == INSTANCE] == [samples.instance(1).oid()]


@pytest.mark.parametrize(("start", "count"), [(None, 2), (0, 2), (1, 1), (-1, 0), (10**9, 2)])
def test_the_first_start_can_begin_anywhere(server: OrthancServer, start: int | None, count: int) -> None:
    for number in range(2):
        server.upload(samples.instance(number).file or b"")
    source = watch(server, start_from_change=start)
    source.resume(None, nothing_seen)
    assert len([one for one in drain(source) if one.evtype == INSTANCE]) == count


def test_a_start_from_now_is_kept_before_the_first_event(server: OrthancServer) -> None:
    server.upload(samples.instance(0).file or b"")
    source = watch(server, start_from_change=-1)
    source.resume(None, nothing_seen)
    events, cursor = drain_and_stand(source)
    server.upload(samples.instance(1).file or b"")
    again = watch(server, start_from_change=-1)
    again.resume(cursor, nothing_seen)
    assert events == []
    assert [one.data["oid"] for one in drain(again) if one.evtype == INSTANCE] == [samples.instance(1).oid()]
    assert source.changes().cursor is not None


def test_many_changes_come_in_pages(server: OrthancServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diana.apis.observables.orthanc.PAGE", 7)
    for item in samples.instances(1, 2, 10):
        server.upload(item.file or b"")
    source = watch(server)
    assert source.changes().more is True
    assert len([one for one in drain(source) if one.evtype == INSTANCE]) == 20


def test_a_cleared_log_loses_nothing_new(server: OrthancServer) -> None:
    server.upload(samples.instance(0).file or b"")
    source = watch(server)
    _, cursor = drain_and_stand(source)
    server.rest("DELETE", "/changes")
    again = watch(server)
    again.resume(cursor, nothing_seen)
    server.upload(samples.instance(1).file or b"")
    for one in (source, again):
        assert [event.data["oid"] for event in drain(one) if event.evtype == INSTANCE] == [samples.instance(1).oid()]


def test_a_deleted_instance_at_the_end_of_the_log_is_no_alarm(
    server: OrthancServer, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2):
        server.upload(samples.instance(0, 0, number).file or b"")
    source = watch(server)
    page = source.changes()
    source.ack(page)
    server.rest("DELETE", f"/instances/{samples.instance(0, 0, 1).oid()}")
    again = watch(server)
    again.resume(page.cursor, nothing_seen)
    assert drain(source) == drain(again) == []
    assert "another database" not in caplog.text


@pytest.mark.parametrize("fuller", [False, True])
def test_a_replaced_database_is_said_and_read_from_the_start(
    server: OrthancServer, orthanc_factory: Callable[..., OrthancServer], caplog: pytest.LogCaptureFixture, fuller: bool
) -> None:
    other = orthanc_factory()
    for number in range(3):
        server.upload(samples.instance(number).file or b"")
    for number in range(10, 20 if fuller else 11):
        other.upload(samples.instance(number).file or b"")
    first, cursor = drain_and_stand(watch(server))
    again = watch(other)
    again.resume(cursor, nothing_seen)
    with caplog.at_level(logging.WARNING):
        events = drain(again)
    assert len([one for one in events if one.evtype == INSTANCE]) == (10 if fuller else 1)
    assert caplog.text.count("another database") == 1
    assert not {one.key for one in events} & {one.key for one in first}
    assert drain(again) == []


def test_a_server_that_is_away_raises_and_is_taken_up_again(server: OrthancServer) -> None:
    source = watch(server)
    drain(source)
    server.kill()
    with pytest.raises(GatewayConnectionError):
        source.changes()
    server.start()
    server.upload(samples.instance().file or b"")
    assert samples.instance().oid() in [one.data["oid"] for one in drain(source)]


@pytest.mark.parametrize(
    "cursor",
    [{}, [], "7", 7, {"last": "7", "generation": 1, "anchor": ""}, {"last": -1, "generation": 1, "anchor": ""}],
)
def test_a_damaged_cursor_is_an_error(cursor: Any) -> None:
    with pytest.raises(StateError):
        ObservableOrthanc().resume(cursor, nothing_seen)


class TestPersistFile:
    """The position in a file of its own, for use without a journal."""

    def test_it_is_used_when_there_is_no_cursor(self, server: OrthancServer, tmp_path: Path) -> None:
        path = tmp_path / "state" / "changes.json"
        server.upload(samples.instance(0).file or b"")
        drain(watch(server, persist_file=path))
        assert path.stat().st_mode & 0o777 == 0o600
        server.upload(samples.instance(1).file or b"")
        again = watch(server, persist_file=str(path))
        again.resume(None, nothing_seen)
        assert [one.data["oid"] for one in drain(again) if one.evtype == INSTANCE] == [samples.instance(1).oid()]

    def test_the_newest_change_can_be_skipped_to(self, server: OrthancServer, tmp_path: Path) -> None:
        server.upload(samples.instance(0).file or b"")
        source = watch(server, persist_file=tmp_path / "p.json")
        source.persist_last_change()
        assert drain(watch(server, persist_file=tmp_path / "p.json")) == []

    def test_its_place_is_in_the_user_s_state_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        source = ObservableOrthanc()
        source.set_current_change(7)
        source.persist_current_change()
        assert source.set_persist_file().is_relative_to(tmp_path)
        assert ObservableOrthanc(persist_file=source.persist_file).set_current_change() == 7

    @pytest.mark.parametrize("damage", ["", "{}", "garbage", '{"position": "{}", "sha256": "00"}', "[" * 4000])
    def test_a_damaged_file_is_an_error_never_zero(self, tmp_path: Path, damage: str) -> None:
        (tmp_path / "p.json").write_text(damage)
        with pytest.raises(StateError):
            ObservableOrthanc(persist_file=tmp_path / "p.json").resume(None, nothing_seen)


class TestBadLogs:
    """Logs that a server must not send."""

    @pytest.fixture
    def scripted(self) -> Iterator[Callable[..., ObservableOrthanc]]:
        made: list[Any] = []

        def make(*replies: Reply) -> ObservableOrthanc:
            server = ScriptedServer(list(replies)).__enter__()
            source = ObservableOrthanc(url=server.url, timeout=(1, 1))
            made.extend((server, source))
            return source

        yield make
        for one in made:
            one.close() if isinstance(one, ObservableOrthanc) else one.__exit__(None, None, None)

    def test_an_endless_claim_of_more_ends_in_an_error(self, scripted: Callable[..., ObservableOrthanc]) -> None:
        source = scripted(json_reply({"Changes": [], "Done": False, "Last": 0}))
        assert source.changes().more is False
        with pytest.raises(GatewayAnswerError):
            source.changes()

    @pytest.mark.parametrize(
        "answer",
        [
            [],
            {},
            {"Changes": {}, "Done": True, "Last": 1},
            {"Changes": [], "Done": True, "Last": "x"},
            {"Changes": [{"Seq": 2, "ID": "a"}, {"Seq": 1, "ID": "b"}], "Done": True, "Last": 2},
            {"Changes": [{"Seq": 0, "ID": "a"}], "Done": True, "Last": 2},
            {"Changes": [{"Seq": "1", "ID": "a"}], "Done": True, "Last": 2},
            {"Changes": [{"Seq": 1}], "Done": True, "Last": 2},
            {"Changes": [7], "Done": True, "Last": 2},
            {"Changes": [{"Seq": n + 1, "ID": "a"} for n in range(1001)], "Done": True, "Last": 2000},
        ],
        ids=lambda answer: str(answer)[:60],
    )
    def test_what_is_no_log_is_an_error(self, scripted: Callable[..., ObservableOrthanc], answer: Any) -> None:
        with pytest.raises(DianaError):
            scripted(json_reply(answer)).changes()


def test_it_is_made_from_a_mapping() -> None:
    made = Factory.create(ctype="ObservableOrthanc", host="h", polling_interval="30", start_from_change=0)
    assert (made.polling_interval, made.start_from_change, made.name) == (30.0, 0, "ObsOrthanc")


class TestStandIn:
    """The small stand-in of Orthanc that the drill uses, as source and as sink."""

    @pytest.fixture
    def stand_in(self, shared_dir: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
        started: list[subprocess.Popen[bytes]] = []

        def start(role: str, *more: str) -> str:
            port = free_port()
            tool = str(shared_dir / "tools" / "mini_orthanc.py")
            command = [sys.executable, tool, role, "--port", str(port), "--dir", str(tmp_path / role), *more]
            started.append(subprocess.Popen(command))
            wait_for(lambda: accepts(port))
            return f"http://127.0.0.1:{port}"

        yield start
        for process in started:
            process.kill()
            process.wait()

    def test_everything_moves(self, stand_in: Callable[..., str]) -> None:
        source, dest = ObservableOrthanc(url=stand_in("source", "--n", "120")), Orthanc(url=stand_in("sink"))
        events = drain(source)
        oids = [one.data["oid"] for one in events if one.evtype == INSTANCE]
        assert (len(oids), len([one for one in events if one.evtype == STUDY])) == (120, 3)
        for oid in oids[:20]:
            (item,) = source.pull(oid, DicomLevel.INSTANCES)
            assert dest.put(item) == dest.put(item) == oid
            assert dest.exists(item) is True
            assert dest.digest(item) == source.digest(oid)
        assert dest.check() is True
        study = next(one for one in events if one.evtype == STUDY).ref
        assert len(list(source.pull(study))) == 50
        assert source.get(study).tags["StudyInstanceUID"] == "2.25.77.0"

    def test_search_by_ids_agrees_with_the_reference(self, stand_in: Callable[..., str]) -> None:
        source, memory = Orthanc(url=stand_in("source", "--n", "110")), Memory()
        for oid in source.instances():
            memory.put(next(source.pull(oid, DicomLevel.INSTANCES)))
        for query in ({}, {"StudyInstanceUID": "2.25.77.1"}, {"PatientID": "P0"}, {"SOPInstanceUID": "2.25.77.1.1.7"}):
            for level in DicomLevel:
                found = sorted(one.oid() for one in source.find(query, level))
                assert found == sorted(one.oid() for one in memory.find(query, level))

    def test_other_bytes_conflict(self, stand_in: Callable[..., str]) -> None:
        dest = Orthanc(url=stand_in("sink"))
        source = Orthanc(url=stand_in("source", "--n", "2"))
        items = [next(source.pull(oid, DicomLevel.INSTANCES)) for oid in source.instances()]
        dest.put(items[0])
        file = bytearray(items[0].file or b"")
        file[-1] ^= 1
        items[0].file = bytes(file)
        with pytest.raises(DianaError, match="other bytes"):
            dest.put(items[0])
