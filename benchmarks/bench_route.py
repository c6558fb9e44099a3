"""
Compare routers from one Orthanc to another: ``python -m benchmarks.bench_route``.

Ratios are instances per second with a stock ``requests`` loop over ``/changes`` as 1; DIANA's number includes the
read-back of every instance and its receipt on disk. The latency row is the target (25 ms) divided by the median time
from arrival to the destination at the default polling: above 1 is below the target.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import requests

from benchmarks._table import Row, print_table
from benchmarks.bench_header import make_ct
from tests.servers import OrthancServer, ServerPool

STOCK, OURS, PROBES = 30, 600, 60
BENCH = "route Orthanc to Orthanc"
CONFIG = """
services:
  source: {{ctype: ObservableOrthanc, url: "{source}", user: "{user}", password: "{password}"}}
  dest: {{ctype: Orthanc, url: "{dest}", user: "{user}", password: "{password}"}}
routes:
  - {{name: bench, source: source, event: instance, to: dest}}
"""
LUA = """
function OnStoredInstance(instanceId, tags, metadata, origin)
   SendToPeer(instanceId, 'dest')
end
"""


def memory() -> str | None:
    """Return a folder in memory where there is one, so that the disk is not what is measured."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def stock_loop(source: OrthancServer, dest: OrthancServer, count: int) -> float:
    """Return the seconds that a plain loop takes: read the changes, get each file, post it."""
    session = requests.Session()
    session.auth = (source.user, source.password)
    started, last, sent = time.perf_counter(), 0, 0
    while sent < count:
        page = session.get(f"{source.url}/changes", params={"since": last, "limit": 100}, timeout=10).json()
        last = page["Last"]
        for change in page["Changes"]:
            if change["ChangeType"] == "NewInstance":
                data = session.get(f"{source.url}/instances/{change['ID']}/file", timeout=10).content
                session.post(f"{dest.url}/instances", data=data, timeout=10).raise_for_status()
                sent += 1
    return time.perf_counter() - started


def watch(source: OrthancServer, dest: OrthancServer, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start ``diana-cli watch`` from one to the other."""
    config = folder / "bench.yml"
    config.write_text(CONFIG.format(source=source.url, dest=dest.url, user=source.user, password=source.password))
    command = [sys.executable, "-m", "diana_cli", "watch", str(config), "--state", str(folder / "state")]
    return subprocess.Popen([*command, *options])


def routed(folder: Path, count: int) -> float:
    """Return the seconds from the first start to the last receipt, after making sure that all is verified."""
    command = [sys.executable, "-m", "diana_cli", "--json", "--state", str(folder / "state"), "receipts"]
    told = subprocess.run([*command, "--limit", str(10 * count)], check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in told.splitlines()]
    verified = sum(row["verified"] for row in rows)
    if verified != count:
        raise RuntimeError(f"{verified} of {count} instances have a verified receipt")
    with sqlite3.connect(folder / "state" / "ledger.sqlite") as ledger:
        first, last = ledger.execute("SELECT min(started), max(ended) FROM receipts").fetchone()
    return float(last - first)


def latencies(source: OrthancServer, dest: OrthancServer, files: list[bytes]) -> list[float]:
    """Return for each file the seconds from its being stored at the source to its being there at the destination."""
    session = requests.Session()
    session.auth = (source.user, source.password)
    found = []
    for data in files:
        oid = session.post(f"{source.url}/instances", data=data, timeout=10).json()["ID"]
        stored = time.perf_counter()
        while session.get(f"{dest.url}/instances/{oid}", timeout=10).status_code != 200:
            time.sleep(0.001)
        found.append(time.perf_counter() - stored)
        time.sleep(0.1)
    return found


def run(rounds: int = 3) -> list[Row]:
    """Time the routers in turns over real Orthancs."""
    stock, ours, waits = [], [], []
    for turn in range(rounds):
        with tempfile.TemporaryDirectory(dir=memory()) as name, ServerPool(Path(name, "servers")) as pool:
            folder = Path(name)
            source, dest, other = pool.orthanc(), pool.orthanc(), pool.orthanc()
            files = [make_ct(turn * 10_000 + number) for number in range(OURS + PROBES)]
            for data in files[:STOCK]:
                source.upload(data)
            stock.append(stock_loop(source, other, STOCK) / STOCK)
            for data in files[STOCK:OURS]:
                source.upload(data)
            watch(source, dest, folder, "--once").wait()
            ours.append(routed(folder, OURS) / OURS)
            router = watch(source, dest, folder)
            waits += latencies(source, dest, files[OURS:])
            router.terminate()
            router.wait(30)
    return [
        Row(BENCH, "stock requests loop", 1.0, ""),
        Row(BENCH, "diana, with receipts", median(stock) / median(ours), ">= 12"),
        Row(f"{BENCH}, latency", "25 ms / diana's median", 0.025 / median(waits), ">= 1"),
        *lua_rows(median(stock)),
    ]


def lua_rows(stock: float) -> list[Row]:
    """Return how Orthanc's own Lua forwarding compares."""
    with tempfile.TemporaryDirectory(dir=memory()) as name, ServerPool(Path(name, "servers")) as pool:
        script = Path(name, "forward.lua")
        script.write_text(LUA)
        dest = pool.orthanc()
        peers = {"dest": (dest.url, dest.user, dest.password)}
        source = pool.orthanc(peers=peers, config={"LuaScripts": [str(script)]})
        files = [make_ct(77_000 + number) for number in range(OURS // 3)]
        started = time.perf_counter()
        for data in files:
            source.upload(data)
        while dest.count() < len(files):
            time.sleep(0.02)
        return [
            Row(
                BENCH,
                "Orthanc's own Lua SendToPeer, with the upload",
                stock / ((time.perf_counter() - started) / len(files)),
                "",
            )
        ]


if __name__ == "__main__":
    print_table(run())
