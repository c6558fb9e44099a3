"""Who may use the server."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from typing import Protocol

from attrs import field, frozen

from diana.exceptions import ConfigError

MAX_VALUE = 8192


class Auth(Protocol):
    """Tell whether the value of an Authorization header lets its bearer in."""

    @property
    def challenge(self) -> str:
        """Return what the WWW-Authenticate header asks for."""

    def allows(self, authorization: str) -> bool:
        """Tell whether it does."""


def _same(first: str, second: str) -> bool:
    return hmac.compare_digest(first.encode("utf-8", "surrogateescape"), second.encode("utf-8", "surrogateescape"))


@frozen
class BasicAuth:
    """Let in who knows a user's password (RFC 7617). Raises ConfigError for an empty one."""

    user: str = field(repr=False)
    password: str = field(repr=False)
    challenge: str = 'Basic realm="diana", charset="UTF-8"'

    def __attrs_post_init__(self) -> None:
        if not self.user or ":" in self.user or not self.password:
            raise ConfigError("a user has a name without colon, and a password")

    def allows(self, authorization: str) -> bool:
        """Tell whether the header names the user and the password."""
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() != "basic" or len(value) > MAX_VALUE:
            return False
        try:
            given = base64.b64decode(value.strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return False
        return _same(given, f"{self.user}:{self.password}")


@frozen
class BearerAuth:
    """Let in who holds a token (RFC 6750). Raises ConfigError for an empty one."""

    token: str = field(repr=False)
    challenge: str = 'Bearer realm="diana"'

    def __attrs_post_init__(self) -> None:
        if not self.token:
            raise ConfigError("a token is not empty")

    def allows(self, authorization: str) -> bool:
        """Tell whether the header holds the token."""
        scheme, _, value = authorization.partition(" ")
        return scheme.lower() == "bearer" and len(value) <= MAX_VALUE and _same(value.strip(), self.token)


def as_auths(auth: Auth | Iterable[Auth] | None) -> tuple[Auth, ...]:
    """Return one, several or no ways to be let in as a tuple."""
    if auth is None:
        return ()
    return tuple(auth) if isinstance(auth, Iterable) else (auth,)
