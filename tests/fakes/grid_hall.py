"""The servers behind the grid of sources and destinations, and the studies that are moved over it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from diana.apis import (
    DicomListener,
    Memory,
)
from diana.dixel import Dixel
from diana.server import HttpFace
from diana.server.scp import DicomFace
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Ref, read_header
from diana.utils.endpoint import Endpoint
from diana.utils.gateways import dimse
from tests.contract import samples
from tests.helpers import free_port
from tests.planted import PASSWORD
from tests.servers import DcmqrscpServer, OrthancServer, RedisServer, ServerPool

if TYPE_CHECKING:
    from tests.fakes.grid import Dest, Source

Files = dict[str, bytes]
Tree = dict[str, Any]

LOOPBACK = "127.0.0.1"
RLE_TOO = ["+xr"]
# studies from this number on are in one transfer syntax: the archive of dcmtk sends compressed ones to nobody, and
# writes implicit ones anew
PLAIN = 1000


def data_set(file: bytes) -> bytes:
    """Return a file without its file meta information, which C-STORE does not send."""
    return file[dimse.outgoing(Blob(file)).offset :]


@lru_cache
def study(number: int) -> Mapping[str, Dixel]:
    """Return the instances of a study by UID: two series, several transfer syntaxes, a name that is not ASCII."""
    made = [samples.dataset(number, at // 2, at % 2, PatientName=f"Gränerated^Ω{number}") for at in range(4)]
    if number < PLAIN:
        made[2].file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        made[3].compress(RLELossless, generate_instance_uid=False)
    files = [samples.file_bytes(ds) for ds in made]
    return {str(ds.SOPInstanceUID): _dixel(data) for ds, data in zip(made, files, strict=True)}


def _dixel(data: bytes) -> Dixel:
    return Dixel.from_header(read_header(data), file=data)


def files_of(items: Mapping[str, Dixel]) -> Files:
    """Return the files of some instances by UID."""
    return {uid: item.file or b"" for uid, item in items.items()}


def pulled(endpoint: Endpoint, refs: list[Ref]) -> Files:
    """Return the files that an endpoint sends, by UID."""
    found = [one for ref in refs for one in endpoint.pull(ref)]
    return {str(one.tags["SOPInstanceUID"]): one.file or b"" for one in found}


def study_refs(number: int) -> list[Ref]:
    """Return the ref of a study, as a list."""
    return [Ref(DicomLevel.STUDIES, study=samples.uid(number + 1))]


def refs_for(source: Endpoint, number: int) -> list[Ref]:
    """Return what to ask a source for: the study, or its instances where the source cannot say what a study holds."""
    return study_refs(number) if source.can("find") else [one.ref for one in study(number).values()]


def send(items: list[Dixel], port: int, aet: str) -> None:
    """Send instances by C-STORE."""
    outcomes = dimse.store([item.blob for item in items if item.blob], LOOPBACK, port, "GRID", aet)
    assert all(one.ok for one in outcomes)


class Hall:
    """The servers of the grid, each started when it is first asked for; sources hold the studies of ``numbers``."""

    def __init__(self, pool: ServerPool, folder: Path, numbers: list[int]) -> None:
        self.pool, self.folder, self.numbers = pool, folder, numbers
        self.stack = ExitStack()
        self.made: dict[str, Endpoint] = {}
        self.fetched: dict[str, Files] = {}

    @property
    def items(self) -> list[Dixel]:
        """Return what every source holds, but for the archive of dcmtk."""
        return [item for number in self.numbers if number < PLAIN for item in study(number).values()]

    def source(self, kind: Source) -> Endpoint:
        """Return the endpoint of a kind of source, filled."""
        if f"from {kind.name}" not in self.made:
            self.made[f"from {kind.name}"] = kind.make(self)
        return self.made[f"from {kind.name}"]

    def sent(self, kind: Source) -> Files:
        """Return the files of its study that a kind of source sends."""
        if kind.name not in self.fetched:
            source = self.source(kind)
            self.fetched[kind.name] = pulled(source, refs_for(source, kind.number))
        return self.fetched[kind.name]

    def dest(self, kind: Dest) -> Endpoint:
        """Return the endpoint of a kind of destination, emptied where it can be."""
        if f"to {kind.name}" not in self.made:
            self.made[f"to {kind.name}"] = kind.make(self)
        kind.clear(self)
        return self.made[f"to {kind.name}"]

    def close(self) -> None:
        """Close all endpoints, then what serves them; the servers belong to the pool."""
        for endpoint in self.made.values():
            endpoint.close()
        self.stack.close()

    def filled(self, endpoint: Any) -> Any:
        """Return an endpoint after everything was put into it."""
        for item in self.items:
            endpoint.put(item)
        return endpoint

    def room(self, name: str) -> Path:
        """Return an empty folder."""
        path = self.folder / name
        path.mkdir()
        return path

    # where things come from

    @cached_property
    def orthanc(self) -> OrthancServer:
        """An Orthanc with everything in it."""
        server = self.pool.orthanc(plugins=True, aet="FULL")
        for item in self.items:
            server.upload(item.file or b"")
        return server

    @cached_property
    def dcmqrscp(self) -> DcmqrscpServer:
        """An archive of dcmtk with everything in it; it may move to our port and to the proxy."""
        self.move_port = free_port()
        proxy = self.pool.orthanc(start=False, aet="PROXY")
        peers = {"DIANA": (LOOPBACK, self.move_port), "PROXY": (LOOPBACK, proxy.dicom_port)}
        server = self.pool.dcmqrscp(peers=peers, args=RLE_TOO)
        proxy.modalities["remote"] = (server.aet, LOOPBACK, server.port)
        self.proxy = proxy.start()
        plain = [number for number in self.numbers if number >= PLAIN]
        send([item for number in plain for item in study(number).values()], server.port, server.aet)
        return server

    @cached_property
    def served(self) -> Memory:
        """What the faces of our own serve."""
        found: Memory = self.filled(Memory(name="served"))
        return found

    @cached_property
    def web(self) -> str:
        """The address of a server of ours with everything in it."""
        return str(self.stack.enter_context(HttpFace(self.served)).url)

    @cached_property
    def node(self) -> DicomFace:
        """A DICOM node of ours with everything in it."""
        self.node_move_port = free_port()
        peers = {"DIANA": (LOOPBACK, self.node_move_port)}
        return self.stack.enter_context(DicomFace(self.served, "SERVED", port=0, peers=peers))

    def proxied(self, cls: type[Any]) -> Any:
        """Return an endpoint that reads the archive of dcmtk through the proxy."""
        _ = self.dcmqrscp
        url = {"host": LOOPBACK, "port": self.proxy.http_port, "user": self.proxy.user, "password": PASSWORD}
        return cls(url, "remote")

    def listener(self) -> DicomListener:
        """Return a listener that has received everything."""
        found = DicomListener(port=0, path=self.room("spool"))
        found.listen(lambda: None)
        send(self.items, found.port, found.aet)
        return found

    # where things go

    @cached_property
    def empty(self) -> OrthancServer:
        """An Orthanc with nothing in it."""
        return self.pool.orthanc(plugins=True, aet="EMPTY")

    @cached_property
    def blank(self) -> DcmqrscpServer:
        """An archive of dcmtk with nothing in it."""
        return self.pool.dcmqrscp(args=RLE_TOO)

    @cached_property
    def redis(self) -> RedisServer:
        """A Redis."""
        return self.pool.redis()

    @cached_property
    def kept(self) -> Memory:
        """What the faces of our own store into."""
        return Memory(name="kept")

    @cached_property
    def store_web(self) -> str:
        """The address of a server of ours with nothing in it."""
        return str(self.stack.enter_context(HttpFace(self.kept)).url)

    @cached_property
    def store_node(self) -> DicomFace:
        """A DICOM node of ours with nothing in it."""
        return self.stack.enter_context(DicomFace(self.kept, "KEPT", port=0))
