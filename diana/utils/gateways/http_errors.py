"""From the answers and failures of HTTP to the error tree."""

from __future__ import annotations

import re
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from typing import Final

from diana.exceptions import (
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayError,
    GatewayRefused,
    ItemNotFound,
)

TEMPORARY: Final = frozenset((408, 425, 429, 500, 502, 503, 504, 507))
LONGEST_WAIT: Final = 3600.0

_MEANING: Final = {
    400: "malformed request or item",
    401: "wrong or missing credentials",
    403: "not allowed",
    404: "no such resource",
    405: "the server does not offer this",
    409: "conflict with what is stored",
    411: "the server wants a length",
    413: "too large for the server",
    415: "a kind of content that the server does not take",
    501: "the server does not offer this",
    507: "the server's storage is full",
}

_WORD: Final = re.compile(r"[a-zA-Z][a-zA-Z-]{0,30}\Z")


def kind_of(path: str) -> str:
    """Return the first word of a path for messages: the rest may hold ids, and a query patient data."""
    for part in path.partition("?")[0].split("/"):
        if part:
            return part if _WORD.match(part) else "resource"
    return "/"


def error_of_status(
    where: str, status: int, *, retry_after: str = "", detail: str = "", absent: bool = False
) -> DianaError:
    """Return the error for a status that is not 2xx; a 404 is ItemNotFound when ``absent`` is set."""
    if status == 404 and absent:
        return ItemNotFound(f"{where}: not there")
    if 300 <= status < 400:
        return GatewayRefused(f"{where}: redirected (HTTP {status}), which is not followed", status)
    meaning = _MEANING.get(status, "out of order for now" if status in TEMPORARY else "refused")
    text = f"{where}: {meaning} (HTTP {status}{detail and ', ' + detail})"
    if status in TEMPORARY:
        return GatewayConnectionError(text, status, seconds_to_wait(retry_after))
    return GatewayRefused(text, status)


def seconds_to_wait(text: str) -> float | None:
    """Return a Retry-After as seconds between 0 and one hour; None when it is absent or makes no sense."""
    if not text:
        return None
    try:
        wait = float(text) if text[0].isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait, 0.0), LONGEST_WAIT)


def error_of_wire(where: str, error: Exception) -> GatewayError:
    """Return the error for what the operating system or TLS reported."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return GatewayRefused(f"{where}: the server's certificate is not trusted ({error.verify_message})")
    if isinstance(error, ssl.SSLError):
        return GatewayConnectionError(f"{where}: TLS failed ({error.reason or 'closed'})")
    if isinstance(error, TimeoutError):
        return GatewayConnectionError(f"{where}: timed out")
    if isinstance(error, ConnectionRefusedError):
        return GatewayConnectionError(f"{where}: nothing listens there")
    if isinstance(error, socket.gaierror):
        return GatewayConnectionError(f"{where}: the host name is not known")
    if isinstance(error, EOFError):
        return GatewayConnectionError(f"{where}: the answer ended early")
    if isinstance(error, OSError):
        return GatewayConnectionError(f"{where}: the connection broke ({type(error).__name__})")
    return GatewayAnswerError(f"{where}: the answer is not HTTP ({error})")
