"""A RAD-69 archive in memory, and answers of every kind, right and wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from xml.etree import ElementTree as ET
from xml.sax.saxutils import quoteattr

from tests.fakes.archive_server import ArchiveServer
from tests.fakes.http_server import Reply

XOP = "http://www.w3.org/2004/08/xop/include"
RS = "urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0"
STATUS = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:"
SEVERITY = "urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:"
SOAP = "application/soap+xml; charset=utf-8"
BOUNDARY = "MIMEBoundary_0123"
Page = tuple[int, str, bytes]


def error(code: str = "XDSMissingDocument", uid: str = "", severity: str = "Error", context: str = "not there") -> str:
    """Return a RegistryError."""
    text = f'codeContext={quoteattr(context)} errorCode="{code}" location="{uid}" severity="{SEVERITY}{severity}"'
    return f"<rs:RegistryError {text}/>"


def message(
    status: str = "Success",
    uids: Iterable[str] = (),
    errors: Sequence[str] = (),
    *,
    inline: Mapping[str, str] | None = None,
) -> bytes:
    """Return the SOAP message of an answer; ``inline`` maps UIDs to base64 instead of parts."""
    listed = f"<rs:RegistryErrorList>{''.join(errors)}</rs:RegistryErrorList>" if errors else ""
    documents = ""
    for uid in uids:
        content = (inline or {}).get(uid)
        if content is None:
            content = f'<xop:Include xmlns:xop="{XOP}" href="cid:{uid}%40x"/>'
        documents += (
            f"<DocumentResponse><RepositoryUniqueId>1.3</RepositoryUniqueId><DocumentUniqueId>{uid}</DocumentUniqueId>"
            f"<mimeType>application/dicom</mimeType><Document>{content}</Document></DocumentResponse>"
        )
    return (
        '<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope"><e:Header/><e:Body>'
        f'<RetrieveDocumentSetResponse xmlns="urn:ihe:iti:xds-b:2007" xmlns:rs="{RS}">'
        f'<rs:RegistryResponse status="{STATUS}{status}">{listed}</rs:RegistryResponse>{documents}'
        "</RetrieveDocumentSetResponse></e:Body></e:Envelope>"
    ).encode()


def fault(code: str = "Receiver") -> bytes:
    """Return a SOAP 1.2 fault."""
    return (
        '<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body><s:Fault><s:Code>'
        f'<s:Value>s:{code}</s:Value></s:Code><s:Reason><s:Text xml:lang="en">of Zyxwv^Planted</s:Text></s:Reason>'
        "</s:Fault></s:Body></s:Envelope>"
    ).encode()


def multipart(
    root: bytes | None, files: Mapping[str, bytes], *, root_last: bool = False, closing: bool = True
) -> bytes:
    """Return a multipart body."""
    parts = []
    if root is not None:
        head = 'Content-Type: application/xop+xml; charset=utf-8; type="application/soap+xml"\r\nContent-ID: <root@x>'
        parts.append(head.encode() + b"\r\n\r\n" + root)
    documents = [
        f"Content-Type: application/dicom\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <{uid}@x>".encode()
        + b"\r\n\r\n"
        + data
        for uid, data in files.items()
    ]
    parts = [*documents, *parts] if root_last else [*parts, *documents]
    body = b"".join(b"--" + BOUNDARY.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    return body + (b"--" + BOUNDARY.encode() + b"--\r\n" if closing else b"")


MULTIPART = (
    f'multipart/related; type="application/xop+xml"; boundary="{BOUNDARY}"; start="<root@x>"; '
    'start-info="application/soap+xml"'
)


def multipart_reply(
    root: bytes | None, files: Mapping[str, bytes], *, root_last: bool = False, closing: bool = True, **options: object
) -> Reply:
    """Return a multipart body as a scripted reply."""
    body = multipart(root, files, root_last=root_last, closing=closing)
    return Reply(body=body, headers={"Content-Type": MULTIPART}, **options)  # type: ignore[arg-type]


def soap_reply(text: bytes, status: int = 200, kind: str = SOAP) -> Reply:
    """Return a plain SOAP answer as a scripted reply."""
    return Reply(status, text, {"Content-Type": kind})


class Rad69Server(ArchiveServer):
    """
    Answer RAD-69 under ``/rids``, plain and MTOM requests alike.

    What it has not it reports as missing, as a PartialSuccess or Failure. ``asked`` holds the UIDs of each request,
    ``mtom`` whether it came in parts. ``refuse`` is a status to answer everything with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []
        self.mtom: list[bool] = []
        self.refuse: int | None = None

    @property
    def url(self) -> str:
        """Return the address of the service."""
        return f"{self.base}/rids"

    def respond(self, method: str, path: str, kind: str, body: bytes) -> Page:
        """Answer a request for instances."""
        if self.refuse is not None:
            return self.refuse, "text/html", b"<html>no</html>"
        if method != "POST" or path != "/rids":
            return 404, "text/html", b"<html>no such page</html>"
        in_parts = kind.startswith("multipart/")
        envelope = body[body.index(b"<?xml") : body.rindex(b">") + 1] if in_parts else body
        uids = self._uids(ET.fromstring(envelope))
        self.asked.append(uids)
        self.mtom.append(in_parts)
        here = {uid: self.items[uid].file or b"" for uid in uids if uid in self.items}
        errors = [error(uid=uid) for uid in uids if uid not in here]
        if not here:
            return 200, SOAP, message("Failure", errors=errors)
        root = message("PartialSuccess" if errors else "Success", here, errors)
        return 200, MULTIPART, multipart(root, here)

    @staticmethod
    def _uids(envelope: ET.Element) -> list[str]:
        wanted = "{urn:ihe:rad:xdsi-b:2009}RetrieveImagingDocumentSetRequest"
        (request,) = envelope.iter(wanted)
        found = [one.text or "" for one in request.iter("{urn:ihe:iti:xds-b:2007}DocumentUniqueId")]
        studies = [one.get("studyInstanceUID") for one in request if one.tag.endswith("StudyRequest")]
        assert all(studies)
        assert len(studies) == len(set(studies))
        return found
