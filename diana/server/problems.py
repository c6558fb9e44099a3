"""Errors as answers (RFC 9457): the status of each, and a text without patient data."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from diana.exceptions import (
    ConfigError,
    Conflict,
    DianaError,
    GatewayError,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.server.asked import Refusal, json_bytes

KIND: Final = "application/problem+json"
PAUSE: Final = 30


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Return an answer that says what is wrong."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(json_bytes(content), status, {"Cache-Control": "no-store", **(headers or {})}, KIND)


def of_error(error: DianaError, *, query: bool = False) -> Response:
    """
    Return the answer for an error of an endpoint; ``query`` says that an unsupported key is the client's fault.

    What is wrong behind the server is not told in detail: it would name machines that are nobody's business.
    """
    if isinstance(error, Refusal):
        return problem(error.status, str(error), error.headers)
    if isinstance(error, ItemNotFound):
        return problem(404, "there is no such item")
    if isinstance(error, Conflict):
        return problem(409, "other bytes are stored under the same SOP Instance UID")
    if isinstance(error, InvalidItem):
        return problem(400, str(error))
    if isinstance(error, Unsupported):
        return problem(400 if query else 501, str(error))
    if isinstance(error, GatewayError | IncompleteTransfer):
        return _behind(error)
    if error.temporary:
        return problem(503, "the archive is not available now", {"Retry-After": str(PAUSE)})
    detail = "the archive is not well configured" if isinstance(error, ConfigError) else "the archive has a problem"
    return problem(500, detail)


def _behind(error: DianaError) -> Response:
    pause = getattr(error, "retry_after", None)
    seconds = str(max(1, int(pause))) if pause else str(PAUSE)
    if isinstance(error, GatewayError) and not error.temporary:
        return problem(502, "the archive behind this server refused")
    if isinstance(error, IncompleteTransfer):
        return problem(502, "the archive behind this server gave not all")
    return problem(503, "the archive behind this server does not answer well now", {"Retry-After": seconds})
