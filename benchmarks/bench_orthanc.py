"""
Compare bulk transfers with one Orthanc: ``python -m benchmarks.bench_orthanc``.

Ratios are instances per second with ``curl --parallel --parallel-max 4`` (one process, one list of files) as 1. DIANA
reads the header of each file it puts, and checks the answers; what it pulls is written to a folder.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from statistics import median

import requests

from benchmarks._table import Row, print_table
from benchmarks.bench_header import make_ct
from diana.apis import Orthanc
from diana.dixel import Dixel
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, read_header
from tests.servers import OrthancServer, ServerPool

COUNT = 120
ROUNDS = 5
PUT, GET = "bulk put to Orthanc", "bulk get from Orthanc to disk"


def endpoint(server: OrthancServer) -> Orthanc:
    """Return an endpoint for a server."""
    return Orthanc(url=server.url, user=server.user, password=server.password)


def curl(server: OrthancServer, folder: Path, entries: list[str]) -> None:
    """Run one curl with four connections over a list of transfers."""
    config = folder / "curl.conf"
    config.write_text(f'user = "{server.user}:{server.password}"\nfail\nsilent\n' + "\nnext\n".join(entries))
    head = ["curl", "--no-progress-meter", "--parallel", "--parallel-max", "4", "--config", str(config)]
    subprocess.run(head, check=True, stdout=subprocess.DEVNULL)


def curl_put(server: OrthancServer, folder: Path, paths: list[Path]) -> None:
    """Upload with curl."""
    common = f'user = "{server.user}:{server.password}"\nheader = "Expect:"\nsilent\nfail\noutput = "/dev/null"\n'
    curl(server, folder, [f'{common}url = "{server.url}/instances"\ndata-binary = "@{path}"' for path in paths])


def curl_get(server: OrthancServer, folder: Path, oids: list[str]) -> None:
    """Download with curl."""
    common = f'user = "{server.user}:{server.password}"\nsilent\nfail\n'
    entries = [f'{common}url = "{server.url}/instances/{oid}/file"\noutput = "{folder / oid}"' for oid in oids]
    curl(server, folder, entries)


def our_put(there: Orthanc, paths: list[Path]) -> None:
    """Upload with DIANA."""
    items = (Dixel.from_header(read_header(path), file=Blob(path)) for path in paths)
    if not all(outcome.error is None for outcome in there.put_many(items)):
        raise RuntimeError("an upload failed")


def our_get(there: Orthanc, folder: Path, oid: str) -> None:
    """Download with DIANA."""
    for item in there.pull(oid, DicomLevel.STUDIES):
        if item.blob is not None:
            with (folder / item.oid()).open("wb") as out:
                item.blob.copy_to(out)
            item.blob.close()


def stock_put(server: OrthancServer, paths: list[Path]) -> None:
    """Upload with a plain loop over requests."""
    session = requests.Session()
    session.auth = (server.user, server.password)
    for path in paths:
        session.post(f"{server.url}/instances", data=path.read_bytes(), timeout=10).raise_for_status()


def make_study(folder: Path) -> list[Path]:
    """Write the files of one study of one series."""
    from pydicom import dcmread

    paths = []
    for number in range(COUNT):
        ds = dcmread(BytesIO(make_ct(number)))
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.1.1"
        paths.append(folder / f"{number}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def timed(contenders: Mapping[str, Callable[[], None]], prepare: Callable[[], None]) -> dict[str, float]:
    """Return the median seconds of each contender, in turns; what ``prepare`` takes is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        for name, work in contenders.items():
            prepare()
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: median(seconds) for name, seconds in times.items()}


def rows(bench: str, times: dict[str, float], ours: str) -> list[Row]:
    """Return the lines of one bench; the first contender is the base."""
    base = next(iter(times.values()))
    return [Row(bench, name, base / seconds, ">= 0.85" if name == ours else "") for name, seconds in times.items()]


def run() -> list[Row]:
    """Time uploads and downloads of CT files of 0.5 MB."""
    with tempfile.TemporaryDirectory() as name, ServerPool(Path(name, "servers")) as pool:
        folder = Path(name)
        server = pool.orthanc()
        there = endpoint(server)
        paths = make_study(folder)
        puts = timed(
            {
                "curl, 4 connections": lambda: curl_put(server, folder, paths),
                "diana": lambda: our_put(there, paths),
                "stock requests loop": lambda: stock_put(server, paths),
            },
            server.clear,
        )
        server.clear()
        our_put(there, paths)
        oids, study = there.instances(), there.studies()[0]
        gets = timed(
            {
                "curl, 4 connections": lambda: curl_get(server, folder, oids),
                "diana": lambda: our_get(there, folder, study),
            },
            lambda: None,
        )
        there.close()
        return [*rows(PUT, puts, "diana"), *rows(GET, gets, "diana")]


if __name__ == "__main__":
    print_table(run())
