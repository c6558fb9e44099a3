"""What a DicomListener may cost: memory, descriptors, threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diana.utils.blob import Blob
from diana.utils.gateways import dimse
from diana.utils.gateways.dimse_pdu import file_head
from tests.contract import samples
from tests.helpers import REPO, memory_mib, open_files, wait_for

SERVE = """
import sys
from diana.apis import DicomListener
listener = DicomListener(port=0, path=sys.argv[1])
listener.listen(lambda: None)
listener.check()
print(listener.port, flush=True)
sys.stdin.read()
listener.unlisten()
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A listener in a process of its own: process id and port."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path / "spool")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPO,
        text=True,
    )
    with process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.communicate(timeout=20)


def test_a_large_object_does_not_grow_the_memory(child: tuple[int, int], tmp_path: Path) -> None:
    pid, port = child
    small = samples.instance().file
    assert small is not None
    assert dimse.store([small], "127.0.0.1", port, called_aet="DIANA")[0].ok
    before = memory_mib(pid, peak=True)
    size = 128 << 20
    with (tmp_path / "large.dcm").open("wb") as out:
        out.write(file_head(samples.SECONDARY_CAPTURE, samples.uid(1, 1, 1), "1.2.840.10008.1.2.1"))
        out.write(small[dimse.outgoing(Blob(small)).offset : -140])
        out.write(b"\xe0\x7f\x10\0OW\0\0" + size.to_bytes(4, "little"))
        out.truncate(out.tell() + size)
    assert dimse.store([tmp_path / "large.dcm"], "127.0.0.1", port, called_aet="DIANA")[0].ok
    assert memory_mib(pid, peak=True) - before < 8


def test_associations_leave_no_descriptors(child: tuple[int, int]) -> None:
    pid, port = child
    before = open_files(pid)
    for _ in range(50):
        dimse.echo("127.0.0.1", port, called_aet="DIANA")
    wait_for(lambda: open_files(pid) <= before, what="descriptors given back")


def test_ten_thousand_receptions_wait_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    from diana.apis import DicomListener

    listener = DicomListener(port=0, path=tmp_path / "spool")
    listener.path.mkdir()
    for number in range(10_000):
        (listener.path / f"{number:016x}-0123456789abcdef.dcm").touch()
    tracemalloc.start()
    listener.resume(None, lambda keys: set())
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 4 << 20
