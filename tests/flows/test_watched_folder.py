"""Careless writers in a watched folder: everything whole is taken, once, and nothing else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diana.apis.observables.dcmdir import ObservableDcmDir
from diana.exceptions import IncompleteTransfer, ItemNotFound
from tests.helpers import load_tool


class Taker:
    """A small Watcher: a journal of keys and a ledger of what was delivered, kept over restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: set[str] = set()
        self.delivered: list[tuple[str, str]] = []
        self.dead: list[str] = []

    def seen(self, keys: Sequence[str]) -> set[str]:
        return self.keys & set(keys)

    def run(self, until: Callable[[], bool], *, notify: bool = True, lives: float | None = None) -> None:
        """Watch until a condition holds; forget everything in memory every ``lives`` seconds, as if killed."""
        while not until():
            source = ObservableDcmDir(str(self.folder))
            source.resume({"kind": "folder", "version": 1} if self.keys else None, self.seen)
            woken = threading.Event()
            if notify:
                source.listen(woken.set)
            end = time.monotonic() + (lives or 1e9)
            while time.monotonic() < end and not until():
                page = source.changes()
                for event in page.events:
                    if event.key not in self.keys:
                        self.keys.add(event.key)
                        self.take(source, event)
                source.ack(page)
                if not page.more:
                    woken.wait(0.25)
                    woken.clear()
            source.unlisten()

    def take(self, source: ObservableDcmDir, event: Any) -> None:
        if not source.still_there(event):
            return
        try:
            for dixel in source.pull(event.ref):
                assert dixel.file is not None
                self.delivered.append((dixel.oid(), sha256(dixel.file).hexdigest()))
        except (ItemNotFound, IncompleteTransfer) as error:
            self.dead.append(type(error).__name__)


def truth_of(path: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["id"]: row for row in rows}


def judged(taker: Taker, truth: dict[str, dict[str, Any]]) -> list[str]:
    """Return what is wrong, ``[]`` when nothing is."""
    got = dict(taker.delivered)
    wrong = [f"lost {row['kind']}" for oid, row in truth.items() if row["must"] and oid not in got]
    wrong += [
        f"corrupt {row['kind']}" for oid, row in truth.items() if oid in got and row["sha256"] not in (got[oid], None)
    ]
    wrong += [f"taken {row['kind']}" for oid, row in truth.items() if row["must"] is False and oid in got]
    return wrong + ["stranger" for oid in got if oid not in truth] + taker.dead


@pytest.fixture
def tricks(shared_dir: Path) -> ModuleType:
    load_tool(shared_dir, "mini_orthanc")
    return load_tool(shared_dir, "folder_tricks")


@pytest.mark.parametrize(
    ("notify", "lives"), [(True, None), (False, None), (True, 0.7)], ids=["notified", "polling", "killed"]
)
def test_careless_writers_lose_nothing(tmp_path: Path, tricks: ModuleType, notify: bool, lives: float | None) -> None:
    folder, truth = tmp_path / "in", tmp_path / "truth.jsonl"
    folder.mkdir()
    player = tricks.Player(str(folder), str(truth), 7, 0.9)
    for _ in range(5):
        player.one("early")
    ended = threading.Event()

    def play() -> None:
        player.play(33, tricks.KINDS, threads=33)
        ended.set()

    thread = threading.Thread(target=play)
    thread.start()
    taker = Taker(folder)
    limit = time.monotonic() + 40

    def everything_is_there() -> bool:
        if time.monotonic() > limit:
            return True
        return ended.is_set() and not judged(taker, truth_of(truth))

    taker.run(everything_is_there, notify=notify, lives=lives)
    thread.join()
    player.truth.close()
    assert judged(taker, truth_of(truth)) == []
