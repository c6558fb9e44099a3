"""A real server as a child process: started, awaited, paused, killed and stopped by its id."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import wait_for, which

if TYPE_CHECKING:
    from typing_extensions import Self


def binary(name: str, package: str, *, also: str = "") -> str:
    """
    Return the path of a program, from the pattern `also` (the last one in order), PATH or the system folders.

    Skips the test where the program is not installed; `package` is the Debian package to install.
    """
    candidates = sorted(glob(also), reverse=True) if also else []
    found = next((c for c in candidates if os.access(c, os.X_OK)), None) or which(name)
    return found or pytest.skip(f"{name} is not installed (Debian package {package})")


def library(name: str, package: str, pattern: str) -> str:
    """Return the first file that fits a pattern; skips the test where there is none."""
    found = sorted(glob(pattern))
    return found[0] if found else pytest.skip(f"{name} is not installed (Debian package {package})")


class ServerProcess(ABC):
    """
    A server with its own folder, log file and process group.

    A subclass gives the command and tells when the server answers. The same object can be started again
    after `stop` or `kill`: same storage, same ports. The server dies with the test run, even with a killed one.
    """

    label = "server"
    stop_signal = signal.SIGTERM
    start_timeout = 30.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_path = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the command line; called at each start, so it may write configuration files."""

    @abstractmethod
    def answers(self) -> bool:
        """Tell whether the server is ready for clients; never raises."""

    def environment(self) -> Mapping[str, str]:
        """Return what is added to the environment of the server."""
        return {}

    def system_user(self) -> str | None:
        """Return the system user to run as, or None for ours."""
        return None

    @property
    def pid(self) -> int:
        """Return the process id; RuntimeError when the server does not run."""
        if self._process is None:
            raise RuntimeError(f"{self.label} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether the process is there (a paused one is)."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> Self:
        """
        Start the server and wait until it answers.

        AssertionError with the end of its log when it does not.
        """
        if self.running:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [*_dies_with_us(), *self.command()]
        identity = identity_of(self.system_user())
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **identity,
            )
        self._paused = False
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait until the server answers; stop it and fail with the end of its log when it does not."""
        try:
            wait_for(lambda: not self.running or self.answers(), self.start_timeout, f"{self.label} answering")
            assert self.running, f"{self.label} ended by itself"
        except AssertionError as exc:
            tail = self.tail()
            self.kill()
            raise AssertionError(f"{exc}\n--- end of {self.log_path}\n{tail}") from None

    def stop(self, timeout: float = 15) -> None:
        """Ask the server to end, wait, kill it when it does not. Nothing happens when it is not running."""
        if self._process is None:
            return
        self.resume()
        self._signal_stop()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.kill()

    def _signal_stop(self) -> None:
        self._signal_group(self.stop_signal)

    def kill(self) -> None:
        """End the server and its children at once (SIGKILL) and wait for it."""
        if self._process is None:
            return
        self._signal_group(signal.SIGKILL)
        self._process.wait(10)
        self._process = None
        self._paused = False

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open, nothing is answered."""
        self._signal_group(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        if self._paused:
            self._signal_group(signal.SIGCONT)
            self._paused = False

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def tail(self, lines: int = 30) -> str:
        """Return the last lines of the log."""
        try:
            text = self.log_path.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def discard(self) -> None:
        """Kill the server and remove its data; the log stays for the report of a failed test."""
        self.kill()
        for entry in self.folder.iterdir() if self.folder.exists() else ():
            if entry == self.log_path:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def identity_of(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _dies_with_us() -> list[str]:
    # The kernel sends the signal when the *thread* that started the child ends, so only the main one may ask.
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "KILL", "--"]
