"""Fetch by IHE RAD-69 (Retrieve Imaging Document Set), in plain values: UIDs in, blobs out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from attrs import define, field

from diana.exceptions import (
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayError,
    GatewayRefused,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
)
from diana.utils.blob import Blob
from diana.utils.dicom.header import Header
from diana.utils.dicom.structure import check_whole
from diana.utils.gateways.http import HttpClient
from diana.utils.gateways.multipart import Part, parse_media_type, parts_of
from diana.utils.gateways.multipart_write import OutPart, body_pieces, content_type, new_boundary
from diana.utils.gateways.rad69_message import (
    ACTION,
    DICOM,
    REPOSITORY,
    SYNTAXES,
    Message,
    Problem,
    Wanted,
    build_request,
    parse_response,
)
from diana.utils.gateways.xml_safe import MAX_BYTES, charset_of

__all__ = [
    "Fetched",
    "PartialRetrieve",
    "Rad69",
    "Rad69ServerBusy",
    "Rad69ServerError",
    "Wanted",
    "XDSMissingDocumentError",
    "explain",
]

SOAP_TYPE: Final = "application/soap+xml"
XOP: Final = "application/xop+xml"
XML_TYPES: Final = frozenset((SOAP_TYPE, XOP, "text/xml", "application/xml"))
NOBODY: Final = "1.2.826.0.1.3680043.10.43.0.404"
MISSING: Final = "XDSMissingDocument"
TEMPORARY_CODES: Final = frozenset(("XDSRepositoryBusy", "XDSRegistryBusy", "XDSTooManyResults"))

Fetched = tuple[Header, Blob]


class Rad69ServerError(GatewayRefused):
    """Say that the server answered with an error of its own; ``problems`` has the codes."""

    def __init__(self, message: str, problems: Sequence[Problem] = (), status: int | None = None) -> None:
        super().__init__(message, status=status)
        self.problems = list(problems)


class Rad69ServerBusy(Rad69ServerError):
    """Say that the server asks to come back later."""

    temporary = True


class XDSMissingDocumentError(Rad69ServerError, ItemNotFound):
    """Say that the server has not what was asked for."""


class PartialRetrieve(IncompleteTransfer):
    """Say that the server itself reports what it did not send; ``causes`` are its errors."""

    def __init__(
        self, message: str, missing: Sequence[str], received: Sequence[str], causes: Sequence[Rad69ServerError]
    ) -> None:
        super().__init__(message, missing, received)
        self.causes = list(causes)


def error_of(problem: Problem, where: str) -> Rad69ServerError:
    """Return the error for one RegistryError."""
    return errors_of([problem], where)


def errors_of(problems: Sequence[Problem], where: str) -> Rad69ServerError:
    """Return the error for a list of RegistryErrors: missing documents when that is all there is."""
    grave = [one for one in problems if not one.warning] or list(problems)
    codes = ", ".join(sorted({one.code for one in grave})) or "no reason given"
    text = f"{where}: the server reports {codes}" + (f" ({len(grave)} times)" if len(grave) > 1 else "")
    if grave and all(one.code == MISSING for one in grave):
        return XDSMissingDocumentError(text, problems)
    kind = Rad69ServerBusy if any(one.code in TEMPORARY_CODES for one in grave) else Rad69ServerError
    return kind(text, problems)


def error_of_fault(code: str, where: str, status: int | None = None) -> Rad69ServerError:
    """Return the error for a SOAP fault: what the receiver cannot do now, or what the sender did wrong."""
    kind = Rad69ServerBusy if code in ("Receiver", "Server") else Rad69ServerError
    return kind(f"{where}: SOAP fault ({code})", status=status)


def explain(status: int, text: bytes) -> tuple[int, str]:
    """Return the status to judge a refusal by, and the codes of the fault or failure in its body, if there is one."""
    if b"Envelope" not in text[:2048]:
        return status, ""
    try:
        message = parse_response(text, "")
    except DianaError:
        return status, ""
    if message.fault is not None:
        return (400 if message.fault in ("Sender", "Client") else status), f"SOAP fault {message.fault}"
    codes = sorted({one.code for one in message.problems if not one.warning})
    return status, ", ".join(codes[:5])


class WebAnswer(Protocol):
    """Say what is read of an answer; an ``Answer`` of the HTTP client is one."""

    where: str
    length: int | None
    headers: dict[str, str]

    def read_into(self, target: memoryview) -> int:
        """Fill the start of a buffer; 0 at the end."""

    def close(self) -> None:
        """Give the connection back."""


@define(eq=False)
class Rad69:
    """
    Speak to one imaging document source; ``path`` is below the client's base address.

    ``mtom`` sends the request as a multipart message, as some servers want it. ``repository`` and ``home`` are the
    ids that go with each document.
    """

    client: HttpClient
    path: str = ""
    name: str = "RAD-69"
    repository: str = field(default=REPOSITORY, kw_only=True)
    home: str = field(default="", kw_only=True)
    syntaxes: Sequence[str] = field(default=SYNTAXES, kw_only=True)
    mtom: bool = field(default=False, kw_only=True)

    def request(self, wanted: Iterable[Wanted]) -> bytes:
        """Return the SOAP envelope that asks for some instances. Raises InvalidItem."""
        to = f"{self.client.base_url}/{self.path}".rstrip("/")
        return build_request(wanted, to, repository=self.repository, home=self.home, syntaxes=self.syntaxes)

    def retrieve(self, wanted: Iterable[Wanted]) -> Iterator[Fetched]:
        """
        Yield header and file of each instance as it arrives, checked: it is one of those asked for, and whole.

        Raises at the end, or when the wire breaks: XDSMissingDocumentError (an ItemNotFound) when the server has
        none of them, PartialRetrieve (an IncompleteTransfer) when it says what it lacks, IncompleteTransfer when it
        does not, Rad69ServerError for other errors of the server.
        """
        asked = list(dict.fromkeys(wanted))
        answer = self._post(self.request(asked))
        yield from read_answer(
            answer, [one.instance for one in asked], spill=self.client.spill, folder=self.client.folder
        )

    def check(self, *, within: float | None = None) -> None:
        """Ask for an instance that nobody has; any answer of RAD-69 will do. Raises GatewayError."""
        answer = self._post(self.request([Wanted(NOBODY, NOBODY, NOBODY)]), within=within)
        try:
            for _, blob in read_answer(answer, [NOBODY]):
                blob.close()
        except (XDSMissingDocumentError, PartialRetrieve):
            return
        except Rad69ServerError as error:
            if error.temporary or error.status is not None:
                raise

    def _post(self, envelope: bytes, *, within: float | None = None) -> WebAnswer:
        kind, body = f'{SOAP_TYPE}; charset=UTF-8; action="{ACTION}"', envelope
        if self.mtom:
            kind, body = self._wrapped(envelope)
        headers = {"Content-Type": kind, "Accept": f"multipart/related, {SOAP_TYPE}"}
        return self.client.request("POST", self.path, body=body, headers=headers, within=within)

    @staticmethod
    def _wrapped(envelope: bytes) -> tuple[str, bytes]:
        """Return the request as MTOM (XOP 4.1)."""
        boundary = new_boundary()
        part = OutPart(
            envelope,
            {
                "Content-Type": f'{XOP}; charset=UTF-8; type="{SOAP_TYPE}"',
                "Content-Transfer-Encoding": "binary",
                "Content-ID": "<request@diana>",
            },
        )
        kind = content_type(boundary, XOP, start="<request@diana>", start_info=SOAP_TYPE, action=ACTION)
        return kind, b"".join(body_pieces([part], boundary))


def read_answer(
    answer: WebAnswer, asked: Sequence[str] | None, *, spill: int | None = None, folder: str | None = None
) -> Iterator[Fetched]:
    """
    Yield header and file of each document in an answer, and close it. ``asked`` None: whatever the message lists.

    Raises as ``Rad69.retrieve``.
    """
    reading = _Reading(answer.where, None if asked is None else dict.fromkeys(asked))
    try:
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind.startswith("multipart/"):
            parameters = parse_media_type(answer.headers["content-type"])[1]
            options: dict[str, Any] = {"folder": folder} if spill is None else {"spill": spill, "folder": folder}
            yield from reading.multipart(parts_of(answer, **options), parameters.get("start", ""))
        elif kind in XML_TYPES:
            yield from reading.plain(answer)
        else:
            shown = kind if kind and len(kind) < 40 else "without a type"
            raise GatewayAnswerError(f"{answer.where}: the answer is {shown}, not RAD-69")
    except GatewayError as error:
        raise reading.interrupted(error) from None
    finally:
        answer.close()


@define(eq=False)
class _Reading:
    """Keep what has come of one answer, and say at its end whether that is all."""

    where: str
    asked: dict[str, None] | None
    received: dict[str, None] = field(init=False, factory=dict)
    message: Message | None = field(init=False, default=None)
    cids: dict[str, str] = field(init=False, factory=dict)
    early: dict[str, str] = field(init=False, factory=dict)

    def plain(self, answer: WebAnswer) -> Iterator[Fetched]:
        """Read an answer that is one SOAP message, documents in it as base64 if at all."""
        self._take_message(_pieces(answer), charset_of(answer.headers))
        for document in self.message.documents if self.message else ():
            if document.inline is not None:
                yield self._checked(document.instance, Blob(document.inline))
        self._finish()

    def multipart(self, parts: Iterable[Part], start: str) -> Iterator[Fetched]:
        """Read an answer in parts: the message, and the documents in any order."""
        for number, part in enumerate(parts):
            blob = part.blob
            try:
                cid = part.headers.get("content-id", "").strip()
                named = cid.strip("<>") == start.strip().strip("<>") if start and cid else number == 0
                if self.message is None and part.content_type != DICOM and (named or part.content_type in XML_TYPES):
                    if len(blob) > MAX_BYTES:
                        raise GatewayAnswerError(f"{self.where}: the message of the answer is too large")
                    self._take_message(blob.read(), charset_of(part.headers))
                    blob.close()
                    continue
                if part.content_type not in (DICOM, "application/octet-stream", ""):
                    raise GatewayAnswerError(f"{self.where}: a part of the answer is not DICOM")
                fetched = self._document(cid.strip("<>"), blob)
            except BaseException:
                blob.close()
                raise
            yield fetched
        if self.message is None:
            raise GatewayAnswerError(f"{self.where}: the answer has no SOAP message")
        self._finish()

    def _take_message(self, data: Any, charset: str) -> None:
        message = parse_response(data, self.where, charset=charset)
        if message.fault is not None:
            raise error_of_fault(message.fault, self.where)
        if self.asked is None:
            self.asked = {one.instance: None for one in message.documents} | {
                one.instance: None for one in message.problems if one.instance
            }
        self.message = message
        self.cids = {one.cid: one.instance for one in message.documents if one.cid}
        for cid, uid in self.early.items():
            if self.cids.get(cid, uid) != uid:
                raise GatewayAnswerError(f"{self.where}: a part is another document than the message says")

    def _document(self, cid: str, blob: Blob) -> Fetched:
        """Return a part with the UID that its file says, which must be the one that the message says."""
        if self.message is None:
            found = self._checked("", blob)
            self.early[cid] = found[0].instance
            return found
        return self._checked(self.cids.get(cid, ""), blob)

    def _checked(self, said: str, blob: Blob) -> Fetched:
        try:
            with blob.open() as stream:
                whole = check_whole(stream, size=len(blob))
        except InvalidItem:
            raise GatewayAnswerError(f"{self.where}: a document is not DICOM") from None
        if not whole.ok or whole.header is None:
            raise GatewayAnswerError(f"{self.where}: a document is not whole: {whole.reason or 'it cannot be read'}")
        uid = whole.header.instance
        if said and uid != said:
            raise GatewayAnswerError(f"{self.where}: a document is another instance than the message says")
        if self.asked is not None and uid not in self.asked:
            raise GatewayAnswerError(f"{self.where}: a document that was not asked for")
        if uid in self.received:
            raise GatewayAnswerError(f"{self.where}: the same document came twice")
        self.received[uid] = None
        return whole.header, blob

    def _missing(self) -> list[str]:
        return [uid for uid in self.asked or () if uid not in self.received]

    def _finish(self) -> None:
        """Raise what the message reports, or what it does not report and is missing all the same."""
        message, missing = self.message or Message(), self._missing()
        if not missing and message.status == "Success":
            return
        grave = [one for one in message.problems if not one.warning]
        if message.status == "Failure" and not (self.received and missing):
            raise errors_of(message.problems, self.where)
        if not missing:
            # everything that was asked for is here, whatever it complains about
            return
        if grave and not self.received and {one.instance for one in grave} >= set(missing):
            raise errors_of(grave, self.where)
        text = f"{self.where}: {len(missing)} of {len(self.asked or ())} instances did not come"
        if grave:
            causes = [error_of(one, self.where) for one in grave]
            raise PartialRetrieve(f"{text}: {errors_of(grave, 'the server')}", missing, list(self.received), causes)
        raise IncompleteTransfer(text, missing, list(self.received))

    def interrupted(self, error: GatewayError) -> DianaError:
        """Return the error for an answer that broke off: with the list of what is missing, and of what had come."""
        missing = self._missing()
        begun = self.received or isinstance(error, GatewayConnectionError)
        if isinstance(error, Rad69ServerError) or not (begun and missing):
            return error
        return IncompleteTransfer(str(error), missing, list(self.received))


def _pieces(answer: WebAnswer) -> Iterator[bytes]:
    view = memoryview(bytearray(256 << 10))
    while count := answer.read_into(view):
        yield bytes(view[:count])


def ignorable(error: DianaError, kinds: Sequence[type[BaseException]]) -> bool:
    """Tell whether an error, or each cause of a partial answer, is of a kind that the caller wants to pass over."""
    chosen = tuple(kinds)
    if isinstance(error, chosen):
        return True
    if not isinstance(error, PartialRetrieve) or not error.causes:
        return False
    named = {one.instance for cause in error.causes for one in cause.problems}
    return all(isinstance(one, chosen) for one in error.causes) and named >= set(error.missing)


def headers_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers with names in lower case."""
    return {str(name).lower(): str(value) for name, value in headers.items()}
