"""The real servers of the tests, and a pool that starts any number and stops them all."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from tests.servers_db import PostgresServer, RedisServer
from tests.servers_dcmtk import DcmqrscpServer, StorescpServer
from tests.servers_orthanc import OrthancServer, RestError
from tests.servers_process import ServerProcess, binary

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "DcmqrscpServer",
    "OrthancServer",
    "PostgresServer",
    "RedisServer",
    "RestError",
    "ServerPool",
    "ServerProcess",
    "StorescpServer",
    "binary",
]

S = TypeVar("S", bound=ServerProcess)


class ServerPool:
    """
    Start servers below one folder and stop them all at the end.

    Each method takes the keywords of the class of the server, returns it started (`start=False`: not started).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._servers: list[ServerProcess] = []

    def orthanc(self, *, start: bool = True, **options: Any) -> OrthancServer:
        """Start one more Orthanc; its name is its own unless given."""
        options.setdefault("name", f"orthanc-{len(self._servers) + 1}")
        return self._add(OrthancServer(self._room("orthanc"), **options), start)

    def dcmqrscp(self, *, start: bool = True, **options: Any) -> DcmqrscpServer:
        """Start one more archive of dcmtk."""
        return self._add(DcmqrscpServer(self._room("dcmqrscp"), **options), start)

    def storescp(self, *, start: bool = True, **options: Any) -> StorescpServer:
        """Start one more receiver of dcmtk."""
        return self._add(StorescpServer(self._room("storescp"), **options), start)

    def redis(self, *, start: bool = True, **options: Any) -> RedisServer:
        """Start one more Redis."""
        return self._add(RedisServer(self._room("redis"), **options), start)

    def postgres(self, *, start: bool = True) -> PostgresServer:
        """Start one more PostgreSQL."""
        return self._add(PostgresServer(self._room("postgres")), start)

    def _room(self, kind: str) -> Path:
        folder = self.folder / f"{kind}-{len(self._servers) + 1}"
        folder.mkdir(parents=True)
        return folder

    def _add(self, server: S, start: bool) -> S:
        self._servers.append(server)
        return server.start() if start else server

    def close(self) -> None:
        """Stop the servers, the last first, and remove their data."""
        while self._servers:
            self._servers.pop().discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
