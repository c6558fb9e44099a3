"""The SOAP messages of RAD-69 as a source reads and writes them (IHE RAD TF-2 4.69, ITI TF-2 3.43)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from attrs import field, frozen

from diana.exceptions import InvalidItem
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways.rad69_message import ADDRESSING, DICOM, REPOSITORY, SOAP, STATUS, XDS
from diana.utils.gateways.xml_safe import local, parse_xml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ANSWER: Final = "urn:ihe:iti:2007:RetrieveDocumentSetResponse"
RS: Final = "urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0"
XOP: Final = "http://www.w3.org/2004/08/xop/include"
ERROR: Final = "urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:Error"
MISSING: Final = "XDSMissingDocument"
BAD_ID: Final = "XDSDocumentUniqueIdError"
NO_SYNTAX: Final = "urn:dicom:wado:0007"
FAILED: Final = "urn:dicom:wado:0014"
WHY: Final = {
    MISSING: "the document is not here",
    BAD_ID: "the id of a document is no UID",
    NO_SYNTAX: "the document cannot be given in these transfer syntaxes",
    FAILED: "the document cannot be given",
}
_MESSAGE_ID: Final = re.compile(r"[A-Za-z0-9:._/@-]{1,256}\Z")
_REPOSITORY: Final = re.compile(r"[0-9.]{1,64}\Z")


@frozen
class Wanted:
    """Name an instance that is asked for, and the repository that the client thinks it is in."""

    study: str
    series: str
    instance: str
    repository: str = REPOSITORY


@frozen
class Request:
    """Hold what a request asks for; ``bad`` counts documents whose id is no UID."""

    wanted: list[Wanted] = field(factory=list)
    syntaxes: tuple[str, ...] = ()
    message: str = ""
    bad: int = 0


def read_request(data: bytes, most: int) -> Request:
    """Return what an envelope asks for. Raises GatewayAnswerError for what is no XML, InvalidItem for no request."""
    root = parse_xml(data, "request")
    if local(root) != "Envelope":
        raise InvalidItem("the request is no SOAP envelope")
    body = next((one for one in root if local(one) == "Body"), None)
    asked = [one for one in (body if body is not None else ()) if local(one) == "RetrieveImagingDocumentSetRequest"]
    if not asked:
        raise InvalidItem("the request asks for something else than RetrieveImagingDocumentSet")
    found: dict[str, Wanted] = {}
    bad = 0
    for one in (wanted for request in asked for wanted in _documents(request)):
        if one is None:
            bad += 1
        else:
            found[one.instance] = one
        if len(found) + bad > most:
            raise InvalidItem("the request asks for too many documents")
    if not found and not bad:
        raise InvalidItem("the request asks for no document")
    syntaxes = (_text(one) for request in asked for one in request.iter() if local(one) == "TransferSyntaxUID")
    ids = [_text(one) for one in root.iter() if local(one) == "MessageID"]
    message = ids[0] if ids and _MESSAGE_ID.match(ids[0]) else ""
    return Request(list(found.values()), tuple(dict.fromkeys(filter(is_uid, syntaxes))), message, bad)


def _text(element: Element) -> str:
    return (element.text or "").strip()


def _uid(element: Element, *names: str) -> str:
    return next((value.strip() for name in names if (value := element.get(name))), "")


def _documents(request: Element) -> Iterator[Wanted | None]:
    """Yield each document of a request; None for one whose ids are none."""
    for study in (one for one in request if local(one) == "StudyRequest"):
        study_uid = _uid(study, "studyInstanceUID", "studyIUID")
        for series in (one for one in study if local(one) == "SeriesRequest"):
            series_uid = _uid(series, "seriesInstanceUID", "seriesIUID")
            for document in (one for one in series if local(one) == "DocumentRequest"):
                texts = {local(one): _text(one) for one in document}
                uid = texts.get("DocumentUniqueId", "")
                repository = texts.get("RepositoryUniqueId", "")
                if not (is_uid(uid) and is_uid(study_uid) and is_uid(series_uid)):
                    yield None
                    continue
                yield Wanted(study_uid, series_uid, uid, repository if _REPOSITORY.match(repository) else REPOSITORY)


def answer(
    here: Iterable[Wanted], missing: Iterable[tuple[str, str]], message: str = "", *, cid: str = "diana"
) -> bytes:
    """Return the envelope that announces documents; ``missing`` are UIDs (or empty) with the code of the reason."""
    documents, errors = list(here), list(missing)
    status = ("PartialSuccess" if errors else "Success") if documents else "Failure"
    listed = "".join(
        f"<rs:RegistryError codeContext={quoteattr(WHY.get(code, code))} errorCode={quoteattr(code)} "
        f'location="{uid}" severity="{ERROR}"/>'
        for uid, code in errors
    )
    listed = f"<rs:RegistryErrorList>{listed}</rs:RegistryErrorList>" if errors else ""
    held = "".join(
        f"<DocumentResponse><RepositoryUniqueId>{one.repository}</RepositoryUniqueId>"
        f"<DocumentUniqueId>{one.instance}</DocumentUniqueId><mimeType>{DICOM}</mimeType><Document>"
        f'<xop:Include xmlns:xop="{XOP}" href="cid:{quote(content_id(one.instance, cid), safe="")}"/>'
        "</Document></DocumentResponse>"
        for one in documents
    )
    return _envelope(
        f'<a:Action xmlns:a="{ADDRESSING}">{ANSWER}</a:Action>' + _relates(message),
        f'<RetrieveDocumentSetResponse xmlns="{XDS}" xmlns:rs="{RS}">'
        f'<rs:RegistryResponse status="{STATUS}{status}">{listed}</rs:RegistryResponse>{held}'
        "</RetrieveDocumentSetResponse>",
    )


def _relates(message: str) -> str:
    return f'<a:RelatesTo xmlns:a="{ADDRESSING}">{escape(message)}</a:RelatesTo>' if message else ""


def content_id(instance: str, cid: str) -> str:
    """Return the Content-ID of a document's part, without brackets."""
    return f"{instance}@{cid}"


def fault(code: str, reason: str) -> bytes:
    """Return a SOAP 1.2 fault; ``code`` is Sender or Receiver."""
    return _envelope(
        "",
        f'<e:Fault><e:Code><e:Value>e:{code}</e:Value></e:Code><e:Reason><e:Text xml:lang="en">{escape(reason)}'
        "</e:Text></e:Reason></e:Fault>",
    )


def _envelope(head: str, body: str) -> bytes:
    text = f'<e:Envelope xmlns:e="{SOAP}"><e:Header>{head}</e:Header><e:Body>{body}</e:Body></e:Envelope>'
    return b'<?xml version="1.0" encoding="UTF-8"?>' + text.encode()
