"""STOW-RS (PS3.18 10.5): instances go to the endpoint as they arrive."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final, cast  # Any: JSON

from attrs import define, field

from diana.dixel import Dixel
from diana.exceptions import Conflict, DianaError, GatewayAnswerError, GatewayConnectionError, InvalidItem, Unsupported
from diana.server.accept import DICOM, JSON, chosen
from diana.server.archive import Archive
from diana.server.asked import Ask, Body, Refusal, Reply, json_bytes
from diana.server.dicomweb_retrieve import instance_url
from diana.server.limits import Limits
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel
from diana.utils.dicom.header import DEFAULT_TAGS
from diana.utils.dicom.ref import is_uid
from diana.utils.dicom.structure import check_whole
from diana.utils.endpoint.endpoint import Outcome
from diana.utils.gateways.multipart import Limits as PartLimits
from diana.utils.gateways.multipart import PartReader, boundary_of, parse_media_type
from diana.utils.gateways.multipart_sink import Sink

log = logging.getLogger(__name__)

# reasons of failure (PS3.18 I.2.2, PS3.7 C)
PROCESSING: Final = 0x0110
DUPLICATE: Final = 0x0111
OUT_OF_RESOURCES: Final = 0xA700
NO_MATCH: Final = 0xA900
NOT_UNDERSTOOD: Final = 0xC000
KINDS: Final = (JSON, "application/json")
WORKERS: Final = 4
CHUNK: Final = 1 << 20


@define(eq=False)
class Upload:
    """Gather what became of each instance of one upload."""

    study: str
    stored: list[tuple[str, Dixel]] = field(factory=list)
    failed: list[tuple[str, str, int]] = field(factory=list)

    def add(self, outcome: Outcome) -> None:
        """Note what became of an instance, and give its file back."""
        one, error = outcome.item, outcome.error
        sop_class, uid = str(one.meta.get("SOPClass") or ""), str(one.tags.get("SOPInstanceUID") or "")
        if one.blob is not None:
            one.blob.close()
            one.blob = None
        if error is None:
            self.stored.append((sop_class, one))
            return
        log.warning("an uploaded instance was not stored (%s)", type(error).__name__)
        self.failed.append((sop_class, uid, _reason(error)))

    def read(self, blob: Blob) -> Dixel | None:
        """Return an instance, or None after noting why it is none that can be stored."""
        try:
            with blob.open() as stream:
                if stream.read(132)[128:] != b"DICM":
                    raise InvalidItem("the instance is no DICOM file (PS3.10 7.1)")
                stream.seek(0)
                whole = check_whole(stream)
                header = whole.header
            if not whole.ok or header is None:
                raise InvalidItem(f"the instance is not whole: {whole.reason}")
            if not all(is_uid(header.get(key, "")) for key in ("StudyInstanceUID", "SeriesInstanceUID")):
                raise InvalidItem("the instance has no usable UIDs")
            found = Dixel.from_header(header, file=blob)
        except InvalidItem:
            blob.close()
            self.failed.append(("", "", NOT_UNDERSTOOD))
            return None
        found.tags = {key: value for key, value in found.tags.items() if key in DEFAULT_TAGS}
        found.meta["SOPClass"] = header.sop_class
        uid = str(found.tags.get("SOPInstanceUID") or "")
        if not is_uid(uid) or (self.study and header.study != self.study):
            blob.close()
            self.failed.append((header.sop_class, uid if is_uid(uid) else "", NO_MATCH))
            return None
        return found

    def document(self, base: str) -> dict[str, Any]:
        """Return the Store Instances Response (PS3.18 I)."""
        found: dict[str, Any] = {}
        if self.stored:
            study = self.stored[0][1].ref.at(DicomLevel.STUDIES)
            found["00081190"] = _element("UR", instance_url(base, study))
            found["00081199"] = {
                "vr": "SQ",
                "Value": [
                    {**_names(sop_class, one.ref.instance), "00081190": _element("UR", instance_url(base, one.ref))}
                    for sop_class, one in self.stored
                ],
            }
        if self.failed:
            found["00081198"] = {
                "vr": "SQ",
                "Value": [
                    {**_names(sop_class, uid), "00081197": _element("US", reason)}
                    for sop_class, uid, reason in self.failed
                ],
            }
        return dict(sorted(found.items()))


def _element(vr: str, value: str | int) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]} if value != "" else {"vr": vr}


def _names(sop_class: str, uid: str) -> dict[str, Any]:
    safe = sop_class if is_uid(sop_class) else ""
    return {"00081150": _element("UI", safe), "00081155": _element("UI", uid)}


def _reason(error: DianaError) -> int:
    if isinstance(error, Conflict):
        return DUPLICATE
    if isinstance(error, InvalidItem):
        return NOT_UNDERSTOOD
    return OUT_OF_RESOURCES if error.temporary else PROCESSING


@define(eq=False)
class StoreFace:
    """Take uploads."""

    archive: Archive
    limits: Limits

    def store(self, ask: Ask) -> Reply:
        """Store what is uploaded; say of each instance what became of it (200, 202, 409)."""
        endpoint = self.archive.endpoint
        if not endpoint.can("put"):
            raise Unsupported(f"{endpoint.name}: cannot store")
        ref = ask.ref() if "study" in ask.path else None
        kind = chosen(ask.accept(), KINDS)
        upload = Upload(ref.study if ref is not None else "")
        blobs = self._blobs(ask)
        items = (one for one in map(upload.read, blobs) if one is not None)
        outcomes = endpoint.put_many(items, workers=WORKERS)
        try:
            with closing(cast(Any, outcomes)), closing(cast(Any, blobs)):
                for outcome in outcomes:
                    upload.add(outcome)
        except (GatewayAnswerError, GatewayConnectionError):
            raise Refusal(400, f"the upload is damaged or was cut after {len(upload.stored)} instances") from None
        if not upload.stored and not upload.failed:
            raise InvalidItem("the upload holds no instance")
        status = 200 if not upload.failed else 202 if upload.stored else 409
        return Reply(json_bytes(upload.document(ask.base)), kind, status)

    def _blobs(self, ask: Ask) -> Iterator[Blob]:
        if ask.body is None:
            return
        try:
            kind, parameters = parse_media_type(ask.header("content-type"))
            if kind == DICOM:
                yield self._whole(ask.body)
                return
            if kind != "multipart/related" or parameters.get("type", DICOM).lower() != DICOM:
                raise Refusal(415, f'uploads are multipart/related; type="{DICOM}"')
            boundary = boundary_of(ask.header("content-type"), "upload")
        except GatewayAnswerError:
            raise Refusal(415, "the Content-Type is damaged or names no boundary") from None
        limits = PartLimits(parts=self.limits.parts, part=self.limits.instance)
        for part in PartReader(ask.body, boundary, "upload", limits=limits):
            if part.content_type not in (DICOM, ""):
                part.blob.close()
                raise Refusal(415, f"every part of an upload is {DICOM}")
            yield part.blob

    def _whole(self, body: Body) -> Blob:
        sink, view = Sink(where="upload"), memoryview(bytearray(CHUNK))
        try:
            while count := body.read_into(view):
                sink.write(view[:count])
                if len(sink) > self.limits.instance:
                    raise Refusal(413, "the instance is too large")
            content = sink.finish()
        except BaseException:
            sink.discard()
            raise
        return content if isinstance(content, Blob) else Blob(content)
