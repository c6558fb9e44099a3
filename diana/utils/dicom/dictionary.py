"""The attributes of the standard (PS3.6) as pydicom lists them, without the time that the whole of pydicom takes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any, Final, NamedTuple  # a module's content can be anything

MODULE: Final = "pydicom._dicom_dict"


class Entry(NamedTuple):
    """Hold a row of the dictionary; a ``vr`` may be a choice such as *US or SS*, ``retired`` is empty or a word."""

    vr: str
    vm: str
    name: str
    retired: str
    keyword: str


@lru_cache(maxsize=1)
def entries() -> Mapping[int, Entry]:
    """Return every attribute with a number of its own, by number."""
    return {tag: Entry(*one) for tag, one in _module().DicomDictionary.items()}


@lru_cache(maxsize=1)
def keywords() -> Mapping[str, int]:
    """Return the number of every keyword."""
    return {one.keyword: tag for tag, one in entries().items() if one.keyword}


@lru_cache(maxsize=4096)
def entry_of(tag: int) -> Entry | None:
    """Return the row of an attribute, those of repeating groups (60xx,0010) too; None for private and unknown ones."""
    found = entries().get(tag)
    if found is None and not tag >> 16 & 1:
        return next((one for value, mask, one in _repeating() if (tag ^ value) & mask == 0), None)
    return found


def tag_of(keyword: str) -> int | None:
    """Return the number of a keyword."""
    return keywords().get(keyword)


def keyword_of(tag: int) -> str:
    """Return the keyword of a number, empty for private and unknown ones."""
    found = entry_of(tag)
    return "" if found is None else found.keyword


def vr_of(tag: int | str) -> str:
    """Return the value representation of a number or keyword; the first of several, empty for what is unknown."""
    number = tag_of(tag) if isinstance(tag, str) else tag
    found = None if number is None else entry_of(number)
    return "" if found is None else found.vr.partition(" ")[0]


@lru_cache(maxsize=1)
def _repeating() -> tuple[tuple[int, int, Entry], ...]:
    """Return value and mask of the numbers of attributes that stand in several groups or elements."""
    return tuple(
        (
            int(shape.replace("x", "0"), 16),
            int("".join("0" if digit == "x" else "F" for digit in shape), 16),
            Entry(*one),
        )
        for shape, one in _module().RepeatersDictionary.items()
    )


@lru_cache(maxsize=1)
def _module() -> Any:
    """Load the one module of pydicom that is nothing but tables, and none of those that its package would load."""
    package = find_spec(MODULE.partition(".")[0])
    spec = PathFinder.find_spec(MODULE, package.submodule_search_locations if package else None)
    if spec is None or spec.loader is None:
        raise ImportError(f"{MODULE} is not there", name=MODULE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
