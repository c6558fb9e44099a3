"""Studies go from a real Orthanc to a real Orthanc; a destination that dies in the middle is said, and made good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from diana.apis import Orthanc
from diana.daemons.transfer import transfer
from diana.ledger import Journal, Proof, Store
from tests.fakes.make import instance
from tests.helpers import REPO, wait_for
from tests.servers import OrthancServer

pytestmark = pytest.mark.live

CONFIG = """
services:
  source: {{ctype: ObservableOrthanc, url: "{source}", user: "{user}", password: "{password}"}}
  dest: {{ctype: Orthanc, url: "{dest}", user: "{user}", password: "{password}"}}
routes:
  - {{name: r, source: source, event: {event}, to: dest}}
"""


def fill(server: OrthancServer, studies: int, instances: int) -> int:
    """Store studies of generated instances; return how many instances."""
    for study in range(studies):
        for number in range(instances):
            server.upload(instance(number, study=f"1.2.{study + 1}", size=64).file or b"")
    return studies * instances


def endpoint(server: OrthancServer, name: str) -> Orthanc:
    return Orthanc(url=server.url, user=server.user, password=server.password, name=name)


def watch(source: OrthancServer, dest: OrthancServer, folder: Path, event: str) -> subprocess.Popen[bytes]:
    config = folder / "watch.yml"
    values = {"source": source.url, "dest": dest.url, "user": source.user, "password": source.password}
    config.write_text(CONFIG.format(event=event, **values))
    command = [sys.executable, "-m", "diana_cli", "watch", str(config), "--state", str(folder / "state")]
    return subprocess.Popen(command, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)})


@pytest.mark.parametrize("event", ["instance", "study"])
def test_a_killed_destination_ends_verified_and_gets_nothing_twice(
    event: str, orthanc_factory: Callable[..., OrthancServer], tmp_path: Path
) -> None:
    source, dest = orthanc_factory(), orthanc_factory()
    total = fill(source, 4, 40)
    router = watch(source, dest, tmp_path, event)
    state = Store(tmp_path / "state")
    book = Journal(state).receipts
    try:
        wait_for(lambda: dest.count() > 20, timeout=30, what="the first arrivals")
        dest.kill()
        wait_for(
            lambda: {"incomplete"} & {one["state"] for one in book.list()}, timeout=30, what="an incomplete receipt"
        )
        dest.start()
        wait_for(lambda: sum(one["verified"] for one in book.list()) == total, timeout=60, what="all receipts")
        assert {one["state"] for one in book.list()} == {"verified"}
        assert dest.count() == total
        router.terminate()
        assert router.wait(20) == 0
    finally:
        if router.poll() is None:
            router.kill()
            router.wait()
        state.close()


def test_two_patients_with_one_study_uid_both_arrive(
    orthanc_factory: Callable[..., OrthancServer], tmp_path: Path
) -> None:
    source, dest = orthanc_factory(), orthanc_factory()
    for patient in ("TEST1", "TEST2"):
        for number in range(3):
            source.upload(instance(number, study="1.2.9", PatientID=patient).file or b"")
    router = watch(source, dest, tmp_path, "study")
    try:
        wait_for(lambda: dest.count() == 6, timeout=60, what="the instances of both patients")
    finally:
        router.terminate()
        router.wait(20)
    state = Store(tmp_path / "state")
    assert [one["verified"] for one in Journal(state).receipts.list()] == [3, 3]
    state.close()


def test_a_transfer_says_incomplete_and_the_next_one_sends_only_the_rest(
    orthanc_factory: Callable[..., OrthancServer],
) -> None:
    server, target = orthanc_factory(), orthanc_factory()
    fill(server, 1, 60)
    source, dest = endpoint(server, "source"), endpoint(target, "dest")
    study = source.find({"StudyInstanceUID": "1.2.1"})[0]
    enough = threading.Event()
    seen: list[Proof] = []

    def kill_at_twenty(proof: Proof) -> None:
        seen.append(proof)
        if len(seen) == 20 and not enough.is_set():
            enough.set()
            target.kill()

    first = transfer(source, dest, study, on_instance=kill_at_twenty)
    assert (first.state, first.blame, first.temporary) == ("incomplete", "dest", True)
    assert first.verified + len(first.missing) == 60
    target.start()
    there = target.count()
    second = transfer(source, dest, study, look_first=True)
    assert (second.state, second.verified) == ("verified", 60)
    assert sum(proof.note == "was there" for proof in second.proofs) == there


def test_receipts_are_printed_as_json(orthanc_factory: Callable[..., OrthancServer], tmp_path: Path) -> None:
    source, dest = orthanc_factory(), orthanc_factory()
    fill(source, 1, 3)
    router = watch(source, dest, tmp_path, "instance")
    try:
        wait_for(lambda: dest.count() == 3, timeout=30, what="the arrivals")
    finally:
        router.terminate()
        router.wait(20)
    command = [sys.executable, "-m", "diana_cli", "--json", "--state", str(tmp_path / "state"), "receipts"]
    told = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True).stdout
    assert [json.loads(line)["state"] for line in told.splitlines()] == ["verified"]
