"""Small helpers of the tests: free ports, waiting for a condition, places of the tree."""

from __future__ import annotations

import errno
import importlib.util
import os
import random
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest

REPO = Path(__file__).resolve().parent.parent

# Below the range the kernel takes for outgoing connections (32768 and up), so that no client can grab a
# port between the question and the bind of the server.
_PORTS = range(15000, 32000)

T = TypeVar("T")


def free_port() -> int:
    """
    Return a TCP port nobody listens on.

    The choice does not depend on seeds set by tests, so parallel runs do not choose alike.
    """
    rng = random.SystemRandom()
    for _ in range(200):
        port = rng.choice(_PORTS)
        if _can_bind(port):
            return port
    raise OSError(errno.EADDRINUSE, "no free port found")


def _can_bind(port: int) -> bool:
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as sock:
            try:
                sock.bind((host, port))
            except OSError:
                return False
    return True


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether something accepts a TCP connection there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def wait_for(
    condition: Callable[[], T], timeout: float = 10, what: str = "the condition", *, interval: float = 0.02
) -> T:
    """
    Return the first true value of the condition.

    Errors of the condition pass through. AssertionError after `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not seen within {timeout:g} s")
        time.sleep(interval)
    return value


def process_exists(pid: int) -> bool:
    """Tell whether a process of that id is there and not a zombie (Linux)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def memory_mib(pid: int, *, peak: bool = False) -> float:
    """Return the resident memory of a process in MiB, or its peak (Linux)."""
    key = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def open_files(pid: int) -> int:
    """Return the number of open descriptors of a process (Linux)."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def load_tool(shared: Path, name: str) -> ModuleType:
    """Import a module from `shared/tools` by its path (see the fixture `shared_dir`); skips where it is absent."""
    path = shared / "tools" / f"{name}.py"
    if not path.is_file():
        pytest.skip(f"shared/tools/{name}.py is absent")
    spec = importlib.util.spec_from_file_location(f"shared_tools_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def which(name: str) -> str | None:
    """
    Return the path of an installed program, or None.

    The environment's own folder does not count: pynetdicom puts programs there that have the names of dcmtk's.
    """
    own = Path(sys.prefix, "bin").resolve()
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    return shutil.which(name, path=os.pathsep.join(one for one in folders if Path(one).resolve() != own))
