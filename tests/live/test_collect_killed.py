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

from diana.apis import Orthanc
from diana.ledger import ReceiptBook, Store, Work
from tests.fakes.make import instance
from tests.helpers import REPO
from tests.servers import OrthancServer

pytestmark = pytest.mark.live

STUDIES, INSTANCES, KILLS = 20, 3, 5
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


@pytest.mark.timeout(300)
def test_what_is_killed_and_resumed_ends_as_if_nothing_had_happened(
    orthanc_factory: Callable[..., OrthancServer], flaky_proxy: Callable[..., Any], tmp_path: Path
) -> None:
    source, dest = orthanc_factory(), orthanc_factory()
    for number in range(STUDIES):
        for at in range(INSTANCES):
            made = instance(at, study=f"1.2.3.{number}", AccessionNumber=f"A{number}", size=64)
            source.upload(made.file or b"")
    proxy = flaky_proxy(("127.0.0.1", source.http_port), rules="bad-day", seed=3)
    values = {"source": proxy.url, "dest": dest.url, "user": source.user, "password": source.password}
    (tmp_path / "services.yml").write_text(SERVICES.format(**values))
    (tmp_path / "list.txt").write_text("\n".join(f"A{number}" for number in range(STUDIES)))
    plan = str(tmp_path / "plan.json")
    chance = random.Random(3)
    for _ in range(20):
        planned = collect(
            tmp_path, "plan", str(tmp_path / "list.txt"), "-S", "source", "-D", "dest", "-P", "p", "--to", plan
        )
        planned.communicate(timeout=60)
        if planned.returncode == 0:
            break
    for _ in range(KILLS):
        run = collect(tmp_path, "run", plan)
        time.sleep(0.8 + chance.random())
        run.kill()
        run.communicate()
    for _ in range(10):
        run = collect(tmp_path, "resume", plan)
        out, _ = run.communicate(timeout=120)
        if run.returncode == 0:
            break
    assert json.loads(out) == {"project": "p", "verified": STUDIES}
    ends = [Orthanc(url=one.url, user=one.user, password=one.password) for one in (source, dest)]
    there, here = ({one.ref.instance: end.digest(one) for one in end.find({}, "instances")} for end in ends)
    assert there == here
    store = Store(tmp_path / "state" / "ledger.sqlite")
    assert {item.state for item in Work(store).items("collect:p")} == {"verified"}
    proved: dict[str, int] = {}
    for one in ReceiptBook(store).list(states=["verified"], limit=10_000):
        proved[one["study"]] = proved.get(one["study"], 0) + 1
    assert len(proved) == STUDIES
    store.close()
