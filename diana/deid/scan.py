"""Look in an output for what identified somebody in its input: the check that makes leaks fail closed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from attrs import define, field, frozen

from diana.deid.scan_context import Context, standing, vr_of
from diana.deid.scan_parts import Part, among, has_accents, may_hold_text, parts_of, wide_halves
from diana.deid.scan_probes import MAX_VALUE, STRONG, Probe, Probes, kind_of, probes_of
from diana.utils.blob import Blob

__all__ = ["Hit", "Identifiers", "identifiers", "values_of"]

OVERLAP: Final = 512
MAX_HITS: Final = 100
MAX_RAW: Final = 64
MAX_VALUES: Final = 5000
DATE: Final = 8
LONGEST_RAW: Final = 6
SHORTEST_RAW: Final = 8

Value = tuple[int, str, bytes]


@frozen
class Hit:
    """
    Say where something of the input was found, and of which kind it is, never what.

    ``where`` is the path of an element, or one of ``file meta``, ``pixel data``, ``outside``, ``text``; ``offset``
    counts from the start of the file, or of the inflated data set or the text.
    """

    where: str
    kind: str
    offset: int = -1


@define(eq=False, repr=False)
class Identifiers:
    """
    Hold what identified somebody in an input, ready to be looked for. The values are in no ``repr``.

    Looked for are names (each telling part of four letters or more alone, shorter and common ones in pairs in both
    orders), ids, UIDs, dates in their usual notations, phones, addresses, institutions, and what stands out in free
    text. Compared are the bytes without case, the text without accents in its character set, UTF-8, UTF-16 in both byte
    orders, the usual ISO 8859 and Asian encodings, base64, hexadecimal, and MD5, SHA-1 and SHA-256 of ids and names.
    Not looked for: times, ages, codes, what is shorter than four characters except under its own tag, and compressed
    or encrypted text.
    """

    _groups: list[Probes] = field(init=False, factory=list)
    _tags: dict[tuple[str, str], set[int]] = field(init=False, factory=dict)
    _raw: dict[bytes, str] = field(init=False, factory=dict)

    def __len__(self) -> int:
        return sum(1 for _ in self._all())

    def __repr__(self) -> str:
        return f"<Identifiers: {len(self)} probes>"

    def _all(self) -> Iterator[Probe]:
        return (probe for group in self._groups for _, held in (*group.plain, *group.exact) for probe in held)

    @staticmethod
    def of(values: Iterable[Value], charset: str = "") -> Identifiers:
        """
        Return the identifiers among values of elements: tag, VR, and bytes as they stand in the file.

        Give the values that were removed or replaced; what was kept on purpose does not belong here. ``charset`` is the
        Specific Character Set. Of more than 5000 different values only names, ids, UIDs, births and phones count.
        """
        made = Identifiers()
        seen: dict[tuple[str, bytes], list[int]] = {}
        for tag, vr, raw in values:
            kind = kind_of(tag, vr)
            if kind and raw:
                seen.setdefault((kind, raw[:DATE] if vr == "DT" else raw), []).append(tag)
        for (kind, raw), tags in seen.items():
            if kind in STRONG or len(made._groups) < MAX_VALUES:
                made._add(kind, raw, charset, tags)
        return made

    def _add(self, kind: str, raw: bytes, charset: str, tags: Iterable[int]) -> None:
        group = probes_of(kind, raw, charset)
        self._groups.append(group)
        for own in group.own:
            self._tags.setdefault(own, set()).update(tags)
        if kind in STRONG and len(raw) >= SHORTEST_RAW and len(self._raw) < MAX_RAW:
            self._raw[raw.strip(b" \0")] = kind

    def hits(self, blob: Blob | bytes, *, allowed: Collection[int] = (), pixel_offset: int | None = None) -> list[Hit]:
        """
        Return where something of the input is in an output, at most a hundred places; empty when it is clean.

        Never raises for broken bytes: what cannot be parsed is searched all the more. In elements whose tag is in
        ``allowed`` only names, ids, UIDs, birth dates and phones count; name those whose text was kept on purpose.
        ``pixel_offset`` is that of the pixel element, when it is known. Pixels are searched for whole values in pieces;
        memory does not grow with them.
        """
        blob = blob if isinstance(blob, Blob) else Blob(blob)
        found = []
        for part in parts_of(blob, pixel_offset):
            if part.pixels is not None:
                found += self._in_pixels(part.pixels, part.start)
            else:
                found += self._in_head(part, allowed)
        return found[:MAX_HITS]

    def in_text(self, text: str) -> list[Hit]:
        """Return what of the input is in a text."""
        return self._in_head(Part("text", text.encode("utf-8", "replace")), ())

    def spans(self, flat: str) -> list[tuple[int, int, str]]:
        """Return where something stands in a text that was folded (see ``scan_words.fold``), the longest first."""
        seen = {(one.text, one.kind): one for one in self._all() if len(one.text) > 1}
        return [
            (start, start + len(one.text), one.kind)
            for one in sorted(seen.values(), key=lambda probe: -len(probe.text))
            for start in standing(flat, one)
        ]

    def _in_head(self, part: Part, allowed: Collection[int]) -> list[Hit]:
        head = part.data
        low = head.lower()
        gates = frozenset().union(*(group.gates for group in self._groups))
        plain = self._behind(among(gates, low), low)
        plain += [probe for group in self._groups for gate, held in group.exact if gate in head for probe in held]
        halves = wide_halves(low)
        wide = [probe for half in halves for probe in self._behind(among(gates, half), half)]
        accents = has_accents(head)
        if not (plain or wide or accents):
            return []
        context = Context(head, low, part.regions(), self._tags, frozenset(allowed))
        found = dict.fromkeys(hit for probe in dict.fromkeys(plain) for hit in context.plain(probe))
        found.update(dict.fromkeys(hit for probe in dict.fromkeys(wide) for hit in context.wide(probe, halves)))
        if accents:
            found.update(dict.fromkeys(context.folded(probe for probe in self._all() if probe.text)))
        return [Hit(where, kind, offset + part.start) for where, kind, offset in found]

    def _behind(self, gates: Collection[bytes], low: bytes) -> list[Probe]:
        """Return the probes that stand in the bytes, of those whose gates do."""
        if not gates:
            return []
        held = [one for group in self._groups for gate, probes in group.plain if gate in gates for one in probes]
        present = among(frozenset(one.needle for one in held), low)
        return [one for one in held if one.needle in present]

    def _in_pixels(self, pieces: Iterable[bytes], start: int) -> list[Hit]:
        needles = sorted(self._raw.items(), key=lambda one: (one[1] == "uid", -len(one[0])))[:LONGEST_RAW]
        found: list[Hit] = []
        before = b""
        for piece in pieces if needles else ():
            for data, at in ((before + piece[:OVERLAP], start - len(before)), (piece, start)):
                if may_hold_text(data):
                    found += [Hit("pixel data", kind, at + data.find(one)) for one, kind in needles if one in data]
            start += len(piece)
            before = piece[-OVERLAP:]
        return found


def identifiers(source: Blob | bytes, *, without: Collection[str] = ()) -> Identifiers:
    """
    Return what identifies somebody in a DICOM object, read from its elements at every depth.

    ``without`` are kinds that do not count (name, id, uid, birth, date, phone, address, institution, text). Nothing is
    raised for broken bytes: what can be read counts.
    """
    return Identifiers.of(*values_of(source, without=without))


def values_of(source: Blob | bytes, *, without: Collection[str] = ()) -> tuple[list[Value], str]:
    """Return the identifying values of a DICOM object and its character set, for ``Identifiers.of``."""
    blob = source if isinstance(source, Blob) else Blob(source)
    values: list[Value] = []
    charset = ""
    for part in parts_of(blob, None):
        if part.pixels is None:
            for region in part.regions():
                charset = charset or region.charset
                values += (
                    (place.tag, vr, part.data[place.start : place.end])
                    for place in region.places
                    if place.end - place.start <= MAX_VALUE
                    and kind_of(place.tag, vr := vr_of(place)) not in ("", *without)
                )
    return values, charset
