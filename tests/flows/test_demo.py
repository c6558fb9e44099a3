"""The demo proves every study, whatever is in the way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers import OrthancServer

REPO = Path(__file__).resolve().parents[2]


def demo(folder: Path, home: Path, *more: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DIANA_", "ORTHANC_", "XDG_"))}
    env = {**kept, "HOME": str(home), "PYTHONPATH": str(REPO), **environ}
    command = [sys.executable, "-m", "diana_cli", "demo", "--folder", str(folder), *more]
    return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=110)


def check_all_verified(done: subprocess.CompletedProcess[str], dests: set[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    receipts = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["state"] for one in receipts} == {"verified"}
    assert {one["dest"] for one in receipts} == {*dests, "research"}
    assert {(one["route"], one["source"]) for one in receipts} == {
        ("folder", "inbox"),
        ("modality", "scanner"),
        ("pacs", "pacs"),
    }
    studies = {dest: {one["study"] for one in receipts if one["dest"] == dest} for dest in (*dests, "research")}
    assert {dest: len(found) for dest, found in studies.items()} == {**dict.fromkeys(dests, 6), "research": 3}
    assert not studies["research"] & studies["archive"]
    return receipts


def check_what_it_says_to_try_next(said: str, home: Path) -> None:
    """Run the commands that the demo ends with, in one shell; `watch` with `--once`."""
    lines = [line.strip().partition("  #")[0] for line in said.splitlines() if line.startswith("  ")]
    assert len(lines) >= 8
    script = "\n".join(["set -euo pipefail", *lines, "kill $serving; wait $serving"])
    script = script.replace(" watch ", " watch --once ")
    program = f'diana-cli() {{ "{sys.executable}" -m diana_cli "$@"; }}\n'
    until = "serving=$!; until diana-cli check pacs 2> /dev/null; do sleep 0.1; done"
    script = re.sub("^.*?( serve .*)$", rf'"{sys.executable}" -m diana_cli\1 & {until}', script, flags=re.MULTILINE)
    script = script.replace("Dose Report\"}'", "Dose Report\"}' || test $? = 1")
    env = {**os.environ, "HOME": str(home), "PYTHONPATH": str(REPO)}
    tried = subprocess.run(["bash", "-c", program + script], env=env, capture_output=True, text=True, timeout=90)
    assert tried.returncode == 0, tried.stdout[-1000:] + tried.stderr[-2000:]


@pytest.mark.slow
def test_demo_without_an_orthanc_verifies_every_study_and_leaves_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "a $folder: of # signs"
    state = tmp_path / "of the user"
    done = demo(folder, tmp_path, DIANA_STATE=str(state), ORTHANC_URL="http://127.0.0.1:9")
    assert not state.exists()
    assert "no Orthanc answers" in done.stderr
    receipts = check_all_verified(done, {"archive", "index"})
    stored = list((folder / "archive").rglob("*.dcm"))
    assert len(stored) == sum(one["verified"] for one in receipts if one["dest"] == "archive")
    assert len((folder / "index.csv").read_text().splitlines()) == len(stored) + 1
    assert "killed" in done.stderr
    researched = list((folder / "research").rglob("*.dcm"))
    assert len(researched) == sum(one["verified"] for one in receipts if one["dest"] == "research")
    check_what_it_says_to_try_next(done.stderr, tmp_path)


def test_demo_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("precious")
    done = demo(tmp_path / "mine", tmp_path)
    assert done.returncode == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["work.txt"]


def test_demo_that_cannot_finish_says_so(tmp_path: Path) -> None:
    done = demo(tmp_path / "demo", tmp_path, "--limit", "1")
    assert done.returncode == 1
    assert "NOT everything is proved" in done.stderr


@pytest.mark.live
@pytest.mark.slow
def test_demo_takes_an_orthanc_as_one_more_destination(
    tmp_path: Path, orthanc_factory: Callable[..., OrthancServer]
) -> None:
    server = orthanc_factory()
    environ = {"ORTHANC_URL": server.url, "ORTHANC_USER": server.user, "ORTHANC_PASSWORD": server.password}
    receipts = check_all_verified(demo(tmp_path / "demo", tmp_path, **environ), {"archive", "index", "orthanc"})
    count = server.rest("GET", "/statistics")["CountInstances"]
    assert count == sum(one["verified"] for one in receipts if one["dest"] == "orthanc")
