"""
Compare registering a tree by accession number: ``python -m benchmarks.bench_index``.

A loop of ``pydicom.dcmread(stop_before_pixels=True)`` that fills a dict is 1. The files are headers of CT images whose
pixels are a hole; the page cache is warm. "again" is a second run over the unchanged tree, as times of the first.
Another number of files than 20,000 may be given.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from benchmarks._table import Row, interleave
from benchmarks.bench_header import make_ct

FILES, FOLDER = 20_000, 200
BENCH = "index"


def fill(root: Path, count: int) -> None:
    """Write ``count`` files, two hundred to a folder, one accession number to a folder."""
    templates = [make_ct(number)[:-524_288] for number in range(20)]
    for number in range(count):
        folder = root / f"{number // FOLDER:04}"
        folder.mkdir(exist_ok=True)
        with open(folder / f"{number:06}.dcm", "wb") as out:
            out.write(templates[number % len(templates)].replace(b"SHAM12345", b"SHAM%05d" % (number // FOLDER)))
            out.truncate(out.tell() + 524_288)


def run(rounds: int = 3, count: int = FILES) -> list[Row]:
    """Time a loop of pydicom and the indexer over the same tree."""
    import pydicom

    from diana.apis import Redis
    from diana.daemons.file_indexer import FileIndexer, SqliteRegistry
    from tests.servers import ServerPool

    rows = [Row(BENCH, "pydicom loop", 1.0, "")]
    with tempfile.TemporaryDirectory() as name, closing(FileIndexer(2)) as indexer, ServerPool(Path(name)) as pool:
        root, state = Path(name, "tree"), Path(name, "state")
        root.mkdir()
        fill(root, count)
        server = pool.redis()
        registry = SqliteRegistry(state / "files.sqlite")
        redis = Redis(host=server.host, port=server.port, password=server.password)

        def by_pydicom() -> None:
            found: dict[str, set[str]] = {}
            for path in root.rglob("*.dcm"):
                ds = pydicom.dcmread(path, stop_before_pixels=True)
                found.setdefault(ds.AccessionNumber, set()).add(str(path))

        def embedded() -> None:
            registry.close()
            shutil.rmtree(state, ignore_errors=True)
            indexer.index_path(root, registry)

        def in_redis() -> None:
            redis.clear(confirm=True)
            indexer.index_path(root, redis)

        contenders = {
            "pydicom loop": by_pydicom,
            "diana, SQLite": embedded,
            "diana, SQLite, again": lambda: indexer.index_path(root, registry),
            "diana, Redis": in_redis,
            "diana, Redis, again": lambda: indexer.index_path(root, redis),
        }
        seconds = interleave(contenders, rounds)
        for name, target in (("diana, SQLite", "10"), ("diana, Redis", "8")):
            rows.append(Row(BENCH, name, seconds["pydicom loop"] / seconds[name], target))
            rows.append(Row(f"{BENCH} again, first = 1", name, seconds[name] / seconds[f"{name}, again"], "20"))
        registry.close()
        redis.close()
    return rows


if __name__ == "__main__":
    from benchmarks._table import print_table

    print_table(run(count=int(sys.argv[1]) if sys.argv[1:] else FILES))
