"""
Tasks whose items say in their payload what befalls them, and a program that runs a job in threads.

`python -m tests.fakes.work_tasks LEDGER JOB THREADS KILLS`
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diana.daemons.runner import Later, Outcome, Threads
from diana.exceptions import GatewayConnectionError, GatewayRefused
from diana.ledger import Claim, Store, Work
from diana.utils.endpoint import ServiceManager

TASKS = {
    "effects": "tests.fakes.work_tasks:make_task",
    "broken": "tests.fakes.work_tasks:make_nothing",
    "absent": "tests.fakes.nowhere:make_task",
}


class Effects:
    """
    Put each item into a folder, one file per put: two files of an item are an item done twice.

    Like `transfer`, it asks the destination first, and the beat right before it puts.
    """

    kind = "effects"

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.dest, self.seconds = Path(spec["dest"]), float(spec.get("seconds", 0.0))

    def do(self, claim: Claim, beat: Callable[[], bool]) -> Outcome | Later:
        payload = claim.payload
        if payload.get("fails", 0) >= claim.attempt:
            raise GatewayConnectionError("not now")
        if payload.get("refused"):
            raise GatewayRefused("never")
        if payload.get("bug"):
            raise ValueError(claim.key)
        if payload.get("later") and not (self.dest / "open").exists():
            return Later(0.2, "the window is shut", spent=False)
        end = time.monotonic() + float(payload.get("seconds", self.seconds))
        while time.monotonic() < end:
            time.sleep(min(0.05, self.seconds or 0.05))
            if payload.get("polite") and not beat():
                return Later(0, "interrupted", spent=False)
        if payload.get("kills"):
            os.kill(os.getpid(), signal.SIGKILL)
        folder = self.dest / claim.key
        folder.mkdir(exist_ok=True)
        if not any(folder.iterdir()):
            if not beat():
                return Later(0, "interrupted", spent=False)
            (folder / secrets.token_hex(8)).touch()
        return Outcome("done", {"n": payload.get("n", 0)})


def make_task(spec: Mapping[str, Any], services: ServiceManager, store: Store) -> Effects:
    return Effects(spec)


def make_nothing(spec: Mapping[str, Any], services: ServiceManager, store: Store) -> Effects:
    services.get("nowhere")
    return Effects(spec)


def main(ledger: str, job: str, threads: str, kills: str) -> None:
    store = Store(ledger)
    Threads(Work(store, max_kills=int(kills)), int(threads), tasks=TASKS).run(job)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
