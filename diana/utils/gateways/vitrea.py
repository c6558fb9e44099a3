"""Sessions of ``requests`` that are logged in to a Vitrea Connection server, and log in again when they expire."""

from __future__ import annotations

from typing import Any

import requests
from attrs import define, field
from requests.auth import AuthBase

from diana.utils.gateways.web_auth import VitreaLogin, origin_of

__all__ = ["VitreaAuth", "VitreaConnection", "create_session"]

REALM = "DefaultSystemRealm"


class VitreaAuth(AuthBase):
    """
    Send the cookies of a login with each request to the server of ``login_url``; after a 401 log in anew, once.

    No other server gets them. Raises GatewayRefused when the server does not take user and password.
    """

    def __init__(
        self, login_url: str, user: str, password: str, realm: str = REALM, *, verify: bool | str = True
    ) -> None:
        self._login = VitreaLogin(login_url, user, password, realm, verify=verify)
        self._origin = origin_of(login_url)

    def __repr__(self) -> str:
        return "VitreaAuth()"

    def log_in(self) -> None:
        """Log in now, unless that has been done. Raises GatewayError."""
        self._login.headers()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the cookies to a request."""
        if origin_of(str(request.url)) == self._origin:
            request.headers.update(self._login.headers())
            request.register_hook("response", self._again)  # type: ignore[no-untyped-call]
        return request

    def _again(self, answer: requests.Response, **options: Any) -> requests.Response:
        """Repeat a request that was refused with the cookies of a new login; not one whose body is a stream."""
        sent = answer.request
        body_is_gone = sent.body is not None and not isinstance(sent.body, str | bytes)
        if answer.status_code != 401 or body_is_gone:
            return answer
        self._login.renew({"Cookie": str(sent.headers.get("Cookie", ""))})
        _ = answer.content
        answer.close()
        again = sent.copy()
        again.headers.update(self._login.headers())
        found: requests.Response = answer.connection.send(again, **options)
        found.history.append(answer)
        found.request = again
        return found


def create_session(
    login_url: str, user: str, password: str, realm: str = REALM, *, verify: bool | str = True
) -> requests.Session:
    """Return a session that logs in with its first request, and again whenever the server has forgotten it."""
    session = requests.Session()
    session.verify = verify
    session.auth = VitreaAuth(login_url, user, password, realm, verify=verify)
    return session


@define
class VitreaConnection:
    """Name the login address of a Vitrea Connection server."""

    login_url: str
    verify: bool | str = field(default=True, kw_only=True)

    def log_in(self, user: str, password: str, realm: str = REALM) -> requests.Session:
        """Return a session that is logged in. Raises GatewayRefused when user or password are not taken."""
        session = create_session(self.login_url, user, password, realm, verify=self.verify)
        auth = session.auth
        if isinstance(auth, VitreaAuth):
            auth.log_in()
        return session
