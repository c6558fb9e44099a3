"""
Compare RAD-69 clients against our own server: ``python -m benchmarks.bench_rad69 [instances]``.

``diana-cli serve`` gives a folder of CT images of 0.5 MB in a process of its own, as no server that can be installed
speaks RAD-69. The clients know the instances and write each to a folder. Ratios are speeds; the base (1) is the faster
mode of dicomtrolley.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from benchmarks._table import Row, interleave, print_table
from benchmarks.bench_dicomweb import write
from benchmarks.bench_header import make_ct

SERIES = 4
BENCH = "RAD-69 to a folder"
Uids = tuple[str, str, str]


def fill(folder: Path, count: int) -> list[Uids]:
    """Write a study; return the UIDs of its instances."""
    from pydicom import dcmread

    ds = dcmread(BytesIO(make_ct(1)))
    root, found = str(ds.StudyInstanceUID), []
    for number in range(count):
        ds.SeriesInstanceUID = f"{root}.8.{number * SERIES // count}"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{root}.9.{number}"
        ds.InstanceNumber = number + 1
        ds.save_as(folder / f"{number:05}.dcm")
        found.append((root, str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)))
    return found


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder and give the address of its RAD-69 face."""
    command = [sys.executable, "-m", "diana_cli", "serve", f"path:{folder}", "--http", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            yield json.loads(line)["http"] + "/rad69"
        finally:
            process.terminate()


def ours(url: str, wanted: list[Uids], folder: Path, workers: int) -> None:
    """Fetch with the project's RAD-69."""
    from diana.apis import Rad69
    from diana.utils.dicom import DicomLevel, Ref

    endpoint = Rad69(None, url, use_async=workers > 1, max_workers=workers)
    refs = [Ref(DicomLevel.INSTANCES, study=one, series=two, instance=three) for one, two, three in wanted]
    write(endpoint.pull_many(refs), folder)
    endpoint.close()


def trolleys(url: str, wanted: list[Uids], folder: Path, workers: int) -> None:
    """Fetch with dicomtrolley's RAD-69."""
    import requests
    from dicomtrolley.core import InstanceReference
    from dicomtrolley.rad69 import Rad69
    from dicomtrolley.storage import FlatStorageDir

    storage = FlatStorageDir(str(folder))
    refs = [InstanceReference(study_uid=one, series_uid=two, instance_uid=three) for one, two, three in wanted]
    for ds in Rad69(requests.Session(), url, use_async=workers > 1, max_workers=workers).datasets(refs):
        storage.save(ds)


def run(count: int = 300, rounds: int = 3) -> list[Row]:
    """Start a server and time the clients."""
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "archive"), Path(name, "out")
        source.mkdir()
        wanted = fill(source, count)

        def cleared(work: Callable[[Path], None]) -> Callable[[], None]:
            def once() -> None:
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir()
                work(target)
                if (came := sum(1 for _ in target.iterdir())) != count:
                    raise SystemExit(f"{came} files came, {count} were asked for")

            return once

        with serving(source) as url:
            contenders: dict[str, Callable[[Path], None]] = {
                "diana": lambda folder: ours(url, wanted, folder, 1),
                "diana, 4 at a time": lambda folder: ours(url, wanted, folder, 4),
            }
            if find_spec("dicomtrolley"):
                contenders["dicomtrolley"] = lambda folder: trolleys(url, wanted, folder, 1)
                contenders["dicomtrolley, 4 at a time"] = lambda folder: trolleys(url, wanted, folder, 4)
            seconds = interleave({one: cleared(work) for one, work in contenders.items()}, rounds)
    base = min((one for label, one in seconds.items() if "trolley" in label), default=seconds["diana"])
    return [Row(BENCH, label, base / one, ">= 2" if "diana" in label else "") for label, one in seconds.items()]


if __name__ == "__main__":
    print_table(run(*map(int, sys.argv[1:])))
