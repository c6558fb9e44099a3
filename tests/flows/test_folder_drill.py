"""A watched folder and its router, killed again and again under careless writers, lose and take nothing wrongly."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import REPO, accepts, free_port, wait_for

CONFIG = """
services:
  inbox: {{ctype: ObservableDcmDir, path: "{inbox}"}}
  dest: {{ctype: Orthanc, url: "http://127.0.0.1:{port}"}}
routes:
  - {{name: tricks, source: inbox, event: file, to: dest}}
state: "{state}"
"""


def play(shared: Path, folder: Path, *, n: int, kills: int, pause: float, seed: int) -> dict:
    """Let careless writers play in a watched folder, kill the router meanwhile, and return the judge's verdict."""
    tools, port = shared / "tools", free_port()
    inbox, truth, sink, go = folder / "in", folder / "truth.jsonl", folder / "sink", folder / "go"
    config = folder / "watch.yml"
    config.write_text(CONFIG.format(inbox=inbox, port=port, state=folder / "state"))
    environ = {**os.environ, "PYTHONPATH": str(REPO)}
    rng = random.Random(seed)
    server = subprocess.Popen(
        [sys.executable, str(tools / "mini_orthanc.py"), "sink", "--port", str(port), "--dir", str(sink)]
    )
    options = ["--n", str(n), "--early", "3", "--start-file", str(go), "--seed", str(seed), "--pause", str(pause)]
    player = subprocess.Popen(
        [sys.executable, str(tools / "folder_tricks.py"), "play", str(inbox), "--truth", str(truth), *options]
    )
    command = [sys.executable, "-m", "diana_cli", "watch", str(config)]
    router = None
    try:
        wait_for(lambda: accepts(port) and inbox.exists(), what="the destination and the writers")
        for _ in range(kills):
            router = subprocess.Popen(command, env=environ, cwd=REPO, start_new_session=True)
            go.touch()
            time.sleep(0.6 + rng.random())
            os.killpg(router.pid, signal.SIGKILL)
            router.wait()
        router = subprocess.Popen(command, env=environ, cwd=REPO, start_new_session=True)
        assert player.wait(240) == 0
        judged: dict = {}

        def whole() -> bool:
            judge = [sys.executable, str(tools / "folder_tricks.py"), "judge", "--truth", str(truth)]
            told = subprocess.run(
                [*judge, "--ledger", str(sink / "ledger")], capture_output=True, text=True, check=False
            )
            judged.update(json.loads(told.stdout))
            return judged["lost"] == 0

        wait_for(whole, timeout=45, what="what is still under way")
        router.terminate()
        assert router.wait(20) == 0
        whole()
        return judged
    finally:
        for process in (router, player, server):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


@pytest.mark.slow
def test_careless_writers_and_a_killed_router(shared_dir: Path, tmp_path: Path) -> None:
    told = play(shared_dir, tmp_path, n=44, kills=6, pause=1.2, seed=3)
    assert told["verdict"] == "pass", told
