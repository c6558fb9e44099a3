"""Store on a DICOMweb server: STOW-RS (PS3.18 10.5), in plain values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final  # Any: values of DICOM JSON

from attrs import define, frozen

from diana.exceptions import (
    Conflict,
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayRefused,
    InvalidItem,
)
from diana.utils.blob import Blob
from diana.utils.dicom.jsonmodel import JsonTags
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways.http import Answer, HttpClient
from diana.utils.gateways.multipart_write import OutPart, body_length, body_pieces, content_type, new_boundary

__all__ = ["Stored", "StowRS", "error_of_reason", "judge_store"]

DICOM: Final = "application/dicom"
REPORT_LIMIT: Final = 64 << 20
DUPLICATE: Final = 0x0111
PROCESSING: Final = 0x0110
OUT_OF_RESOURCES: Final = range(0xA700, 0xA800)


@frozen
class Stored:
    """Say what became of one instance; ``reason`` is the server's code (PS3.3 table C.12.1.1.3.1.1), 0 for none."""

    instance: str
    error: DianaError | None = None
    reason: int = 0
    warning: int = 0


def error_of_reason(name: str, reason: int) -> DianaError:
    """Return the error for a Failure Reason (0008,1197)."""
    if reason == DUPLICATE:
        return Conflict(f"{name}: the server has the instance already and does not replace it (0111)")
    text = f"{name}: the server did not store the instance (reason {reason:04X})"
    if reason in OUT_OF_RESOURCES or reason == PROCESSING:
        return GatewayConnectionError(text, reason)
    return GatewayRefused(text, reason)


def judge_store(status: int, body: bytes) -> tuple[int, str]:
    """Return the status to judge a refusal by, and the codes of its report; one for lack of space may pass."""
    try:
        found = _report(json.loads(body)) if status == 409 else ({}, {})
    except (ValueError, RecursionError):
        return status, ""
    reasons = sorted({reason for reason in found[1].values() if reason})
    full = bool(reasons) and all(reason in OUT_OF_RESOURCES for reason in reasons)
    return (507 if full else status), ", ".join(f"reason {reason:04X}" for reason in reasons[:8])


@define(eq=False)
class StowRS:
    """Store over a client whose base address is the DICOMweb root."""

    http: HttpClient

    @property
    def name(self) -> str:
        """Return the name of the service."""
        return self.http.name

    def close(self) -> None:
        """Close kept connections; the gateway may be used again."""
        self.http.close()

    def store(self, files: Sequence[tuple[str, bytes | Blob]], study: str = "") -> list[Stored]:
        """
        Send files in one request, pairs of SOP Instance UID and content, and return what became of each, in order.

        ``study`` makes the server refuse those of other studies. What the answer does not say to be stored is not.
        Raises GatewayError when the request as a whole was refused or the answer is no report.
        """
        if study and not is_uid(study):
            raise InvalidItem(f"{self.name}: the study is not named by a UID")
        boundary = new_boundary()
        parts = [OutPart(content, {"Content-Type": DICOM}) for _, content in files]

        def pieces() -> Iterator[bytes]:
            return body_pieces(parts, boundary)

        headers = {"Content-Type": content_type(boundary, DICOM), "Accept": "application/dicom+json"}
        path = f"studies/{study}" if study else "studies"
        length = body_length(parts, boundary)
        with self.http.request("POST", path, body=pieces, length=length, headers=headers) as answer:
            good, bad = self._answered(answer)
        return [self._outcome(uid, good, bad) for uid, _ in files]

    def _outcome(self, uid: str, good: Mapping[str, int], bad: Mapping[str, int]) -> Stored:
        if uid in bad:
            return Stored(uid, error_of_reason(self.name, bad[uid]), bad[uid])
        if uid in good:
            return Stored(uid, warning=good[uid])
        return Stored(uid, GatewayAnswerError(f"{self.name}: the server does not say that it stored the instance"))

    def _answered(self, answer: Answer) -> tuple[dict[str, int], dict[str, int]]:
        """Return the instances that were stored and those that were not, with warnings and reasons."""
        kind = answer.content_type
        text = b"" if answer.status == 204 else bytes(answer.read(REPORT_LIMIT))
        try:
            if "json" in kind or (not kind and text[:1] in (b"{", b"[")):
                return _report(json.loads(text))
            if "xml" in kind:
                return _xml_report(text)
        except (ValueError, RecursionError):
            raise GatewayAnswerError(
                f"{answer.where}: the report of what was stored is damaged", answer.status
            ) from None
        raise GatewayAnswerError(f"{answer.where}: the server does not report what it stored", answer.status)

    def check(self, *, within: float | None = None) -> None:
        """Ask whether somebody is there. Raises GatewayError; a server that only takes is good enough."""
        try:
            self.http.request("GET", "studies?limit=1", within=within).close()
        except GatewayRefused as error:
            if error.status not in (400, 405, 406, 501):
                raise


def _report(found: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Return stored and failed instances of a report in DICOM JSON (PS3.18 10.5.3). Raises ValueError."""
    tags = JsonTags(found[0] if isinstance(found, list) and len(found) == 1 else found)
    return (
        _codes(tags.get("ReferencedSOPSequence", ()), "WarningReason"),
        _codes(tags.get("FailedSOPSequence", ()), "FailureReason"),
    )


def _codes(items: Iterable[Mapping[str, Any]], keyword: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in items:
        code = item.get(keyword, 0)
        found[str(item.get("ReferencedSOPInstanceUID", ""))] = code if isinstance(code, int) else 0
    return found


def _xml_report(text: bytes) -> tuple[dict[str, int], dict[str, int]]:
    """Return the same of a report in the native DICOM model (PS3.19 A.1). Raises ValueError."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        root = fromstring(text, forbid_dtd=True)
    except (ParseError, DefusedXmlException, LookupError):
        raise ValueError("damaged XML") from None
    found: list[dict[str, int]] = []
    for tag, keyword in (("00081199", "00081196"), ("00081198", "00081197")):
        codes: dict[str, int] = {}
        for item in root.findall(f"{{*}}DicomAttribute[@tag='{tag}']/{{*}}Item"):
            values = {
                one.get("tag"): (one.findtext("{*}Value") or "").strip() for one in item.findall("{*}DicomAttribute")
            }
            code = values.get(keyword, "")
            codes[values.get("00081155", "")] = int(code) if code.isascii() and code.isdigit() else 0
        found.append(codes)
    return found[0], found[1]
