"""`diana-cli doctor` against real servers, silent sockets and folders."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diana.daemons.doctor import Finding, answering, examine
from diana.utils.endpoint import ServiceManager
from diana_cli.cli import run
from tests.helpers import free_port
from tests.planted import PASSWORD, PLANTED_PASSWORDS, PLANTED_USER, assert_nothing_planted
from tests.servers import OrthancServer, RedisServer

Found = dict[str, Finding]


def look(text: str, *, timeout: float = 10.0) -> Found:
    """Examine the only service of a text and return its findings by check."""
    services = ServiceManager.from_text(text).all()
    return {one.check: one for one in examine(services, timeout=timeout)}


def orthanc_text(server: OrthancServer, password: str = PASSWORD) -> str:
    return f"pacs: {{ctype: Orthanc, url: '{server.url}', user: {PLANTED_USER}, password: {password}}}"


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.live
def test_a_well_orthanc_has_nothing_wrong(orthanc: OrthancServer) -> None:
    found = look(orthanc_text(orthanc))
    assert {one.state for one in found.values()} == {"ok"}
    assert {"reachable", "answer", "version", "clock"} <= set(found)


@pytest.mark.live
def test_wrong_password_is_told_apart_from_absence(orthanc: OrthancServer) -> None:
    found = look(orthanc_text(orthanc, PLANTED_PASSWORDS[1]))
    assert found["reachable"].state == "ok"
    assert found["credentials"].state == "wrong"
    assert "password" in found["credentials"].advice
    assert_nothing_planted(repr(found))


@pytest.mark.live
def test_modalities_are_echoed(orthanc_factory: Callable[..., OrthancServer]) -> None:
    there = orthanc_factory(aet="THERE")
    server = orthanc_factory(
        modalities={
            "there": ("THERE", "127.0.0.1", there.dicom_port),
            "gone": ("GONE", "127.0.0.1", free_port()),
        }
    )
    services = ServiceManager.from_text(orthanc_text(server)).all()
    echoes = {one.found.split()[2]: one.state for one in examine(services) if one.check == "echo"}
    assert echoes == {"there": "ok", "gone": "wrong"}


@pytest.mark.live
def test_redis_settings_are_judged(redis_factory: Callable[..., RedisServer]) -> None:
    server = redis_factory(durable=False)
    text = f"index: {{ctype: Redis, host: 127.0.0.1, port: {server.port}, password: {server.password}}}"
    found = look(text)
    assert (found["persistence"].state, found["eviction"].state) == ("note", "ok")
    with server.client() as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
    found = look(text)
    assert found["eviction"].state == "wrong"
    assert "noeviction" in found["eviction"].advice


@pytest.mark.live
def test_redis_with_append_only_file_is_durable(redis_factory: Callable[..., RedisServer]) -> None:
    server = redis_factory(durable=True)
    found = look(f"index: {{ctype: Redis, host: 127.0.0.1, port: {server.port}, password: {server.password}}}")
    assert found["persistence"].state == "ok"


def test_closed_port_is_unreachable_with_advice() -> None:
    found = look(f"pacs: {{ctype: Orthanc, url: 'http://127.0.0.1:{free_port()}'}}")
    assert list(found) == ["reachable"]
    assert found["reachable"].state == "wrong"
    assert found["reachable"].advice


def test_silent_server_does_not_hang_the_others(silent: int, tmp_path: Path) -> None:
    text = f"mute: {{ctype: Orthanc, url: 'http://127.0.0.1:{silent}'}}\nfolder: {{ctype: DcmDir, path: {tmp_path}}}"
    start = time.monotonic()
    found = examine(ServiceManager.from_text(text).all(), timeout=1.0)
    assert time.monotonic() - start < 5
    states = {(one.service, one.check): one.state for one in found}
    assert states["mute", "answer"] == "wrong"
    assert states["folder", "write"] == "ok"


def test_answering_is_bounded_in_time(silent: int, tmp_path: Path) -> None:
    text = f"mute: {{ctype: Orthanc, url: 'http://127.0.0.1:{silent}'}}\nfolder: {{ctype: DcmDir, path: {tmp_path}}}"
    start = time.monotonic()
    assert answering(ServiceManager.from_text(text).all(), timeout=0.5) == {"mute": False, "folder": True}
    assert time.monotonic() - start < 4


def test_missing_folder_comes_with_the_command_that_makes_it(tmp_path: Path) -> None:
    found = look(f"archive: {{ctype: DcmDir, path: {tmp_path}/none}}")
    assert found["folder"].state == "wrong"
    assert found["folder"].advice == f"mkdir -p {tmp_path}/none"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_the_right_to_write_is_wrong(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert look(f"archive: {{ctype: DcmDir, path: {tmp_path}}}")["write"].state == "wrong"
    tmp_path.chmod(0o700)


def test_port_of_a_listener_taken_by_another_program_is_wrong(silent: int, tmp_path: Path) -> None:
    found = look(f"scanner: {{ctype: DicomListener, port: {silent}, path: {tmp_path}}}")
    assert found["port"].state == "wrong"


def test_free_port_of_a_listener_is_well(tmp_path: Path) -> None:
    found = look(f"scanner: {{ctype: DicomListener, port: {free_port()}, path: {tmp_path}/spool}}")
    assert {one.state for one in found.values()} == {"ok"}
    assert not (tmp_path / "spool").exists()


def test_command_exits_3_when_something_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"good: {{ctype: DcmDir, path: {tmp_path}}}\nbad: {{ctype: DcmDir, path: {tmp_path}/none}}"
    assert run(["-s", text, "doctor"]) == 3
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert {row["service"] for row in rows if row["state"] == "wrong"} == {"bad"}
    assert "wrong: bad" in printed.err
    assert run(["-s", text, "doctor", "good"]) == 0
