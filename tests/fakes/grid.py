"""Every kind of endpoint that can send, and every kind that can receive, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from diana.apis import (
    CsvFile,
    DcmDir,
    DicomNode,
    DicomQR,
    DicomWeb,
    ImageDir,
    Memory,
    Mint,
    ObservableDcmDir,
    ObservableOrthanc,
    ObservableProxiedDicom,
    Orthanc,
    ProxiedDicom,
    QidoRS,
    Rad69,
    Redis,
    ReportDir,
    StowRS,
    Trolley,
    WadoRS,
    WadoURI,
)
from diana.utils.dicom import read_header
from diana.utils.endpoint import Endpoint
from tests.fakes.grid_hall import LOOPBACK, PLAIN, Files, Hall, Tree, pulled, study, study_refs
from tests.planted import PASSWORD, PLANTED_USER
from tests.servers import DcmqrscpServer, OrthancServer


@frozen
class Source:
    """
    A kind of endpoint that sends; its study is ``number``.

    ``dimse``: its files have the file meta information of a receiver. ``plain``: it sends one transfer syntax.
    """

    name: str
    make: Callable[[Hall], Endpoint]
    dimse: bool = False
    plain: bool = False

    @property
    def number(self) -> int:
        """Return the number of the study that is moved from here."""
        return SOURCES.index(self) + PLAIN * self.plain


def _secured(cls: type[Any], server: OrthancServer, path: str = "") -> Any:
    return cls(url=f"{server.url}/{path}".rstrip("/"), user=PLANTED_USER, password=PASSWORD)


def _node(server: DcmqrscpServer, **options: Any) -> DicomNode:
    return DicomNode(LOOPBACK, server.port, aec=server.aet, **options)


def _our_node(hall: Hall, **options: Any) -> DicomNode:
    return DicomNode(LOOPBACK, hall.node.port, aec="SERVED", **options)


def _moved(hall: Hall) -> DicomNode:
    node = hall.dcmqrscp
    return _node(node, retrieve="move", move_port=hall.move_port)


def _our_moved(hall: Hall) -> DicomNode:
    _ = hall.node
    return _our_node(hall, retrieve="move", move_port=hall.node_move_port)


SEARCHERS: Mapping[str, Callable[[Hall], Endpoint]] = {
    "QidoRS": lambda hall: QidoRS(url=f"{hall.web}/dicom-web"),
    "Mint": lambda hall: Mint(url=f"{hall.web}/mint"),
    "MintReference": lambda hall: Mint(url=f"{hall.web}/mint", dialect="reference"),
    "DicomQR": lambda hall: DicomQR(LOOPBACK, hall.node.port, aec="SERVED"),
}
DOWNLOADERS: Mapping[str, Callable[[Hall], Endpoint]] = {
    "WadoRS": lambda hall: WadoRS(url=f"{hall.web}/dicom-web"),
    "WadoURI": lambda hall: WadoURI(url=f"{hall.web}/wado"),
    "Rad69": lambda hall: Rad69(url=f"{hall.web}/rad69"),
    "DicomNode": _our_node,
}


def _trolley(search: str, fetch: str) -> Callable[[Hall], Endpoint]:
    return lambda hall: Trolley(SEARCHERS[search](hall), DOWNLOADERS[fetch](hall))


SOURCES = [
    Source("Memory", lambda hall: hall.filled(Memory())),
    Source("DcmDir", lambda hall: hall.filled(DcmDir(str(hall.room("dcmdir"))))),
    Source("ObservableDcmDir", lambda hall: hall.filled(ObservableDcmDir(str(hall.room("watched"))))),
    Source("Orthanc", lambda hall: _secured(Orthanc, hall.orthanc)),
    Source("ObservableOrthanc", lambda hall: _secured(ObservableOrthanc, hall.orthanc)),
    Source("ProxiedDicom", lambda hall: hall.proxied(ProxiedDicom), dimse=True, plain=True),
    Source("ObservableProxiedDicom", lambda hall: hall.proxied(ObservableProxiedDicom), dimse=True, plain=True),
    Source("DicomListener", Hall.listener, dimse=True),
    Source("DicomWeb", lambda hall: DicomWeb(url=f"{hall.web}/dicom-web")),
    Source("DicomWeb@Orthanc", lambda hall: _secured(DicomWeb, hall.orthanc, "dicom-web")),
    Source("WadoRS", DOWNLOADERS["WadoRS"]),
    Source("WadoRS@Orthanc", lambda hall: _secured(WadoRS, hall.orthanc, "dicom-web")),
    Source("WadoURI", DOWNLOADERS["WadoURI"]),
    Source("WadoURI@Orthanc", lambda hall: _secured(WadoURI, hall.orthanc, "wado")),
    Source("Rad69", DOWNLOADERS["Rad69"]),
    Source("Rad69-mtom", lambda hall: Rad69(url=f"{hall.web}/rad69", mtom=True)),
    Source("DicomNode-get", _our_node, dimse=True),
    Source("DicomNode-move", _our_moved, dimse=True),
    Source("DicomNode-get@dcmqrscp", lambda hall: _node(hall.dcmqrscp), dimse=True, plain=True),
    Source("DicomNode-move@dcmqrscp", _moved, dimse=True, plain=True),
    *(
        Source(f"Trolley-{search}-{fetch}", _trolley(search, fetch), dimse=fetch == "DicomNode")
        for search in SEARCHERS
        for fetch in DOWNLOADERS
    ),
]


def _no_more(_: Hall) -> None:
    """Leave what is there: the protocol has no delete, and no other kind uses the place."""


def _empty_kept(hall: Hall) -> None:
    for one in hall.kept.find({}):
        hall.kept.delete(one)


@frozen
class Dest:
    """
    A kind of endpoint that receives; ``kept`` returns what it then holds.

    ``keeps`` says what is left of a file: ``file``, ``dataset`` (C-STORE), ``tags`` or ``picture``, nothing.
    """

    name: str
    make: Callable[[Hall], Endpoint]
    kept: Callable[[Hall, Endpoint, int], Tree]
    keeps: str = "file"
    clear: Callable[[Hall], None] = _no_more
    reads_back: bool = True


def _by_uid(files: list[bytes], number: int) -> Files:
    found = {read_header(data).instance: data for data in files}
    return {uid: found[uid] for uid in study(number) if uid in found}


def _in_folder(_: Hall, dest: Endpoint, number: int) -> Files:
    assert isinstance(dest, DcmDir)
    return _by_uid([path.read_bytes() for path in Path(dest.path).rglob("*.dcm")], number)


def _in_orthanc(hall: Hall, _: Endpoint, number: int) -> Files:
    paths = [f"/instances/{oid}/file" for oid in hall.empty.ids()]
    return _by_uid([hall.empty.rest("GET", path) for path in paths], number)


def _in_kept(hall: Hall, _: Endpoint, number: int) -> Files:
    return pulled(hall.kept, study_refs(number))


def _in_blank(hall: Hall, _: Endpoint, number: int) -> Files:
    return _by_uid([path.read_bytes() for path in hall.blank.files()], number)


def _found(_: Hall, dest: Endpoint, number: int) -> Tree:
    rows = {str(one.tags["SOPInstanceUID"]): one.tags for one in dest.find({}, "instances")}
    return {uid: rows[uid] for uid in study(number) if uid in rows}


def _pictures(_: Hall, dest: Endpoint, number: int) -> Tree:
    items = study(number)
    return {uid: dest.get(item, view="pixels").pixels for uid, item in items.items() if dest.exists(item)}


DESTS = [
    Dest("Memory", lambda _: Memory(), lambda _, dest, number: pulled(dest, study_refs(number))),
    Dest("DcmDir", lambda hall: DcmDir(str(hall.room("to-dcmdir")), 2, 2), _in_folder),
    Dest("ObservableDcmDir", lambda hall: ObservableDcmDir(str(hall.room("to-watched"))), _in_folder),
    Dest("Orthanc", lambda hall: _secured(Orthanc, hall.empty), _in_orthanc, clear=lambda hall: hall.empty.clear()),
    Dest(
        "ObservableOrthanc",
        lambda hall: _secured(ObservableOrthanc, hall.empty),
        _in_orthanc,
        clear=lambda hall: hall.empty.clear(),
    ),
    Dest("DicomWeb", lambda hall: DicomWeb(url=f"{hall.store_web}/dicom-web"), _in_kept, clear=_empty_kept),
    Dest(
        "DicomWeb@Orthanc",
        lambda hall: _secured(DicomWeb, hall.empty, "dicom-web"),
        _in_orthanc,
        clear=lambda hall: hall.empty.clear(),
    ),
    Dest(
        "StowRS",
        lambda hall: StowRS(url=f"{hall.store_web}/dicom-web"),
        _in_kept,
        clear=_empty_kept,
        reads_back=False,
    ),
    Dest(
        "DicomNode",
        lambda hall: DicomNode(LOOPBACK, hall.store_node.port, aec="KEPT"),
        _in_kept,
        keeps="dataset",
        clear=_empty_kept,
    ),
    Dest("DicomNode@dcmqrscp", lambda hall: _node(hall.blank), _in_blank, keeps="dataset"),
    Dest(
        "Redis",
        lambda hall: Redis(LOOPBACK, hall.redis.port, password=hall.redis.password),
        _found,
        keeps="tags",
        clear=lambda hall: hall.redis.flush(),
    ),
    Dest("CsvFile", lambda hall: CsvFile(hall.folder / "index.csv", "instances"), _found, keeps="tags"),
    Dest("ImageDir", lambda hall: ImageDir(str(hall.room("pictures"))), _pictures, keeps="picture"),
    Dest("ReportDir", lambda hall: ReportDir(str(hall.room("reports"))), lambda *_: {}, keeps=""),
]
