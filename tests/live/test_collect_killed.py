"""A collection between two real Orthancs over a bad line, killed again and again, ends as an undisturbed one does."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diana.apis import Memory, Orthanc
from diana.daemons.collector import Collector
from diana.daemons.worklist import read_worklist
from diana.deid.key import Key
from diana.ledger import ReceiptBook, Store, Work
from diana.utils.endpoint import ServiceManager
from tests.contract import samples
from tests.helpers import REPO
from tests.servers import OrthancServer

pytestmark = pytest.mark.live

STUDIES, INSTANCES, KILLS = 10, 2, 3
BAD_LINE: list[dict[str, Any]] = [
    {"match": {"prob": 0.02}, "fault": {"kind": "close_before_response"}},
    {"match": {"prob": 0.02}, "fault": {"kind": "status", "status": 503}},
    {"match": {"prob": 0.02}, "fault": {"kind": "reset", "dir": "down", "after_bytes": 100}},
    {"match": {"prob": 0.02}, "fault": {"kind": "truncate", "dir": "down", "after_bytes": 200}},
]
SERVICES = """
source: {{ctype: Orthanc, url: "{source}", user: "{user}", password: "{password}"}}
dest: {{ctype: Orthanc, url: "{dest}", user: "{user}", password: "{password}"}}
"""


def collect(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "diana_cli", "--json", "-s", str(folder / "services.yml")]
    command += ["--state", str(folder / "state"), "collect", *arguments]
    return subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(REPO)}
    )


def file_of(number: int, at: int) -> bytes:
    """Return a slice of a CT study; two studies in a row are one patient's."""
    tags = {"AccessionNumber": f"A{number}", "PatientID": f"P{number // 2}", "PatientName": "Planted^Name"}
    return samples.instance(number, 0, at, **{**CT, **tags}).file or b""


CT: dict[str, Any] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "ConversionType": None,
    "Modality": "CT",
}


def plan_until_it_works(folder: Path, *arguments: str) -> None:
    for _ in range(20):
        planned = collect(folder, "plan", str(folder / "list.csv"), *arguments)
        planned.communicate(timeout=60)
        if planned.returncode == 0:
            return


def held(server: OrthancServer) -> dict[str, tuple[str, str]]:
    """Return SOP Instance UID to patient id and digest of what an Orthanc holds."""
    end = Orthanc(url=server.url, user=server.user, password=server.password)
    return {
        one.ref.instance: (str(end.get(one, view="tags").tags["PatientID"]), end.digest(one))
        for one in end.find({}, "instances")
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("deid", [False, True], ids=["as it is", "deid"])
def test_what_is_killed_and_resumed_ends_as_if_nothing_had_happened(
    orthanc_factory: Callable[..., OrthancServer],
    flaky_proxy: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    deid: bool,
) -> None:
    Key.make().save(tmp_path / "key")
    monkeypatch.setenv("DIANA_DEID_KEY", str(tmp_path / "key"))
    source, dest = orthanc_factory(), orthanc_factory()
    for number in range(STUDIES):
        for at in range(INSTANCES):
            source.upload(file_of(number, at))
    proxy = flaky_proxy(("127.0.0.1", source.http_port), rules=BAD_LINE, seed=3)
    values = {"source": proxy.url, "dest": dest.url, "user": source.user, "password": source.password}
    (tmp_path / "services.yml").write_text(SERVICES.format(**values))
    chosen = [f"A{number},{f'S{number // 2}' if number % 4 == 0 else ''}" for number in range(STUDIES)]
    (tmp_path / "list.csv").write_text("\n".join(["accession,pseudonym", *chosen]))
    plan, steps = str(tmp_path / "plan.json"), ["--step", "deid"] if deid else []
    plan_until_it_works(tmp_path, "-S", "source", "-D", "dest", "-P", "p", "--to", plan, *steps)
    chance = random.Random(3)
    for _ in range(KILLS):
        run = collect(tmp_path, "run", plan)
        time.sleep(0.9 + chance.random() / 2)
        run.kill()
        run.communicate()
    for _ in range(10):
        run = collect(tmp_path, "resume", plan)
        out, _ = run.communicate(timeout=120)
        if run.returncode == 0:
            break
    assert json.loads(out) == {"project": "p", "verified": STUDIES}
    assert held(dest) == (undisturbed(source, tmp_path) if deid else held(source))
    store = Store(tmp_path / "state" / "ledger.sqlite")
    assert {item.state for item in Work(store).items("collect:p")} == {"verified"}
    proved: dict[str, int] = {}
    for one in ReceiptBook(store).list(states=["verified"], limit=10_000):
        proved[one["study"]] = proved.get(one["study"], 0) + 1
    assert len(proved) == STUDIES
    store.close()


def undisturbed(source: OrthancServer, folder: Path) -> dict[str, tuple[str, str]]:
    """Return what a collection with the same list and key gives when nothing happens."""
    dest, collector = Memory(name="calm"), Collector(2)
    end = Orthanc(url=source.url, user=source.user, password=source.password)
    services = ServiceManager()
    services.hold("source", end)
    services.hold("dest", dest)
    plan = collector.plan("p", end, dest, read_worklist(folder / "list.csv"), steps=["deid"])
    assert collector.execute(plan, services) == {"verified": STUDIES}
    collector.close()
    return {
        one.ref.instance: (str(dest.get(one, view="tags").tags["PatientID"]), dest.digest(one))
        for one in dest.find({}, "instances")
    }
