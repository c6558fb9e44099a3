"""Objects that are data: as a mapping, as JSON, by the hash of that JSON."""

from __future__ import annotations

import datetime as dt
import json
from enum import Enum
from hashlib import sha1
from pathlib import PurePath
from typing import Any  # attribute values may be of any type

import attrs

from diana.exceptions import ConfigError

SECRET = {"secret": True}


def whole_number(value: int | str) -> int:
    """Return a number given as number or text; the converter of ports. Raises ConfigError, which holds no value."""
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ConfigError("a port or database is a whole number") from None


def encode(value: object) -> Any:
    """Return the JSON form of a value that ``json`` does not know: bytes, paths, dates, durations, hashes, objects."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "ignore")
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Serializable):
        return value.asdict()
    if isinstance(value, set | frozenset | tuple):
        return sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
    digest = getattr(value, "hexdigest", None)
    if callable(digest):
        return digest()
    raise TypeError(f"no JSON form for {type(value).__name__}")


@attrs.define(eq=False, slots=False)
class Serializable:
    """
    Give an attrs class its mapping, JSON and hash.

    An attribute is written when it is part of the constructor, is not secret (``metadata=SECRET``), and differs from
    its default; attributes whose default is a factory are always written.
    """

    @property
    def type_name(self) -> str:
        """Return the name under which a registry knows the class."""
        return type(self).__name__

    def asdict(self) -> dict[str, Any]:
        """Return the constructor's arguments that differ from their defaults, and ``ctype``."""
        found: dict[str, Any] = {}
        for one in attrs.fields(type(self)):
            if not one.init or one.name == "ctype" or one.metadata.get("secret"):
                continue
            value = getattr(self, one.name)
            if isinstance(one.default, attrs.Factory) or value != one.default:  # type: ignore[arg-type]
                found[one.alias or one.name] = value
        found["ctype"] = self.type_name
        return found

    def json(self) -> str:
        """Return ``asdict`` as JSON text, keys in the order of the attributes."""
        return json.dumps(self.asdict(), default=encode)

    def sha1(self) -> str:
        """Return the SHA-1 of the JSON text, in hex."""
        return sha1(self.json().encode(), usedforsecurity=False).hexdigest()

    @property
    def epid(self) -> str:
        """Return the id by which a key-value store knows this object: the hash of what it holds now."""
        return self.sha1()
