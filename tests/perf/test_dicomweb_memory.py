"""Memory of downloads does not grow with what is downloaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPO

# a server that makes up a study, and a client that pulls it, in one child process whose peak is looked at
SCRIPT = """
import socket, sys, threading
from diana.apis import WadoRS
from diana.utils.dicom import Ref
from tests.contract import samples
ds = samples.dataset(0, 0, 0, Rows=1024, Columns=1024, NumberOfFrames=int(sys.argv[1]))
ds.PixelData = b""
import io
head = samples.file_bytes(ds)[:-12]
frame = bytes(2 << 20)
size = len(frame) * int(sys.argv[1])
pixels = b"\\xe0\\x7f\\x10\\x00OW\\x00\\x00" + size.to_bytes(4, "little")
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    sock, _ = listener.accept()
    sock.recv(65536)
    length = sys.argv[2] == "length"
    sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: multipart/related; boundary=xyz\\r\\n\\r\\n--xyz\\r\\n")
    sock.sendall(b"Content-Type: application/dicom\\r\\n")
    if length:
        sock.sendall(b"Content-Length: %d\\r\\n" % (len(head) + 12 + size))
    sock.sendall(b"\\r\\n" + head + pixels)
    for _ in range(int(sys.argv[1])):
        sock.sendall(frame)
    sock.sendall(b"\\r\\n--xyz--\\r\\n")
    sock.close()
threading.Thread(target=serve, daemon=True).start()
web = WadoRS(url=f"http://127.0.0.1:{listener.getsockname()[1]}", list_first=False, request_per_series=False,
             folder=sys.argv[3])
(found,) = web.pull(Ref("studies", study=samples.uid(1)))
# not getrusage: its peak includes the process that started this one
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(len(found.blob), found.blob.path is not None, int(peak) >> 10)
found.blob.close()
"""


@pytest.mark.parametrize("framing", ["length", "none"])
def test_a_large_multi_frame_needs_no_more_than_120_mb(tmp_path: Path, framing: str) -> None:
    command = [sys.executable, "-c", SCRIPT, "150", framing, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, cwd=REPO)
    assert done.returncode == 0, done.stderr
    size, on_disk, peak = done.stdout.split()
    assert int(size) > 300 << 20
    assert on_disk == "True"
    assert int(peak) < 120
    assert list(tmp_path.iterdir()) == []
