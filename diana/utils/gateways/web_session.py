"""The HTTP client over a ``requests.Session`` that somebody else owns and has logged in."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Any, cast  # Any: the session is the caller's

import requests
from attrs import define, field
from urllib3.exceptions import HTTPError

from diana.exceptions import ConfigError, DianaError, GatewayAnswerError, GatewayConnectionError, GatewayRefused
from diana.utils.blob import Blob
from diana.utils.endpoint.serializable import SECRET
from diana.utils.gateways.http import NO_BODY, Answer, Body, HttpClient
from diana.utils.gateways.http_answer import Keeper
from diana.utils.gateways.http_errors import kind_of
from diana.utils.gateways.http_wire import Framing, Wire

IDENTITY = {"Accept-Encoding": "identity"}


@define(eq=False)
class SessionClient(HttpClient):
    """
    Ask one server through a ``requests.Session``, with the same answers and errors as the project's own client.

    Its auth, headers, cookies, proxies, certificates and mounted adapters are used; redirects are not followed and
    nothing compressed is asked for. ``auth`` replaces the session's. The session is never closed. ``within`` is a
    limit to each wait, not to the whole.
    """

    session: Any = field(default=None, kw_only=True, repr=False, metadata=SECRET)
    auth: Any = field(default=None, kw_only=True, repr=False, metadata=SECRET)

    def __attrs_post_init__(self) -> None:
        HttpClient.__attrs_post_init__(self)
        if self.session is None:
            self.session = requests.Session()
            self.session.verify = self.verify
            self.session.cert = self.cert
        if not callable(getattr(self.session, "request", None)):
            raise ConfigError(f"{self.name}: a session is a requests.Session")
        if self.auth is None and self.user:
            self.auth = (self.user, self.password or "")

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Body = NO_BODY,
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
        absent: bool = False,
        idle: float | None = None,
        within: float | None = None,
    ) -> Answer:
        """Do as HttpClient does."""
        where = f"{self.name}: {method} {kind_of(path)}"
        self._request_head(method, path, b"", None, headers)
        lines = {**IDENTITY, **self.headers, **(headers or {})}
        try:
            found = self.session.request(
                method,
                f"{self.base_url}/{path.lstrip('/')}",
                data=self._data(body, length, lines),
                headers=lines,
                auth=self.auth,
                stream=True,
                timeout=(within or self.timeout[0], idle or within or self.timeout[1]),
                allow_redirects=False,
            )
        except Exception as error:  # noqa: BLE001  # adapters and auth hooks of the caller may raise anything
            raise _translated(where, error) from None
        answer = _answer(self, found, where)
        if 200 <= answer.status < 300:
            if answer.headers.get("content-encoding", "identity") != "identity":
                answer.close()
                raise GatewayAnswerError(f"{where}: the answer is compressed although nobody asked", answer.status)
            return answer
        raise self._refused(answer, absent)

    @staticmethod
    def _data(body: Body, length: int | None, headers: dict[str, str]) -> Any:
        """Return the body as requests wants it."""
        if isinstance(body, Blob):
            return _Sized(body.pieces, len(body)) if body.path is not None else body.read()
        if isinstance(body, bytes):
            return body or None
        return _Sized(body, length) if length is not None else iter(body())


class _Sized:
    """Give pieces whose total length is known; may be iterated again when the auth hook repeats the request."""

    def __init__(self, pieces: Any, length: int) -> None:
        self._pieces = pieces
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Any:
        return iter(self._pieces())


class _Wire:
    """Stand for the connection of a ``requests.Response``."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def close(self) -> None:
        self._response.close()


class _Body:
    """Read the body of a ``requests.Response`` as it is on the wire."""

    def __init__(self, response: Any, length: int | None) -> None:
        self._raw = response.raw
        self._read = 0
        self.length = length
        self.over = False

    def read_into(self, target: memoryview) -> int:
        try:
            piece = self._raw.read(len(target), decode_content=False)
        except (HTTPError, http.client.HTTPException):
            raise EOFError from None
        self._read += len(piece)
        if not piece:
            self.over = True
            if self.length is not None and self._read < self.length:
                raise EOFError
        elif self.length is not None and self._read >= self.length:
            self.over = True
        target[: len(piece)] = piece
        return len(piece)


class _Keeper:
    """Give the connection of a finished response back to the session's pool."""

    def __init__(self, client: HttpClient) -> None:
        self.spill = client.spill
        self.folder = client.folder

    def give_back(self, wire: Any) -> None:
        wire.close()


def _answer(client: HttpClient, response: Any, where: str) -> Answer:
    headers = {str(name).lower(): str(value) for name, value in response.headers.items()}
    text = headers.get("content-length", "")
    empty = response.status_code in (204, 304)
    length = 0 if empty else int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
    if "chunked" in headers.get("transfer-encoding", ""):
        length = None
    return Answer(
        cast(Keeper, _Keeper(client)),
        cast(Wire, _Wire(response)),
        where,
        (int(response.status_code), headers, True),
        cast(Framing, _Body(response, length)),
    )


def _translated(where: str, error: Exception) -> Exception:
    """Return the error of the tree for one of requests; its text may hold addresses and is not shown."""
    if isinstance(error, requests.exceptions.SSLError):
        return GatewayRefused(f"{where}: TLS failed, or the server's certificate is not trusted")
    if isinstance(error, requests.exceptions.Timeout):
        return GatewayConnectionError(f"{where}: timed out")
    if isinstance(error, requests.exceptions.ConnectionError):
        return GatewayConnectionError(f"{where}: the server cannot be reached, or hung up")
    if isinstance(error, requests.exceptions.RequestException | OSError | HTTPError):
        return GatewayConnectionError(f"{where}: the request failed ({type(error).__name__})")
    if isinstance(error, DianaError):
        return error
    return GatewayRefused(f"{where}: the session raised {type(error).__name__}")
