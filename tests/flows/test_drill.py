"""The router loses nothing while it, its source, its destination and the network die at random."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPO, free_port

BAD_DAY = ["--kill-router", "6", "--kill-dest", "3", "--kill-source", "1", "--partitions", "1", "--net", "bad-day"]


def drill(shared: Path, folder: Path, *options: str) -> dict:
    """Run the drill with ``diana-cli watch conf/drill.yml`` as the router; return its verdict."""
    report = folder / "report.json"
    router = f"{sys.executable} -m diana_cli watch {REPO / 'conf' / 'drill.yml'}"
    port = free_port()
    command = [sys.executable, str(shared / "tools" / "drill.py"), "--router", router, "--json", str(report)]
    command += ["--dir", str(folder / "drill"), "--port", str(port), "--quiet", "3", *options]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(REPO)}, cwd=REPO, check=False, capture_output=True, text=True
    )
    assert report.exists(), done.stderr[-2000:]
    return json.loads(report.read_text())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_six_hundred_instances_through_a_bad_day_are_all_there_once(shared_dir: Path, tmp_path: Path) -> None:
    told = drill(shared_dir, tmp_path, "--n", "600", "--seed", "7", *BAD_DAY)
    assert (told["lost"], told["corrupt"], told["conflict"], told["strangers"]) == (0, 0, 0, 0), told
    assert (told["repeats"], told["router_crashes"], told["gave_up"], told["never_quiet"]) == (0, 0, False, False), told
    assert told["sigterm"] is not None, told
    assert told["sigterm"][1] == 0, told
    assert told["rss_mb_max"] < 150, told
    assert told["fds_max"] < 200, told
    assert told["verdict"] == "pass"
