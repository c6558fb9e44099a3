"""
Time a whole collection against what its source can give at all: ``python -m benchmarks.bench_collect``.

From one Orthanc to another: find, pull, de-identify, put and verify CT studies of 0.5 MB slices. Ratios are instances
per second with the source alone as 1: every file fetched by four threads of ``requests`` with kept-alive connections,
and dropped; they ask for gzip, as ``requests`` does, and Orthanc packs. curl takes the files as they are, and shows
what the loopback bears when nobody works on them: storing an instance costs the destination several times what reading
it costs the source. The servers and the collector share the machine, so the numbers depend on how many cores there are.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from statistics import median
from threading import local

import requests
from pydicom import dcmread

from benchmarks._table import Row, print_table
from benchmarks.bench_header import make_ct
from benchmarks.bench_route import memory
from diana.apis import Orthanc
from diana.daemons.collector import Collector
from diana.daemons.worklist import rows_of
from diana.deid.key import Key
from diana.ledger import Store
from diana.utils.endpoint import ServiceManager
from tests.servers import OrthancServer, ServerPool

STUDIES, SLICES = 12, 25
BENCH = "collect Orthanc to Orthanc"


def fill(source: OrthancServer) -> list[str]:
    """Store the studies; return their accession numbers."""
    numbers = []
    for study in range(STUDIES):
        numbers.append(f"BENCH{study}")
        for at in range(SLICES):
            ds = dcmread(BytesIO(make_ct(study * SLICES + at)))
            ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.99.{study}", f"1.2.99.{study}.1"
            ds.AccessionNumber, ds.PatientID = numbers[-1], f"P{study}"
            out = BytesIO()
            ds.save_as(out)
            source.upload(out.getvalue())
    return numbers


def alone(source: OrthancServer) -> float:
    """Return the seconds in which the source gives every file to four threads."""
    kept = local()

    def get(oid: str) -> None:
        if not hasattr(kept, "session"):
            kept.session = requests.Session()
            kept.session.auth = (source.user, source.password)
        kept.session.get(f"{source.url}/instances/{oid}/file", timeout=30).raise_for_status()

    ids = list(source.ids("instances"))
    started = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(get, ids))
    return time.perf_counter() - started


def by_curl(source: OrthancServer, folder: Path) -> float:
    """Return the seconds in which curl has every file, four at once."""
    config = folder / "curl.cfg"
    files = "".join(
        f'url = "{source.url}/instances/{oid}/file"\noutput = "/dev/null"\n' for oid in source.ids("instances")
    )
    config.write_text(f'user = "{source.user}:{source.password}"\n{files}')
    started = time.perf_counter()
    subprocess.run(
        ["curl", "-sS", "-Z", "--parallel-max", "4", "-K", str(config)], check=True, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def collected(source: OrthancServer, dest: OrthancServer, numbers: list[str], folder: Path, *steps: str) -> float:
    """Return the seconds of a whole collection, after making sure that all is verified."""
    dest.clear()
    ends = [Orthanc(url=one.url, user=one.user, password=one.password) for one in (source, dest)]
    services = ServiceManager()
    services.hold("source", ends[0])
    services.hold("dest", ends[1])
    started = time.perf_counter()
    collector = Collector(2, store=Store(folder / f"{time.time_ns()}.sqlite"))
    plan = collector.plan("bench", *ends, rows_of(numbers), steps=list(steps), budget=2)
    counts = collector.execute(plan, services)
    spent = time.perf_counter() - started
    collector.close()
    if counts != {"verified": STUDIES} or dest.count() != STUDIES * SLICES:
        raise RuntimeError(f"the collection ended {counts}")
    return spent


def run(rounds: int = 3) -> list[Row]:
    """Time the contenders in turns."""
    limit, bare, plain, deid = [], [], [], []
    with tempfile.TemporaryDirectory(dir=memory()) as name, ServerPool(Path(name, "servers")) as pool:
        folder = Path(name)
        Key.make().save(folder / "key")
        os.environ["DIANA_DEID_KEY"] = str(folder / "key")
        source, dest = pool.orthanc(), pool.orthanc()
        numbers = fill(source)
        for _ in range(rounds):
            limit.append(alone(source))
            bare.append(by_curl(source, folder))
            plain.append(collected(source, dest, numbers, folder))
            deid.append(collected(source, dest, numbers, folder, "deid"))
    return [
        Row(BENCH, "the source alone, files dropped", 1.0, ""),
        Row(BENCH, "the source alone, curl, nothing packed", median(limit) / median(bare), ""),
        Row(BENCH, "diana: find, pull, put, verify", median(limit) / median(plain), ""),
        Row(BENCH, "diana: find, pull, de-identify, put, verify", median(limit) / median(deid), ">= 0.8"),
    ]


if __name__ == "__main__":
    print_table(run())
