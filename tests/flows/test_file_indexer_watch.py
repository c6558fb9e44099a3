"""A watched tree stays current, by the kernel's word or by the clock."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diana.daemons.file_indexer import FileIndexer, IndexReport, SqliteRegistry
from tests.fakes.make import instance
from tests.flows.test_file_indexer import contents, fill, made_registry, truth  # noqa: F401  # a fixture
from tests.helpers import wait_for


@contextmanager
def watched(folder: Path, registry: Any, pause: float) -> Iterator[list[IndexReport]]:
    """Keep a registry current in a thread; gives the reports."""
    stop, told = threading.Event(), list[IndexReport]()
    options = {"pause": pause, "stop": stop, "on_report": told.append}
    thread = threading.Thread(target=FileIndexer().watch_path, args=(folder, registry), kwargs=options)
    thread.start()
    try:
        yield told
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(params=["kernel", "clock"])
def pause(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds between looks: with the kernel's word none comes in the time of a test."""
    if request.param == "kernel":
        if not sys.platform.startswith("linux"):
            pytest.skip("only Linux tells of changes")
        return 3600.0
    monkeypatch.setattr("diana.apis._folder_inotify.is_local", lambda _: False)
    return 0.05


def test_a_watched_tree_stays_current_until_told_to_stop(tmp_path: Path, registry: Any, pause: float) -> None:
    folder = fill(tmp_path / "tree")
    with watched(folder, registry, pause) as told:

        def is_current() -> bool:
            return contents(folder, registry) == truth(folder)

        wait_for(lambda: told and is_current(), timeout=60, what="the tree as it was")
        (folder / "new" / "below").mkdir(parents=True)
        (folder / "new" / "below" / "1.dcm").write_bytes(instance(1, AccessionNumber="A9", size=4).file or b"")
        wait_for(is_current, timeout=60, what="a new file in new folders")
        (folder / "s1" / "1.dcm").write_bytes(instance(1, AccessionNumber="B1", size=4).file or b"")
        wait_for(is_current, timeout=60, what="a changed file")
        (folder / "s1" / "2.dcm").unlink()
        wait_for(is_current, timeout=60, what="a removed file")
        (folder / "s2").rename(folder / "s9")
        wait_for(is_current, timeout=60, what="a moved folder")
        for path in (folder / "s9").iterdir():
            path.unlink()
        (folder / "s9").rmdir()
        wait_for(is_current, timeout=60, what="a removed folder")
        assert FileIndexer.items_on_path(folder, registry) == ["A3", "A9", "B1"]
    after = FileIndexer().index_path(folder, registry)
    assert (after.registered, after.removed) == (0, 0)


def test_watching_looks_only_where_something_changed(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells of changes")
    folder, registry = fill(tmp_path / "tree", 20, 5), SqliteRegistry(tmp_path / "f.sqlite")
    with watched(folder, registry, 3600) as told:
        wait_for(lambda: told, timeout=60, what="the first look")
        (folder / "s7" / "new.dcm").write_bytes(instance(1, AccessionNumber="A7", size=4).file or b"")
        wait_for(lambda: len(told) > 1 and told[-1].checked, timeout=60, what="the second look")
        assert {one.checked for one in told[1:]} == {6}
    registry.close()


def test_a_watched_tree_that_goes_away_is_waited_for(tmp_path: Path) -> None:
    folder, registry = fill(tmp_path / "tree"), SqliteRegistry(tmp_path / "f.sqlite")
    with watched(folder, registry, 0.05) as told:
        wait_for(lambda: told, timeout=60, what="the first look")
        folder.rename(tmp_path / "away")
        (tmp_path / "away" / "s1" / "1.dcm").unlink()
        (tmp_path / "away").rename(folder)
        wait_for(lambda: contents(folder, registry) == truth(folder), timeout=60, what="the tree that came back")
    registry.close()
