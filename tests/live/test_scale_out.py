"""The page on many machines does what it says, and what starts workers names options that exist."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from diana_cli.cli import cli
from tests.flows.test_docs_examples import blocks, env, run  # noqa: F401  # env is a fixture
from tests.helpers import REPO
from tests.servers import RedisServer

pytestmark = pytest.mark.live

PAGE = REPO / "docs" / "how-to" / "scale-out.md"
UNITS = sorted((REPO / "conf" / "systemd").glob("*.service"))
COMPOSE = REPO / "docker" / "compose.workers.yml"


def test_the_page_runs(
    tmp_path: Path,
    env: dict[str, str],  # noqa: F811
    clean_redis: RedisServer,
    postgres_url: str,
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    env |= {"DIANA_WORKER_LEDGER": postgres_url, "DIANA_WORKER_BROKER": clean_redis.url, "DIANA_STATE": str(folder)}
    ran = 0
    for words, body, line in blocks(PAGE):
        if "servers" not in words:
            continue
        done = run(words, body, folder, env)
        ran += 1
        assert done is None or done.returncode == 0, f"{PAGE.name}:{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done is None or "Traceback" not in done.stderr, f"{PAGE.name}:{line}\n{done.stderr}"
    assert ran >= 6


def understood(arguments: list[str]) -> bool:
    """Tell whether the program knows the command and its options; nothing is run."""
    from click.testing import CliRunner

    done = CliRunner().invoke(cli, [*arguments, "--help"], catch_exceptions=False)
    return done.exit_code == 0 and "Usage:" in done.output


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_start_commands_that_exist_and_wait_for_the_grace(path: Path) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text())
    _, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert understood(arguments)
    grace = float(arguments[arguments.index("--grace") + 1])
    assert float(unit["Service"]["TimeoutStopSec"]) > grace + 5
    assert unit["Service"]["Restart"] == "always"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_are_taken_by_systemd(path: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (Debian package systemd)")
    copy = tmp_path / path.name.replace("@", "@1")
    copy.write_text(path.read_text().replace("/opt/diana/bin/diana-cli", "/bin/true"))
    done = subprocess.run([program, "verify", str(copy)], capture_output=True, text=True, timeout=60)
    said = [line for line in (done.stdout + done.stderr).splitlines() if path.stem.partition("@")[0] in line]
    assert said == []


def test_the_composition_starts_workers_and_keeps_passwords_out_of_commands() -> None:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    worker = found["services"]["worker"]
    assert understood([str(word) for word in worker["command"]])
    assert worker["init"] is True
    for service in found["services"].values():
        words = service.get("command", [])
        assert not any("_PASSWORD}" in str(word) for word in words)
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
