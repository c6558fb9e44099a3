"""Configuration documents that attack the reader: tags, bombs, depth, size, odd keys. Always a short ConfigError."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diana.exceptions import ConfigError
from diana.utils.endpoint import ServiceManager
from diana.utils.endpoint.documents import MAX_BYTES, load_document, parse_document

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
)

HOSTILE = {
    "python object": "a: !!python/object/apply:os.system ['touch /tmp/owned']",
    "python name": "a: !!python/name:os.system",
    "python module": "!!python/module:os {}",
    "python new": "a: !!python/object/new:subprocess.Popen [[id]]",
    "own tag": "a: !Endpoint {ctype: Memory}",
    "standard tag": "a: !!binary aGVsbG8=",
    "set": "a: !!set {b, c}",
    "tag on the key": "!!str a: b",
    "laughs": BOMB,
    "alias to itself": "a: &a [*a]",
    "alias": "a: &x {ctype: Memory}\nb: *x",
    "undefined alias": "a: *nothing",
    "merge": "a: {b: 1}\nc: {<<: {b: 1}}",
    "deep flow": "a: " + "[" * 100_000,
    "deep closed flow": "a: " + "[" * 5_000 + "]" * 5_000,
    "deep block": "".join(" " * n + "a:\n" for n in range(900)),
    "many nodes": "a: [" + "x," * 200_000 + "]",
    "twice": "a: {ctype: Memory}\na: {ctype: Redis}",
    "twice below": "a: {ctype: Memory, name: x, name: y}",
    "list as key": "[a]: b",
    "mapping as key": "? {a: b}\n: c",
    "several documents": "a: 1\n---\nb: 2",
    "a list": "- a\n- b",
    "a text": "just words",
    "a number": "7",
    "tab": "a:\n\tb: c",
    "open quote": 'a: "never closed',
    "control character": "a: \x07",
    "nul": "a: \0",
    "directive": "%TAG ! tag:example.com,2000:\n---\na: !x y",
    "unknown directive": "%YAML 3.0\n---\na: !!int '1'",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_text_is_a_short_config_error_in_short_time(text: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "f.yml")
    assert time.monotonic() - begin < 20
    assert str(caught.value).startswith("f.yml")
    assert len(str(caught.value)) < 4000


def test_a_bomb_takes_little_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError):
            parse_document(BOMB)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.yml"
    with path.open("wb") as out:
        out.truncate(1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="larger than"):
            load_document(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [b"\xff\xfe\xfd", b"a: \xe9\n", b"\x80"], ids=["bom", "latin", "byte"])
def test_bytes_that_are_no_utf8_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f.yml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="UTF-8"):
        load_document(path)


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_document(path) == {"a": 1}


def test_syntax_errors_name_the_line_and_quote_nothing() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_document("a: 1\nb: {password: planted-passw0rd-7f3a\nc: x", "f.yml")
    assert "line 3" in str(caught.value)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    "ctype",
    [
        "os.system",
        "builtins.eval",
        "diana.utils.files.remove_parts",
        "__import__",
        "Endpoint",
        "Factory",
        "",
        "''",
        "[Memory]",
    ],
)
def test_ctype_is_a_registered_name_and_never_an_import_path(ctype: str) -> None:
    with pytest.raises(ConfigError, match="unknown ctype"):
        ServiceManager.from_text(f"a: {{ctype: {ctype or chr(39) * 2}}}")


@pytest.mark.parametrize("key", ["__class__", "__init__", "_rows", "_lock", "gateway", "views", "_Memory__x"])
def test_private_attributes_are_no_arguments(key: str) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        ServiceManager.from_text(f"a: {{ctype: Memory, {key}: x}}")


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_document_or_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        assert isinstance(parse_document(text), dict)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=12,
    )
)
def test_any_mapping_is_a_manager_or_a_config_error(value: object) -> None:
    with suppress(ConfigError):
        ServiceManager.from_mapping({"a": value, "b": {"ctype": "Redis", "port": value, "password": value}}, "f", {})
