"""Import the public names of a package when they are first used, so that ``import diana`` stays quick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any  # a module attribute can be anything


def parent_first(package: str) -> None:
    """
    Import a package before a module of it.

    A package such as pydicom imports its own modules. Two threads that begin at opposite ends, one with the package,
    one with a module, each wait for the other, and Python lets one of them see a half-made module.
    """
    import_module(package)


def lazy_names(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module ``__getattr__`` (PEP 562) that finds each name in its module (given relative to the package)."""

    def getattr_(name: str) -> Any:
        try:
            module = names[name]
        except KeyError:
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        value = getattr(import_module(module, package), name)
        vars(import_module(package))[name] = value
        return value

    return getattr_
