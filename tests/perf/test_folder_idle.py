"""A watched folder that is quiet costs next to nothing, however large it is."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from diana.apis.observables._folder_watch import FolderWatch
from diana.apis.observables.dcmdir import ObservableDcmDir
from tests.contract import samples

FILES = 100_000
FOLDERS = 100


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 100,000 files; many names share a file."""
    root = tmp_path_factory.mktemp("large")
    data = samples.file_bytes(samples.dataset())
    for n in range(FOLDERS):
        folder = root / f"{n:03}"
        folder.mkdir()
        first = folder / "1.2.826.0.1.3680043.10.43.0.dcm"
        first.write_bytes(data)
        for m in range(1, FILES // FOLDERS):
            os.link(first, folder / f"1.2.826.0.1.3680043.10.43.{m}.dcm")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("notify", [True, False], ids=["notified", "polling"])
def test_an_idle_folder_of_100000_files_takes_next_to_nothing(large: Path, notify: bool) -> None:
    source = ObservableDcmDir(str(large), settle=0.0)
    source.resume({"kind": "folder", "version": 1}, set)
    woken = threading.Event()
    if notify:
        source.listen(woken.set)
    quiet = 0
    while quiet < 3:
        page = source.changes()
        source.ack(page)
        quiet = 0 if page.more else quiet + 1
    begin, used = time.monotonic(), time.process_time()
    while time.monotonic() - begin < 6:
        source.ack(source.changes())
        woken.wait(0.25)
    share = (time.process_time() - used) / (time.monotonic() - begin)
    source.unlisten()
    assert share < 0.1  # 0.005 where the machine is not shared; a look at every file would take all of it


@pytest.mark.slow
def test_100000_known_files_take_under_60_mb(large: Path) -> None:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    watch = FolderWatch(str(large), settle=0.0)
    known = 0
    while known < FILES:
        watch.look()
        for relative, signature in watch.settled(500):
            watch.judged(relative, signature)
            known += 1
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 60 << 20
