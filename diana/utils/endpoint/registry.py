"""Classes by name: what ``ctype`` may say in a file or in JSON."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any  # constructor arguments may be of any type

import attrs

from diana.exceptions import ConfigError, DianaError

log = logging.getLogger(__name__)

GROUP = "diana.types"


@lru_cache(maxsize=1)
def _modules() -> dict[str, EntryPoint]:
    """Return ctype to the entry point of its module; each module names its own in ``CTYPES``."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        try:
            names = import_module(point.module).CTYPES
        except Exception as error:  # noqa: BLE001 - somebody else's plug-in may fail in any way
            log.warning("the module %s of %s cannot be used: %s", point.module, GROUP, type(error).__name__)
            continue
        for name in names:
            found.setdefault(name, point)
    return found


def ctypes() -> list[str]:
    """Return every known class name, sorted."""
    return sorted(_modules())


def class_of(ctype: str) -> type[Any]:
    """
    Return the class that a ``ctype`` names.

    Known are the names in ``CTYPES`` of the modules that installed distributions announce as entry points in the
    group ``diana.types``; a name from data is never an import path. Raises ConfigError with the nearest name.
    """
    try:
        point = _modules()[ctype]
    except (KeyError, TypeError):
        near = get_close_matches(str(ctype), _modules(), 1)
        raise ConfigError(f"unknown ctype {ctype!r}" + (f", did you mean {near[0]!r}?" if near else "")) from None
    found: type[Any] = getattr(import_module(point.module), ctype)
    return found


def constructor_arguments(cls: type[Any]) -> Iterator[str]:
    """Yield the names of the keyword arguments of an attrs class."""
    for one in attrs.fields(cls):
        if one.init:
            yield one.alias or one.name


class Factory:
    """Make objects from mappings with a ``ctype``."""

    @staticmethod
    def create(**desc: Any) -> Any:
        """
        Return the object that a mapping describes.

        Inside mapping arguments, texts under keys that contain ``DateTime`` are parsed (ISO 8601). Raises ConfigError
        for a missing or unknown ``ctype`` and for unknown arguments.
        """
        ctype = desc.pop("ctype", None)
        if ctype is None:
            raise ConfigError("no ctype given; it names the class, such as Orthanc or DcmDir")
        cls = class_of(ctype)
        known = set(constructor_arguments(cls))
        problems = []
        for key in sorted(set(desc) - known):
            near = get_close_matches(key, known, 1)
            problems.append(f"{ctype}: unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        if problems:
            raise ConfigError(problems)
        try:
            return cls(**{key: _revive(value) for key, value in desc.items()})
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            if isinstance(error, DianaError):
                raise
            # the text of the error may hold the value of a secret
            raise ConfigError(f"{ctype} does not take these values ({type(error).__name__})") from None

    @staticmethod
    def copy(item: Any) -> Any:
        """Return a new object of the same class and constructor arguments, secrets included."""
        return attrs.evolve(item)


def _revive(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _moment(one) if "DateTime" in str(key) else _revive(one) for key, one in value.items()}
    return value


def _moment(value: Any) -> Any:
    """Return an ISO 8601 text as a datetime, and anything else as it is."""
    if isinstance(value, str):
        with suppress(ValueError):
            return dt.datetime.fromisoformat(value)
    return value
