"""
Compare DICOMweb clients against a real Orthanc: ``python -m benchmarks.bench_dicomweb [instances]``.

A study of CT images of 0.5 MB goes to a folder, by WADO-RS and by WADO-URI, and its instances are listed by QIDO-RS.
The default asks the server for all instances before; "instances known" leaves that out, as a ``Trolley`` does.
Ratios are speeds; the base (1) of WADO is dicomtrolley, that of QIDO-RS bare requests with ``json.loads``. dicomtrolley
gets two helps without which Orthanc 1.10 refuses or slows it down: slashes stay as they are, nothing is compressed.
"""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks._table import Row, interleave, print_table
from benchmarks.bench_header import make_ct

SERIES = 4


def upload(server: Any, count: int) -> tuple[str, list[tuple[str, str]]]:
    """Store a study; return its UID and the series and instance UIDs."""
    from pydicom import dcmread

    ds = dcmread(BytesIO(make_ct(1)))
    root, found = str(ds.StudyInstanceUID), []
    for number in range(count):
        ds.SeriesInstanceUID = f"{root}.8.{number * SERIES // count}"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{root}.9.{number}"
        ds.InstanceNumber = number + 1
        out = BytesIO()
        ds.save_as(out)
        server.upload(out.getvalue())
        found.append((str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)))
    return root, found


class Bench:
    """Hold the server, the study and a folder that is emptied before each run."""

    def __init__(self, server: Any, study: str, instances: list[tuple[str, str]], folder: Path) -> None:
        self.server, self.study, self.instances, self.folder = server, study, instances, folder
        self.root = f"{server.url}/dicom-web"
        self.who = {"user": server.user, "password": server.password}

    def cleared(self, work: Callable[[Path], None]) -> Callable[[], None]:
        """Return a run into an empty folder whose result is counted."""

        def run() -> None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            work(self.folder)
            count = sum(1 for path in self.folder.rglob("*") if path.is_file())
            if count != len(self.instances):
                raise SystemExit(f"{count} files came, {len(self.instances)} were asked for")

        return run

    def session(self) -> Any:
        """Return a session that is logged in, with the two helps."""
        import requests

        class Helped(requests.Session):
            def prepare_request(self, request: Any) -> Any:
                prepared = super().prepare_request(request)
                prepared.url = str(prepared.url).replace("%2F", "/")
                return prepared

        made = Helped()
        made.auth = (self.server.user, self.server.password)
        made.headers["Accept-Encoding"] = "identity"
        return made


def write(items: Iterable[Any], folder: Path) -> None:
    """Write instances under their UIDs, each to a temporary name first."""
    from diana.utils.files import whole_file

    for item in items:
        with whole_file(folder / f"{item.tags['SOPInstanceUID']}.dcm", durable=False) as out:
            item.blob.copy_to(out)
        item.blob.close()


def plain(bench: Bench, folder: Path) -> None:
    """Read the whole study by one request and write its parts, with nothing checked."""
    wire = http.client.HTTPConnection("127.0.0.1", bench.server.http_port)
    token = b64encode(f"{bench.server.user}:{bench.server.password}".encode()).decode()
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    wire.request(
        "GET", f"/dicom-web/studies/{bench.study}", headers={"Authorization": f"Basic {token}", "Accept": accept}
    )
    answer = wire.getresponse()
    mark = b"--" + (answer.headers.get_boundary() or "").encode()
    for number, content in enumerate(_split(answer, mark)):
        (folder / f"{number}.dcm").write_bytes(content)
    wire.close()


def _split(answer: Any, mark: bytes) -> Iterator[memoryview]:
    data = bytearray()
    while piece := answer.read(4 << 20):
        data += piece
        at = 0
        while (head := data.find(b"\r\n\r\n", at)) >= 0:
            length = data.find(b"Content-Length: ", at, head)
            size = int(data[length + 16 : data.index(b"\r", length)])
            if head + 4 + size > len(data):
                break
            with memoryview(data) as view, view[head + 4 : head + 4 + size] as content:
                yield content
            at = head + 4 + size
        del data[:at]


def diana_rs(bench: Bench, folder: Path, **options: Any) -> None:
    """Fetch with the project's WADO-RS."""
    from diana.apis import WadoRS
    from diana.utils.dicom import DicomLevel, Ref

    endpoint = WadoRS(url=bench.root, list_first=options.pop("listed", False), **bench.who, **options)
    write(endpoint.pull(Ref(DicomLevel.STUDIES, study=bench.study)), folder)
    endpoint.close()


def diana_uri(bench: Bench, folder: Path, workers: int) -> None:
    """Fetch with the project's WADO-URI."""
    from diana.apis import WadoURI
    from diana.utils.dicom import DicomLevel, Ref

    endpoint = WadoURI(None, f"{bench.server.url}/wado", workers > 1, workers, **bench.who)
    refs = [
        Ref(DicomLevel.INSTANCES, study=bench.study, series=series, instance=uid) for series, uid in bench.instances
    ]
    write(endpoint.pull_many(refs), folder)
    endpoint.close()


def trolley_rs(bench: Bench, folder: Path) -> None:
    """Fetch with dicomtrolley's WADO-RS."""
    from dicomtrolley.core import SeriesReference
    from dicomtrolley.storage import FlatStorageDir
    from dicomtrolley.wado_rs import WadoRS

    storage = FlatStorageDir(str(folder))
    series = dict.fromkeys(uid for uid, _ in bench.instances)
    refs = [SeriesReference(study_uid=bench.study, series_uid=uid) for uid in series]
    for ds in WadoRS(bench.session(), bench.root).datasets(refs):
        storage.save(ds)


def trolley_uri(bench: Bench, folder: Path, use_async: bool) -> None:
    """Fetch with dicomtrolley's WADO-URI."""
    from dicomtrolley.core import InstanceReference
    from dicomtrolley.storage import FlatStorageDir
    from dicomtrolley.wado_uri import WadoURI

    storage = FlatStorageDir(str(folder))
    refs = [
        InstanceReference(study_uid=bench.study, series_uid=series, instance_uid=uid) for series, uid in bench.instances
    ]
    downloader = WadoURI(bench.session(), f"{bench.server.url}/wado", use_async, 4 if use_async else None)
    for ds in downloader.datasets(refs):
        storage.save(ds)


def wado_rows(bench: Bench, rounds: int) -> list[Row]:
    """Time the downloads."""
    contenders: dict[str, Callable[[Path], None]] = {
        "WADO-RS, plain split and write": lambda folder: plain(bench, folder),
        "WADO-RS, diana": lambda folder: diana_rs(bench, folder, listed=True),
        "WADO-RS, diana, one series at a time": lambda folder: diana_rs(bench, folder, listed=True, workers=1),
        "WADO-RS, diana, instances known": lambda folder: diana_rs(bench, folder),
        "WADO-URI, diana": lambda folder: diana_uri(bench, folder, 1),
        "WADO-URI, diana, 4 at a time": lambda folder: diana_uri(bench, folder, 4),
    }
    if find_spec("dicomtrolley"):
        contenders["WADO-RS, dicomtrolley"] = lambda folder: trolley_rs(bench, folder)
        contenders["WADO-URI, dicomtrolley"] = lambda folder: trolley_uri(bench, folder, False)
        contenders["WADO-URI, dicomtrolley, 4 at a time"] = lambda folder: trolley_uri(bench, folder, True)
    seconds = interleave({name: bench.cleared(work) for name, work in contenders.items()}, rounds)
    rows = []
    for kind, target in (("WADO-RS", "2.0, and 0.85 of plain"), ("WADO-URI", "1.5")):
        mine = {name: one for name, one in seconds.items() if name.startswith(f"{kind},")}
        base = min((one for name, one in mine.items() if "trolley" in name), default=max(mine.values()))
        rows += [Row("to a folder", name, base / one, target if "diana" in name else "") for name, one in mine.items()]
    return rows


def qido_rows(bench: Bench, rounds: int) -> list[Row]:
    """Time the search for all instances."""
    from diana.apis import QidoRS

    session = bench.session()
    qido = QidoRS(url=bench.root, **bench.who)
    contenders: dict[str, Callable[[], object]] = {
        "requests and json.loads": lambda: json.loads(session.get(f"{bench.root}/instances").content),
        "diana": lambda: qido.find({}, level="instances"),
    }
    if find_spec("dicomtrolley"):
        from dicomtrolley.qido_rs import QidoRS as Other
        from dicomtrolley.qido_rs import RelationalQuery

        other = Other(session, bench.root)
        contenders["dicomtrolley"] = lambda: other.find_studies(RelationalQuery(query_level="INSTANCE"))
    if find_spec("dicomweb_client"):
        from dicomweb_client import DICOMwebClient

        client = DICOMwebClient(bench.root, session=session)
        contenders["dicomweb-client"] = client.search_for_instances
    seconds = interleave(contenders, rounds)
    qido.close()
    base = seconds["requests and json.loads"]
    return [
        Row("QIDO-RS of instances", name, base / one, "0.77" if name == "diana" else "")
        for name, one in seconds.items()
    ]


def run(count: int = 300, rounds: int = 3) -> list[Row]:
    """Start an Orthanc, fill it, and time all."""
    from tests.servers import ServerPool

    with tempfile.TemporaryDirectory() as place, ServerPool(Path(place)) as pool:
        server = pool.orthanc(plugins=True)
        study, instances = upload(server, count)
        bench = Bench(server, study, instances, Path(place) / "out")
        with suppress(FileNotFoundError):
            return wado_rows(bench, rounds) + qido_rows(bench, rounds)
    return []


if __name__ == "__main__":
    print_table(run(*map(int, sys.argv[1:])))
