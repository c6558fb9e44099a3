"""What a client takes (RFC 9110 12.5.1, PS3.18 8.7)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from attrs import field, frozen

from diana.exceptions import GatewayAnswerError, InvalidItem
from diana.server.asked import Refusal
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways.multipart import parse_media_type

DICOM: Final = "application/dicom"
JSON: Final = "application/dicom+json"
MULTIPART: Final = "multipart/related"
OCTETS: Final = "application/octet-stream"
MAX_ACCEPT: Final = 8192

_ITEM: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_RANGE: Final = re.compile(r"[!#$&^_.+*a-z0-9-]+/[!#$&^_.+*a-z0-9-]+\Z")


@frozen
class Media:
    """Hold one media range with its parameters and its weight."""

    kind: str
    parameters: Mapping[str, str] = field(factory=dict)
    weight: float = 1.0

    @property
    def inner(self) -> str:
        """Return the type of the parts of a multipart range."""
        return self.parameters.get("type", "*/*").lower()

    @property
    def syntax(self) -> str:
        """Return the transfer syntax, ``*`` when any will do."""
        return self.parameters.get("transfer-syntax", "*")


@frozen
class Wish:
    """Say in which form instances are wanted: in parts or alone, and in which transfer syntaxes (None: as stored)."""

    parts: bool = True
    syntaxes: tuple[str, ...] | None = None


def media_of(text: str) -> list[Media]:
    """Return the ranges of an Accept value, the best first. Raises InvalidItem for a damaged one."""
    if len(text) > MAX_ACCEPT:
        raise InvalidItem("the Accept header is too long")
    found: list[Media] = []
    for item in _ITEM.findall(text):
        if not item.strip():
            continue
        try:
            kind, parameters = parse_media_type(item)
            weight = float(parameters.get("q", "1"))
        except (GatewayAnswerError, ValueError):
            raise InvalidItem("the Accept header is damaged") from None
        if not _RANGE.match(kind) or not 0 <= weight <= 1:
            raise InvalidItem("the Accept header is damaged")
        if weight > 0:
            found.append(Media(kind, parameters, weight))
    return sorted(found, key=lambda one: -one.weight)


def matches(kind: str, pattern: str) -> bool:
    """Tell whether a media type falls into a range."""
    return pattern in ("*/*", kind) or (pattern.endswith("/*") and kind.startswith(pattern[:-1]))


def chosen(text: str, offered: tuple[str, ...]) -> str:
    """Return the first of the offered types that the client takes best. Raises Refusal (406)."""
    for one in media_of(text):
        for kind in offered:
            if matches(kind, one.kind):
                return kind
    raise Refusal(406, f"available are: {', '.join(offered)}")


def dicom_wish(text: str, *, single: bool) -> Wish:
    """
    Return in which form a client wants instances; ``single`` allows one alone, outside of parts.

    Raises Refusal (406).
    """
    syntaxes: list[str] = []
    parts: bool | None = None
    for one in media_of(text):
        in_parts = matches(MULTIPART, one.kind) and matches(DICOM, one.inner)
        if not in_parts and not (single and matches(DICOM, one.kind)):
            continue
        if parts is None:
            parts = in_parts
        if one.syntax == "*":
            return Wish(parts)
        if not is_uid(one.syntax):
            raise InvalidItem("a transfer syntax is a UID or *")
        syntaxes.append(one.syntax)
    if parts is None:
        raise Refusal(406, f'available is: {MULTIPART}; type="{DICOM}"; transfer-syntax=*')
    return Wish(parts, tuple(syntaxes))
