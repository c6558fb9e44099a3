"""The SOAP messages of IHE RAD-69, Retrieve Imaging Document Set (IHE RAD TF-2 4.69, ITI TF-2 3.43)."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as BadBase64
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote
from uuid import uuid4
from xml.etree import ElementTree as ET

from attrs import define, field, frozen

from diana.exceptions import GatewayAnswerError, InvalidItem
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways.xml_safe import local, parse_xml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["ACTION", "SYNTAXES", "Document", "Message", "Problem", "Wanted", "build_request", "parse_response"]

ACTION: Final = "urn:ihe:rad:2009:RetrieveImagingDocumentSet"
SOAP: Final = "http://www.w3.org/2003/05/soap-envelope"
SOAP11: Final = "http://schemas.xmlsoap.org/soap/envelope/"
ADDRESSING: Final = "http://www.w3.org/2005/08/addressing"
RAD: Final = "urn:ihe:rad:xdsi-b:2009"
XDS: Final = "urn:ihe:iti:xds-b:2007"
ANONYMOUS: Final = "http://www.w3.org/2005/08/addressing/anonymous"
STATUS: Final = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:"
SEVERITY: Final = "urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:Warning"
REPOSITORY: Final = "1.3.6.1.4.1000"
DICOM: Final = "application/dicom"

# What a source may send: anything, so that it need not transcode.
SYNTAXES: Final = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    *(f"1.2.840.10008.1.2.4.{number}" for number in (70, 57, 80, 81, 90, 91, 50, 51)),
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{number}" for number in (92, 93, 100, 101, 102, 103, 201, 202, 203)),
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)

_CODE: Final = re.compile(r"[A-Za-z0-9:._-]{1,64}\Z")


@frozen
class Wanted:
    """Name an instance to fetch."""

    study: str
    series: str
    instance: str


@frozen
class Problem:
    """
    Hold one RegistryError: its code, and the SOP Instance UID it is about, empty when it names none.

    The server's own words are left out: they may speak of patients.
    """

    code: str
    instance: str = ""
    warning: bool = False


@define(eq=False)
class Document:
    """Hold a DocumentResponse: the UID, and where the bytes are: in a part of the answer, or in the message itself."""

    instance: str
    cid: str = ""
    inline: bytes | None = field(default=None, repr=False)


@define
class Message:
    """Hold what an answer says: ``status`` is Success, PartialSuccess or Failure; ``fault`` a SOAP fault's code."""

    status: str = ""
    problems: list[Problem] = field(factory=list)
    documents: list[Document] = field(factory=list)
    fault: str | None = None


def _q(namespace: str, name: str) -> str:
    return f"{{{namespace}}}{name}"


def build_request(
    wanted: Iterable[Wanted],
    to: str,
    *,
    repository: str = REPOSITORY,
    home: str = "",
    syntaxes: Iterable[str] = SYNTAXES,
) -> bytes:
    """
    Return the SOAP envelope that asks for some instances, one request with every study in it.

    Raises InvalidItem when there is nothing to ask for, or for an id that is no UID.
    """
    envelope = ET.Element(_q(SOAP, "Envelope"))
    head = ET.SubElement(envelope, _q(SOAP, "Header"))
    ET.SubElement(head, _q(ADDRESSING, "Action"), {_q(SOAP, "mustUnderstand"): "1"}).text = ACTION
    ET.SubElement(head, _q(ADDRESSING, "MessageID")).text = f"urn:uuid:{uuid4()}"
    reply = ET.SubElement(head, _q(ADDRESSING, "ReplyTo"), {_q(SOAP, "mustUnderstand"): "1"})
    ET.SubElement(reply, _q(ADDRESSING, "Address")).text = ANONYMOUS
    ET.SubElement(head, _q(ADDRESSING, "To")).text = to
    body = ET.SubElement(envelope, _q(SOAP, "Body"))
    request = ET.SubElement(body, _q(RAD, "RetrieveImagingDocumentSetRequest"))
    for study, series in _grouped(wanted).items():
        of_study = ET.SubElement(request, _q(RAD, "StudyRequest"), {"studyInstanceUID": study})
        for uid, instances in series.items():
            of_series = ET.SubElement(of_study, _q(RAD, "SeriesRequest"), {"seriesInstanceUID": uid})
            for instance in instances:
                document = ET.SubElement(of_series, _q(XDS, "DocumentRequest"))
                if home:
                    ET.SubElement(document, _q(XDS, "HomeCommunityId")).text = home
                ET.SubElement(document, _q(XDS, "RepositoryUniqueId")).text = repository
                ET.SubElement(document, _q(XDS, "DocumentUniqueId")).text = instance
    offered = ET.SubElement(request, _q(RAD, "TransferSyntaxUIDList"))
    for syntax in syntaxes:
        if not is_uid(syntax):
            raise InvalidItem("a transfer syntax is a UID")
        ET.SubElement(offered, _q(RAD, "TransferSyntaxUID")).text = syntax
    return _written(envelope)


def _written(envelope: Element) -> bytes:
    """Return the document with the usual prefixes; the module's table of prefixes is everybody's and stays alone."""
    text: str = ET.tostring(envelope, encoding="unicode")
    return b'<?xml version="1.0" encoding="UTF-8"?>' + text.encode()


def _grouped(wanted: Iterable[Wanted]) -> Mapping[str, Mapping[str, Iterable[str]]]:
    found: dict[str, dict[str, dict[str, None]]] = {}
    for one in wanted:
        if not (is_uid(one.study) and is_uid(one.series) and is_uid(one.instance)):
            raise InvalidItem("RAD-69 needs study, series and SOP Instance UID of each instance")
        found.setdefault(one.study, {}).setdefault(one.series, {})[one.instance] = None
    if not found:
        raise InvalidItem("there is nothing to ask for")
    return found


def parse_response(data: bytes | bytearray | Iterable[bytes], where: str, *, charset: str = "") -> Message:
    """
    Return what a SOAP envelope says. Raises GatewayAnswerError for what is no answer to RAD-69.

    A Success that lists errors of severity Error is a PartialSuccess.
    """
    root = parse_xml(data, where, charset=charset)
    if local(root) != "Envelope":
        raise GatewayAnswerError(f"{where}: the answer is XML, but no SOAP")
    body = _child(root, "Body")
    inner = next((one for one in (body if body is not None else ())), None)
    if inner is None:
        raise GatewayAnswerError(f"{where}: a SOAP answer without content")
    if local(inner) == "Fault":
        return Message(fault=_fault_code(inner))
    # a failure may stand there without what is usually around it
    response = inner if local(inner) == "RegistryResponse" else _child(inner, "RegistryResponse")
    if response is None:
        raise GatewayAnswerError(f"{where}: a SOAP answer to another question")
    status = _status(response.get("status") or "", where)
    problems = list(_problems(response))
    if status == "Success" and any(not one.warning for one in problems):
        status = "PartialSuccess"
    documents = [_document(one, where) for one in inner if local(one) == "DocumentResponse"]
    return Message(status, problems, documents)


def _child(element: Element, name: str) -> Element | None:
    return next((one for one in element if local(one) == name), None)


def _text(element: Element, name: str) -> str:
    found = _child(element, name)
    return "" if found is None else (found.text or "").strip()


def _status(text: str, where: str) -> str:
    word = text.strip().rpartition(":")[2]
    if word not in ("Success", "PartialSuccess", "Failure"):
        raise GatewayAnswerError(f"{where}: the answer says neither Success nor Failure")
    return word


def _problems(response: Element) -> Iterator[Problem]:
    for listed in response:
        if local(listed) != "RegistryErrorList":
            continue
        for one in listed:
            if local(one) != "RegistryError":
                continue
            code, place = (one.get("errorCode") or "").strip(), (one.get("location") or "").strip()
            context = re.findall(r"[0-9]+(?:\.[0-9]+){2,}", one.get("codeContext") or "")
            uid = place if is_uid(place) else context[-1] if len(context) == 1 and is_uid(context[0]) else ""
            severity = (one.get("severity") or "").strip()
            yield Problem(code if _CODE.match(code) else "unknown", uid, severity == SEVERITY)


def _fault_code(fault: Element) -> str:
    """Return the code of a fault of SOAP 1.2 or 1.1, without prefix: Sender, Receiver, ..."""
    code = _child(fault, "Code")
    text = _text(code, "Value") if code is not None else _text(fault, "faultcode")
    word = text.rpartition(":")[2]
    return word if _CODE.match(word) else "unknown"


def _document(response: Element, where: str) -> Document:
    uid = _text(response, "DocumentUniqueId")
    document = _child(response, "Document")
    if not is_uid(uid):
        raise GatewayAnswerError(f"{where}: a document without a usable DocumentUniqueId")
    kind = _text(response, "mimeType").lower()
    if kind not in (DICOM, ""):
        raise GatewayAnswerError(f"{where}: a document that is not DICOM")
    if document is None:
        return Document(uid)
    include = _child(document, "Include")
    if include is not None:
        href = include.get("href") or ""
        if not href.lower().startswith("cid:") or len(href) > 1024:
            raise GatewayAnswerError(f"{where}: a document that points elsewhere than into the answer")
        return Document(uid, cid=unquote(href[4:]))
    try:
        return Document(uid, inline=b64decode("".join((document.text or "").split()), validate=True))
    except (BadBase64, ValueError):
        raise GatewayAnswerError(f"{where}: a document whose content is no base64") from None
