"""
Compare readers of multipart bodies in memory: ``python -m benchmarks.bench_multipart``.

Ratios are GB/s; part contents are kept until the next part, as a client would. The plain split is ``bytes.split`` of
the whole body, which needs all of it in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter

from benchmarks._table import Row, interleave, print_table

SIZES = {"2 KB": (2 << 10, 40_000), "0.5 MB": (512 << 10, 200), "60 MB": (60 << 20, 2)}
BENCH = "multipart, GB/s"


class Memory:
    """Give a body as a socket would, as much as there is room for."""

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)
        self._at = 0

    def read_into(self, target: memoryview) -> int:
        """Fill the start of a buffer."""
        count = min(len(target), len(self._body) - self._at)
        target[:count] = self._body[self._at : self._at + count]
        self._at += count
        return count


def make_body(size: int, count: int, *, length: bool) -> tuple[str, bytes]:
    """Return a boundary and a body of parts of one size."""
    boundary = f"boundary-{os.urandom(16).hex()}"
    lines = f"--{boundary}\r\nContent-Type: application/dicom\r\nMIME-Version: 1.0\r\n"
    head = (lines + (f"Content-Length: {size}\r\n" if length else "") + "\r\n").encode()
    return boundary, (head + os.urandom(size) + b"\r\n") * count + f"--{boundary}--\r\n".encode()


def read_all(body: bytes, boundary: str) -> None:
    """Read with the project's reader; large parts go to temporary files."""
    from diana.utils.gateways.multipart import PartReader

    for part in PartReader(Memory(body), boundary):
        if len(part) > 1 << 20:
            part.blob.close()


def split_all(body: bytes, boundary: str) -> None:
    """Split the whole body at once."""
    for piece in body.split(b"\r\n--" + boundary.encode()):
        piece.partition(b"\r\n\r\n")


def trolley_all(body: bytes, boundary: str) -> None:
    """Read with dicomtrolley."""
    from dicomtrolley.http import HTTPMultiPartStream

    class Response:
        headers = {"content-type": f'multipart/related; type="application/dicom"; boundary={boundary}'}
        encoding = None

        @staticmethod
        def iter_content(chunk_size: int) -> object:
            return (body[at : at + chunk_size] for at in range(0, len(body), chunk_size))

    for part in HTTPMultiPartStream(Response(), stream_chunk_size=5 << 20):
        part.content  # noqa: B018  # reading it is what is timed


def run(rounds: int = 3) -> list[Row]:
    """Time all readers on parts of several sizes."""
    rows: list[Row] = []
    for name, (size, count) in SIZES.items():
        boundary, measured = make_body(size, count, length=True)
        _, searched = make_body(size, count, length=False)
        other = searched[2 : searched.index(b"\r\n")].decode()
        contenders: dict[str, Callable[[], object]] = {
            "diana": lambda body=measured, mark=boundary: read_all(body, mark),  # type: ignore[misc]
            "diana, no lengths": lambda body=searched, mark=other: read_all(body, mark),  # type: ignore[misc]
            "plain split": lambda body=searched, mark=other: split_all(body, mark),  # type: ignore[misc]
        }
        if find_spec("dicomtrolley") and size > 4 << 10:
            contenders["dicomtrolley"] = lambda body=searched, mark=other: trolley_all(body, mark)  # type: ignore[misc]
        for contender, seconds in interleave(contenders, rounds).items():
            target = "at least 1" if contender.startswith("diana") else ""
            rows.append(Row(BENCH, f"{name} parts, {contender}", len(measured) / seconds / 1e9, target))
    return rows


def main() -> None:
    """Print the table."""
    start = perf_counter()
    print_table(run())
    print(f"{perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
