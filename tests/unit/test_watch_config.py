"""A watch file is read whole, or refused with all its problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from diana.daemons.routes import HANDLERS, mk_route
from diana.daemons.watch import load_config, make_watcher
from diana.deid.key import Key
from diana.exceptions import ConfigError
from diana.utils.dicom import DicomEventType
from tests.helpers import REPO

SERVICES = """
services:
  inbox: {ctype: ObservableDcmDir, path: IN}
  archive: {ctype: Memory}
  other: {ctype: Memory}
"""


def load(tmp_path: Path, routes: str, **environ: str):
    path = tmp_path / "watch.yml"
    path.write_text(SERVICES.replace("IN", str(tmp_path)) + routes)
    return load_config(path, environ)


def problems(tmp_path: Path, routes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, routes)
    return "\n".join(caught.value.problems)


def test_a_route_says_source_event_rule_steps_and_destinations(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "routes:\n- {name: r, source: inbox, event: file, when: {Modality: CT}, steps: [pseudonymize], "
        "to: [archive, other]}\n"
        "state: ${STATE:-/tmp/x}\ngrace: 5\n",
        STATE=str(tmp_path / "state"),
    )
    route = config.routes[0]
    assert (route.evtype, [one.name for one in route.to]) == (DicomEventType.FILE_ADDED, ["archive", "other"])
    assert [step.name for step in route.steps] == ["pseudonymize"]
    assert (config.state, config.grace) == (tmp_path / "state", 5.0)
    watcher = make_watcher(config)
    assert sorted(watcher.triggers) == ["r:archive", "r:other"]
    watcher.journal.store.close()


def test_named_handlers_work_in_a_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "routes:\n- {handler: upload_files, source: inbox, dest: archive}\n"
        "- {handler: say_files, source: inbox, dest: '-'}\n",
    )
    watcher = make_watcher(config, state=tmp_path / "state")
    assert len(watcher.triggers) == 2
    watcher.journal.store.close()


def test_all_problems_of_a_file_are_told_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    told = problems(
        tmp_path,
        """
rutes: 1
routes:
- {name: a, sorce: inbox, to: archive}
- {name: b, source: inbx, to: archive}
- {name: c, source: inbox, to: archive, when: {Modallity: CT}}
- {name: d, source: inbox, to: archive, steps: [pseudonymise]}
- {name: e, source: archive, to: other, event: moment}
- {name: f, source: inbox, to: [archive, other], remove_source: true}
- {handler: uplod_files, source: inbox, dest: archive}
- 7
""",
    )
    for hint in (
        "unknown key 'rutes', did you mean 'routes'?",
        "route 1 (a): unknown key 'sorce', did you mean 'source'?",
        "'inbox'",
        "did you mean 'Modality'?",
        "did you mean 'pseudonymize'?",
        "'archive' (Memory) cannot be watched",
        "unknown event 'moment'",
        "'remove_source' needs a single destination",
        "did you mean 'upload_files'?",
        "route 8: is a mapping",
    ):
        assert hint in told, hint


def test_two_routes_of_one_name_are_refused(tmp_path: Path) -> None:
    told = problems(
        tmp_path, "routes:\n- {name: r, source: inbox, to: archive}\n- {name: r, source: inbox, to: other}\n"
    )
    assert "two routes are named 'r'" in told


def test_a_file_without_routes_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is to be watched"):
        make_watcher(load(tmp_path, ""))


@pytest.mark.parametrize("name", sorted(path.name for path in (REPO / "conf").glob("*.yml")))
def test_every_example_in_conf_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPO / "conf" / name).read_text()
    if "routes:" not in text:
        pytest.skip("a services file; read by the test of the services")
    environ = {
        "DIANA_DATA": str(tmp_path),
        "DRILL_SOURCE": "http://127.0.0.1:1",
        "DRILL_DEST": "http://127.0.0.1:2",
        "DRILL_STATE": str(tmp_path / "state"),
        "DIANA_DICOM_PORT": "0",
    }
    config = load_config(REPO / "conf" / name, environ)
    watcher = make_watcher(config)
    assert watcher.triggers
    watcher.journal.store.close()


@pytest.mark.parametrize("name", sorted(HANDLERS))
def test_every_handler_makes_a_trigger(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Key.make().save(tmp_path / "key")
    monkeypatch.setenv("DIANA_DEID_KEY", str(tmp_path / "key"))
    source = {"ctype": "ObservableDcmDir", "path": str(tmp_path)}
    trigger = mk_route(name, source, {"ctype": "Memory"})
    assert trigger.evtype == HANDLERS[name].evtype
    assert trigger.source.path == str(tmp_path) or str(trigger.source.path) == str(tmp_path)


def test_mk_route_refuses_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="upload_files"):
        mk_route("upload_file", {"ctype": "Memory"})
    with pytest.raises(ConfigError, match="needs a source"):
        mk_route("say_files", {})
    with pytest.raises(ConfigError, match="needs a destination"):
        mk_route("upload_files", {"ctype": "ObservableDcmDir"})
    with pytest.raises(ConfigError, match="cannot be watched"):
        mk_route("say_files", {"ctype": "Memory"})
