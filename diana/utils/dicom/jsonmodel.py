"""
The DICOM JSON model (PS3.18 F) and tags by keyword.

A value is a text or a number, a list of them when there are several, a list of mappings for a sequence. Names of
persons are texts: ``Alphabetic=Ideographic=Phonetic``.
"""

from __future__ import annotations

import binascii
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final  # Any: element values may be of any type

from diana.exceptions import InvalidItem
from diana.utils.dicom.dictionary import keyword_of, tag_of, vr_of
from diana.utils.dicom.matching import wire_text

__all__ = ["JsonTags", "Model", "as_model", "to_model"]

Model = Mapping[str, Any]

MAX_DEPTH: Final = 64
BINARY: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_WHOLE: Final = frozenset(("IS", "SL", "SS", "SV", "UL", "US", "UV"))
_REAL: Final = frozenset(("DS", "FD", "FL"))
_UNSPLIT: Final = frozenset(("LT", "ST", "UR", "UT"))
_KEY: Final = re.compile(r"[0-9A-Fa-f]{8}\Z")
_WHOLE_TEXT: Final = re.compile(r"\s*[+-]?[0-9]{1,20}\s*\Z")


class JsonTags(Mapping[str, Any]):
    """
    Show an object of the model as keyword to value; values are converted when they are asked for.

    Left out are private and unknown elements, empty ones, and bytes: see ``binary`` and ``bulk``. Asking for a value
    that is not of the model's form raises InvalidItem.
    """

    __slots__ = ("_depth", "_names", "model")

    def __init__(self, model: Model, *, _depth: int = 0) -> None:
        self.model = as_model(model)
        self._depth = _depth
        self._names: dict[str, str] | None = None

    def _keys(self) -> dict[str, str]:
        """Return the keys of the model that have values, by keyword."""
        if self._names is None:
            self._names = found = {}
            for key, element in self.model.items():
                keyword, vr = _place(key)
                if keyword and _has_value(element) and (element.get("vr") or vr) not in BINARY:
                    found[keyword] = key
        return self._names

    def __getitem__(self, keyword: str) -> Any:
        key = self._keys()[keyword]
        return _value(self.model[key], _place(key)[1], self._depth)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def __contains__(self, keyword: object) -> bool:
        return keyword in self._keys()

    def __repr__(self) -> str:
        return f"JsonTags({len(self.model)} elements)"

    def as_dict(self) -> dict[str, Any]:
        """Return all values."""
        model, depth = self.model, self._depth
        return {keyword: _value(model[key], _place(key)[1], depth) for keyword, key in self._keys().items()}

    def names(self, keyword: str) -> bool:
        """Tell whether the model has an element, with or without a value."""
        return any(_place(key)[0] == keyword for key in self.model)

    def binary(self, keyword: str) -> bytes:
        """Return the bytes of an InlineBinary. Raises KeyError, InvalidItem when it is damaged."""
        for key, element in self.model.items():
            if _place(key)[0] == keyword and "InlineBinary" in element:
                try:
                    return b64decode(element["InlineBinary"], validate=True)
                except (binascii.Error, TypeError, ValueError):
                    raise InvalidItem(f"the InlineBinary of {keyword} is damaged") from None
        raise KeyError(keyword)

    def bulk(self) -> dict[str, str]:
        """Return the BulkDataURI of each element that has one, by keyword, or by tag where there is none."""
        found: dict[str, str] = {}
        for key, element in self.model.items():
            uri = element.get("BulkDataURI")
            if isinstance(uri, str) and uri:
                found[_place(key)[0] or key.upper()] = uri
        return found

    def dataset(self) -> Any:
        """
        Return a pydicom Dataset with every element, private ones and inline bytes included.

        What stands behind a BulkDataURI is left out. Raises InvalidItem.
        """
        from pydicom import Dataset

        try:
            return Dataset.from_json(_without_bulk(self.model, 0))
        except InvalidItem:
            raise
        except Exception as error:  # noqa: BLE001  # pydicom fails in many ways on damaged values
            raise InvalidItem(f"the DICOM JSON cannot be read ({type(error).__name__})") from None


def as_model(value: Any) -> Model:
    """Return a decoded JSON value as an object of the model. Raises InvalidItem when it is not of its form."""
    if not isinstance(value, dict):
        raise InvalidItem("an item of the DICOM JSON is no object")
    for key, element in value.items():
        good = isinstance(element, dict) and _KEY.match(key) and isinstance(element.get("vr", ""), str)
        if not good or not isinstance(element.get("Value"), list | None):
            raise InvalidItem("an element of the DICOM JSON is not of its form")
    return value


def to_model(tags: Mapping[str, Any], *, empty: bool = True) -> dict[str, dict[str, Any]]:
    """
    Return tags by keyword as an object of the model, in the order of the tags' numbers.

    Unknown keywords are left out; bytes become InlineBinary; ``empty`` tells whether elements without value are
    written. Values that a number's representation cannot hold are written as texts.
    """
    return _to_model(tags, empty, 0)


def _to_model(tags: Mapping[str, Any], empty: bool, depth: int) -> dict[str, dict[str, Any]]:
    if depth > MAX_DEPTH:
        raise InvalidItem("the tags are nested too deeply")
    found: dict[str, dict[str, Any]] = {}
    for keyword, value in tags.items():
        key, vr = _number(keyword)
        if not key or not vr:
            continue
        element: dict[str, Any] = {"vr": vr}
        if isinstance(value, bytes):
            element["InlineBinary"] = b64encode(value).decode("ascii")
        else:
            values = _values(value, vr, empty, depth)
            if values:
                element["Value"] = values
            elif not empty:
                continue
        found[key] = element
    return dict(sorted(found.items()))


def _values(value: Any, vr: str, empty: bool, depth: int) -> list[Any]:
    """Return the list of values of one element."""
    if isinstance(value, str) and "\\" in value and vr not in _UNSPLIT:
        value = value.split("\\")
    parts = list(value) if isinstance(value, list | tuple) else [] if value is None or value == "" else [value]
    if vr == "SQ":
        return [_to_model(one, empty, depth + 1) for one in parts if isinstance(one, Mapping)]
    return [_out(one, vr) for one in parts]


def _out(value: Any, vr: str) -> Any:
    if value is None or value == "":
        return None
    if vr == "PN":
        groups = str(value).split("=")
        return {name: text for name, text in zip(GROUPS, groups, strict=False) if text}
    if vr in _WHOLE or vr in _REAL:
        number = _as_number(value, vr)
        return number if not isinstance(number, float) or math.isfinite(number) else str(value)
    return wire_text(value)


def _has_value(element: Mapping[str, Any]) -> bool:
    value = element.get("Value")
    return value is not None and value not in ([], [None], [""], [{}])


def _value(element: Mapping[str, Any], known_vr: str, depth: int) -> Any:
    vr = element.get("vr") or known_vr
    values = element["Value"]
    if vr == "SQ":
        if depth >= MAX_DEPTH:
            raise InvalidItem("the DICOM JSON is nested too deeply")
        return [JsonTags(item or {}, _depth=depth + 1).as_dict() for item in values]
    found = [_one(value, vr) for value in values]
    return found[0] if len(found) == 1 else found


def _one(value: Any, vr: str) -> Any:
    if isinstance(value, str):
        return _as_number(value, vr) if vr in _WHOLE or vr in _REAL else value
    if value is None:
        return ""
    if isinstance(value, dict) and vr == "PN":
        return _name(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if vr in _REAL:
            return float(value)
        return (int(value) if float(value).is_integer() else value) if vr in _WHOLE else str(value)
    raise InvalidItem("a value of the DICOM JSON is not of its form")


def _as_number(value: Any, vr: str) -> Any:
    """Return a text as the number it spells, else as it is: some archives keep what is no number."""
    text = str(value)
    try:
        if vr in _WHOLE:
            return int(text) if _WHOLE_TEXT.match(text) else value
        return float(text)
    except ValueError:
        return value


def _name(value: Mapping[str, Any]) -> str:
    groups = [value.get(name) or "" for name in GROUPS]
    if not all(isinstance(text, str) for text in groups):
        raise InvalidItem("a name in the DICOM JSON is not of its form")
    return "=".join(groups).rstrip("=")


def _without_bulk(model: Model, depth: int) -> dict[str, Any]:
    """Return a copy without references to bulk data, with what pydicom wants everywhere."""
    if depth > MAX_DEPTH:
        raise InvalidItem("the DICOM JSON is nested too deeply")
    found: dict[str, Any] = {}
    for key, element in as_model(model).items():
        if "BulkDataURI" in element or key[:4] == "0002":
            continue
        vr = element.get("vr") or _place(key)[1] or "UN"
        kept = {name: element[name] for name in ("Value", "InlineBinary") if element.get(name) is not None}
        if vr == "SQ" and isinstance(kept.get("Value"), list):
            kept["Value"] = [_without_bulk(item or {}, depth + 1) for item in kept["Value"]]
        found[key.upper()] = {"vr": vr, **kept}
    return found


@lru_cache(maxsize=4096)
def _place(key: str) -> tuple[str, str]:
    """Return keyword and representation of a tag in eight digits; empty for private and unknown ones."""
    number = int(key, 16)
    keyword = "" if number >> 16 & 1 else keyword_of(number)
    if not keyword:
        return "", ""
    return keyword, vr_of(number)


@lru_cache(maxsize=4096)
def _number(keyword: str) -> tuple[str, str]:
    """Return the tag of a keyword in eight digits and its representation; empty for unknown ones."""
    number = tag_of(keyword)
    return ("", "") if number is None else (f"{number:08X}", vr_of(number))
