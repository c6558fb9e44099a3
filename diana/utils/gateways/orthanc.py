"""
The REST interface of Orthanc, in plain values.

Tried with Orthanc 1.10.1; nothing here needs a plugin.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final  # Any: JSON of the server
from urllib.parse import quote

from attrs import define, field

from diana.exceptions import GatewayAnswerError, GatewayConnectionError, GatewayRefused, ItemNotFound
from diana.utils.blob import Blob
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import OID_PATTERN
from diana.utils.endpoint.serializable import SECRET
from diana.utils.gateways.http import HttpClient

__all__ = ["Orthanc"]

JSON_TYPE: Final = "application/json"
VIEWS: Final = ("meta", "metakv", "tags", "file")
# Orthanc's own error numbers that no repetition cures: bad parameters, unknown things, not DICOM, unknown tags.
LASTING: Final = frozenset((3, 4, 5, 7, 8, 12, 15, 17, 27))
CHANGE_BYTES: Final = 2048  # one row of the log takes about 200
JOB_IDLE: Final = 300.0
RETRIEVE_IDLE: Final = 3600.0
FIND_IDLE: Final = 360.0


def _part(text: str) -> str:
    """Return a text as one part of a path. Raises GatewayRefused for what no part can be."""
    try:
        if text in ("", ".", ".."):
            raise ValueError
        return quote(text, safe="")
    except ValueError:
        raise GatewayRefused("a name that an address cannot hold") from None


def _judge(status: int, text: bytes) -> tuple[int, str]:
    """Return the status to judge a refusal by, and Orthanc's error number; its words may hold patient data."""
    try:
        number = json.loads(text).get("OrthancStatus") if text else None
    except (ValueError, AttributeError, RecursionError):
        number = None
    if not isinstance(number, int):
        return status, ""
    return (400 if status == 500 and number in LASTING else status), f"Orthanc error {number}"


@define(eq=False)
class Orthanc:
    """
    Speak to one Orthanc.

    An id of the server is ``oid``, of which the level must be known. ``url`` replaces protocol, host, port and path.
    Absent things raise ItemNotFound, everything else GatewayError.
    """

    protocol: str = "http"
    host: str = "localhost"
    path: str | None = None
    name: str = "OrthancGateway"
    port: int = 8042
    user: str | None = field(default="orthanc", repr=False)
    password: str | None = field(default="passw0rd!", repr=False, metadata=SECRET)
    aet: str = "ORTHANC"
    url: str | None = field(default=None, kw_only=True, repr=False)
    timeout: tuple[float, float] = field(default=(5.0, 60.0), kw_only=True)
    verify: bool | str = field(default=True, kw_only=True)
    cert: str | tuple[str, str] | None = field(default=None, kw_only=True, repr=False)
    http: HttpClient = field(init=False, repr=False)

    @http.default
    def _make_http(self) -> HttpClient:
        place = f"{self.protocol}://{self.host}:{self.port}/{(self.path or '').strip('/')}"
        return HttpClient(
            self.url or place,
            name=self.name,
            user=self.user,
            password=self.password,
            timeout=self.timeout,
            verify=self.verify,
            cert=self.cert,
            believe_404=JSON_TYPE,
            explain=_judge,
        )

    def close(self) -> None:
        """Close kept connections; the gateway may be used again."""
        self.http.close()

    def put(self, file: bytes | Blob) -> dict[str, Any]:
        """Store one DICOM file; return ``ID``, ``Status`` (Success, AlreadyStored), ``ParentStudy`` and others."""
        return self._mapping(
            self.http.json("POST", "instances", body=file, headers={"Content-Type": "application/dicom"})
        )

    def get(self, oid: str, level: DicomLevel, view: str = "tags") -> Any:
        """
        Return one view of a resource: ``meta`` and ``tags`` (shared by all instances at higher levels) as JSON,
        ``metakv`` as a mapping, ``file`` as a Blob (a ZIP above the instances).
        """
        if view == "tags":
            return self.tags(oid, level)
        if view == "meta":
            return self.resource(oid, level)
        if view == "metakv":
            return self.metadata(oid, level)
        if view == "file":
            return self.file(oid) if level == DicomLevel.INSTANCES else self.archive(oid, level)
        raise GatewayRefused(f"{self.name}: no view {view!r}; use {', '.join(VIEWS)}")

    def resource(self, oid: str, level: DicomLevel) -> dict[str, Any]:
        """Return what the server knows about a resource."""
        return self._mapping(self.http.json("GET", self._at(oid, level), absent=True))

    def exists(self, oid: str, level: DicomLevel) -> bool:
        """Tell whether a resource is there; raises when the server does not say."""
        try:
            self.resource(oid, level)
        except ItemNotFound:
            return False
        return True

    def tags(self, oid: str, level: DicomLevel) -> dict[str, Any]:
        """Return the tags by keyword; above the instances those that all instances share."""
        what = "tags" if level == DicomLevel.INSTANCES else "shared-tags"
        found = self._mapping(self.http.json("GET", f"{self._at(oid, level)}/{what}?simplify", absent=True))
        return {key.removeprefix("RETIRED_"): value for key, value in found.items()}

    def file(self, oid: str) -> Blob:
        """Return the file of an instance."""
        return self.http.blob("GET", f"{self._at(oid, DicomLevel.INSTANCES)}/file", absent=True)

    def archive(self, oid: str, level: DicomLevel) -> Blob:
        """Return all files below a resource as a ZIP. The server sends no length; see that the ZIP is whole."""
        return self.http.blob("GET", f"{self._at(oid, level)}/archive", absent=True, idle=FIND_IDLE)

    def md5(self, oid: str) -> str:
        """Return the MD5 (hex) of an instance's file as the server keeps it."""
        found = self.http.text("GET", f"{self._at(oid, DicomLevel.INSTANCES)}/attachments/dicom/md5", absent=True)
        return found.strip().strip('"').lower()

    def members(self, oid: str, level: DicomLevel) -> list[dict[str, Any]]:
        """Return what the server knows about each instance of a resource, in one request."""
        if level == DicomLevel.INSTANCES:
            return [self.resource(oid, level)]
        return self._rows(self.http.json("GET", f"{self._at(oid, level)}/instances", absent=True))

    def delete(self, oid: str, level: DicomLevel) -> None:
        """Delete a resource with everything below."""
        self.http.call("DELETE", self._at(oid, level), absent=True)

    def metadata(self, oid: str, level: DicomLevel) -> dict[str, str]:
        """Return all metadata of a resource, in one request."""
        return self._mapping(self.http.json("GET", f"{self._at(oid, level)}/metadata?expand", absent=True))

    def get_metadata(self, oid: str, level: DicomLevel, key: str) -> str:
        """Return the value of one metadata."""
        return self.http.text("GET", f"{self._at(oid, level)}/metadata/{_part(key)}", absent=True)

    def put_metadata(self, oid: str, level: DicomLevel, key: str, value: str) -> None:
        """Set user metadata; its name must be in the server's ``UserMetadata``, or be a number from 1024."""
        path = f"{self._at(oid, level)}/metadata/{_part(key)}"
        self.http.call("PUT", path, body=value.encode(), headers={"Content-Type": "text/plain"})

    def attachment(self, oid: str, level: DicomLevel, key: str | int) -> bytes:
        """Return the content of an attachment."""
        path = f"{self._at(oid, level)}/attachments/{_part(str(key))}/data"
        with self.http.request("GET", path, absent=True) as answer:
            return bytes(answer.read(64 << 20))

    def find(self, query: Mapping[str, Any]) -> list[Any]:
        """
        Return what ``/tools/find`` answers: ids, or with ``Expand`` what the server knows about each.

        ``query`` is the request: ``Level`` (Patient, Study, Series, Instance), ``Query``, and optional ``Expand``,
        ``CaseSensitive``, ``Limit``, ``Since``.
        """
        found = self.http.json("POST", "tools/find", dict(query), idle=FIND_IDLE)
        if not isinstance(found, list):
            raise GatewayAnswerError(f"{self.name}: the answer of a search is no list")
        return found

    def inventory(self, level: DicomLevel = DicomLevel.STUDIES) -> list[str]:
        """Return the id of every resource of a level."""
        found = self.http.json("GET", str(level))
        if not isinstance(found, list):
            raise GatewayAnswerError(f"{self.name}: an inventory is no list")
        return [str(oid) for oid in found]

    def statistics(self) -> dict[str, Any]:
        """Return the numbers of patients, studies, series, instances, and the use of the disk."""
        return self._mapping(self.http.json("GET", "statistics"))

    def system(self, *, within: float | None = None) -> dict[str, Any]:
        """Return name, version and settings; ``within`` limits the whole, in seconds."""
        return self._mapping(self.http.json("GET", "system", within=within))

    def changes(self, current: int = 0, limit: int = 10) -> dict[str, Any]:
        """Return at most ``limit`` changes after number ``current``: ``Changes``, ``Last``, ``Done``."""
        found = self._mapping(
            self.http.json("GET", f"changes?since={current:d}&limit={limit:d}", limit=CHANGE_BYTES * (limit + 10))
        )
        changes, last = found.get("Changes"), found.get("Last")
        if not isinstance(changes, list) or not isinstance(last, int) or len(changes) > max(limit, 1):
            raise GatewayAnswerError(f"{self.name}: the log of changes is not what Orthanc answers")
        return found

    def last_change(self) -> int:
        """Return the number of the newest change; 0 when there is none."""
        last = self._mapping(self.http.json("GET", "changes?last")).get("Last")
        if not isinstance(last, int):
            raise GatewayAnswerError(f"{self.name}: the log of changes is not what Orthanc answers")
        return last

    def reset(self) -> int:
        """Delete every patient; return how many."""
        count = 0
        for oid in self.inventory(DicomLevel.PATIENTS):
            try:
                self.delete(oid, DicomLevel.PATIENTS)
                count += 1
            except ItemNotFound:
                continue
        return count

    def anonymize(self, oid: str, level: DicomLevel, replacement_map: Mapping[str, Any]) -> str | Blob:
        """Return the id of a new, anonymized resource; of an instance the new file, which is not stored."""
        return self._derive(oid, level, "anonymize", replacement_map)

    def modify(self, oid: str, level: DicomLevel, replacement_map: Mapping[str, Any]) -> str | Blob:
        """Return the id of a new, modified resource; of an instance the new file, which is not stored."""
        return self._derive(oid, level, "modify", replacement_map)

    def _derive(self, oid: str, level: DicomLevel, how: str, replacement_map: Mapping[str, Any]) -> str | Blob:
        path = f"{self._at(oid, level)}/{how}"
        if level == DicomLevel.INSTANCES:
            body, kind = json.dumps(dict(replacement_map)).encode(), {"Content-Type": JSON_TYPE}
            return self.http.blob("POST", path, body=body, headers=kind, absent=True)
        asked = {**replacement_map, "Asynchronous": True}
        job = self.wait_job(self._id(self.http.json("POST", path, asked, absent=True)))
        return self._id(job.get("Content"))

    def send(self, oid: str | Iterable[str], dest: str, dest_type: str = "peers") -> dict[str, Any]:
        """
        Send resources to one of the server's ``peers`` or ``modalities``; return the finished job's content.

        Raises ItemNotFound for an unknown destination too.
        """
        if dest_type not in ("peers", "modalities"):
            raise GatewayRefused(f"{self.name}: {dest_type!r} is neither peers nor modalities")
        asked = {"Resources": [oid] if isinstance(oid, str) else list(oid), "Synchronous": False}
        path = f"{dest_type}/{_part(dest)}/store"
        job = self.wait_job(self._id(self.http.json("POST", path, asked, absent=True)))
        content = self._mapping(job.get("Content"))
        if content.get("FailedInstancesCount"):
            raise GatewayConnectionError(f"{self.name}: {content['FailedInstancesCount']} instances were not sent")
        return content

    def modalities(self) -> list[str]:
        """Return the names of the DICOM modalities that the server knows."""
        return [str(one) for one in self.http.json("GET", "modalities")]

    def peers(self) -> list[str]:
        """Return the names of the Orthanc peers that the server knows."""
        return [str(one) for one in self.http.json("GET", "peers")]

    def recho(self, domain: str, *, seconds: int = 10) -> None:
        """Send a C-ECHO to a modality; return when it answered. Raises ItemNotFound for an unknown one."""
        path, kind = f"modalities/{_part(domain)}/echo", {"Content-Type": JSON_TYPE}
        with self._modality(domain):
            self.http.call("POST", path, body=b'{"Timeout": %d}' % seconds, headers=kind, absent=True)

    def rfind(self, query: Mapping[str, Any], domain: str, retrieve: bool = False) -> list[dict[str, Any]]:
        """
        Return the answers of a C-FIND at a modality (``query``: ``Level``, ``Query``), by keyword.

        With ``retrieve`` every answer is also fetched into this server, before the call returns.
        """
        number = self.remote_query(query, domain)
        answers = self.answers(number)
        if retrieve and answers:
            self.retrieve(number)
        return answers

    def remote_query(self, query: Mapping[str, Any], domain: str) -> str:
        """Run a C-FIND at a modality; return the number under which the server keeps the answers."""
        path = f"modalities/{_part(domain)}/query"
        with self._modality(domain):
            return self._id(self.http.json("POST", path, dict(query), absent=True, idle=FIND_IDLE))

    @contextmanager
    def _modality(self, domain: str) -> Iterator[None]:
        """Say which modality the server does not know."""
        try:
            yield
        except ItemNotFound:
            raise ItemNotFound(f"{self.name}: the server knows no modality {domain!r}") from None

    def answers(self, number: str) -> list[dict[str, Any]]:
        """Return the answers of a remote query, in one request."""
        path = f"queries/{_part(number)}/answers?expand&simplify"
        return self._rows(self.http.json("GET", path, absent=True))

    def retrieve(
        self, number: str, index: int | None = None, *, aet: str | None = None, idle: float = RETRIEVE_IDLE
    ) -> dict[str, Any]:
        """
        C-MOVE the answers of a remote query, or one of them, to ``aet`` (here); return the job's content.

        The server says how far it is only after each answer, so one large study may take ``idle`` seconds.
        """
        which = "" if index is None else f"/answers/{index:d}"
        asked = {"TargetAet": aet or self.aet, "Synchronous": False}
        path = f"queries/{_part(number)}{which}/retrieve"
        job = self._id(self.http.json("POST", path, asked, absent=True))
        return self._mapping(self.wait_job(job, idle=idle).get("Content"))

    def job(self, number: str) -> dict[str, Any]:
        """Return what the server knows about a job."""
        return self._mapping(self.http.json("GET", f"jobs/{_part(number)}", absent=True))

    def wait_job(self, number: str, *, idle: float = JOB_IDLE) -> dict[str, Any]:
        """
        Return a job when it has succeeded; there is no limit to its duration, but ``idle`` seconds without progress.

        Raises GatewayRefused or GatewayConnectionError when it fails, stalls or is taken away.
        """
        pause, seen, since = 0.005, None, time.monotonic()
        while True:
            job = self.job(number)
            state, progress = job.get("State"), (job.get("State"), job.get("Progress"))
            if state == "Success":
                return job
            if state not in ("Pending", "Running", "Retry", "Paused"):
                raise self._failed(job)
            if progress != seen:
                seen, since = progress, time.monotonic()
            elif time.monotonic() - since > idle:
                text = f"{self.name}: a job of the server made no progress for {idle:.0f} seconds; it may still end"
                raise GatewayConnectionError(text)
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)

    def _failed(self, job: Mapping[str, Any]) -> GatewayRefused | GatewayConnectionError:
        kind = GatewayRefused if job.get("ErrorCode") in LASTING else GatewayConnectionError
        return kind(f"{self.name}: a job of the server failed (Orthanc error {job.get('ErrorCode')})")

    def _at(self, oid: str, level: DicomLevel) -> str:
        if not OID_PATTERN.match(oid):
            raise ItemNotFound(f"{self.name}: what is asked for is no id of Orthanc's form")
        return f"{level}/{oid}"

    def _id(self, found: Any) -> str:
        oid = found.get("ID") if isinstance(found, dict) else None
        if not isinstance(oid, str) or not oid:
            raise GatewayAnswerError(f"{self.name}: the answer names no ID")
        return oid

    def _mapping(self, found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise GatewayAnswerError(f"{self.name}: the answer is no JSON object")
        return found

    def _rows(self, found: Any) -> list[dict[str, Any]]:
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise GatewayAnswerError(f"{self.name}: the answer is no list of JSON objects")
        return found
