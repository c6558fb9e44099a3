"""Watch files, services and options that attack their reader end in a short ConfigError or exit 2; no secret shows."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from diana.daemons.steps import make_step
from diana.daemons.watch import load_config, make_watcher
from diana.exceptions import ConfigError, DianaError
from diana.utils.endpoint import ServiceManager
from diana_cli.cli import run
from tests.fakes.hostile import peak_mib, run_apart
from tests.planted import PASSWORD, PLANTED_IDS, find_planted

BASE = "services:\n  in: {ctype: ObservableDcmDir, path: inbox}\n  out: {ctype: Memory}\n"
ROUTE = "routes:\n  - {name: r, source: in, to: [out]}\n"

BOMB = "x0: &x0 [a,a,a,a,a,a,a,a,a]\n" + "".join(
    f"x{n}: &x{n} [{','.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12)
)

FILES = {
    "python object": BASE + "routes: !!python/object/apply:os.system ['touch owned']\n",
    "python name": BASE + "routes:\n  - {name: r, source: !!python/name:os.system , to: [out]}\n",
    "own tag in a service": "services:\n  in: !Orthanc {host: x}\n",
    "bomb": BOMB + BASE + ROUTE,
    "alias": "services: &s\n  out: {ctype: Memory}\nroutes: *s\n",
    "merge": "services:\n  a: &a {ctype: Memory}\n  b: {<<: *a}\n",
    "deep": BASE + "routes: " + "[" * 20_000,
    "deep closed": BASE + "routes: " + "[" * 3000 + "]" * 3000,
    "huge": BASE + "# " + "x" * (2 << 20),
    "many nodes": BASE + "routes: [" + "a," * 300_000 + "]",
    "duplicate top key": BASE + ROUTE + ROUTE,
    "duplicate service": BASE + "  out: {ctype: Redis}\n" + ROUTE,
    "duplicate key in a route": BASE + "routes:\n  - {name: r, name: s, source: in, to: [out]}\n",
    "nul": BASE + "routes: \0\n",
    "list": "- a\n",
    "services a list": "services: [a, b]\n",
    "services a text": "services: all\n",
    "services null": "services:\n",
    "a service a list": "services:\n  a: [ctype, Memory]\n",
    "a service a number": "services:\n  a: 5\n",
    "ctype a list": "services:\n  a: {ctype: [Memory]}\n",
    "ctype a mapping": "services:\n  a: {ctype: {a: Memory}}\n",
    "ctype a path": "services:\n  a: {ctype: os.system}\n",
    "port a text": "services:\n  a: {ctype: Orthanc, port: eighty}\n",
    "port huge": "services:\n  a: {ctype: Orthanc, port: 9999999999999999999999999}\n",
    "port negative": "services:\n  a: {ctype: Orthanc, port: -1}\n",
    "port nan": "services:\n  a: {ctype: Orthanc, port: .nan}\n",
    "path a list": "services:\n  a: {ctype: DcmDir, path: [a]}\n",
    "depth a text": "services:\n  a: {ctype: DcmDir, path: a, subpath_depth: many}\n",
    "style unknown": "services:\n  a: {ctype: DcmDir, path: a, recurse_style: WILD}\n",
    "timeout a text": "services:\n  a: {ctype: Orthanc, timeout: soon}\n",
    "timeout one number": "services:\n  a: {ctype: Orthanc, timeout: [1]}\n",
    "timeout of texts": "services:\n  a: {ctype: Orthanc, timeout: [a, b]}\n",
    "timeout negative": "services:\n  a: {ctype: Orthanc, timeout: [-1, -1]}\n",
    "url of a file": "services:\n  a: {ctype: Orthanc, url: 'file:///etc/passwd'}\n",
    "url with lines": 'services:\n  a: {ctype: Orthanc, url: "http://h/\\r\\nX: y"}\n',
    "user with lines": 'services:\n  a: {ctype: Orthanc, user: "a\\r\\nX: y", host: "h\\r\\nX: y"}\n',
    "interval nan": "services:\n  a: {ctype: ObservableDcmDir, path: a, polling_interval: .nan}\n",
    "interval word nan": "services:\n  a: {ctype: ObservableDcmDir, path: a, polling_interval: nan}\n",
    "interval infinite": "services:\n  a: {ctype: ObservableDcmDir, path: a, polling_interval: inf}\n",
    "title too long": "services:\n  a: {ctype: DicomListener, aet: ABCDEFGHIJKLMNOPQRSTUVWXYZ}\n",
    "title with controls": 'services:\n  a: {ctype: DicomListener, aet: "A\\nB"}\n',
    "addresses a text": "services:\n  a: {ctype: DicomListener, addresses: everybody}\n",
    "variable missing": "services:\n  a: {ctype: Orthanc, host: '${NOT_THERE}'}\n",
    "variable open": "services:\n  a: {ctype: Orthanc, host: '${'}\n",
    "routes a mapping": BASE + "routes: {a: b}\n",
    "routes a text": BASE + "routes: all\n",
    "a route a text": BASE + "routes: [all]\n",
    "a route a number": BASE + "routes: [1]\n",
    "a route empty": BASE + "routes: [{}]\n",
    "name a list": BASE + "routes:\n  - {name: [r], source: in, to: [out]}\n",
    "name with colon": BASE + "routes:\n  - {name: 'a:b', source: in, to: [out]}\n",
    "name twice": BASE + ROUTE + "  - {name: r, source: in, to: [out]}\n",
    "source a list": BASE + "routes:\n  - {name: r, source: [in], to: [out]}\n",
    "source absent": BASE + "routes:\n  - {name: r, to: [out]}\n",
    "source cannot be watched": BASE + "routes:\n  - {name: r, source: out, to: [out]}\n",
    "to absent": BASE + "routes:\n  - {name: r, source: in}\n",
    "to empty": BASE + ROUTE + "  - {name: s, source: in, to: []}\n",
    "to a mapping": BASE + "routes:\n  - {name: r, source: in, to: {a: b}}\n",
    "to twice": BASE + "routes:\n  - {name: r, source: in, to: [out, out]}\n",
    "event a list": BASE + "routes:\n  - {name: r, source: in, to: [out], event: [file]}\n",
    "event unknown": BASE + "routes:\n  - {name: r, source: in, to: [out], event: disaster}\n",
    "when a list": BASE + "routes:\n  - {name: r, source: in, to: [out], when: [a]}\n",
    "when a text": BASE + "routes:\n  - {name: r, source: in, to: [out], when: all}\n",
    "when unknown": BASE + "routes:\n  - {name: r, source: in, to: [out], when: {PatientNam: x}}\n",
    "when with a mapping": BASE + "routes:\n  - {name: r, source: in, to: [out], when: {PatientID: {a: b}}}\n",
    "when with a group of texts": BASE + "routes:\n  - {name: r, source: in, to: [out], when: {any: [a]}}\n",
    "when deep": BASE
    + "routes:\n  - {name: r, source: in, to: [out], when: "
    + "{not: " * 25
    + "{PatientID: a}"
    + "}" * 25
    + "}\n",
    "when nested lists": BASE
    + "routes:\n  - {name: r, source: in, to: [out], when: {PatientID: "
    + "[" * 20
    + "a"
    + "]" * 20
    + "}}\n",
    "steps a text": BASE + "routes:\n  - {name: r, source: in, to: [out], steps: pseudonymize}\n",
    "steps unknown": BASE + "routes:\n  - {name: r, source: in, to: [out], steps: [os.system]}\n",
    "step a list": BASE + "routes:\n  - {name: r, source: in, to: [out], steps: [[pseudonymize]]}\n",
    "step with options": BASE + "routes:\n  - {name: r, source: in, to: [out], steps: [{pseudonymize: {salt: x}}]}\n",
    "workers many": BASE + "routes:\n  - {name: r, source: in, to: [out], workers: 1000000}\n",
    "workers true": BASE + "routes:\n  - {name: r, source: in, to: [out], workers: true}\n",
    "workers a text": BASE + "routes:\n  - {name: r, source: in, to: [out], workers: '4'}\n",
    "remove a text": BASE + "routes:\n  - {name: r, source: in, to: [out], remove_source: maybe}\n",
    "remove a list": BASE + "routes:\n  - {name: r, source: in, to: [out], remove_source: []}\n",
    "handler unknown": BASE + "routes:\n  - {handler: os_system, source: in, dest: out}\n",
    "handler a list": BASE + "routes:\n  - {handler: [upload_files], source: in, dest: out}\n",
    "handler dest a list": BASE + "routes:\n  - {handler: upload_files, source: in, dest: [out]}\n",
    "handler without dest": BASE + "routes:\n  - {handler: upload_files, source: in}\n",
    "handler that cannot be watched": BASE + "routes:\n  - {handler: upload_files, source: out, dest: out}\n",
    "grace a text": BASE + ROUTE + "grace: long\n",
    "grace nan": BASE + ROUTE + "grace: nan\n",
    "grace infinite": BASE + ROUTE + "grace: inf\n",
    "grace huge": BASE + ROUTE + "grace: 1e400\n",
    "grace negative": BASE + ROUTE + "grace: -5\n",
    "grace true": BASE + ROUTE + "grace: true\n",
    "grace a list": BASE + ROUTE + "grace: [1]\n",
    "state a mapping": BASE + ROUTE + "state: {a: b}\n",
    "state a list": BASE + ROUTE + "state: [a]\n",
    "state a number": BASE + ROUTE + "state: 5\n",
    "state with nul": BASE + ROUTE + 'state: "a\\0b"\n',
    "unknown top key": BASE + ROUTE + "rutes: []\n",
    "unknown route key": BASE + "routes:\n  - {name: r, source: in, to: [out], dest: out}\n",
}


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of one's own."""
    monkeypatch.chdir(tmp_path)


def make_everything(path: Path, state: Path) -> None:
    """Read a watch file, and make each service and the watcher."""
    config = load_config(path, {})
    config.services.all()
    make_watcher(config, state=state)


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_hostile_watch_file_is_a_short_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.yml"
    # a mistake in one service beside a route without mistakes
    path.write_text(text if "out:" in text or not text.startswith("services:\n  ") else text + BASE[10:] + ROUTE)
    begin = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        make_everything(path, tmp_path / "state")
    assert time.monotonic() - begin < 10
    assert 0 < len(str(caught.value)) < 4000
    assert "object at 0x" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("data", [b"\xff\xfe", b"services: {\x80: 1}", b"a: \xed\xa0\x80", bytes(1000)], ids=range(4))
def test_bytes_that_are_no_text_are_a_config_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.yml").write_bytes(data)
    with pytest.raises(ConfigError):
        load_config(tmp_path / "w.yml", {})
    with pytest.raises(ConfigError):
        ServiceManager.from_file(tmp_path / "w.yml")


@pytest.mark.parametrize("kind", ["folder", "absent", "endless"])
def test_a_path_that_is_no_file_is_a_config_error(tmp_path: Path, kind: str) -> None:
    path = {"folder": tmp_path, "endless": Path("/dev/zero")}.get(kind, tmp_path / kind)
    with pytest.raises(ConfigError):
        load_config(path, {})


LAUGH = """
import pathlib
from diana.daemons.watch import load_config
from diana.exceptions import ConfigError
for text in pathlib.Path(sys.argv[1]).read_text().split("\\n====\\n"):
    pathlib.Path(sys.argv[1] + ".one").write_text(text)
    try:
        load_config(sys.argv[1] + ".one", {})
    except ConfigError:
        continue
    raise SystemExit("taken: " + text[:80])
"""


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    chosen = [FILES[name] for name in ("bomb", "deep", "deep closed", "huge", "many nodes")]
    (tmp_path / "bombs").write_text("\n====\n".join(chosen))
    assert peak_mib(run_apart(LAUGH, str(tmp_path / "bombs"))) < 120


QUERIES = {
    "list": "[1, 2]",
    "text": "'just words'",
    "number": "5",
    "open": '{"PatientID": ',
    "deep list": '{"PatientID": ' + "[" * 100_000,
    "deep closed list": '{"PatientID": ' + "[" * 900 + '"a"' + "]" * 900 + "}",
    "deep mapping": '{"not": ' * 900 + '{"PatientID": "a"}' + "}" * 900,
    "deep group": '{"any": [' * 40 + '{"PatientID": "a"}' + "]}" * 40,
    "mapping as value": '{"PatientID": {"a": 1}}',
    "mapping in a list": '{"PatientID": [{"a": 1}]}',
    "key twice": '{"PatientID": "A", "PatientID": "B"}',
    "key twice as yaml": "{PatientID: A, PatientID: B}",
    "unknown key": '{"PatientNam": "x"}',
    "private key": '{"__class__": "x"}',
    "yaml tag": "!!python/object/apply:os.system ['touch owned']",
    "yaml alias": "{PatientID: &a [x], StudyDate: *a}",
    "yaml bomb": BOMB,
    "nul": '{"Patient\0ID": "x"}',
    "no utf-8": b'{"PatientID": "\xff\xfe"'.decode("utf-8", "surrogateescape"),
    "absent file": "@nowhere.json",
    "folder": "@.",
    "group a text": '{"any": "x"}',
    "group a number": '{"not": 5}',
    "empty": "",
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_hostile_query_on_the_command_line_is_exit_2(
    tmp_path: Path, query: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "archive").mkdir()
    begin = time.monotonic()
    assert run(["find", "path:archive", "-q", query]) == 2
    assert time.monotonic() - begin < 20
    said = capfd.readouterr()
    assert "bug" not in said.err
    assert "Traceback" not in said.err
    assert len(said.err) < 4000
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "query",
    [
        '{"PatientID": NaN}',
        '{"PatientID": Infinity}',
        '{"PatientID": 1e999}',
        '{"PatientID": ' + "9" * 4000 + "}",
        '{"PatientID": ">1e999"}',
        '{"StudyDate": "0-9"}',
        '{"StudyDate": "-"}',
        '{"StudyTime": "-----"}',
        '{"PatientName": "' + "*?" * 20_000 + '"}',
        '{"PatientID": "\\ud800"}',
        '{"PatientID": "a\\\\b\\\\c"}',
        '{"PatientID": true}',
    ],
    ids=range(12),
)
def test_an_odd_value_in_a_query_finds_nothing_in_short_time(tmp_path: Path, query: str) -> None:
    from tests.fakes.hostile import good_dicom

    (tmp_path / "archive").mkdir()
    for name, data in good_dicom(3).items():
        (tmp_path / "archive" / name).write_bytes(data)
    begin = time.monotonic()
    assert run(["find", "path:archive", "-q", query]) in (0, 1, 2, 3)
    assert time.monotonic() - begin < 5


def test_an_endless_file_of_an_option_is_refused_in_little_memory(tmp_path: Path) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from diana_cli.cli import run
assert run(["find", "memory:", "-q", "@/dev/zero"]) == 2
"""
    assert peak_mib(run_apart(code, timeout=30)) < 150


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        '{"level": "x", "id": "a"}',
        '{"level": 3, "id": 5}',
        '{"id": null, "uid": null}',
        '{"tags": [1], "uid": "1.2"}',
        '{"tags": {"StudyInstanceUID": {"a": 1}}}',
        '{"a": ' * 2000,
        "[1]",
        "null",
        '{"uid": "' + "1" * 100_000 + '"}',
        "../../etc/passwd",
        "\x00",
        "\ufeff",
        "\u202e",
        "{" * 100_000,
        '{"uid": "1.2", "at": {"a": [1]}}',
        '{"uid": "\\ud800"}',
    ],
    ids=range(17),
)
def test_a_hostile_line_in_a_pipe_is_named_and_the_next_is_worked(tmp_path: Path, line: str) -> None:
    from tests.fakes.hostile import good_dicom

    (tmp_path / "archive").mkdir()
    (tmp_path / "copy").mkdir()
    for name, data in good_dicom(1).items():
        (tmp_path / "archive" / name).write_bytes(data)
    from diana_cli.cli import cli

    done = CliRunner().invoke(
        cli,
        ["--state", "state", "transfer", "path:archive", "path:copy", "-"],
        input=f"{line}\n{json.dumps({'level': 'instances', 'id': 'good0.dcm'})}\n",
        standalone_mode=False,
    )
    assert done.exception is None, repr(done.exception)
    assert '"verified"' in done.stdout
    assert done.return_value in (0, 3)
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["good0.dcm"]


STEPS = "routes:\n  - {name: r, source: in, to: [out], steps: [%s]}\n"
SECRETS = {
    "source": f"routes:\n  - {{name: r, source: 'orthanc:u,{PASSWORD},h,80', to: [out]}}\n",
    "source with a typo": f"routes:\n  - {{name: r, source: 'ortanc:u,{PASSWORD},h,80', to: [out]}}\n",
    "to": f"routes:\n  - {{name: r, source: in, to: ['orthac:http://u:{PASSWORD}@h/']}}\n",
    "to with a bad port": f"routes:\n  - {{name: r, source: in, to: ['orthanc:http://u:{PASSWORD}@h:x/']}}\n",
    "to that cannot be put": f"routes:\n  - {{name: r, source: in, to: ['redis:{PASSWORD}@h:x/0']}}\n",
    "step of two words": STEPS % f"{{filter: {{PatientID: {PLANTED_IDS[0]}}}, a: b}}",
    "step filter": STEPS % f"{{filter: {{PatientID: {{a: {PLANTED_IDS[0]}}}}}}}",
    "step list": f"routes:\n  - {{name: r, source: in, to: [out], steps: [[{PLANTED_IDS[0]}]]}}\n",
    "when": f"routes:\n  - {{name: r, source: in, to: [out], when: {{PatientNam: {PLANTED_IDS[0]}}}}}\n",
    "when group": f"routes:\n  - {{name: r, source: in, to: [out], when: {{any: [{PLANTED_IDS[0]}]}}}}\n",
    "handler": f"routes:\n  - {{handler: upload_files, source: 'orthanc:u,{PASSWORD},h,80', dest: out}}\n",
    "handler dest": f"routes:\n  - {{handler: upload_files, source: in, dest: 'orthanc:u,{PASSWORD}'}}\n",
    "syntax": f"routes:\n  - {{name: r, source: 'orthanc:u,{PASSWORD},h,80', to: [out\n",
    "grace": f"grace: {PASSWORD}\n",
    "password": f"  bad: {{ctype: Orthanc, password: [{PASSWORD}]}}\n",
    "password as key": f"  bad: {{ctype: Orthanc, url: 'http://u:{PASSWORD}@h:x'}}\n",
    "url of another kind": f"  bad: {{ctype: Orthanc, url: 'ftp://u:{PASSWORD}@h/'}}\n",
    "host with a password": f"  bad: {{ctype: Orthanc, host: 'u:{PASSWORD}@h h'}}\n",
    "redis": f"  bad: {{ctype: Redis, password: {{a: {PASSWORD}}}}}\n",
    "header": f'  bad: {{ctype: Orthanc, user: "a\\nb", password: "{PASSWORD}"}}\n',
}


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
def test_mistakes_in_a_file_are_told_without_its_secrets(
    tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.yml"
    path.write_text(BASE + text)
    assert run(["-vv", "watch", "w.yml", "--state", "state", "--once"]) == 2
    assert find_planted(capfd.readouterr().err) == []
    with pytest.raises(ConfigError) as caught:
        make_watcher(load_config(path, {}), state=tmp_path / "state")
    assert find_planted(str(caught.value)) == []


@pytest.mark.parametrize(
    "described", [[], {}, 5, None, {"filter": None, "x": 1}, {"filter": [1]}, {5: 6}, {None: None}]
)
def test_no_step_is_made_of_nonsense(described: object) -> None:
    with pytest.raises(ConfigError):
        make_step(described)


def test_a_good_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "w.yml").write_text(BASE + ROUTE + "grace: 1.5\nstate: here\n")
    (tmp_path / "inbox").mkdir()
    try:
        make_watcher(load_config(tmp_path / "w.yml", {}), state=tmp_path / "state")
    except DianaError as error:
        pytest.fail(str(error))
