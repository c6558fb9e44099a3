"""How many requests, descriptors and bytes of memory the Orthanc endpoint takes."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from diana.apis import ObservableOrthanc, Orthanc
from diana.dixel import Dixel
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel
from tests.contract import samples
from tests.helpers import open_files
from tests.planted import PASSWORD
from tests.servers import OrthancServer

pytestmark = pytest.mark.live

MIB = 1 << 20


class Counted:
    """An observable Orthanc behind a proxy that counts requests."""

    def __init__(self, server: OrthancServer, proxy: Any) -> None:
        self.proxy = proxy
        self.there = ObservableOrthanc(url=proxy.url, user=server.user, password=PASSWORD)

    def requests(self, work: Callable[[Orthanc], Any]) -> int:
        """Return how many requests a piece of work makes."""
        before = self.proxy.stats()["events"]
        work(self.there)
        return int(self.proxy.stats()["events"] - before)


@pytest.fixture
def counted(clean_orthanc: OrthancServer, flaky_proxy: Any) -> Iterator[Counted]:
    """Return an empty Orthanc and a count of what it is asked."""
    found = Counted(clean_orthanc, flaky_proxy(("127.0.0.1", clean_orthanc.http_port)))
    yield found
    found.there.close()


def test_verbs_take_few_requests(counted: Counted) -> None:
    items = list(samples.instances(1, 2, 5))
    study = samples.above(items[0], DicomLevel.STUDIES)
    oid = study.oid()
    assert counted.requests(lambda there: [there.put(item) for item in items]) == 10
    assert counted.requests(lambda there: there.put(items[0])) == 2
    assert counted.requests(lambda there: there.exists(items[0])) == 1
    assert counted.requests(lambda there: there.digest(items[0])) == 1
    assert counted.requests(lambda there: there.get(oid, view="tags")) == 1
    assert counted.requests(lambda there: there.get(oid, view="metakv")) == 1
    assert counted.requests(lambda there: list(there.pull(study))) == 11
    assert counted.requests(lambda there: list(there.pull(items[0]))) == 1
    assert counted.requests(lambda there: there.find({"AccessionNumber": "GEN000000"})) == 1
    assert counted.requests(lambda there: there.find({"StudyInstanceUID": samples.uid(1)}, "instances")) <= 6
    assert counted.requests(lambda there: there.check()) == 1
    assert counted.requests(lambda there: there.delete(study)) == 1


def test_a_look_at_the_changes_is_one_request(counted: Counted) -> None:
    counted.there.put(samples.instance())
    there = counted.there
    assert counted.requests(lambda _: there.ack(there.changes())) == 1
    assert counted.requests(lambda _: [there.changes() for _ in range(20)]) == 20


def test_threads_share_few_connections(counted: Counted) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: counted.there.put(samples.instance(0, 0, number)), range(120)))
    assert counted.proxy.stats()["connections"] <= 16


def test_descriptors_are_given_back(clean_orthanc: OrthancServer) -> None:
    there = Orthanc(url=clean_orthanc.url, user=clean_orthanc.user, password=PASSWORD)
    there.check()
    there.close()
    before = open_files(os.getpid())
    for item in samples.instances(1, 1, 20):
        there.put(item)
    list(there.pull(samples.above(samples.instance(), DicomLevel.STUDIES)))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: there.exists(samples.instance()), range(50)))
    assert open_files(os.getpid()) <= before + 8
    there.close()
    gc.collect()
    assert open_files(os.getpid()) <= before


@pytest.fixture
def peak() -> Iterator[Callable[[], float]]:
    """Return the peak of Python's memory since the test began, in MiB."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.stop()


def big_file(folder: Path, number: int, size: int) -> Dixel:
    """Return an instance on disk with a private element of ``size`` zeros."""
    data = samples.file_bytes(samples.dataset(0, 0, number))
    filler = b"\x09\x00\x10\x10OB\0\0" + size.to_bytes(4, "little")
    where = data.index(b"\x10\x00\x10\x00")
    path = folder / f"{number}.dcm"
    with path.open("wb") as out:
        out.write(data[:where] + filler)
        for _ in range(size // MIB):
            out.write(bytes(MIB))
        out.write(data[where:])
    found = Dixel(tags=samples.instance(0, 0, number).tags, level=DicomLevel.INSTANCES)
    found.blob = Blob(path)
    return found


def test_large_objects_never_come_into_memory(
    clean_orthanc: OrthancServer, tmp_path: Path, peak: Callable[[], float]
) -> None:
    there = Orthanc(url=clean_orthanc.url, user=clean_orthanc.user, password=PASSWORD)
    item = big_file(tmp_path, 0, 64 * MIB)
    there.put(item)
    (found,) = there.pull(item)
    assert found.blob is not None
    assert item.blob is not None
    assert found.blob.digest() == item.blob.digest() == there.digest(item)
    found.blob.close()
    there.close()
    assert peak() < 8


def test_memory_does_not_grow_with_the_study(
    clean_orthanc: OrthancServer, tmp_path: Path, peak: Callable[[], float]
) -> None:
    there = Orthanc(url=clean_orthanc.url, user=clean_orthanc.user, password=PASSWORD)
    for number in range(60):
        item = big_file(tmp_path, number, MIB)
        there.put(item)
        assert item.blob is not None
        assert item.blob.path is not None
        item.blob.path.unlink()
    count = 0
    for found in there.pull(samples.above(samples.instance(), DicomLevel.STUDIES)):
        assert found.blob is not None
        found.blob.close()
        count += 1
    there.close()
    assert count == 60
    assert peak() < 24
