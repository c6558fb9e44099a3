"""The secret of a project: from it come pseudonyms, UIDs and date shifts."""

from __future__ import annotations

import binascii
import os
import stat
from base64 import b64decode, b64encode
from hmac import digest
from pathlib import Path
from secrets import token_bytes

from attrs import evolve, field, frozen

from diana.exceptions import ConfigError
from diana.utils.endpoint.serializable import SECRET

SIZE = 32
MODE = 0o600
MAX_FILE = 64 << 10
TITLE = "# DIANA de-identification key, the newest secret first. Whoever has it can recompute every pseudonym."


def _checked(value: bytes) -> bytes:
    if not isinstance(value, bytes) or len(value) != SIZE:
        raise ConfigError(f"a secret has {SIZE} bytes")
    return value


def _all_checked(values: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(_checked(one) for one in values)


@frozen
class Key:
    """
    Hold the secret of a project, and in ``history`` the secrets before it, the newest first.

    The secrets are in no ``repr``, JSON or error.
    """

    secret: bytes = field(repr=False, metadata=SECRET, converter=_checked)
    history: tuple[bytes, ...] = field(default=(), repr=False, metadata=SECRET, converter=_all_checked)

    def __repr__(self) -> str:
        return f"Key({self.id})"

    @staticmethod
    def make() -> Key:
        """Return a new random key."""
        return Key(token_bytes(SIZE))

    @staticmethod
    def ephemeral() -> Key:
        """Return a key for one use, which is not to be saved: nothing made with it can be continued or linked."""
        return Key.make()

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Key:
        """Return the key in a file. Raises ConfigError unless it is a regular file of mode 0600 that holds one."""
        lines = [line.strip() for line in _read_private(Path(path)).splitlines()]
        secrets = [_decoded(line) for line in lines if line and not line.startswith("#")]
        if not secrets:
            raise ConfigError("the key file holds no key")
        return Key(secrets[0], tuple(secrets[1:]))

    def save(self, path: str | os.PathLike[str], *, replace: bool = False) -> None:
        """Write the key to a file of mode 0600, whole or not at all. Raises ConfigError when there is one already."""
        from diana.utils.files import whole_file

        lines = [TITLE, *(b64encode(one).decode() for one in (self.secret, *self.history))]
        try:
            with whole_file(Path(path), replace=replace) as out:
                out.write(("\n".join(lines) + "\n").encode())
        except FileExistsError:
            raise ConfigError("there is a file already where the key should go; a key is never written over") from None
        except OSError as error:
            raise ConfigError(f"the key cannot be written: {error.strerror}") from None

    @property
    def id(self) -> str:
        """Return the public name of the key: 16 hex digits that tell nothing about the secret."""
        return fingerprint(self.secret)

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the public names of the key and of those before it."""
        return tuple(fingerprint(one) for one in (self.secret, *self.history))

    def rotate(self) -> Key:
        """Return a key with a new secret that remembers the secrets so far."""
        return Key(token_bytes(SIZE), (self.secret, *self.history))

    def before(self) -> tuple[Key, ...]:
        """Return the earlier keys, the newest first."""
        return tuple(evolve(self, secret=one, history=self.history[at + 1 :]) for at, one in enumerate(self.history))

    def mac(self, purpose: str, *parts: str) -> bytes:
        """Return HMAC-SHA256 over purpose and parts: 32 bytes, different for each way to divide a text into parts."""
        return digest(self.secret, _joined(purpose, parts), "sha256")


def fingerprint(secret: bytes) -> str:
    """Return the public name of a secret."""
    return digest(secret, _joined("key id", ()), "sha256")[:8].hex()


def _joined(purpose: str, parts: tuple[str, ...]) -> bytes:
    texts = [one.encode("utf-8", "surrogatepass") for one in (purpose, *parts)]
    return b"".join(len(one).to_bytes(4, "big") + one for one in texts)


def _read_private(path: Path) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as stream:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError("the key is no regular file")
            if stat.S_IMODE(found.st_mode) != MODE:
                raise ConfigError("the key file must be readable by its owner only: chmod 600 it")
            return stream.read(MAX_FILE).decode("ascii")
    except OSError as error:
        raise ConfigError(f"the key file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError("the key file holds no key") from None


def _decoded(line: str) -> bytes:
    try:
        found = b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != SIZE:
        raise ConfigError(f"the key file holds a line that is not {SIZE} bytes in base64")
    return found
