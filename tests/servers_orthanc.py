"""A real Orthanc."""

from __future__ import annotations

import http.client
import json
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.helpers import accepts, free_port
from tests.planted import PASSWORD, PLANTED_USER
from tests.servers_process import ServerProcess, binary, library

# Seconds; a paused server must not hang a helper.
REST_TIMEOUT = 20

PLUGIN_FILES = "/usr/*/orthanc/plugins/libOrthancDicomWeb.so*"
USER_METADATA = {"Source": 1024, "SourceItem": 1025, "Signature": 1026, "Provenance": 1027}


class RestError(Exception):
    """Orthanc answered with a status that is not 2xx."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class OrthancServer(ServerProcess):
    """
    An Orthanc with SQLite storage in its folder, one user, HTTP and DICOM on free ports.

    `modalities` maps a name to (AE title, host, port), `peers` a name to (url, user, password); both can be added to
    later. `plugins=True` loads DICOMweb under `/dicom-web/`. `config` is merged over the configuration last.
    `nodelay=False` leaves Nagle on for DIMSE, as Debian's package does.
    """

    label = "Orthanc"

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "orthanc-test",
        aet: str = "ORTHANC",
        user: str = PLANTED_USER,
        password: str = PASSWORD,
        modalities: Mapping[str, tuple[str, str, int]] | None = None,
        peers: Mapping[str, tuple[str, str, str]] | None = None,
        plugins: bool = False,
        nodelay: bool = True,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(folder)
        self.binary = binary("Orthanc", "orthanc")
        self.plugin = library("DICOMweb of Orthanc", "orthanc-dicomweb", PLUGIN_FILES) if plugins else ""
        self.name, self.aet, self.user, self.password, self.nodelay = name, aet, user, password, nodelay
        self.http_port, self.dicom_port = free_port(), free_port()
        self.modalities, self.peers = dict(modalities or {}), dict(peers or {})
        self.config = dict(config or {})

    @property
    def url(self) -> str:
        """Return the base address, without credentials and without a slash at the end."""
        return f"http://127.0.0.1:{self.http_port}"

    def command(self) -> list[str]:
        """Write the configuration and return the command line."""
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(self._configuration(), indent=2))
        return [self.binary, str(path)]

    def environment(self) -> dict[str, str]:
        """Turn Nagle off in the DICOM toolkit of Orthanc, unless the test wants the stock behaviour."""
        return {"TCP_NODELAY": "1"} if self.nodelay else {}

    def answers(self) -> bool:
        """Tell whether this very server answers on HTTP and DICOM."""
        try:
            system = self.rest("GET", "/system", timeout=2)
        except (OSError, http.client.HTTPException, RestError):
            return False
        return bool(system["Name"] == self.name) and accepts(self.dicom_port)

    def _configuration(self) -> dict[str, Any]:
        storage = str(self.folder / "storage")
        return {
            "Name": self.name,
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            # The tests kill processes, not machines: what was written stays without fsync.
            "SyncStorageArea": False,
            "Plugins": [self.plugin] if self.plugin else [],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "WadoRoot": "/wado", "Ssl": False},
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": self.aet,
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {self.user: self.password},
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "DicomCheckCalledAet": False,
            "DicomCheckModalityHost": False,
            "UnknownSopClassAccepted": True,
            "DicomScuTimeout": 10,
            "DicomModalities": {name: list(value) for name, value in self.modalities.items()},
            "OrthancPeers": {name: list(value) for name, value in self.peers.items()},
            "HttpsVerifyPeers": True,
            "KeepAlive": True,
            "TcpNoDelay": True,
            "StableAge": 1,
            "OverwriteInstances": False,
            "StorageCompression": False,
            "UserMetadata": USER_METADATA,
            "ExecuteLuaEnabled": True,
            **self.config,
        }

    def rest(self, method: str, path: str, body: Any = None, *, timeout: float = REST_TIMEOUT) -> Any:
        """
        Ask the REST interface and return the decoded answer (JSON where it is, else bytes).

        A body of bytes is sent as it is, another one as JSON. RestError when the status is not 2xx.
        """
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        credentials = b64encode(f"{self.user}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {credentials}", "Accept-Encoding": "identity"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)) as wire:
            wire.request(method, path, data, headers)
            answer = wire.getresponse()
            content = answer.read()
        if answer.status // 100 != 2:
            raise RestError(answer.status, f"{method} answered {answer.status}")
        is_json = answer.headers.get_content_subtype().endswith("json")
        return json.loads(content) if is_json and content else content

    def upload(self, data: bytes) -> dict[str, Any]:
        """Store one instance; return Orthanc's answer (ID, Status, ParentStudy, ...)."""
        answer: dict[str, Any] = self.rest("POST", "/instances", data)
        return answer

    def ids(self, level: str = "instances") -> set[str]:
        """Return the Orthanc ids at a level: patients, studies, series, instances."""
        return set(self.rest("GET", f"/{level}"))

    def count(self, level: str = "instances") -> int:
        """Return the number of patients, studies, series or instances."""
        return int(self.rest("GET", "/statistics")[f"Count{level.capitalize()}"])

    def add_modality(self, name: str, aet: str, port: int, host: str = "127.0.0.1") -> None:
        """Add a DICOM modality to the running server; it is there after a restart too."""
        self.modalities[name] = (aet, host, port)
        self.rest("PUT", f"/modalities/{name}", {"AET": aet, "Host": host, "Port": port})

    def add_peer(self, name: str, url: str, user: str = PLANTED_USER, password: str = PASSWORD) -> None:
        """Add an Orthanc peer to the running server; it is there after a restart too."""
        self.peers[name] = (url, user, password)
        self.rest("PUT", f"/peers/{name}", {"Url": url, "Username": user, "Password": password})

    def clear(self) -> None:
        """Delete all patients and the log of changes; numbers of changes go on."""
        if patients := self.rest("GET", "/patients"):
            self.rest("POST", "/tools/bulk-delete", {"Resources": patients}, timeout=120)
        self.rest("DELETE", "/changes")
        self.rest("DELETE", "/exports")

    def reset(self) -> None:
        """Clear, and forget the modalities and peers that were added."""
        self.clear()
        for kind, known in (("modalities", self.modalities), ("peers", self.peers)):
            for name in self.rest("GET", f"/{kind}"):
                self.rest("DELETE", f"/{kind}/{name}")
            known.clear()
