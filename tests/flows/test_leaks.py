"""Planted patients and passwords stay out of standard error, logs at DEBUG, reprs, errors, receipts and status."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import diana.apis
from diana.apis import CsvFile, DcmDir, ImageDir, Memory, ObservableDcmDir, Orthanc, Redis, ReportDir
from diana.daemons.rules import Route, backtest
from diana.daemons.steps import Filter, Pseudonymize, make_step
from diana.daemons.transfer import transfer
from diana.daemons.watch import WatchConfig
from diana.dixel import Dixel, RadiologyReport, ShamDixel
from diana.exceptions import DianaError
from diana.ledger import Journal, Store
from diana.ledger.rows import EventRow
from diana.utils.blob import Blob
from diana.utils.dicom import DicomEventType, DicomLevel, Query, Ref, read_header
from diana.utils.dicom.structure import check_whole
from diana.utils.endpoint import Endpoint, Event, Factory, Page, ServiceManager, Trigger, Watcher
from diana.utils.endpoint.endpoint import Outcome
from diana.utils.endpoint.registry import class_of, ctypes
from diana.utils.gateways import HttpClient, dimse
from diana.utils.gateways.redis_kv import RedisKV
from diana_cli import cli as program
from tests.contract import samples
from tests.fakes.http_server import Reply, ScriptedServer, html_reply, json_reply
from tests.fakes.memory_source import ObservableMemory
from tests.helpers import REPO, free_port
from tests.planted import (
    PASSWORD,
    PLANTED_ACCESSIONS,
    PLANTED_IDS,
    PLANTED_NAMES,
    PLANTED_PASSWORDS,
    PLANTED_USER,
    assert_nothing_planted,
    find_planted,
)

NAME, PATIENT, ACCESSION = PLANTED_NAMES[0], PLANTED_IDS[0], PLANTED_ACCESSIONS[0]
MORE = {
    "PatientName": NAME,
    "PatientID": PATIENT,
    "AccessionNumber": ACCESSION,
    "ReferringPhysicianName": PLANTED_NAMES[1],
    "PatientComments": PLANTED_NAMES[2],
    "StudyID": PLANTED_IDS[1],
}


def planted(number: int = 0, study: int = 0, **tags: Any) -> Dixel:
    """Return an instance of a planted patient, in a file named after the patient."""
    return samples.instance(study, 0, number, fn=f"{NAME}-{PATIENT}-{number}.dcm", **{**MORE, **tags})


# -- the program ---------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with an archive of planted patients under their names, odd files among them, and services."""
    for folder in ("archive", "inbox", "copy", "empty"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        data = planted(number % 2, number // 2).file or b""
        for folder in ("archive", "inbox"):
            (tmp_path / folder / f"{NAME} {PATIENT} {number}.dcm").write_bytes(data)
    sound = planted(0).file or b""
    at = sound.index(NAME.encode())
    odd = {
        "cut": sound[:-20],
        "cut in the name": sound[: at + 9],
        "broken": sound.replace(b"PN", b"P?"),
        "bad date": sound.replace(b"19700101", b"PLANTEDP"),
        "not a number": sound.replace(b"IS\x02\x001 ", b"IS\x02\x00ZY"),
    }
    for name, data in odd.items():
        for folder in ("archive", "inbox"):
            (tmp_path / folder / f"{name} {NAME}.dcm").write_bytes(data)
    port = free_port()
    (tmp_path / "services.yml").write_text(
        f"""
orthanc: {{ctype: Orthanc, port: {port}, user: {PLANTED_USER}, password: {PASSWORD}}}
by_url: {{ctype: Orthanc, url: 'http://{PLANTED_USER}:{PASSWORD}@127.0.0.1:{port}/x'}}
by_variable: {{ctype: Orthanc, port: {port}, password: '${{SECRET}}'}}
redis: {{ctype: Redis, port: {port}, password: {PASSWORD}}}
table: {{ctype: CsvFile, fp: table.csv, level: instances}}
archive: {{ctype: DcmDir, path: archive}}
nowhere: {{ctype: DcmDir, path: nowhere/at/all}}
copy: {{ctype: DcmDir, path: copy}}
shams: {{ctype: DcmDir, path: shams, anonymizing: true, deid: sham}}
images: {{ctype: ImageDir, path: images}}
""",
        encoding="utf-8",
    )
    (tmp_path / "w.yml").write_text(
        f"""
services:
  inbox: {{ctype: ObservableDcmDir, path: inbox, polling_interval: 0.1, settle: 0.05}}
  copy: {{ctype: DcmDir, path: copy}}
  shams: {{ctype: DcmDir, path: shams}}
  table: {{ctype: CsvFile, fp: table.csv, level: instances}}
  down: {{ctype: Orthanc, port: {port}, user: {PLANTED_USER}, password: {PASSWORD}}}
  blocked: {{ctype: DcmDir, path: inbox/cut {NAME}.dcm}}
routes:
  - name: all
    source: inbox
    event: file
    when: {{PatientID: "{PATIENT[:7]}*", not: {{PatientName: "{PLANTED_NAMES[1]}"}}}}
    to: [copy, table]
  - {{name: sham, source: inbox, event: file, steps: [pseudonymize, {{filter: {{Modality: CT}}}}], to: [shams]}}
  - {{name: none, source: inbox, event: file, to: [blocked]}}
state: state
""",
        encoding="utf-8",
    )
    return tmp_path


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(home: Path) -> Cli:
    """Run the program at -vv in the folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DIANA_", "XDG_"))}
    env = {**kept, "PYTHONPATH": str(REPO), "HOME": str(home), "SECRET": PLANTED_PASSWORDS[1], "COLUMNS": "200"}

    def run(*args: str, given: str = "", verbose: str = "-vv") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "diana_cli", *[verbose] * bool(verbose), *args],
            cwd=home,
            env=env,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run the program at -vv in this process, which takes less time."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("SECRET", PLANTED_PASSWORDS[1])
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str, given: str = "", verbose: str = "-vv") -> subprocess.CompletedProcess[str]:
        line = [*[verbose] * bool(verbose), *args]
        code = program.run(line)
        said = capfd.readouterr()
        return subprocess.CompletedProcess(["", "", "", *line], code, said.out, said.err)

    return run


def clean(done: subprocess.CompletedProcess[str], *codes: int, stdout: bool = True) -> None:
    """Check the exit code, and both streams for planted values."""
    assert done.returncode in codes, (done.returncode, done.stderr[-1500:])
    assert_nothing_planted(done.stderr, f"standard error of {done.args[3:]}")
    if stdout:
        assert_nothing_planted(done.stdout, f"standard output of {done.args[3:]}")


QUERY = json.dumps({"PatientName": f"{NAME[:5]}*", "PatientID": PATIENT, "AccessionNumber": ACCESSION})
FILE = f"{NAME} {PATIENT} 0.dcm"


@pytest.mark.timeout(120)
def test_find_transfer_and_receipts(home: Path, cli: Cli) -> None:
    found = cli("find", "archive", "-q", QUERY, "-l", "studies")
    clean(found, 0, stdout=False)
    assert find_planted(found.stdout)  # tags are what was asked for
    clean(cli("transfer", "archive", "copy", "-", given=found.stdout), 0, 3)
    clean(cli("transfer", "archive", "shams", "-", "--step", "pseudonymize", given=found.stdout), 0, 3)
    clean(cli("transfer", "archive", "nowhere", "-", given=found.stdout), 3)
    clean(cli("transfer", "archive", "orthanc", "-", given=found.stdout), 3)
    clean(cli("transfer", "archive", "images", "-", given=found.stdout), 3)
    names = "\n".join(path.name for path in (home / "archive").iterdir())
    clean(cli("transfer", "archive", "empty", "-", given=names), 2)
    clean(cli("transfer", "archive", "path:empty", "-", given=names), 0, 3)
    clean(cli("receipts"), 0)
    clean(cli("--table", "receipts"), 0)
    clean(cli("receipts", "--replay", "--to", "copy"), 0, 3)


@pytest.mark.timeout(120)
def test_watch_and_its_dead_letters(home: Path, cli: Cli) -> None:
    clean(cli("routes", "check", "w.yml"), 0)
    process = subprocess.Popen(
        [sys.executable, "-m", "diana_cli", "-vv", "watch", "w.yml"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(REPO), "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        from tests.helpers import wait_for

        wait_for(lambda: (home / "shams").is_dir() and len(list((home / "shams").iterdir())) >= 2, 30, "the shams")
        wait_for(lambda: len(list((home / "copy").iterdir())) >= 4, 30, "the copies")
    finally:
        process.send_signal(signal.SIGTERM)
        said, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints[-1500:]
    assert_nothing_planted(said + complaints, "what the watcher said")
    for args in (["receipts"], ["receipts", "--dead"], ["--table", "receipts", "--dead"]):
        clean(cli("--state", "state", *args), 0)
    clean(cli("--state", "state", "routes", "backtest", "w.yml"), 0, 3)
    clean(cli("routes", "explain", "w.yml", f"archive/{FILE}"), 0, 3)
    clean(cli("routes", "explain", "w.yml", json.dumps({"PatientID": PATIENT})), 0, 3)
    store = Store(home / "state")
    journal = Journal(store)
    assert_nothing_planted(repr(journal.receipts.list()), "the receipts")
    assert_nothing_planted(repr(journal.dead()), "the dead letters")
    assert_nothing_planted(repr(list(journal.events_since(0))), "the events")
    assert_nothing_planted(repr(journal.counts()), "the counts")
    store.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_verbs_that_fail(home: Path, here: Cli) -> None:
    for service in ("by_variable", "redis", "nowhere"):
        clean(here("find", service, "-q", QUERY), 1, 3)
        clean(here("exists", service, PATIENT), 1, 3, stdout=False)  # shows the ids that were given
        clean(here("get", service, ACCESSION), 1, 3)
        clean(here("put", service, f"archive/{FILE}"), 1, 3)
    clean(here("get", "archive", f"{NAME}.dcm"), 1, 3)
    clean(here("get", "archive", f"cut in the name {NAME}.dcm"), 0, 1, 3, stdout=False)
    clean(here("get", "archive", f"broken {NAME}.dcm"), 0, 1, 3, stdout=False)
    clean(here("get", "archive", f"bad date {NAME}.dcm"), 0, 1, 3, stdout=False)
    clean(here("get", "archive", f"not a number {NAME}.dcm"), 0, 1, 3, stdout=False)
    clean(here("put", "images", f"archive/not a number {NAME}.dcm", f"archive/cut {NAME}.dcm"), 0, 1, 3, stdout=False)
    names = [f"archive/{path.name}" for path in (home / "archive").iterdir()]
    clean(here("put", "shams", *names), 0, 1, 3, stdout=False)  # shows the files that were given
    clean(here("delete", "--yes", "archive", f"{NAME}/{PATIENT}", "--yes"), 0, 1, 3, stdout=False)
    clean(here("pull", "archive", PATIENT), 1, 2, 3)
    clean(here("update", "archive", FILE, "--data", json.dumps({"PatientNam": NAME})), 1, 2, 3)
    clean(here("do", "archive", "find", "-g", json.dumps([{"PatientID": {"a": PATIENT}}])), 1, 2, 3)
    clean(here("do", "archive", "nothing", "-k", json.dumps({"x": PATIENT})), 1, 2, 3)
    clean(here("do", "archive", "get_zipped", "-g", json.dumps([f"../{NAME}.zip"])), 1, 2, 3)


def test_doctor_check_ls_and_mistakes(home: Path, here: Cli) -> None:
    for verbose in ("", "-vv"):
        clean(here("doctor", "--timeout", "2", verbose=verbose), 0, 3)
        clean(here("ls", verbose=verbose), 0)
        clean(here("check", verbose=verbose), 0, 1, 3)
    clean(here("find", "archive", "-q", json.dumps({"PatientNam": NAME})), 2)
    clean(here("find", "archive", "-q", json.dumps({"PatientID": {"a": PATIENT}})), 2)
    clean(here("find", "archive", "-q", "{PatientID: " + PATIENT), 2)
    clean(here("find", f"orthanc:u,{PASSWORD},127.0.0.1", "--all"), 2)
    clean(here("find", f"orthan:u,{PASSWORD},127.0.0.1,8042", "--all"), 2)
    clean(here("find", f"orthanc:http://u:{PASSWORD}@127.0.0.1:x/", "--all"), 2)
    clean(here("find", f"orthanc:u,{PASSWORD},127.0.0.1,1", "--all"), 1, 3)
    clean(here("find", f"redis:{PASSWORD}@127.0.0.1:1/0", "--all"), 1, 2, 3)
    clean(here("-s", f"a: {{ctype: Orthanc, password: {PASSWORD}, hosst: x}}", "ls"), 2)
    clean(here("-s", f"a: {{ctype: Orthanc, password: {PASSWORD}, port: '{PASSWORD}'}}", "ls"), 2)
    clean(here("-s", f"a: {{ctype: Orthanc, password: [{PASSWORD}]}}", "ls"), 2)
    clean(here("-s", f"a: {{ctype: Orthanc, url: '{PASSWORD}'}}", "check"), 2)
    clean(here("-s", f"a: {{ctype: Orthanc, password: {PASSWORD}", "ls"), 2)
    clean(here("-s", f"a: {PASSWORD}", "ls"), 2)
    clean(here("guid", NAME, "--help"), 0)
    clean(here("transfer", "archive", "copy", "x", "--step", json.dumps({"filter": {"PatientNam": NAME}})), 2)
    clean(here("transfer", "archive", "copy", "x", "--step", json.dumps({"filter": {"PatientID": NAME}, "b": 1})), 2)


def test_a_refusing_server_is_told_without_what_was_sent(home: Path, here: Cli) -> None:
    text = f"no such patient {NAME} {PATIENT}; password {PASSWORD}".encode()
    for reply in (
        Reply(401, text, {"Content-Type": "text/plain", "WWW-Authenticate": f"Basic realm={PASSWORD}"}),
        Reply(404, text),
        Reply(400, json.dumps({"Message": NAME, "Details": PATIENT, "OrthancStatus": 15}).encode()),
        Reply(500, json.dumps({"Message": NAME, "OrthancStatus": NAME}).encode()),
        Reply(302, b"", {"Location": f"http://x/{PATIENT}"}),
        Reply(200, text, {"Content-Type": "application/json"}),
        json_reply({"ID": NAME, "Status": PATIENT}),
        html_reply(),
        Reply(200, b"{}", {"Content-Type": f"application/{NAME}"}),
        Reply(503, b"", {"Retry-After": PATIENT}),
    ):
        with ScriptedServer([reply]) as server:
            address = server.url.replace("http://", f"orthanc:http://{PLANTED_USER}:{PASSWORD}@")
            endpoint = ServiceManager().get(address)
            for verb in (endpoint.check, lambda one=endpoint: one.get(OID, "studies")):
                quiet(verb)
            endpoint.close()
            clean(here("put", address, f"archive/{FILE}"), 1, 3)
            assert server.requests
            assert not [one for one in server.requests if find_planted(one.target)]


OID = "0123abcd-0123abcd-0123abcd-0123abcd-0123abcd"


def quiet(verb: Callable[[], object]) -> None:
    """Call a verb; an error of the tree must hold nothing planted."""
    try:
        verb()
    except DianaError as error:
        assert_nothing_planted(f"{error} {error!r}")


BUGS = """
import logging, warnings
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
for name in ("sqlalchemy", "urllib3"):
    logging.getLogger(name).setLevel(logging.WARNING)
from diana.apis import Memory
from diana.daemons.rules import Route
from diana.daemons.transfer import transfer
from diana.ledger import Journal, Store
from diana.utils.dicom import DicomEventType
from diana.utils.endpoint import Trigger, Watcher
from tests.fakes.make import instance
from tests.fakes.memory_source import ObservableMemory
NAME, PATIENT = sys.argv[1:3]

class Broken(Memory):
    def _put(self, dixel):
        raise ValueError(f"cannot store {dixel.tags['PatientID']} {NAME}")

class Step:
    name = "step"
    def __call__(self, dixel):
        raise KeyError(dixel.tags["PatientID"])

def action(data):
    raise ValueError(f"{NAME} {PATIENT}")

source = ObservableMemory()
item = instance(1, PatientID=PATIENT, PatientName=NAME)
for outcome in Broken().put_many([item]):
    print(outcome, outcome.error)
source.put(item)
source.trouble = [ValueError(NAME), KeyError(PATIENT)]
journal = Journal(Store())
watcher = Watcher(0.02, journal=journal, until_idle=True, max_attempts=1)
watcher.add_trigger(Trigger(DicomEventType.INSTANCE_ADDED, source, action, name="a"))
for route in (Route("b", source, DicomEventType.INSTANCE_ADDED, [Broken()]),
              Route("c", source, DicomEventType.INSTANCE_ADDED, [Memory()], steps=[Step()])):
    for trigger in route.triggers(journal.receipts):
        watcher.add_trigger(trigger)
journal.store.close = lambda: print(journal.dead(), watcher.status(), journal.receipts.list())
watcher.backoff = type(watcher.backoff)(base=0.01, cap=0.02)
watcher.run()
print(Broken().check(), transfer(source, Broken(), item), transfer(source, Memory(), item, [Step()]))
"""


def test_errors_of_others_are_logged_without_their_words() -> None:
    from tests.fakes.hostile import run_apart

    done = run_apart(BUGS, NAME, PATIENT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_nothing_planted(done.stderr, "the log at DEBUG")
    assert_nothing_planted(done.stdout, "results")


ODD = """
import logging, os, pathlib
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from diana.apis import DcmDir, ImageDir, Memory
from diana.daemons.steps import Pseudonymize
from diana.daemons.transfer import transfer
from diana.dixel import DixelView
from diana.exceptions import DianaError
folder = DcmDir(sys.argv[1])
for name in sorted(os.listdir(sys.argv[1])):
    for view in (DixelView.TAGS, DixelView.PIXELS):
        try:
            folder.get(name, view=view)
        except DianaError as error:
            print(error)
    print(transfer(folder, Memory(), name, [Pseudonymize()]))
"""


def test_values_that_pydicom_does_not_like_reach_no_log_or_warning(home: Path) -> None:
    from tests.fakes.hostile import run_apart

    sound = planted(0).file or b""
    at = sound.index(b"\x10\0\x20\0LO")
    odd = f"{PATIENT}{'x' * 80}".encode()
    odd += b" " * (len(odd) % 2)
    length = int.from_bytes(sound[at + 6 : at + 8], "little")
    long_id = sound[: at + 6] + len(odd).to_bytes(2, "little") + odd + sound[at + 8 + length :]
    (home / "archive" / "long.dcm").write_bytes(long_id)
    (home / "archive" / "uid.dcm").write_bytes(sound.replace(b"1.2.826.0.1.3680043", b"NO-UID-AT-ALL-.3680"))
    done = run_apart(ODD, str(home / "archive"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert_nothing_planted(done.stdout, "results")
    assert_nothing_planted(done.stderr, "warnings and logs")


# -- reprs and errors ----------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, Any] = {
    "user": PLANTED_USER,
    "password": PASSWORD,
    "token": PASSWORD,
    "secret": PASSWORD,
    "api_key": PASSWORD,
}


def with_secrets(cls: type[Any]) -> Any:
    """Return an endpoint with a secret in every argument that takes one."""
    from diana.utils.endpoint.registry import constructor_arguments

    known = set(constructor_arguments(cls))
    given = {key: value for key, value in ARGUMENTS.items() if key in known}
    if cls.__name__ not in ("Orthanc", "ObservableOrthanc", "ProxiedDicom"):
        places = {"path": "archive", "fp": "table.csv", "url": "http://127.0.0.1:1/"}
        given.update({key: value for key, value in places.items() if key in known})
    try:
        return cls(**given)
    except (TypeError, DianaError):
        return None


@pytest.mark.parametrize("ctype", [one for one in ctypes() if one in diana.apis.CTYPES])
def test_no_endpoint_shows_its_secrets(ctype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    endpoint = with_secrets(class_of(ctype))
    if endpoint is None:
        pytest.skip("needs other arguments")
    shown = [repr(endpoint), str(endpoint), f"{endpoint.__class__}"]
    if isinstance(endpoint, Endpoint):
        shown += [endpoint.json(), str(endpoint.asdict())]
    shown += [repr(getattr(endpoint, name, None)) for name in ("gateway", "http")]
    shown += [repr(getattr(getattr(endpoint, "gateway", None), "http", None))]
    assert_nothing_planted("\n".join(shown), ctype)


@pytest.mark.parametrize("field", ["host", "path", "url", "name", "cert", "verify"])
def test_credentials_in_an_address_do_not_show(field: str) -> None:
    address = {"host": f"u:{PASSWORD}@h", "path": f"u:{PASSWORD}@h", "url": f"http://u:{PASSWORD}@h:1/x"}
    if field not in address:
        return
    for cls in (Orthanc, diana.apis.ObservableOrthanc, diana.apis.ProxiedDicom):
        try:
            found = cls(**{field: address[field]})
        except (TypeError, DianaError) as error:
            assert_nothing_planted(str(error))
            continue
        if field == "path":
            continue
        assert_nothing_planted(repr(found) + repr(found.gateway) + found.json(), cls.__name__)


def things() -> Iterator[tuple[str, object]]:
    """Yield one of everything that may be shown, with planted values inside."""
    item = planted()
    data = item.file or b""
    yield "dixel", item
    yield "study", Dixel(meta={"ID": NAME, "FileName": NAME}, tags=item.tags)
    yield "sham", ShamDixel.from_dixel(item)
    yield "report", RadiologyReport(f"{NAME} {PATIENT} was here")
    yield "blob", Blob(data)
    yield "ref", item.ref
    yield "ref by id", Ref(DicomLevel.STUDIES, id=f"{NAME}.dcm", patient=PATIENT)
    yield "query", Query(item.tags)
    yield "query with groups", Query({"any": [{"PatientID": PATIENT}], "not": {"PatientName": NAME}})
    yield "clauses", Query({"PatientID": PATIENT, "PatientName": NAME}).explain(item.tags)
    yield "header", read_header(data)
    yield "whole", check_whole(data)
    yield "cut", check_whole(data[:400])
    yield "event", Event(DicomEventType.FILE_ADDED, {"fn": f"{NAME}.dcm"}, NAME, "s", study=NAME)
    yield "event's ref", Event(DicomEventType.FILE_ADDED, {"fn": f"{NAME}.dcm", "PatientID": PATIENT}).ref
    yield "page", Page([Event(DicomEventType.FILE_ADDED, {"fn": NAME}, NAME)])
    yield "row", EventRow("s", NAME, 1, {"fn": NAME}, NAME)
    yield "outcome", Outcome(item, id="x")
    yield "filter", Filter(Query({"PatientID": PATIENT}))
    yield "step", make_step({"filter": {"PatientName": NAME}})
    yield "pseudonymize", Pseudonymize()
    yield "manager", ServiceManager.from_text(f"a: {{ctype: Orthanc, password: {PASSWORD}}}")
    yield "config", WatchConfig(ServiceManager.from_text(f"a: {{ctype: Redis, password: {PASSWORD}}}"))
    source = ObservableMemory()
    route = Route("r", source, DicomEventType.INSTANCE_ADDED, [Memory()], when=Query({"PatientID": PATIENT}))
    yield "route", route
    yield "trigger", Trigger(DicomEventType.INSTANCE_ADDED, source, print, name="t")
    yield "http client", HttpClient(f"http://{PLANTED_USER}:{PASSWORD}@h:1/", headers={"X-Token": PASSWORD})
    yield "redis gateway", RedisKV(password=PASSWORD, user=PLANTED_USER)
    memory = Memory()
    memory.put(item)
    yield "memory", memory
    yield "receipt", transfer(memory, Memory(), item.ref)
    yield "rejected", transfer(memory, ReportDir("nowhere"), item.ref)
    source.put(item)
    journal = Journal(Store())
    for trigger in route.triggers(journal.receipts):
        yield "route trigger", trigger
    journal.take(source.source_id, [EventRow(source.source_id, NAME, 3, {"oid": NAME})], {3: ["t"]}, {"x": 1})
    yield "backtest", list(backtest(route, journal))
    yield "turn", journal.turn([], {"t": 5}, owner="o", ordered=frozenset(), longest_wait=300.0)
    yield "watcher", Watcher(journal=journal).status()
    yield "received", dimse.outgoing(Blob(data))


@pytest.mark.parametrize("what", [name for name, _ in things()])
def test_nothing_shows_its_values(what: str) -> None:
    for name, thing in things():
        if name == what:
            assert_nothing_planted(f"{thing!r} {getattr(thing, 'name', '')}", what)


def failing(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield verbs that cannot succeed."""
    item, other = planted(), planted(Modality="MR")
    files, pictures, reports = DcmDir(str(folder / "f")), ImageDir(str(folder / "i")), ReportDir(str(folder / "r"))
    memory, table = Memory(), CsvFile(folder / "t.csv", level="instances")
    broken = Dixel(meta=item.meta, tags=item.tags, level=DicomLevel.INSTANCES)
    broken.file = (item.file or b"")[:300]
    files.put(item)
    memory.put(item)
    yield "conflict in a folder", lambda: files.put(other)
    yield "conflict in memory", lambda: memory.put(other)
    for endpoint in (files, pictures, reports, memory, table):
        for given in (f"{NAME}.dcm", f"../{PATIENT}", Ref(DicomLevel.STUDIES, id=ACCESSION), planted(7)):
            for verb in ("get", "delete", "pull", "digest", "exists"):
                yield (
                    f"{verb} {endpoint.name}",
                    lambda endpoint=endpoint, verb=verb, given=given: use(getattr(endpoint, verb)(given)),
                )
            yield "update", lambda endpoint=endpoint, given=given: endpoint.update(given, {"PatientNam": NAME})
        yield "put broken", lambda endpoint=endpoint: endpoint.put(broken)
        yield "put a study", lambda endpoint=endpoint: endpoint.put(Dixel(tags=item.tags))
        yield "put no dixel", lambda endpoint=endpoint: endpoint.put(NAME)  # type: ignore[arg-type]
        yield "unknown key", lambda endpoint=endpoint: endpoint.find({"PatientNam": NAME})
        yield "group", lambda endpoint=endpoint: endpoint.find({"any": [PATIENT]})
        yield "limit", lambda endpoint=endpoint: endpoint.find({"PatientID": PATIENT}, limit=NAME)
        yield "option", lambda endpoint=endpoint: endpoint.put(item, **{NAME: PATIENT})
    yield "factory", lambda: Factory.create(ctype="Orthanc", port=PASSWORD)
    yield "factory class", lambda: Factory.create(ctype="Orthanc", url=f"ftp://u:{PASSWORD}@h")
    yield "manager", lambda: ServiceManager.from_text(f"a: {{ctype: Orthanc, password: {PASSWORD}, x: {PASSWORD}}}")
    yield "shortcut", lambda: ServiceManager().get(f"orthanc:{PASSWORD},x")
    yield "redis", lambda: Redis(port=1, password=PASSWORD).get(PATIENT)
    yield "orthanc", lambda: Orthanc(port=1, password=PASSWORD, timeout=(0.2, 0.2)).find({"PatientID": PATIENT})
    yield "orthanc by id", lambda: Orthanc(port=1, password=PASSWORD, timeout=(0.2, 0.2)).get(PATIENT)
    yield "store", lambda: dimse.store([item.file or b""], "127.0.0.1", 1)
    yield "watch", lambda: ObservableDcmDir(str(folder / "f")).resume({"fn": NAME}, lambda keys: set())
    yield "step", lambda: make_step({"filter": {"PatientID": PATIENT}, "x": NAME})
    yield "header", lambda: read_header((item.file or b"")[:300])


def use(found: object) -> object:
    return list(found) if isinstance(found, Iterator) else found


def test_no_error_tells_a_value(tmp_path: Path) -> None:
    leaks = []
    for name, verb in failing(tmp_path):
        try:
            verb()
        except DianaError as error:
            text = f"{error} {error!r} {error.__dict__}"
            chain = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
            while chain is not None:
                text += f" {chain!r}"
                chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
            if find_planted(text):
                leaks.append((name, text[:200]))
        except TypeError as error:
            if name != "option" and find_planted(str(error)):
                leaks.append((name, str(error)[:200]))
    assert leaks == []


def test_a_receipt_of_planted_patients_is_data_without_them(tmp_path: Path) -> None:
    memory = Memory()
    for number in range(3):
        memory.put(planted(number))
    study = planted().ref.at(DicomLevel.STUDIES)
    shown = io.StringIO()
    for dest in (Memory(), DcmDir(str(tmp_path / "f")), ImageDir(str(tmp_path / "i")), ReportDir(str(tmp_path / "r"))):
        for steps in ([], [Pseudonymize()], [Filter(Query({"PatientName": "nobody"}))]):
            receipt = transfer(memory, dest, study, steps)
            shown.write(json.dumps(receipt.asdict(), default=str) + repr(receipt))
    assert_nothing_planted(shown.getvalue(), "receipts")
