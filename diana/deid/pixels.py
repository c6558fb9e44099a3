"""Classify the pixels of an object: pass, mask, review or refuse."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol  # arrays and tag values may be of any type

from attrs import define, field, frozen

from diana.deid.pixel_rules import PixelRule, Rectangle, Tags, builtin_rules, keys_of
from diana.deid.scan_parts import parts_of
from diana.deid.scan_places import Place
from diana.exceptions import ConfigError, InvalidItem
from diana.utils.blob import Blob
from diana.utils.dicom import read_header
from diana.utils.dicom._scan import DEFLATED

if TYPE_CHECKING:
    from numpy.typing import NDArray

OCR_GROUP: Final = "diana.ocr"
MAX_REGIONS: Final = 64
MAX_KNOWN: Final = 10_000
_REGIONS: Final = 0x00186011
_CORNERS: Final = (0x00186018, 0x0018601A, 0x0018601C, 0x0018601E)


@frozen
class Decision:
    """
    Say what is to be done with the pixels of an object: ``pass``, ``mask``, ``review`` or ``refuse``.

    ``rectangles`` are to be blanked in every frame, inside the image. ``rule`` is the name of the rule that decided,
    empty when none fitted; ``reason`` says why in words, without values of the object.
    """

    action: str
    rectangles: tuple[Rectangle, ...] = ()
    rule: str = ""
    reason: str = ""


PASS: Final = Decision("pass")


def _with_builtin(rules: Iterable[PixelRule]) -> tuple[PixelRule, ...]:
    return (*rules, *builtin_rules())


@define(eq=False)
class Classifier:
    """Classify many files by the same rules: those given, and after them those that ship. Safe for many threads."""

    rules: tuple[PixelRule, ...] = field(default=(), converter=_with_builtin)
    _keys: tuple[str, ...] = field(init=False, repr=False)
    _known: dict[tuple[str | None, ...], Decision] = field(init=False, factory=dict, repr=False)

    @_keys.default
    def _make_keys(self) -> tuple[str, ...]:
        return keys_of(self.rules)

    def examine(self, blob: Blob) -> Decision:
        """
        Return what is to be done with the pixels of a file. One without pixels passes.

        Files whose headers agree in what the rules ask are decided once. Raises InvalidItem for what is not DICOM.
        """
        with blob.open() as stream:
            header = read_header(stream if blob.path is not None else blob.read(), self._keys)
        if header.pixel_offset is None and header.transfer_syntax != DEFLATED:
            return PASS
        if header.get("Modality") in ("US", "IVUS", None) or _any_regions(self.rules):
            return classify(header, self.rules, ultrasound_regions(blob))
        asked = tuple([header.get(key) for key in self._keys])
        decision = self._known.get(asked)
        if decision is None:
            decision = classify(header, self.rules)
            if len(self._known) < MAX_KNOWN:
                self._known[asked] = decision
        return decision


def examine(blob: Blob, rules: Iterable[PixelRule] = ()) -> Decision:
    """
    Return what is to be done with the pixels of one file; see ``Classifier`` for many.

    Raises InvalidItem for what is not DICOM.
    """
    return Classifier(rules).examine(blob)


def classify(tags: Tags, rules: Iterable[PixelRule], regions: Sequence[Rectangle] = ()) -> Decision:
    """
    Return the decision of the first rule that fits; that of all masking rules when the first one masks.

    ``tags`` maps keywords to values and includes Rows and Columns; ``regions`` are the object's ultrasound regions.
    """
    masks: list[PixelRule] = []
    for rule in rules:
        if (rule.regions and not regions) or (masks and rule.action != "mask") or not rule.when.met(tags):
            continue
        if rule.action != "mask":
            return Decision(rule.action, (), rule.name, f"rule {rule.name!r}")
        masks.append(rule)
    return _masked(tags, masks, regions) if masks else PASS


def _masked(tags: Tags, masks: Sequence[PixelRule], regions: Sequence[Rectangle]) -> Decision:
    name = masks[0].name
    rows, columns = _whole(tags.get("Rows")), _whole(tags.get("Columns"))
    if not rows or not columns:
        return Decision("review", (), name, "the image has no size to mask by")
    found: dict[Rectangle, None] = {}
    for rule in masks:
        found.update(dict.fromkeys(rule.blank))
        kept = (*rule.keep, *(regions if rule.regions else ()))
        if kept:
            found.update(dict.fromkeys(outside(kept, columns, rows)))
    if any(rule.whole for rule in masks) and not any(rule.keep or rule.regions for rule in masks):
        found = {Rectangle(0, 0, columns, rows): None}
    inside = tuple(part for one in found if (part := one.clipped(columns, rows)) is not None)
    if inside:
        return Decision("mask", inside, name, f"rule {name!r}")
    if str(tags.get("BurnedInAnnotation") or "").upper() == "NO":
        return Decision("pass", (), name, "nothing of the image is to be masked")
    return Decision("review", (), name, "the rule leaves nothing of the image to be masked")


def outside(kept: Collection[Rectangle], columns: int, rows: int) -> list[Rectangle]:
    """Return rectangles that cover an image except for what is kept, none of them overlapping."""
    inside = [part for one in kept if (part := one.clipped(columns, rows)) is not None][:MAX_REGIONS]
    heights = sorted({0, rows, *(one.y for one in inside), *(one.y + one.height for one in inside)})
    found = []
    for top, bottom in pairwise(heights):
        at = 0
        spans = sorted((one.x, one.x + one.width) for one in inside if one.y <= top and bottom <= one.y + one.height)
        for left, right in [*spans, (columns, columns)]:
            if left > at:
                found.append(Rectangle(at, top, left - at, bottom - top))
            at = max(at, right)
    return found


def ultrasound_regions(blob: Blob) -> tuple[Rectangle, ...]:
    """
    Return the regions of Sequence of Ultrasound Regions (PS3.3 C.8.5.5), without those that make no sense.

    The corners that DICOM gives are inside the region.
    """
    for part in parts_of(blob, None):
        for region in part.regions() if part.pixels is None else ():
            order = "big" if region.big else "little"
            found = _corners(part.data, region.places, order)
            if found:
                return tuple(found)
    return ()


def _corners(data: bytes, places: Sequence[Place], order: Any) -> list[Rectangle]:
    sequence = next((at for at, one in enumerate(places) if one.tag == _REGIONS and one.parent < 0), -1)
    items: dict[int, dict[int, int]] = {}
    for place in places if sequence >= 0 else ():
        if place.parent == sequence and place.tag in _CORNERS and place.end - place.start in (2, 4):
            value = int.from_bytes(data[place.start : place.end], order)
            items.setdefault(place.item, {})[place.tag] = value
    found = []
    for item in list(items.values())[:MAX_REGIONS]:
        if len(item) == len(_CORNERS):
            left, top, right, bottom = (item[tag] for tag in _CORNERS)
            if left <= right and top <= bottom and right < 1 << 24 and bottom < 1 << 24:
                found.append(Rectangle(left, top, right - left + 1, bottom - top + 1))
    return found


def _any_regions(rules: Iterable[PixelRule]) -> bool:
    """Tell whether a rule of the user wants regions of whatever modality."""
    return any(rule.regions and "Modality" not in rule.when.keys() for rule in rules)  # noqa: SIM118


def _whole(value: Any) -> int:
    try:
        number = int(str(value).split("\\")[0])
    except ValueError:
        return 0
    return number if 0 < number < 1 << 24 else 0


@frozen
class TextBox:
    """Say where a reader found text in a frame, and which; the text is in no ``repr``."""

    rectangle: Rectangle
    text: str = field(repr=False)
    confidence: float = 1.0


class TextReader(Protocol):
    """Find text in one frame of an image: rows, columns, and samples when it has colour."""

    def __call__(self, frame: NDArray[Any]) -> Iterable[TextBox]:
        """Return the boxes of text in a frame."""


def text_reader(name: str = "") -> TextReader:
    """
    Return a reader of text that an installed package announces in the entry point group ``diana.ocr``.

    Without a name it is the only one there is. Nothing that reads text ships with this package. Raises ConfigError
    when there is none of that name, or several.
    """
    from importlib.metadata import entry_points

    known = {one.name: one for one in entry_points(group=OCR_GROUP)}
    if name not in known and (name or len(known) != 1):
        told = ", ".join(sorted(known)) or "none is installed"
        raise ConfigError(f"no reader of text {name[:40]!r} in the entry points {OCR_GROUP}; known are: {told}")
    reader: TextReader = known[name or next(iter(known))].load()
    return reader


def text_in(blob: Blob, reader: TextReader, *, frames: int = 3, confidence: float = 0.3) -> tuple[Rectangle, ...]:
    """
    Return where a reader finds text in the first frames of a file, for a person to judge or to mask by.

    That nothing is found does not prove that there is nothing. Raises InvalidItem when the pixels cannot be decoded.
    """
    from diana.deid.masks import decoded_frames

    found: dict[Rectangle, None] = {}
    for number, frame in enumerate(decoded_frames(blob)):
        if number >= frames:
            break
        try:
            boxes = list(reader(frame))
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything, each meaning that nothing is known
            raise InvalidItem(f"the reader of text failed ({type(error).__name__})") from None
        found.update({box.rectangle: None for box in boxes if box.confidence >= confidence})
    return tuple(found)
