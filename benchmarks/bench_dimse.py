"""
Compare C-STORE, out and in: ``python -m benchmarks.bench_dimse``.

Out: into an Orthanc as Debian configures it, which leaves Nagle on, with ``dcmsend`` as 1; our node reads back by
C-FIND what it sent. In: what ``dcmsend`` without Nagle delivers, with ``storescp`` without Nagle as 1. It writes files
and does not flush them, as ``plain files`` does; the listener and the face answer when the disk has them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks._table import Row, print_table
from benchmarks.bench_orthanc import make_study
from diana.apis import DcmDir, DicomListener, DicomNode
from diana.dixel import Dixel
from diana.server.scp import DicomFace
from diana.utils.blob import Blob
from diana.utils.dicom import read_header
from diana.utils.gateways import dimse
from diana.utils.gateways.dimse_pdu import file_head
from tests.helpers import which
from tests.servers import OrthancServer, ServerPool

ROUNDS = 3
OUT, IN = "C-STORE into a default Orthanc", "C-STORE received from dcmsend"


def dcmsend(port: int, aet: str, paths: list[Path], *, nodelay: bool) -> None:
    """Send files with dcmtk."""
    program = which("dcmsend") or "dcmsend"
    environment = {**os.environ, **({"TCP_NODELAY": "1"} if nodelay else {})}
    command = [program, "-aec", aet, "127.0.0.1", str(port), *map(str, paths)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def our_put(node: DicomNode, paths: list[Path]) -> None:
    """Send files with DIANA, read back."""
    items = (Dixel.from_header(read_header(path), file=Blob(path)) for path in paths)
    if not all(outcome.error is None for outcome in node.put_many(items)):
        raise RuntimeError("an instance was not stored")


def our_send(port: int, aet: str, paths: list[Path]) -> None:
    """Send files with DIANA, over one association, trusting the answers."""
    if not all(outcome.ok for outcome in dimse.store(paths, "127.0.0.1", port, called_aet=aet)):
        raise RuntimeError("an instance was not stored")


def timed(contenders: Mapping[str, Callable[[], None]], between: Callable[[], None]) -> dict[str, float]:
    """Return the median seconds of each contender, in turns; ``between`` is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        for name, work in contenders.items():
            between()
            start = perf_counter()
            work()
            if turn:
                times[name].append(perf_counter() - start)
    return {name: median(seconds) for name, seconds in times.items()}


def rows(bench: str, times: dict[str, float], targets: Mapping[str, str]) -> list[Row]:
    """Return the lines of one bench; the first contender is the base."""
    base = next(iter(times.values()))
    return [Row(bench, name, base / seconds, targets.get(name, "")) for name, seconds in times.items()]


class PlainFile:
    """Write what is received as storescp does: into a file, not flushed to disk."""

    def __init__(self, folder: Path, request: dimse.StoreRequest) -> None:
        self._out = (folder / request.sop_instance).open("wb")
        self._out.write(file_head(request.sop_class, request.sop_instance, request.transfer_syntax))

    def write(self, piece: memoryview) -> None:
        """Append bytes."""
        self._out.write(piece)

    def finish(self) -> int:
        """Close the file."""
        self._out.close()
        return 0

    def abandon(self) -> None:
        """Close the file."""
        self._out.close()


def sending(server: OrthancServer, paths: list[Path]) -> list[Row]:
    """Time what goes out."""
    node = DicomNode("127.0.0.1", server.dicom_port, aec=server.aet)
    contenders = {
        "dcmsend": lambda: dcmsend(server.dicom_port, server.aet, paths, nodelay=False),
        "diana, DicomNode.put_many": lambda: our_put(node, paths),
        "diana, one association": lambda: our_send(server.dicom_port, server.aet, paths),
    }
    return rows(OUT, timed(contenders, server.clear), {"diana, DicomNode.put_many": ">= 8"})


def receiving(pool: ServerPool, paths: list[Path], folder: Path) -> list[Row]:
    """Time what comes in."""
    peer = pool.storescp()
    plain = folder / "plain"
    plain.mkdir()
    receiver = dimse.StorageScp(lambda request: PlainFile(plain, request), port=0)
    receiver.start()
    listener = DicomListener(port=0, path=folder / "spool")
    listener.listen(lambda: None)
    archive = folder / "archive"
    face = DicomFace(DcmDir(str(archive)), port=0).start()

    def clear() -> None:
        for path in (*peer.files(), *plain.iterdir(), *(folder / "spool").glob("*.dcm")):
            path.unlink()
        shutil.rmtree(archive, ignore_errors=True)

    try:
        contenders = {
            "storescp": lambda: dcmsend(peer.port, peer.aet, paths, nodelay=True),
            "diana, plain files": lambda: dcmsend(receiver.port, receiver.aet, paths, nodelay=True),
            "diana, DicomListener": lambda: dcmsend(listener.port, listener.aet, paths, nodelay=True),
            "diana, DicomFace over DcmDir": lambda: dcmsend(face.port, face.aet, paths, nodelay=True),
        }
        return rows(IN, timed(contenders, clear), {"diana, plain files": ">= 0.8"})
    finally:
        face.stop()
        receiver.stop()
        listener.unlisten()


def run() -> list[Row]:
    """Time both ways with CT files of 0.5 MB."""
    with tempfile.TemporaryDirectory() as name, ServerPool(Path(name, "servers")) as pool:
        folder = Path(name)
        paths = make_study(folder)
        return [*sending(pool.orthanc(nodelay=False), paths), *receiving(pool, paths, folder)]


if __name__ == "__main__":
    print_table(run())
