"""A collection by workers in other processes: de-identified, one of them killed, and as on one machine in the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from diana.apis import Memory, Orthanc
from diana.daemons.collector import Collector
from diana.daemons.worklist import read_worklist
from diana.deid.key import Key
from diana.ledger import ReceiptBook, Slots, Store, Work
from diana.ledger.schema import work_items
from diana.utils.endpoint import ServiceManager
from tests.contract import samples
from tests.helpers import REPO, wait_for
from tests.live.test_collect_killed import CT, SERVICES, held
from tests.live.test_runners import WAIT, WorkerServer
from tests.servers import OrthancServer, RedisServer

pytestmark = pytest.mark.live

STUDIES, INSTANCES = 8, 4
SLOWLY: list[dict[str, Any]] = [
    {"name": "file", "match": {"path": r"/instances/.+/file"}, "fault": {"kind": "delay", "ms": 150}}
]


def accession(number: int) -> str:
    return f"GEN{number:06}"


def patient(number: int) -> str:
    return f"P{number // 2}"


class CollectWorkers(WorkerServer):
    """A group of workers that knows the services of a collection."""

    key: Path
    services: Path

    def command(self) -> list[str]:
        command = super().command()
        at = command.index("--state")
        return [*command[:at], "-s", str(self.services), *command[at:]]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "DIANA_DEID_KEY": str(self.key)}


def fill(source: OrthancServer) -> None:
    for number in range(STUDIES):
        for at in range(INSTANCES):
            tags = {"PatientID": patient(number), "PatientName": f"Planted^Name{number // 2}"}
            source.upload(samples.instance(number, 0, at, **{**CT, **tags}).file or b"")


def undisturbed(source: OrthancServer, listed: Path) -> dict[str, tuple[str, str]]:
    """Return what the same list and key give on one machine."""
    dest, collector = Memory(name="calm"), Collector(2)
    end = Orthanc(url=source.url, user=source.user, password=source.password)
    services = ServiceManager()
    services.hold("source", end)
    services.hold("dest", dest)
    plan = collector.plan("p", end, dest, read_worklist(listed), steps=["deid"])
    assert collector.execute(plan, services) == {"verified": STUDIES}
    collector.close()
    return {
        one.ref.instance: (str(dest.get(one, view="tags").tags["PatientID"]), dest.digest(one))
        for one in dest.find({}, "instances")
    }


def busy(server: WorkerServer, store: Store) -> int:
    """Return a process of the group that has a study in hand, 0 when none has."""
    with store.begin() as connection:
        owners = connection.execute(select(work_items.c.owner).where(work_items.c.state == "running")).scalars().all()
    return next((pid for pid in server.workers() if any(f"/{pid}." in owner for owner in owners)), 0)


def kills_one_in_mid_study(server: WorkerServer, store: Store, dest: OrthancServer) -> bool:
    """Kill a process that has a study in hand, once some instances have arrived."""
    if dest.count() < 3 or not (pid := busy(server, store)):
        return False
    os.kill(pid, signal.SIGSTOP)
    with store.begin() as connection:
        owners = connection.execute(select(work_items.c.owner).where(work_items.c.state == "running")).scalars().all()
    is_busy = any(f"/{pid}." in owner for owner in owners)
    os.kill(pid, signal.SIGKILL if is_busy else signal.SIGCONT)
    return is_busy


def test_processes_that_hurry_get_no_more_places_than_there_are(postgres_url: str) -> None:
    stores = [Store(postgres_url) for _ in range(6)]
    work = Work(stores[0])
    claims = work.claim(work.create("k", {}, [(f"a{at}", {}) for at in range(6)]), "w", limit=6)
    for turn in range(10):
        with ThreadPoolExecutor(6) as pool:
            taken = pool.map(lambda store, claim, turn=turn: Slots(store).take(f"x{turn}", claim, 2), stores, claims)
        assert sum(taken) == 2
    for store in stores:
        store.close()


@pytest.mark.timeout(240)
def test_workers_elsewhere_deidentify_as_one_machine_does_though_one_is_killed(
    orthanc_factory: Callable[..., OrthancServer],
    flaky_proxy: Callable[..., Any],
    clean_redis: RedisServer,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, dest = orthanc_factory(), orthanc_factory()
    fill(source)
    proxy = flaky_proxy(("127.0.0.1", source.http_port), rules=SLOWLY)
    Key.make().save(tmp_path / "key")
    values = {"source": proxy.url, "dest": dest.url, "user": source.user, "password": source.password}
    (tmp_path / "services.yml").write_text(SERVICES.format(**values))
    chosen = "".join(f"{accession(n)},{f'S{n // 2}' if n % 4 == 0 else ''}\n" for n in range(STUDIES))
    (tmp_path / "list.csv").write_text("accession,pseudonym\n" + chosen)
    plan = str(tmp_path / "plan.json")
    env = {
        "DIANA_DEID_KEY": str(tmp_path / "key"),
        "DIANA_WORKER_LEDGER": postgres_url,
        "DIANA_WORKER_BROKER": clean_redis.url,
    }

    def cli(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "diana_cli", "--json", "-s", str(tmp_path / "services.yml")]
        command += ["--state", str(tmp_path / "state"), "collect", *arguments]
        return subprocess.Popen(
            command, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO), **env}, stdout=subprocess.PIPE, text=True
        )

    ends = ["-S", "source", "-D", "dest", "-P", "p", "--to", plan, "--step", "deid", "--budget", "4"]
    planned = cli("plan", str(tmp_path / "list.csv"), *ends)
    planned.communicate(timeout=WAIT)
    assert planned.returncode == 0
    store = Store(postgres_url)
    server = CollectWorkers(tmp_path / "worker", postgres_url, clean_redis.url, "-p", "2", "-t", "2")
    server.key, server.services = tmp_path / "key", tmp_path / "services.yml"
    with server:
        run = cli("run", plan)
        wait_for(lambda: kills_one_in_mid_study(server, store, dest), WAIT)
        out, _ = run.communicate(timeout=120)
        assert "another takes its place" in server.log()
    assert json.loads(out) == {"project": "p", "verified": STUDIES}
    reported = cli("report", plan)
    reported.communicate(timeout=WAIT)
    assert reported.returncode == 0
    items = {item.key: item for item in Work(store).items("collect:p")}
    assert Counter(item.state for item in items.values()) == {"verified": STUDIES}
    assert max(item.attempts for item in items.values()) >= 2
    receipts = [one for one in ReceiptBook(store).list(limit=1000) if one["state"] == "verified"]
    assert Counter(one["study"] for one in receipts) == dict.fromkeys(items, 1)
    assert {item.outcome["verified"] for item in items.values()} == {INSTANCES}
    again = [one for one in items.values() if one.attempts > 1]
    assert proxy.stats()["counts"]["delay"] <= (STUDIES + len(again)) * INSTANCES
    arrived = held(dest)
    changes = dest.rest("GET", "/changes?limit=1000")["Changes"]
    assert sum(change["ChangeType"] == "NewInstance" for change in changes) == STUDIES * INSTANCES == len(arrived)
    monkeypatch.setenv("DIANA_DEID_KEY", str(tmp_path / "key"))
    assert arrived == undisturbed(source, tmp_path / "list.csv")
    assert {given for given, _ in arrived.values()} >= {f"S{n // 2}" for n in range(0, STUDIES, 4)}
    assert not [line for line in server.log().splitlines() if re.search(r"GEN0|Planted|\bP\d\b", line)]
    store.close()
