"""The program as processes: pipes, signals, start-up time, what reaches which stream."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contract import samples
from tests.helpers import wait_for
from tests.planted import PASSWORD, PLANTED_ACCESSIONS, PLANTED_IDS, PLANTED_NAMES, assert_nothing_planted
from tests.servers import OrthancServer

CLI = [sys.executable, "-m", "diana_cli"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment with a home of its own; the program is found from any folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DIANA_", "XDG_"))}
    root = str(Path(__file__).resolve().parents[2])
    return {**kept, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": root}


@pytest.fixture
def shell(tmp_path: Path, env: dict[str, str]) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a line of bash with `diana-cli` defined, stopping at the first failure of a pipe."""
    program = f"set -o pipefail; diana-cli() {{ '{sys.executable}' -m diana_cli \"$@\"; }}; "

    def run(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", program + line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
        )

    return run


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder with three studies of two instances of planted patients."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for at, one in enumerate(samples.instances(3, 1, 2)):
        planted = samples.instance(
            at // 2,
            0,
            at % 2,
            PatientName=PLANTED_NAMES[0],
            PatientID=PLANTED_IDS[0],
            AccessionNumber=PLANTED_ACCESSIONS[0],
        )
        (folder / one.fn).write_bytes(planted.file or b"")
    return folder


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_find_joins_transfer_by_a_pipe(shell: Callable[..., Any], archive: Path) -> None:
    (archive.parent / "copy").mkdir()
    done = shell(
        """diana-cli find path:archive -q '{"PatientName":"Z*"}' | diana-cli transfer path:archive path:copy -"""
    )
    assert done.returncode == 0, done.stderr
    receipts = rows(done.stdout)
    assert [one["state"] for one in receipts] == ["verified"] * 3
    assert sum(one["verified"] for one in receipts) == 6
    assert_nothing_planted(done.stdout + done.stderr)
    listed = rows(shell("diana-cli receipts --state verified --since 1h").stdout)
    assert {one["id"] for one in listed} == {one["id"] for one in receipts}


def test_a_second_transfer_follows_the_first(shell: Callable[..., Any], archive: Path) -> None:
    (archive.parent / "copy").mkdir()
    line = "diana-cli find path:archive --limit 1 | diana-cli transfer path:archive path:copy -"
    (first,), (second,) = rows(shell(line).stdout), rows(shell(line).stdout)
    assert second["state"] == "verified"
    assert second["follows"] == first["id"]


def test_a_bad_line_is_named_and_the_rest_is_transferred(shell: Callable[..., Any], archive: Path) -> None:
    (archive.parent / "copy").mkdir()
    done = shell(
        "{ diana-cli find path:archive --limit 1; echo '{broken'; echo no-such-file.dcm; } |"
        " diana-cli transfer path:archive path:copy -"
    )
    assert done.returncode == 3
    assert [one["state"] for one in rows(done.stdout)] == ["verified", "failed"]
    assert "line 2: not a JSON object" in done.stderr


def test_transfer_with_a_step_pseudonymizes(shell: Callable[..., Any], archive: Path) -> None:
    (archive.parent / "copy").mkdir()
    line = "diana-cli find path:archive --all | diana-cli transfer path:archive path:copy - --step pseudonymize"
    assert shell(line).returncode == 0
    assert_nothing_planted(shell("diana-cli find path:copy --all -l instances").stdout)


def test_unknown_step_is_a_configuration_error(shell: Callable[..., Any], archive: Path) -> None:
    done = shell("diana-cli transfer path:archive path:archive x --step pseudonymise")
    assert done.returncode == 2
    assert "did you mean 'pseudonymize'?" in done.stderr


def test_receipts_replay_sends_what_was_not_verified(shell: Callable[..., Any], archive: Path) -> None:
    (archive.parent / "late").write_text("a file where a folder should be")
    failed = shell("diana-cli find path:archive --limit 1 | diana-cli transfer path:archive path:late -")
    assert failed.returncode == 3
    (archive.parent / "late").unlink()
    done = shell("diana-cli receipts --replay")
    assert done.returncode == 0, done.stderr
    assert [one["state"] for one in rows(done.stdout)] == ["verified"]
    again = shell("diana-cli receipts --replay")
    assert (again.returncode, again.stdout) == (0, "")


def test_receipts_replay_to_another_destination(shell: Callable[..., Any], archive: Path) -> None:
    (archive.parent / "never").write_text("a file where a folder should be")
    shell("diana-cli find path:archive --limit 1 | diana-cli transfer path:archive path:never -")
    (archive.parent / "other").mkdir()
    done = shell("diana-cli receipts --replay --to path:other")
    assert done.returncode == 0, done.stderr
    assert [(one["dest"], one["state"]) for one in rows(done.stdout)] == [("path:other", "verified")]


def test_receipts_without_a_ledger_make_none(shell: Callable[..., Any], tmp_path: Path) -> None:
    assert shell("diana-cli --state nowhere receipts").returncode == 2
    assert not (tmp_path / "nowhere").exists()


def test_a_reader_that_leaves_ends_the_program_quietly(shell: Callable[..., Any], archive: Path) -> None:
    done = shell("diana-cli find path:archive --all -l instances | head -n 1; echo ${PIPESTATUS[0]}")
    first, code = done.stdout.splitlines()
    assert json.loads(first)["level"] == "instances"
    assert code in ("0", "141")
    assert done.stderr == ""


def test_help_is_quick(env: dict[str, str]) -> None:
    def once() -> float:
        start = time.perf_counter()
        subprocess.run([*CLI, "--help"], env=env, check=True, stdout=subprocess.DEVNULL, timeout=30)
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.3


def test_help_imports_no_heavy_library(env: dict[str, str]) -> None:
    heavy = ("pydicom", "numpy", "requests", "sqlalchemy", "pynetdicom", "redis", "PIL", "rich", "yaml")
    code = (
        "import sys; from diana_cli.cli import run; run(['--help']); "
        f"found = set({heavy!r}) & set(sys.modules); sys.exit(repr(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


ROUTES = """
services:
  inbox: {{ctype: ObservableDcmDir, path: {0}/inbox, settle: 0.1}}
  archive: {{ctype: DcmDir, path: {0}/archive}}
routes:
  - {{name: {1}, source: inbox, event: file, to: archive}}
state: {0}/ledger
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with an inbox, an archive and a file of routes."""
    for name in ("inbox", "archive"):
        (tmp_path / name).mkdir()
    (tmp_path / "routes.yml").write_text(ROUTES.format(tmp_path, "first"))
    return tmp_path


def drop(site: Path, number: int) -> None:
    one = samples.instance(number)
    (site / "inbox" / one.fn).write_bytes(one.file or b"")


def arrived(site: Path) -> int:
    return sum(1 for _ in (site / "archive").rglob("*.dcm"))


@contextmanager
def watching(site: Path, env: dict[str, str], *more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*CLI, "watch", str(site / "routes.yml"), *more], env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watch_stops_when_asked_with_exit_0(site: Path, env: dict[str, str], number: signal.Signals) -> None:
    with watching(site, env) as process:
        drop(site, 1)
        wait_for(lambda: arrived(site) == 1, 20, "the file in the archive")
        process.send_signal(number)
        assert process.wait(15) == 0


def test_watch_once_ends_when_the_work_is_done(site: Path, env: dict[str, str]) -> None:
    for number in range(5):
        drop(site, number)
    with watching(site, env, "--once") as process:
        assert process.wait(40) == 0
    assert arrived(site) == 5


def test_watch_killed_goes_on_where_it_was(site: Path, env: dict[str, str]) -> None:
    for number in range(30):
        drop(site, number)
    with watching(site, env) as process:
        wait_for(lambda: arrived(site) >= 3, 20, "some files in the archive")
        process.kill()
        process.wait(10)
    with watching(site, env, "--once") as process:
        assert process.wait(60) == 0
    assert arrived(site) == 30
    listed = subprocess.run(
        [*CLI, "--state", str(site / "ledger"), "receipts"], env=env, capture_output=True, text=True, timeout=30
    )
    assert {(one["route"], one["state"]) for one in rows(listed.stdout)} == {("first", "verified")}
    assert sum(one["verified"] for one in rows(listed.stdout)) == 30


def test_watch_takes_a_new_configuration_at_sighup_and_refuses_a_bad_one(site: Path, env: dict[str, str]) -> None:
    config, said = site / "routes.yml", site / "said"
    with said.open("w") as out:
        process = subprocess.Popen([*CLI, "watch", str(config)], env=env, stderr=out)
    try:
        drop(site, 1)
        wait_for(lambda: arrived(site) == 1, 20, "the first file")
        config.write_text("services: {}\nroutes: 7\n")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the old one goes on" in said.read_text(), 20, "the refusal")
        drop(site, 2)
        wait_for(lambda: arrived(site) == 2, 20, "the second file")
        (site / "other").mkdir()
        config.write_text(ROUTES.format(site, "second").replace(f"path: {site}/archive", f"path: {site}/other"))
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "is taken" in said.read_text(), 20, "the new configuration")
        drop(site, 3)
        wait_for(lambda: list((site / "other").rglob("*.dcm")), 20, "the third file")
        assert process.poll() is None
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def test_watch_by_handler_names(site: Path, env: dict[str, str]) -> None:
    drop(site, 1)
    services = f"i: {{ctype: ObservableDcmDir, path: {site}/inbox}}\na: {{ctype: DcmDir, path: {site}/archive}}"
    done = subprocess.run(
        [*CLI, "-s", services, "watch", "-r", "upload_files", "i", "a", "-r", "say_files", "i", "-", "--once"],
        env=env,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr
    assert arrived(site) == 1
    assert samples.uid(2, 1, 1) in done.stdout or "fn" in done.stdout


def test_watch_says_every_problem_of_a_file_with_exit_2(site: Path, env: dict[str, str]) -> None:
    (site / "routes.yml").write_text(
        "services: {a: {ctype: Memory}}\nroutes: [{name: x, source: a, to: b, event: moon}]\nstat: x\n"
    )
    done = subprocess.run(
        [*CLI, "watch", str(site / "routes.yml")], env=env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    for part in ("did you mean 'state'?", "cannot be watched", "unknown event 'moon'"):
        assert part in done.stderr


def test_a_ledger_has_one_watcher(site: Path, env: dict[str, str]) -> None:
    with watching(site, env) as process:
        drop(site, 1)
        wait_for(lambda: arrived(site) == 1, 20, "the file in the archive")
        second = subprocess.run(
            [*CLI, "watch", str(site / "routes.yml")], env=env, capture_output=True, text=True, timeout=30
        )
        assert second.returncode == 1
        assert "in use by another process" in second.stderr
        assert process.poll() is None


def test_routes_are_listed_checked_explained_and_backtested(
    shell: Callable[..., Any], site: Path, env: dict[str, str]
) -> None:
    config = site / "routes.yml"
    config.write_text(config.read_text().replace("event: file", "event: file, when: {Modality: MR}"))
    (listed,) = rows(shell("diana-cli routes list routes.yml").stdout)
    assert (listed["name"], listed["to"], listed["when"]) == ("first", ["archive"], {"Modality": "MR"})
    assert shell("diana-cli routes check routes.yml").returncode == 0
    drop(site, 0)
    drop(site, 1)
    ct, mr = sorted(path.name for path in (site / "inbox").iterdir())
    refused = shell(f"diana-cli routes explain routes.yml inbox/{ct}")
    assert refused.returncode == 1
    assert rows(refused.stdout) == [{"route": "first", "matches": False, "clauses": ["Modality: does not match"]}]
    assert shell(f"diana-cli routes explain routes.yml inbox/{mr}").returncode == 0
    assert shell("""diana-cli routes explain routes.yml '{"Modality": "MR"}'""").returncode == 0
    assert shell("diana-cli watch routes.yml --once").returncode == 0
    assert arrived(site) == 1
    tested = rows(shell("diana-cli routes backtest routes.yml --since 1h").stdout)
    assert sorted(one["matches"] for one in tested) == [False, True]


def test_a_dead_letter_is_listed_replayed_and_dropped(shell: Callable[..., Any], site: Path) -> None:
    other = samples.instance(1, StationName="OTHER")
    target = site / "archive" / other.fn
    target.write_bytes(other.file or b"")
    drop(site, 1)
    assert shell("diana-cli watch routes.yml --once").returncode == 0
    listed = shell("diana-cli --state ledger receipts --dead")
    (dead,) = rows(listed.stdout)
    assert dead["reason"].startswith("Conflict")
    assert rows(shell("diana-cli --state ledger receipts --dead --dest elsewhere").stdout) == []
    target.unlink()
    assert "1 put back" in shell("diana-cli --state ledger receipts --dead --replay").stderr
    assert shell("diana-cli watch routes.yml --once").returncode == 0
    assert arrived(site) == 1
    assert rows(shell("diana-cli --state ledger receipts --dead").stdout) == []


def test_a_second_signal_ends_watch_at_once(site: Path, env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = site / "routes.yml"
        port = silent.getsockname()[1]
        old = f"{{ctype: DcmDir, path: {site}/archive}}"
        config.write_text(config.read_text().replace(old, f"{{ctype: Orthanc, url: 'http://127.0.0.1:{port}'}}"))
        with watching(site, env) as process:
            drop(site, 1)
            silent.settimeout(20)
            connection, _ = silent.accept()  # the router waits for an answer now
            process.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.terminate()
            assert process.wait(5) == 128 + signal.SIGTERM
            connection.close()


def test_ctrl_c_ends_a_command_with_130(env: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        service = f"orthanc:http://user:{PASSWORD}@127.0.0.1:{silent.getsockname()[1]}/"
        command = [*CLI, "-vv", "find", service, "-q", json.dumps({"PatientName": PLANTED_NAMES[0]})]
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        connection, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        connection.close()
    assert process.returncode == 130
    assert_nothing_planted(said)


@pytest.mark.live
def test_a_pacs_behind_an_orthanc_is_searched_and_moved(
    shell: Callable[..., Any], archive: Path, orthanc_factory: Callable[..., OrthancServer]
) -> None:
    far, near = orthanc_factory(aet="FAR"), orthanc_factory(aet="NEAR")
    near.rest("PUT", "/modalities/pacs", {"AET": "FAR", "Host": "127.0.0.1", "Port": far.dicom_port})
    far.rest("PUT", "/modalities/near", {"AET": "NEAR", "Host": "127.0.0.1", "Port": near.dicom_port})
    place = f"{{url: '{near.url}', user: {near.user}, password: {near.password}}}"
    services = [
        f"far: {{ctype: Orthanc, url: '{far.url}', user: {far.user}, password: {far.password}}}",
        f"near: {{ctype: Orthanc, url: '{near.url}', user: {near.user}, password: {near.password}}}",
        f"pacs: {{ctype: ProxiedDicom, proxy_desc: {place}, proxy_domain: pacs}}",
    ]
    (archive.parent / "services.yml").write_text("\n".join(services))
    assert shell("diana-cli put far archive > stored").returncode == 0
    remote = shell("diana-cli find near -d pacs -q '{StudyDescription: GENERATED*}'")
    assert {row["uid"] for row in rows(remote.stdout)} == {samples.uid(number) for number in (1, 2, 3)}
    done = shell("diana-cli find pacs -q '{StudyDescription: \"*STUDY 1\"}' | diana-cli transfer pacs path:copy -")
    assert done.returncode == 0, done.stderr
    assert [(one["state"], one["verified"]) for one in rows(done.stdout)] == [("verified", 2)]
    brought = shell("diana-cli find pacs --retrieve -q '{StudyDescription: \"*STUDY 2\"}'")
    assert brought.returncode == 0, brought.stderr
    assert shell("diana-cli find near -q '{StudyDescription: \"*STUDY 2\"}'").stdout
    assert shell("diana-cli find far --retrieve --all").returncode == 1
    assert_nothing_planted(done.stderr + done.stdout + brought.stderr)
