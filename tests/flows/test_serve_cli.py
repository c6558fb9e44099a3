"""``diana-cli serve`` starts, says where it listens, and ends as it should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from diana.apis import DcmDir, DicomQR
from tests.fakes.make import instance
from tests.helpers import wait_for

pytest.importorskip("uvicorn")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "archive"
    found.mkdir()
    DcmDir(str(found)).put(instance(1, study="1.2.3", size=64))
    return found


@contextmanager
def serving(folder: Path, *options: str, **variables: str) -> Iterator[tuple[Any, str]]:
    """Run the program; give the process and the address that it printed."""
    command = [sys.executable, "-m", "diana_cli", "serve", f"path:{folder}", "--http", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables}
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["http"]
        finally:
            process.kill()


def test_sigterm_ends_it_with_exit_code_0(folder: Path) -> None:
    with serving(folder) as (process, url):
        (row,) = requests.get(f"{url}/dicom-web/studies").json()
        assert row["0020000D"]["Value"] == ["1.2.3"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert url in process.stderr.read()


def test_password_and_token_come_from_the_environment(folder: Path) -> None:
    options = ("--user", "ann", "--password-env", "PW", "--token-env", "TOK")
    with serving(folder, *options, PW="s3cret", TOK="t0ken") as (process, url):
        assert requests.get(f"{url}/dicom-web/studies").status_code == 401
        assert requests.get(f"{url}/dicom-web/studies", auth=("ann", "s3cret")).status_code == 200
        headers = {"Authorization": "Bearer t0ken"}
        assert requests.get(f"{url}/dicom-web/studies", headers=headers).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "s3cret" not in process.stderr.read()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--host", "0.0.0.0"), 2),
        (("--user", "ann"), 2),
        (("--token-env", "NOT_SET_ANYWHERE"), 2),
        (("--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.pem"), 2),
        (("--tls-cert", "/nowhere.pem"), 2),
        (("--http", "99999"), 2),
        (("--host", "203.0.113.7", "--insecure"), 1),
    ],
)
def test_what_cannot_be_served_is_said_and_ends(folder: Path, options: tuple[str, ...], code: int) -> None:
    command = [sys.executable, "-m", "diana_cli", "serve", f"path:{folder}", "--http", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert "bug" not in done.stderr
    assert done.stdout == ""


@contextmanager
def node(folder: Path, *options: str) -> Iterator[int]:
    """Run the program with a DICOM port alone; give the port."""
    command = [sys.executable, "-m", "diana_cli", "serve", f"path:{folder}", "--dicom", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["dicom"]
        finally:
            process.kill()


@pytest.mark.live
def test_movescu_reaches_a_peer_of_the_program(
    folder: Path, storescp_factory: Any, program: Callable[[str, str], str]
) -> None:
    target = storescp_factory()
    with node(folder, "--aet", "ARCHIVE", "--peer", f"DEST=127.0.0.1:{target.port}") as port:
        command = [program("movescu", "dcmtk"), "-S", "-aec", "ARCHIVE", "-aem", "DEST", "127.0.0.1", str(port)]
        command += ["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.3"]
        subprocess.run(command, check=True, timeout=60)
        wait_for(lambda: len(target.files()) == 1, timeout=30, what="the instance")


def test_only_the_named_ae_titles_and_networks_are_let_in(folder: Path) -> None:
    with node(folder, "--calling-aet", "FRIEND", "--allow", "127.0.0.0/8") as port:
        assert DicomQR(host="127.0.0.1", port=port, aec="DIANA", aet="FRIEND").check()
        assert not DicomQR(host="127.0.0.1", port=port, aec="DIANA", aet="STRANGER").check()
    with node(folder, "--allow", "10.0.0.0/8") as port:
        assert not DicomQR(host="127.0.0.1", port=port, aec="DIANA").check()


@pytest.mark.parametrize(
    "options",
    [
        ("--peer", "DEST"),
        ("--peer", "DEST=host"),
        ("--peer", "DEST=host:0"),
        ("--dicom-tls",),
        ("--allow", "nowhere"),
        ("--calling-aet", "A TITLE THAT IS TOO LONG"),
    ],
)
def test_half_an_option_of_the_dicom_port_is_a_configuration_error(folder: Path, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "diana_cli", "serve", f"path:{folder}", "--dicom", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
