"""
Compare de-identification of CT images of 0.5 MB on one core: ``python -m benchmarks.bench_deid``.

Each contender reads files from a folder and writes new ones to another, in memory where the machine has such a folder.
Ratios are speeds with dicom-anonymizer as 1; peers that are not installed are left out (``pip install dicom-anonymizer
dicognito``). "diana" is the preset ``basic`` with the check of the output, "copy" is the limit. The last rows are the
whole command with one and with two jobs, and what a multi-frame object of 1 GB adds to the peak memory, in MB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks._table import Row, interleave, print_table
from benchmarks.bench_header import make_ct

FILES = 60
BENCH = "deid CT"
GIB = 1 << 30


def ours(sources: list[Path], out: Path) -> Callable[[], None]:
    """Return what de-identifies the files with this package."""
    from diana.deid import Deidentifier, Key, Recipe
    from diana.utils.blob import Blob

    engine = Deidentifier(Recipe.preset("basic"), Key.ephemeral())

    def run() -> None:
        for number, source in enumerate(sources):
            result = engine.apply(Blob(source))
            assert result.done, result.text
            assert result.blob is not None
            with Path(out, f"{number:04}.dcm").open("wb") as stream:
                result.blob.copy_to(stream)

    return run


def copied(sources: list[Path], out: Path) -> Callable[[], None]:
    """Return what copies the files."""

    def run() -> None:
        for source in sources:
            shutil.copyfile(source, out / source.name)

    return run


def anonymizer(sources: list[Path], out: Path) -> Callable[[], None]:
    """Return what runs dicom-anonymizer, as its command does for each file."""
    treat = import_module("dicomanonymizer.simpledicomanonymizer").anonymize_dicom_file

    def run() -> None:
        for source in sources:
            treat(str(source), str(out / source.name))

    return run


def dicognito(sources: list[Path], out: Path) -> Callable[[], None]:
    """Return what runs dicognito, as its command does for each file."""
    from pydicom import dcmread

    treat: Any = import_module("dicognito.anonymizer").Anonymizer()

    def run() -> None:
        for source in sources:
            with dcmread(source) as ds:
                treat.anonymize(ds)
                ds.save_as(out / source.name, enforce_file_format=True)

    return run


def run(rounds: int = 7) -> list[Row]:
    """Time all contenders in turns."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # the speed of the disk is nobody's merit
    with tempfile.TemporaryDirectory(dir=memory) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(folder)
        sources = make_files(root / "in")
        out = root / "out"
        out.mkdir()
        contenders = {"copy": copied(sources, out), "diana": ours(sources, out)}
        if find_spec("dicomanonymizer"):
            contenders["dicom-anonymizer"] = anonymizer(sources, out)
        if find_spec("dicognito"):
            contenders["dicognito"] = dicognito(sources, out)
        seconds = interleave(contenders, rounds)
        base = seconds.get("dicom-anonymizer", seconds["diana"])
        rows = [Row(BENCH, name, base / taken, "3" if name == "diana" else "") for name, taken in seconds.items()]
        if "dicognito" in seconds:
            rows.append(Row(f"{BENCH}, dicognito = 1", "diana", seconds["dicognito"] / seconds["diana"], "1.5"))
        rows += _jobs(root)
        rows += _memory(root)
    return rows


def make_files(folder: Path, count: int = FILES) -> list[Path]:
    """Write CT images to a folder and return their paths."""
    folder.mkdir()
    for number in range(count):
        Path(folder, f"{number:04}.dcm").write_bytes(make_ct(number))
    return sorted(folder.iterdir())


def _jobs(root: Path, files: int = 960) -> list[Row]:
    """Compare the whole command with one and two jobs over files of their own, each time from the start."""
    from diana.deid import Key

    make_files(root / "many", files)
    Key.make().save(root / "key")

    def command(jobs: str) -> Callable[[], None]:
        def run() -> None:
            work = root / "work"
            shutil.rmtree(work, ignore_errors=True)
            options = ["--key", str(root / "key"), "--custody", str(work / "custody"), "--jobs", jobs]
            line = [sys.executable, "-m", "diana_cli", "deid", str(root / "many"), str(work / "out"), *options]
            subprocess.run(line, check=True, capture_output=True)

        return run

    seconds = interleave({jobs: command(jobs) for jobs in ("1", "2")}, 3)
    return [Row("deid command", "--jobs 2", seconds["1"] / seconds["2"], "1.7")]


def _memory(root: Path) -> list[Row]:
    """Return how much the peak memory grows for a multi-frame object of 1 GB."""
    source = root / "large.dcm"
    make_large(source)
    code = (
        "import sys, resource; from diana.deid import Deidentifier, Key, Recipe; from diana.utils.blob import Blob\n"
        "engine = Deidentifier(Recipe.preset('basic'), Key.ephemeral())\n"
        "small = engine.apply(Blob(sys.argv[2])); base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "made = engine.apply(Blob(sys.argv[1])); assert made.done, made.text; made.blob.close()\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024)"
    )
    small = next((root / "in").iterdir())
    found = subprocess.run(
        [sys.executable, "-c", code, str(source), str(small)], check=True, capture_output=True, text=True
    )
    return [Row("deid 1 GB multi-frame", "MB more at the peak", float(found.stdout), "64")]


def make_large(path: Path, frames: int = 2048) -> None:
    """Write a multi-frame object with half a megabyte of pixels for each frame, most of it a hole in the file."""
    from io import BytesIO

    from pydicom import dcmread

    ds = dcmread(BytesIO(make_ct(1)))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.NumberOfFrames = frames
    ds.PixelData = b"\0\0"
    out = BytesIO()
    ds.save_as(out)
    size = frames * 512 * 512 * 2
    head = out.getvalue()[:-6]
    with path.open("wb") as stream:
        stream.write(head + size.to_bytes(4, "little"))
        stream.truncate(len(head) + 4 + size)


if __name__ == "__main__":
    print_table(run())
