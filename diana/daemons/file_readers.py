"""Processes that read headers for the registry of files, each on its own processor."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from struct import Struct
from typing import Any, BinaryIO, Final

from diana.daemons.file_reader import read_files
from diana.daemons.file_registry import FileRow

PROGRAM: Final = "from diana.daemons.file_readers import serve; serve()"
SIZE: Final = Struct("<I")

Rows = list[tuple[str, FileRow | None]]


class Readers:
    """
    Read files in ``count`` processes.

    They are programs of their own: what the caller's main module does is not done again in them, and threads of the
    caller are no trouble. When one ends before its answer, its files are read in this process.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="readers")
        self._free: SimpleQueue[subprocess.Popen[bytes] | None] = SimpleQueue()
        for _ in range(count):
            self._free.put(_started())

    def submit(self, folder: str, names: list[str]) -> Future[Rows]:
        """Start to read some files of a folder."""
        return self._threads.submit(self._read, folder, names)

    def _read(self, folder: str, names: list[str]) -> Rows:
        process = self._free.get()
        if process is None:
            process = _started()
        kept: subprocess.Popen[bytes] | None = None
        try:
            if process.stdin is not None and process.stdout is not None:
                _send(process.stdin, (folder, names))
                found = [(name, None if row is None else FileRow(*row)) for name, row in _receive(process.stdout)]
                kept = process
                return found
        except (OSError, EOFError, pickle.UnpicklingError):
            _end(process)
        finally:
            self._free.put(kept)
        return read_files(folder, names)

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown(cancel_futures=True)
        for _ in range(self.count):
            process = self._free.get()
            if process is not None:
                _end(process)


def serve() -> None:
    """Read what is asked for on standard input until it ends: the program of such a process."""
    ask, answer = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            folder, names = _receive(ask)
        except (EOFError, KeyboardInterrupt):
            return
        _send(answer, [(name, None if row is None else tuple(row)) for name, row in read_files(folder, names)])


def _started() -> subprocess.Popen[bytes]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # a session of its own, so that Ctrl-C reaches only the caller
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue
    process.wait()


def _send(out: BinaryIO | Any, value: Any) -> None:
    data = pickle.dumps(value)
    out.write(SIZE.pack(len(data)) + data)
    out.flush()


def _receive(stream: BinaryIO | Any) -> Any:
    head = stream.read(SIZE.size)
    if len(head) < SIZE.size:
        raise EOFError
    data = stream.read(SIZE.unpack(head)[0])
    return pickle.loads(data)  # noqa: S301  # between this program and its own child
