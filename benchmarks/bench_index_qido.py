"""
Search a served folder with and without its index: ``python -m benchmarks.bench_index_qido [instances]``.

Tiny instances, 25 in a series, four series in a study, a folder for each study, behind ``diana.server``. Each query
goes over HTTP. Ratios are speeds; the base (1) is the same query without index, which reads every header (it has only
one turn). "Built" compares the first use of the index with one search without; "bare" is what the empty server takes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.request import urlopen

from benchmarks._table import Row, interleave, print_table

IN_SERIES = 25
SERIES = 4
ROOT = "1.2.826.0.1.3680043.10.43.98"


def template() -> bytes:
    """Return a small CT instance whose UIDs and numbers can be replaced by others as long."""
    from pydicom.dataset import Dataset, FileMetaDataset

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.StudyInstanceUID = f"{ROOT}.1111111"
    ds.SeriesInstanceUID = f"{ROOT}.1111111.22"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.1111111.22.333"
    ds.PatientID, ds.PatientName = "GENID1111111", "Generated^Name1111111"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "O"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20240101", "101500", "GENACC1111111"
    ds.StudyDescription, ds.StudyID = "GENERATED", "1"
    ds.Modality, ds.SeriesDescription, ds.SeriesNumber, ds.InstanceNumber = "CT", "AXIAL", "22", "333"
    ds.Rows = ds.Columns = 1
    ds.BitsAllocated = ds.BitsStored = 16
    ds.SamplesPerPixel, ds.HighBit, ds.PixelRepresentation = 1, 15, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = b"\0\0"
    ds["PixelData"].VR = "OW"
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def fill(folder: Path, count: int) -> int:
    """Write instances; return how many studies they make."""
    data = template()
    studies = -(-count // (SERIES * IN_SERIES))
    for study in range(studies):
        below = folder / f"{study // 100:03}" / f"{study:05}"
        below.mkdir(parents=True)
        one = data.replace(b"1111111", b"%d" % (study + 2_000_000))
        one = one.replace(b"20240101", b"2024%02d%02d" % (study % 12 + 1, study % 28 + 1))
        for series in range(SERIES):
            two = one.replace(b".22", b".%d" % (series + 10)).replace(b"IS\x02\x0022", b"IS\x02\x00%d" % (series + 10))
            for number in range(IN_SERIES):
                three = two.replace(b".333", b".%d" % (number + 100))
                (below / f"{series}-{number}.dcm").write_bytes(
                    three.replace(b"IS\x04\x00333", b"IS\x04\x00%d" % (number + 100))
                )
    return studies


def ask(url: str) -> list[Any]:
    """Return the answer to one search."""
    with urlopen(url) as answer:
        found: list[Any] = json.loads(answer.read() or b"[]")
        return found


def queries(studies: int) -> dict[str, tuple[str, int]]:
    """Return the searches, with how many matches each has."""
    study = f"{ROOT}.{2_000_000 + studies // 2}"
    last = max(0, studies * SERIES * IN_SERIES - 50)
    return {
        "studies, page of 50": ("studies?limit=50", 50),
        "studies by PatientID": (f"studies?PatientID=GENID{2_000_000 + studies // 2}", 1),
        "studies by name, wildcard": (f"studies?PatientName=generated^name{2_000_000 + studies // 2}*", 1),
        "studies of a day": ("studies?StudyDate=20240101&limit=50", min(50, -(-studies // 84))),
        "series of a study": (f"studies/{study}/series", SERIES),
        "instances of a series": (f"studies/{study}/series/{study}.12/instances", IN_SERIES),
        "instances, last page of 50": (f"instances?limit=50&offset={last}", 50),
        "one instance by UID": (f"instances?SOPInstanceUID={study}.12.110", 1),
    }


def timed(work: Callable[[], object]) -> float:
    """Return how long one call takes, in seconds."""
    begin = perf_counter()
    work()
    return perf_counter() - begin


def run(count: int = 100_000, rounds: int = 15) -> list[Row]:
    """Fill a folder, serve it twice, and time all."""
    from diana.apis import DcmDir, Memory
    from diana.server import HttpFace

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "archive")
        studies = fill(folder, count)
        plain, indexed = DcmDir(str(folder)), DcmDir(str(folder), index=True)
        with HttpFace(plain) as slow, HttpFace(indexed) as fast, HttpFace(Memory()) as bare:
            built = timed(lambda: ask(f"{fast.url}/dicom-web/studies?limit=1"))
            again = timed(lambda: list(DcmDir(str(folder), index=True).find({"PatientID": "x"})))
            rows = []
            for name, (path, matches) in queries(studies).items():
                base = timed(lambda path=path: ask(f"{slow.url}/dicom-web/{path}"))  # type: ignore[misc]
                times = interleave(
                    {
                        "indexed": lambda path=path: ask(f"{fast.url}/dicom-web/{path}"),
                        "bare": lambda path=path: ask(f"{bare.url}/dicom-web/{path}"),
                    },
                    rounds,
                )
                found = ask(f"{fast.url}/dicom-web/{path}")
                assert len(found) == matches, f"{name}: {len(found)}"
                milliseconds = times["indexed"] * 1000
                label = f"indexed ({milliseconds:.1f} ms; bare {times['bare'] * 1000:.1f} ms; without {base:.2f} s)"
                rows.append(Row(f"QIDO, {name}", label, base / times["indexed"], ""))
            rows.append(Row("index", f"built ({built:.1f} s for {count})", base / built, ""))
            rows.append(Row("index", f"opened again by another process ({again:.2f} s)", base / again, ""))
        indexed.close()
        return rows


if __name__ == "__main__":
    print_table(run(*map(int, sys.argv[1:])))
