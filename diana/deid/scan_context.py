"""Decide by its surroundings whether a match counts: in which element, of which VR, alone or inside a longer word."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from attrs import define, field

from diana.deid.scan_places import Place, path_of
from diana.deid.scan_probes import STRONG, TEXT_VRS, Probe, decoded
from diana.deid.scan_words import fold, is_wide
from diana.utils.dicom import dictionary

MAX_OCCURRENCES: Final = 500
_LONG: Final = 8
_NUMBER_TEXT: Final = frozenset(("AS", "DS", "IS", "TM"))
_STRICT: Final = _NUMBER_TEXT | {"DA", "DT", "UI"}
_BINARY: Final = frozenset(("AT", "FD", "FL", "OD", "OF", "OL", "OV", "OW", "SL", "SS", "SV", "UL", "US", "UV"))
_WORDED: Final = TEXT_VRS | {"AE", "CS", "PN"}
# where devices and code schemes write: manufacturer, model, code value, designator and meaning, software, methods
_CODED_TEXT: Final = """
00080070 00081090 00080100 00080102 00080103 00080104 00080119 00080120 00180024 00181016 00181018 00181019 00181020
00120062 00120063 00020013 00020016
"""
_CODED: Final = frozenset(int(tag, 16) for tag in _CODED_TEXT.split())
_ASCII_LETTER: Final = re.compile(rb"[0-9A-Za-z]")

Found = tuple[str, str, int]  # where, kind, offset


class Region(NamedTuple):
    """Hold a range of bytes that belong together, and the elements in it; bytes that no element explains count too."""

    label: str
    start: int
    end: int
    places: list[Place]
    charset: str = ""
    big: bool = False


_NOWHERE: Final = Region("outside", 0, 0, [])


@define
class Context:
    """Hold the bytes of an output and where its elements are."""

    head: bytes = field(repr=False)
    low: bytes = field(repr=False)
    regions: list[Region] = field(repr=False)
    tags: Mapping[tuple[str, str], Collection[int]] = field(repr=False)
    allowed: Collection[int]

    def plain(self, probe: Probe) -> Iterator[Found]:
        """Yield where a needle stands in the bytes as they are."""
        data = self.head if probe.exact else self.low
        for at in _occurrences(data, probe.needle):
            yield from self._judged(probe, at, len(probe.needle))

    def wide(self, probe: Probe, halves: tuple[bytes, ...]) -> Iterator[Found]:
        """Yield where a needle stands with a zero between its bytes, as in UTF-16."""
        for odd, half in enumerate(halves):
            for at in _occurrences(half, probe.needle):
                start = 2 * at + odd
                between = self.low[start + 1 : start + 2 * len(probe.needle) - 1 : 2]
                if between.count(0) == len(between) and len(between) >= 2:
                    place, region = self._at(start, start + 1)
                    if place is None or place.vr not in _BINARY or 2 * len(probe.needle) >= _LONG:
                        yield self._found(probe, place, region, start)

    def folded(self, probes: Iterable[Probe]) -> Iterator[Found]:
        """Yield what stands in text values when case and accents do not count."""
        wanted = [
            probe for probe in dict.fromkeys((p.kind, p.text, p.how, p.weak) for p in probes) if len(probe[1]) > 2
        ]
        values = [
            (place, region, fold(decoded(value, region.charset)))
            for region in self.regions
            for place in region.places or [Place(region.start, region.end, 0, "UT", -1, -1)]
            if vr_of(place) in _WORDED
            and not ((value := self.head[place.start : place.end]).isascii() and b"\x1b" not in value)
        ]
        together = "\n".join(text for _, _, text in values)
        wanted = [one for one in wanted if one[1] in together]
        for place, region, text in values if wanted else ():
            yield from self._in_value(place, region, text, wanted)

    def _in_value(
        self, place: Place, region: Region, text: str, wanted: Iterable[tuple[str, str, str, bool]]
    ) -> Iterator[Found]:
        for kind, needle, how, weak in wanted:
            probe = Probe(kind, needle, how, weak, b"", b"")
            at = text.find(needle)
            while at >= 0:
                if self._counts(probe, place, text, at, at + len(needle)):
                    yield self._found(probe, place if region.places else None, region, place.start)
                    break
                at = text.find(needle, at + 1)

    def _at(self, start: int, end: int) -> tuple[Place | None, Region]:
        """Return the element whose value holds the bytes, None where none does, and the region."""
        region = next((one for one in self.regions if one.start <= start < one.end), _NOWHERE)
        if not region.places:
            return None, region
        place = region.places[bisect_right(region.places, start, key=lambda one: one.start) - 1]
        inside = place.start <= start and end <= place.end
        return (place if inside else None), region

    def _judged(self, probe: Probe, start: int, size: int) -> Iterator[Found]:
        place, region = self._at(start, start + size)
        if place is None:
            if _alone(self.head, start, start + size, probe, 0, len(self.head)):
                yield self._found(probe, None, region, start)
            return
        vr = vr_of(place)
        if vr in _WORDED or vr in _STRICT:
            value = self.low[place.start : place.end]
            text = value.decode("latin-1")
            if not self._counts(probe, place, text, start - place.start, start - place.start + size):
                return
        else:
            short = vr in _BINARY and size < _LONG
            if short or not _alone(self.head, start, start + size, probe, place.start, place.end):
                return
        yield self._found(probe, place, region, start)

    def _counts(self, probe: Probe, place: Place, text: str, start: int, end: int) -> bool:
        """Decide on a match inside the text of a value."""
        vr = vr_of(place)
        if probe.how == "same":
            return place.tag in self._own(probe) and _component(text, start, end) == text[start:end]
        if vr in _STRICT and probe.kind != "hash" and any(one.isalpha() for one in probe.text):
            return _stands(text, start, end, probe)  # a damaged value: nothing of the kind belongs there
        if vr == "UI":
            return _in_uid(probe, text, start, end)
        if vr in ("DA", "DT"):
            return probe.kind == "birth" or (probe.kind == "date" and place.tag in self._own(probe))
        if vr in _NUMBER_TEXT:
            return probe.kind in STRONG and end - start >= 7 and _component(text, start, end) == text[start:end]
        devices = vr == "CS" or place.tag in _CODED
        if (probe.weak and devices) or (place.tag in self.allowed and (probe.weak or probe.kind not in STRONG)):
            return False
        return _stands(text, start, end, probe)

    def _own(self, probe: Probe) -> Collection[int]:
        return self.tags.get((probe.kind, probe.text), ())

    def _found(self, probe: Probe, place: Place | None, region: Region, offset: int) -> Found:
        if place is None:
            return region.label, probe.kind, offset
        index = bisect_right(region.places, place.start, key=lambda one: one.start) - 1
        return path_of(region.places, index), probe.kind, offset


def _occurrences(data: bytes, needle: bytes) -> Iterator[int]:
    at = data.find(needle) if needle else -1
    for _ in range(MAX_OCCURRENCES):
        if at < 0:
            return
        yield at
        at = data.find(needle, at + 1)


@lru_cache(maxsize=4096)
def _known_vr(tag: int) -> str:
    if tag >> 16 & 1:
        return "LO" if tag & 0xFF00 == 0 else "UN"
    return dictionary.vr_of(tag) or "UN"


def vr_of(place: Place) -> str:
    """Return the VR of an element, that of the dictionary where the encoding does not tell it."""
    return place.vr or _known_vr(place.tag)


def _component(text: str, start: int, end: int, marks: str = "\\") -> str:
    """Return the component of a value of several that a match lies in."""
    first = max((text.rfind(mark, 0, start) for mark in marks), default=-1) + 1
    last = min((at for mark in marks if (at := text.find(mark, end)) >= 0), default=len(text))
    return text[first:last].strip(" \0")


def _in_uid(probe: Probe, text: str, start: int, end: int) -> bool:
    if probe.kind == "id":
        return end - start >= 7 and _component(text, start, end, ".\\") == text[start:end]
    if probe.kind != "uid":
        return probe.kind == "hash"
    return not (_digit_or_dot(text[start - 1 : start]) or _digit_or_dot(text[end : end + 1]))


def _digit_or_dot(one: str) -> bool:
    return one.isdigit() or one == "."


def _stands(text: str, start: int, end: int, probe: Probe) -> bool:
    """Tell whether a match is no piece of a longer word, number or UID, as the probe asks."""
    before, after = text[start - 1 : start] if start else "", text[end : end + 1]
    if probe.how == "uid":
        return not (before.isdigit() or after.isdigit())
    if probe.how in ("date", "birth") and after.isdigit():  # date and time as one number
        return not before.isdigit() and text[end : end + 4].isdigit() and len(text[end : end + 4]) == 4
    if probe.how in ("part", "date", "birth"):
        return not ((before.isdigit() and text[start].isdigit()) or (after.isdigit() and text[end - 1].isdigit()))
    if end - start > 1 and is_wide(text[start:end]):
        return True  # there are no spaces between words
    return not (before.isalnum() or after.isalnum())


def standing(text: str, probe: Probe) -> Iterator[int]:
    """Yield where a probe's text stands in a folded text, as it asks to; what is short stands alone."""
    at = text.find(probe.text)
    while at >= 0:
        if _stands(text, at, at + len(probe.text), probe):
            yield at
        at = text.find(probe.text, at + 1)


def _alone(data: bytes, start: int, end: int, probe: Probe, first: int, last: int) -> bool:
    """Do the same for bytes of an unknown encoding, inside the range from ``first`` to ``last``."""
    if probe.how == "same":
        return False
    before = data[max(first, start - 1) : start]
    after = data[end : min(last, end + 1)]
    if probe.how == "word" and data[start : start + 1].isalnum():
        return not (_ASCII_LETTER.match(before) or _ASCII_LETTER.match(after))
    digits = (before.isdigit() and data[start : start + 1].isdigit()) or (
        after.isdigit() and data[end - 1 : end].isdigit()
    )
    return not digits
