"""Key: what a file may look like, what stays secret, what rotation keeps."""

from __future__ import annotations

import os
import pickle
from base64 import b64encode
from pathlib import Path

import pytest

from diana.deid.key import Key
from diana.exceptions import ConfigError


def test_a_saved_key_is_the_same_key_when_loaded(tmp_path: Path) -> None:
    key = Key.make()
    key.save(tmp_path / "k")
    assert Key.load(tmp_path / "k") == key
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    key = Key.make()
    key.save(tmp_path / "k")
    with pytest.raises(ConfigError, match="never written over"):
        Key.make().save(tmp_path / "k")
    assert Key.load(tmp_path / "k") == key


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o700, 0o400])
def test_other_modes_than_0600_are_refused(tmp_path: Path, mode: int) -> None:
    Key.make().save(tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(ConfigError, match=r"chmod 600|cannot be read"):
        Key.load(tmp_path / "k")


@pytest.mark.parametrize(
    "content",
    [b"", b"# only a comment\n", b"c2hvcnQ=\n", b"\xff\xfe\n", b"!!!\n", b64encode(bytes(31)), b64encode(bytes(33))],
)
def test_a_file_without_a_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "k"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        Key.load(path)
    assert "c2hvcnQ" not in str(caught.value)
    assert "!!!" not in str(caught.value)


def test_absent_folders_and_pipes_are_no_keys(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("absent", "", "pipe"):
        with pytest.raises(ConfigError):
            Key.load(tmp_path / name)


def test_rotation_remembers_the_older_secrets(tmp_path: Path) -> None:
    first = Key.make()
    third = first.rotate().rotate()
    third.save(tmp_path / "k")
    loaded = Key.load(tmp_path / "k")
    assert loaded == third
    assert loaded.ids[2] == first.id
    assert [one.id for one in loaded.before()] == list(loaded.ids[1:])
    assert loaded.before()[1].mac("uid", "1.2.3") == first.mac("uid", "1.2.3")
    assert loaded.mac("uid", "1.2.3") != first.mac("uid", "1.2.3")


def test_no_two_ways_to_divide_a_text_give_the_same_mac() -> None:
    key = Key.make()
    ways = [("a", "bc"), ("ab", "c"), ("abc",), ("abc", ""), ("", "abc"), ("a", "b", "c"), ()]
    assert len({key.mac("p", *one) for one in ways}) == len(ways)
    assert key.mac("pa", "b") != key.mac("p", "ab")
    assert len(key.mac("p")) == 32
    assert key.mac("p", "\udcff") != key.mac("p", "\ufffd")


def test_the_secret_is_in_no_text_of_the_key() -> None:
    key = Key(bytes(range(32)), (bytes(32),))
    for shown in (repr(key), str(key), key.id, *key.ids):
        assert b64encode(key.secret).decode() not in shown
        assert key.secret.hex()[:8] not in shown
        assert "\\x" not in shown
    assert pickle.loads(pickle.dumps(key)) == key


def test_two_keys_differ() -> None:
    assert Key.make().id != Key.ephemeral().id
    with pytest.raises(ConfigError):
        Key(b"short")
