"""ServiceManager: files, variables, conversion, all problems at once, shortcuts, laziness."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from diana.apis import CTYPES, CsvFile, Memory, Redis
from diana.exceptions import ConfigError
from diana.utils.endpoint import ServiceManager
from diana.utils.endpoint.manager import load_document, parse_document, services_of, substitute
from tests.helpers import REPO
from tests.planted import PLANTED_PASSWORDS, assert_nothing_planted

TWO = """
index: {ctype: Redis, host: example, port: 6380}
heap: {ctype: Memory}
"""


def problems_of(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        ServiceManager.from_text(text, "f.yml", environ or {})
    return caught.value.problems


class TestFiles:
    def test_a_file_of_services_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "services.yml"
        path.write_text(TWO)
        manager = ServiceManager.from_file(path)
        assert manager.names() == ["index", "heap"]
        index = manager.get("index")
        assert isinstance(index, Redis)
        assert (index.host, index.port, index.name) == ("example", 6380, "index")

    def test_services_may_stand_beside_other_parts(self) -> None:
        text = "services:\n  heap: {ctype: Memory}\nroutes:\n  - source: ${NOT_SET}\n"
        assert ServiceManager.from_text(text, environ={}).names() == ["heap"]
        assert services_of(parse_document(text))[1] == {"heap": {"ctype": "Memory"}}

    def test_a_service_may_be_named_services(self) -> None:
        assert ServiceManager.from_text("services: {ctype: Memory}").names() == ["services"]

    @pytest.mark.parametrize(
        "text", ["", "services:\n", "# nothing\n", "{}"], ids=["empty", "null", "comment", "braces"]
    )
    def test_no_services_is_no_problem(self, text: str) -> None:
        assert ServiceManager.from_text(text).names() == []

    def test_an_absent_file_is_a_config_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none\.yml: cannot be read"):
            ServiceManager.from_file(tmp_path / "none.yml")

    def test_a_folder_is_a_config_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            load_document(tmp_path)

    def test_a_document_can_be_used_for_services_and_routes(self, tmp_path: Path) -> None:
        path = tmp_path / "watch.yml"
        path.write_text("services: {heap: {ctype: Memory, name: '${N:-x}'}}\nroutes: [{to: '${N:-y}'}]\n")
        document = load_document(path)
        assert document["routes"] == [{"to": "${N:-y}"}]
        assert ServiceManager.from_mapping(document, "watch.yml", {}).get("heap").name == "x"
        assert substitute(document["routes"], {}) == [{"to": "y"}]

    def test_the_examples_of_the_project_hold_every_ctype(self) -> None:
        manager = ServiceManager.from_file(
            REPO / "conf" / "services.yml", {"ORTHANC_PASSWORD": "x", "REDIS_PASSWORD": "y"}
        )
        assert {str(desc["ctype"]) for desc in manager.descriptions.values()} == set(CTYPES)

    def test_every_endpoint_of_the_examples_can_be_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        environ = {"ORTHANC_PASSWORD": PLANTED_PASSWORDS[0], "REDIS_PASSWORD": PLANTED_PASSWORDS[1]}
        manager = ServiceManager.from_file(REPO / "conf" / "services.yml", environ)
        for name, endpoint in manager.all().items():
            assert endpoint.name == name
            assert type(endpoint).__name__ == manager.descriptions[name]["ctype"]
            assert_nothing_planted(f"{endpoint!r} {endpoint.asdict()} {endpoint.json()}", name)
        manager.close()

    def test_every_configuration_of_the_project_is_a_sound_document(self) -> None:
        for path in (REPO / "conf").glob("*.yml"):
            assert load_document(path)


class TestAllProblemsAtOnce:
    TEXT = """
one: {ctype: Rediss}
two: {ctype: Redis, hosst: x, port: many, db: 1.5, tls: perhaps, password: null}
three: 7
four: {host: x}
five: {ctype: Redis, host: "${NOWHERE}", name: [a]}
six: {ctype: CsvFile, level: department}
"""

    def test_every_problem_is_told_with_file_line_service_and_key(self) -> None:
        told = problems_of(self.TEXT)
        expected = [
            ("f.yml:2: one:", "unknown ctype 'Rediss', did you mean 'Redis'?"),
            ("f.yml:3: two:", "unknown key 'hosst', did you mean 'host'?"),
            ("f.yml:3: two:", "key 'port': needs a whole number"),
            ("f.yml:3: two:", "key 'db': needs a whole number"),
            ("f.yml:3: two:", "key 'tls': needs true or false"),
            ("f.yml:4: three:", "is not a mapping"),
            ("f.yml:5: four:", "has no ctype"),
            ("f.yml:6: five:", "key 'host': the variable NOWHERE is not set"),
            ("f.yml:6: five:", "key 'name': needs a text"),
            ("f.yml:7: six:", "key 'level': no DICOM level"),
        ]
        for where, what in expected:
            assert any(one.startswith(where) and what in one for one in told), (where, what, told)
        assert len(told) == len(expected)

    def test_a_required_argument_is_asked_for(self) -> None:
        told = problems_of("x: {ctype: ProxiedDicom, proxy_domain: y, nonsense: 1}")
        assert any("unknown key 'nonsense'" in one for one in told)

    def test_all_undefined_variables_are_told(self) -> None:
        told = problems_of("x: {ctype: Redis, host: '${ONE}', password: '${TWO}${THREE}'}")
        assert [name for name in ("ONE", "TWO", "THREE") if any(name in one for one in told)] == ["ONE", "TWO", "THREE"]

    def test_messages_hold_no_values(self) -> None:
        secret = PLANTED_PASSWORDS[0]
        told = problems_of(
            f"""
a: {{ctype: Redis, password: [{secret}]}}
b: {{ctype: Redis, pasword: {secret}, port: {secret}}}
c: {{password: {secret}}}
d: {secret}
e: {{ctype: Redis, password: {{x: {secret}}}}}
""",
        )
        assert len(told) == 6
        assert_nothing_planted("\n".join(told))


class TestVariables:
    @pytest.mark.parametrize(
        ("text", "environ", "expected"),
        [
            ("${A}", {"A": "x"}, "x"),
            ("a${A}b${B}c", {"A": "1", "B": "2"}, "a1b2c"),
            ("${A:-d}", {}, "d"),
            ("${A:-d}", {"A": ""}, "d"),
            ("${A:-}", {}, ""),
            ("${A}", {"A": ""}, ""),
            ("${A:-a b:c}", {}, "a b:c"),
            ("$$", {}, "$"),
            ("$${A}", {}, "${A}"),
            ("$A and $1", {"A": "x"}, "$A and $1"),
            ("${A}", {"A": "${B}"}, "${B}"),
        ],
    )
    def test_texts_are_filled_in_once(self, text: str, environ: dict[str, str], expected: str) -> None:
        assert substitute(text, environ) == expected

    def test_other_values_and_keys_stay(self) -> None:
        value = {"${A}": [1, None, True, 2.5, {"k": "${A}"}]}
        assert substitute(value, {"A": "x"}) == {"${A}": [1, None, True, 2.5, {"k": "x"}]}

    @pytest.mark.parametrize("text", ["${A", "${1}", "${A-b}", "${A:-${B}}", "${}", "${A B}"])
    def test_malformed_variables_are_refused(self, text: str) -> None:
        with pytest.raises(ConfigError, match="is written"):
            substitute(text, {"A": "x"})

    def test_what_is_filled_in_is_never_read_as_yaml(self) -> None:
        evil = "x, port: 1}\nother: {ctype: Memory"
        manager = ServiceManager.from_text("a: {ctype: Redis, password: '${P}'}", environ={"P": evil})
        assert manager.names() == ["a"]
        assert manager.get("a").password == evil  # type: ignore[attr-defined]

    @pytest.mark.parametrize("password", ["0123", "yes", "null", "1e3", "12:30:00", "2020-01-01", "~", "#x", "!!int 1"])
    def test_a_password_stays_text(self, password: str) -> None:
        manager = ServiceManager.from_text("a: {ctype: Redis, password: '${P}'}", environ={"P": password})
        assert manager.get("a").password == password  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        "password", ["0123", "yes", "12:30:00", "2020-01-01", "1_000", "0x1F", "0o17", "no", "4711"]
    )
    def test_a_password_without_quotes_stays_text(self, password: str) -> None:
        manager = ServiceManager.from_text(f"a: {{ctype: Redis, password: {password}}}")
        assert manager.get("a").password == password  # type: ignore[attr-defined]

    @pytest.mark.parametrize("password", ["1.10", "1e5", "true"])
    def test_a_password_that_would_be_changed_is_asked_for_in_quotes(self, password: str) -> None:
        (told,) = problems_of(f"a: {{ctype: Redis, password: {password}}}")
        assert "in quotes" in told
        assert password not in told

    def test_texts_become_the_types_of_the_arguments(self) -> None:
        text = "a: {ctype: Redis, port: '${P}', db: '${D:-3}', tls: '${T}', timeout: '${S}'}"
        found = ServiceManager.from_text(text, environ={"P": "6400", "T": "yes", "S": "2.5"}).get("a")
        assert isinstance(found, Redis)
        assert (found.port, found.db, found.tls, found.timeout) == (6400, 3, True, 2.5)

    @pytest.mark.parametrize("value", ["", "x", "1.5", "0x10", "1_0", "9" * 30, "١٢"])
    def test_a_text_that_is_no_number_is_a_problem(self, value: str) -> None:
        (told,) = problems_of("a: {ctype: Redis, port: '${P}'}", {"P": value})
        assert told == "f.yml:1: a: key 'port': needs a whole number"


class TestEndpoints:
    def test_the_same_name_gives_the_same_endpoint(self) -> None:
        manager = ServiceManager.from_text(TWO)
        assert manager.get("heap") is manager.get("heap")
        assert manager.get("memory:") is manager.get("memory:")
        assert manager.get("memory:a") is not manager.get("memory:b")

    def test_many_threads_get_the_same_endpoint(self) -> None:
        manager = ServiceManager.from_text(TWO)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: manager.get("heap"), range(32)))
        assert len({id(one) for one in found}) == 1

    def test_endpoints_are_made_when_first_asked_for(self, tmp_path: Path) -> None:
        manager = ServiceManager.from_text(f"t: {{ctype: CsvFile, fp: {tmp_path}/t.csv}}\nm: {{ctype: Memory}}")
        assert isinstance(manager.get("m"), Memory)
        assert isinstance(manager.get("t"), CsvFile)
        assert list(manager.all()) == ["t", "m"]

    def test_merged_takes_the_last_of_a_name(self) -> None:
        one = ServiceManager.from_text("a: {ctype: Memory}\nb: {ctype: Memory}")
        two = ServiceManager.from_text("b: {ctype: Redis}")
        both = ServiceManager.merged([one, two])
        assert both.names() == ["a", "b"]
        assert isinstance(both.get("b"), Redis)

    def test_an_unknown_name_tells_the_nearest(self) -> None:
        manager = ServiceManager.from_text(TWO, "f.yml")
        with pytest.raises(ConfigError, match=r"f\.yml: no service 'indx', did you mean 'index'"):
            manager.get("indx")
        with pytest.raises(ConfigError, match="there are index, heap"):
            manager.get("zzzzz")

    def test_an_unknown_shortcut_shows_its_prefix_only(self) -> None:
        with pytest.raises(ConfigError) as caught:
            ServiceManager().get(f"rediss:{PLANTED_PASSWORDS[0]}@host")
        assert "rediss:..." in str(caught.value)
        assert_nothing_planted(str(caught.value))

    def test_a_service_named_like_a_shortcut_wins_only_when_equal(self) -> None:
        manager = ServiceManager.from_text("'memory:x': {ctype: Redis}\nmemory: {ctype: Redis}\npath: {ctype: Memory}")
        assert isinstance(manager.get("memory:x"), Redis)
        assert isinstance(manager.get("memory"), Redis)
        assert isinstance(manager.get("memory:"), Memory)
        assert isinstance(manager.get("path"), Memory)

    def test_repr_shows_names_only(self) -> None:
        text = f"a: {{ctype: Redis, password: {PLANTED_PASSWORDS[0]}}}"
        manager = ServiceManager.from_text(text, environ={"X": PLANTED_PASSWORDS[1]})
        assert_nothing_planted(repr(manager))
        assert "'a'" in repr(manager)


def attributes(shortcut: str, environ: dict[str, str] | None = None) -> dict[str, Any]:
    found = ServiceManager(environ=environ or {}).get(shortcut)
    names = ("host", "port", "db", "user", "password", "path", "fp", "protocol")
    return {name: getattr(found, name) for name in names if hasattr(found, name)}


class TestShortcuts:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("redis:", ("localhost", 6379, 0, None)),
            ("redis:example", ("example", 6379, 0, None)),
            ("redis:example:6400", ("example", 6400, 0, None)),
            ("redis:example/3", ("example", 6379, 3, None)),
            ("redis:secret@example:6400/3", ("example", 6400, 3, "secret")),
            ("redis:p@ss:w/rd@example:6400/3", ("example", 6400, 3, "p@ss:w/rd")),
            ("redis:[::1]:6400", ("::1", 6400, 0, None)),
            ("redis://:s%40cret@example:6400/3", ("example", 6400, 3, "s@cret")),
        ],
    )
    def test_redis(self, text: str, expected: tuple[object, ...]) -> None:
        found = attributes(text)
        assert tuple(found[key] for key in ("host", "port", "db", "password")) == expected

    def test_csv_and_path(self, tmp_path: Path) -> None:
        assert attributes(f"csv:{tmp_path}/t.csv")["fp"] == tmp_path / "t.csv"
        assert str(attributes(f"path:{tmp_path}")["path"]) == str(tmp_path)

    @pytest.mark.parametrize("text", ["path:", "csv:", "redis:a:b:c", "redis:host/x", "orthanc:a,b", "orthanc:a,b,c,d"])
    def test_a_malformed_shortcut_tells_the_form(self, text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            ServiceManager(environ={}).get(text)
        assert text.partition(":")[0] in str(caught.value)

    def test_a_malformed_shortcut_shows_no_password(self) -> None:
        for text in ("redis:{}@host:port", "redis://:{}@h:x/", "orthanc:u,{},host,port", "orthanc:http://u:{}@h:x/"):
            with pytest.raises(ConfigError) as caught:
                ServiceManager(environ={}).get(text.format(PLANTED_PASSWORDS[0]))
            assert_nothing_planted(str(caught.value))

    def test_orthanc_takes_four_parts(self) -> None:
        found = attributes("orthanc:someone,pass,word,example,8099")
        assert (found["user"], found["password"], found["host"], found["port"]) == (
            "someone",
            "pass,word",
            "example",
            8099,
        )

    def test_orthanc_takes_the_environment(self) -> None:
        found = attributes("orthanc:", {"ORTHANC_HOST": "example", "ORTHANC_PORT": "8099", "ORTHANC_PASSWORD": "x"})
        assert (found["host"], found["port"], found["password"]) == ("example", 8099, "x")

    def test_orthanc_takes_an_address(self) -> None:
        manager = ServiceManager(environ={})
        shown = repr(manager.get("orthanc:https://someone:s%40cret@example:8443/pacs/"))
        assert "s@cret" not in shown
        assert "s%40cret" not in shown
