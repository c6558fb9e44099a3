"""A clock for leases that nobody can set, and names for processes by which their death is found out."""

from __future__ import annotations

import os
import secrets
import time
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def seconds() -> float:
    """Return the seconds since this machine started, sleep included; wall clocks that are set do not change it."""
    which = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if which is None else time.clock_gettime(which)


@lru_cache(maxsize=1)
def boot() -> str:
    """Return a name for this start of the machine, empty where the system has none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def worker_name() -> str:
    """Return a new name for a worker in this process, from which ``is_dead`` can tell its end."""
    return f"{_room()}/{os.getpid()}.{_started(os.getpid())}/{secrets.token_hex(4)}"


def is_dead(worker: str) -> bool:
    """Tell whether a worker's process ran in the same room of the same machine as this one and is gone."""
    room, _, rest = worker.partition("/")
    process = rest.partition("/")[0]
    pid, _, started = process.partition(".")
    if not room or room != _room() or not pid.isdecimal() or not started:
        return False
    return _started(int(pid)) != started


@lru_cache(maxsize=1)
def _room() -> str:
    """Name the set of processes that share process ids: this start of the machine, and the container."""
    try:
        inside = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return sha256(f"{boot()} {inside}".encode()).hexdigest()[:12] if boot() else ""


def _started(pid: int) -> str:
    """Return when a process started, in ticks; empty when it is gone or has ended but is not yet collected."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # the name of the program, in parentheses, may hold anything
    fields = text.rpartition(")")[2].split()
    return "" if len(fields) < 20 or fields[0] in "ZX" else fields[19]
