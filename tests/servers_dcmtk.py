"""The DICOM servers of dcmtk: an archive (dcmqrscp) and a receiver of files (storescp)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers import accepts, free_port
from tests.servers_process import ServerProcess, binary

PACKAGE = "dcmtk"


class DcmtkServer(ServerProcess):
    """What both servers share: an AE title, a DICOM port, Nagle off unless asked otherwise."""

    program = ""

    def __init__(self, folder: Path, *, aet: str, nodelay: bool = True, args: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.binary = binary(self.program, PACKAGE)
        self.label = self.program
        self.aet, self.nodelay, self.args = aet, nodelay, list(args)
        self.host, self.port = "127.0.0.1", free_port()
        self.storage = folder / "storage"

    def environment(self) -> dict[str, str]:
        """Turn Nagle off, which dcmtk leaves on when it is not told."""
        return {"TCP_NODELAY": "1"} if self.nodelay else {}

    def answers(self) -> bool:
        """Tell whether the port is open."""
        return accepts(self.port)

    def files(self) -> list[Path]:
        """Return the DICOM files stored so far, in order of their names."""
        if not self.storage.exists():
            return []
        return sorted(path for path in self.storage.iterdir() if path.is_file() and path.name != "index.dat")


class DcmqrscpServer(DcmtkServer):
    """
    The archive of dcmtk with C-ECHO, C-STORE, C-FIND, C-MOVE and C-GET for any caller.

    `peers` maps the AE titles it may move to, to (host, port); a new one needs a restart: see `add_peer`.
    """

    program = "dcmqrscp"

    def __init__(
        self,
        folder: Path,
        *,
        aet: str = "DCMQRSCP",
        peers: Mapping[str, tuple[str, int]] | None = None,
        nodelay: bool = True,
        args: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, aet=aet, nodelay=nodelay, args=args)
        self.peers = dict(peers or {})

    def command(self) -> list[str]:
        """Write the configuration and return the command line."""
        self.storage.mkdir(exist_ok=True)
        path = self.folder / "dcmqrscp.cfg"
        path.write_text(self._configuration())
        return [self.binary, "-ll", "info", "-dhl", *self.args, "-c", str(path)]

    def _configuration(self) -> str:
        hosts = [f"peer{n} = ({aet}, {host}, {port})" for n, (aet, (host, port)) in enumerate(self.peers.items())]
        return "\n".join(
            [
                f"NetworkTCPPort = {self.port}",
                "MaxPDUSize = 131072",
                "MaxAssociations = 32",
                "HostTable BEGIN",
                *hosts,
                "HostTable END",
                "VendorTable BEGIN",
                "VendorTable END",
                "AETable BEGIN",
                f"{self.aet} {self.storage} RW (500, 4096mb) ANY",
                "AETable END",
                "",
            ]
        )

    def add_peer(self, aet: str, port: int, host: str = "127.0.0.1") -> None:
        """Let the server move to one more AE title; restarts it when it runs."""
        self.peers[aet] = (host, port)
        if self.running:
            self.stop()
            self.start()


class StorescpServer(DcmtkServer):
    """
    The receiver of dcmtk: writes each instance into `storage`, accepts every transfer syntax and class.

    `args` are further options of storescp, for example `["--abort-after"]` or `["--refuse"]`.
    """

    program = "storescp"

    def __init__(self, folder: Path, *, aet: str = "STORESCP", nodelay: bool = True, args: Sequence[str] = ()) -> None:
        super().__init__(folder, aet=aet, nodelay=nodelay, args=args)

    def command(self) -> list[str]:
        """Make the folder and return the command line."""
        self.storage.mkdir(exist_ok=True)
        return [
            self.binary, "-ll", "info", "-dhl", "+xa", "-pm", "--fork", "-pdu", "131072",
            "-aet", self.aet, "-od", str(self.storage), *self.args, str(self.port),
        ]  # fmt: skip
