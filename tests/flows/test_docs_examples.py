"""Every example of the README and the docs that is marked as runnable does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted([REPO / "README.md", *(REPO / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def blocks(page: Path) -> Iterator[tuple[list[str], str, int]]:
    """Yield words after the fence, body and line of each fenced block."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield match["info"].split(), match["body"], text.count("\n", 0, match.start()) + 1


def runnable(page: Path) -> list[tuple[list[str], str, int]]:
    return [one for one in blocks(page) if "runnable" in one[0]]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment in which `diana-cli` and `python` are those of the tests."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, arguments in (("diana-cli", "-m diana_cli"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DIANA_", "ORTHANC_", "XDG_"))}
    return {**kept, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPO), "PATH": f"{programs}:{kept['PATH']}"}


def run(words: list[str], body: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str] | None:
    """Run a block: a shell script, a Python program, or a file to be written."""
    named = [word.partition("=")[2] for word in words if word.startswith("file=")]
    if named:
        (folder / named[0]).write_text(body, encoding="utf-8")
        return None
    programs = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": ["python", "-W", "error", "-c"]}
    command = [*programs[words[0]], body]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.stem)
def test_examples_run(page: Path, tmp_path: Path, env: dict[str, str]) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    for words, body, line in runnable(page):
        done = run(words, body, folder, env)
        place = f"{page.relative_to(REPO)}:{line}"
        assert done is None or done.returncode == 0, f"{place}\n{body}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done is None or "Traceback" not in done.stderr, f"{place}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [one for one in targets if not (page.parent / one).exists()] == []


def test_readme_and_tutorial_have_runnable_examples() -> None:
    assert all(len(runnable(REPO / name)) >= 3 for name in ("README.md", "docs/tutorial.md"))


def test_reference_is_in_step_with_the_docstrings() -> None:
    done = subprocess.run(
        [sys.executable, str(REPO / "tools" / "reference.py"), "--check"],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
