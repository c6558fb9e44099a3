"""
Who is asking: credentials for the web protocols, and clients that carry them.

``make_client`` takes what a caller may have: nothing, user and password, a token or a function that fetches one, a
Vitrea login, any ``AuthBase``, or a whole ``requests.Session``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Final, Protocol, runtime_checkable  # Any: options and bodies of requests
from urllib.parse import urljoin, urlsplit, urlunsplit

from attrs import define, field

from diana.exceptions import ConfigError, GatewayAnswerError, GatewayError, GatewayRefused
from diana.utils.endpoint.serializable import SECRET
from diana.utils.gateways.http import Answer, HttpClient

__all__ = [
    "AuthorizedClient",
    "Bearer",
    "Credentials",
    "VitreaLogin",
    "make_client",
    "origin_of",
    "path_within",
    "split_last",
]

_COOKIE: Final = re.compile(r"(?:^|,)\s*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=([^;,\s]*)")
_ATTRIBUTES: Final = frozenset(("expires", "path", "domain", "max-age", "samesite"))


@runtime_checkable
class Credentials(Protocol):
    """Give headers for each request, and others after the server has said 401."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers to send; may ask a server for them first."""

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Get new ones instead of those that were refused; False when there are none to be had."""


@define(eq=False)
class Bearer:
    """
    Send a bearer token (RFC 6750): a text, or a function that returns one and is called again after a 401.

    Threads that are refused at once refresh once.
    """

    token: str | Callable[[], str] = field(repr=False, metadata=SECRET)
    _current: str = field(init=False, default="", repr=False)
    _lock: Any = field(init=False, factory=Lock, repr=False)

    def headers(self) -> dict[str, str]:
        """Return the Authorization header."""
        with self._lock:
            if not self._current:
                self._current = self._fetch()
            return {"Authorization": f"Bearer {self._current}"}

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Call the function again, unless another thread has done so."""
        if isinstance(self.token, str):
            return False
        with self._lock:
            if refused.get("Authorization") == f"Bearer {self._current}":
                self._current = self._fetch()
        return True

    def _fetch(self) -> str:
        if isinstance(self.token, str):
            return self.token
        try:
            return self.token()
        except GatewayError:
            raise
        except Exception as error:  # noqa: BLE001  # the function is the caller's and may raise anything
            raise GatewayRefused(f"no token could be fetched ({type(error).__name__})", 401) from None


@define(eq=False)
class VitreaLogin:
    """
    Log in to a Vitrea Connection server at ``url`` and send its session cookies; after a 401 log in anew.

    A new login never sends the cookies of the old one. Threads that are refused at once log in once. Raises
    GatewayRefused when the server does not take user and password.
    """

    url: str
    user: str = field(repr=False)
    password: str = field(repr=False, metadata=SECRET)
    realm: str = "DefaultSystemRealm"
    verify: bool | str = field(default=True, kw_only=True)
    timeout: tuple[float, float] = field(default=(5.0, 60.0), kw_only=True)
    _cookies: str = field(init=False, default="", repr=False)
    _lock: Any = field(init=False, factory=Lock, repr=False)

    def headers(self) -> dict[str, str]:
        """Return the Cookie header; the first call logs in."""
        with self._lock:
            if not self._cookies:
                self._cookies = self._log_in()
            return {"Cookie": self._cookies}

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Log in again, unless another thread has done so."""
        with self._lock:
            if refused.get("Cookie") == self._cookies:
                self._cookies = ""
                self._cookies = self._log_in()
        return True

    def _log_in(self) -> str:
        base, last = split_last(self.url)
        client = HttpClient(base, name="login", verify=self.verify, timeout=self.timeout)
        lines = {"X-Userid": self.user, "X-Password": self.password, "X-Realm": self.realm}
        try:
            with client.request("POST", last, headers=lines) as answer:
                found = answer.headers.get("set-cookie", "")
                status = answer.status
        finally:
            client.close()
        cookies = {name: value for name, value in _COOKIE.findall(found) if name.lower() not in _ATTRIBUTES}
        if status != 200 or not cookies:
            raise GatewayRefused("login: the server opened no session", status)
        return "; ".join(f"{name}={value}" for name, value in cookies.items())


@define(eq=False)
class AuthorizedClient(HttpClient):
    """Send credentials with each request, to the one server that the client knows; once more after a 401."""

    credentials: Credentials | None = field(default=None, kw_only=True, repr=False, metadata=SECRET)

    def request(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> Answer:
        """Do as HttpClient does."""
        if self.credentials is None:
            return HttpClient.request(self, method, path, headers=headers, **options)
        mine = self.credentials.headers()
        try:
            return HttpClient.request(self, method, path, headers={**(headers or {}), **mine}, **options)
        except GatewayRefused as error:
            if error.status != 401 or not self.credentials.renew(mine):
                raise
        mine = self.credentials.headers()
        return HttpClient.request(self, method, path, headers={**(headers or {}), **mine}, **options)


def judge_gone(status: int, body: bytes) -> tuple[int, str]:
    """Return the status to judge a DICOMweb refusal by: what is gone (410) is as absent as what never was."""
    return (404 if status == 410 else status), ""


def make_client(
    url: str,
    *,
    session: Any = None,
    auth: Any = None,
    token: str | Callable[[], str] | None = None,
    user: str | None = None,
    password: str | None = None,
    **options: Any,
) -> HttpClient:
    """
    Return a client for one server with the credentials that were given; ``options`` are those of ``HttpClient``.

    ``session`` is a ``requests.Session``: its auth, headers, cookies, certificates and adapters are used as they are.
    ``auth`` is ``Credentials``, a pair of user and password, or what requests takes as auth. Raises ConfigError.
    """
    if not isinstance(url, str) or not url:
        raise ConfigError("a web service needs its address (url)")
    options.setdefault("explain", judge_gone)
    if token is not None:
        auth = Bearer(token)
    if isinstance(auth, tuple | list) and len(auth) == 2:
        (user, password), auth = auth, None
    if session is not None or (auth is not None and not isinstance(auth, Credentials)):
        from diana.utils.gateways.web_session import SessionClient

        return SessionClient(url, session=session, auth=auth, user=user, password=password, **options)
    return AuthorizedClient(url, credentials=auth, user=user, password=password, **options)


def split_last(url: str) -> tuple[str, str]:
    """Return an address without the last part of its path, and that part: a client adds paths below its base."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        raise ConfigError("an address must look like http://host:port/path") from None
    if parts.query or parts.fragment:
        raise ConfigError("an address must look like http://host:port/path, without a query")
    folder, _, last = parts.path.rpartition("/")
    return urlunsplit(parts._replace(path=folder)), last


def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address. Raises GatewayAnswerError when it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        raise GatewayAnswerError("an address in the answer is damaged") from None
    return parts.scheme.lower(), (parts.hostname or "").lower(), port


def path_within(base_url: str, uri: str) -> str:
    """
    Return what a URI of the server's own is as a path after its origin.

    ``uri`` may be relative to ``base_url``. Raises GatewayAnswerError for one that leads elsewhere.
    """
    try:
        whole = urljoin(f"{base_url}/", uri)
    except ValueError:
        raise GatewayAnswerError("an address in the answer is damaged") from None
    if origin_of(whole) != origin_of(base_url):
        raise GatewayAnswerError("the answer refers to another server, which is not followed")
    parts = urlsplit(whole)
    return parts.path + (f"?{parts.query}" if parts.query else "")
