"""What an object says of its own private elements (PS3.3 C.12.1, PS3.15 E.3.10), and what is still true afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from diana.deid.allowed import is_technical
from diana.deid.raw import Item, Node, encode, encode_item

if TYPE_CHECKING:
    from diana.deid.walk import Walk

SEQUENCE: Final = 0x00080300
GROUP: Final = 0x00080301
CREATOR: Final = 0x00080302
STATUS: Final = 0x00080303
SAFE_ELEMENTS: Final = 0x00080304
ACTIONS: Final = 0x00080305
IDENTIFYING: Final = 0x00080306
ACTION: Final = 0x00080307
ELEMENT: Final = 0x00080308
ELEMENT_VR: Final = 0x0008030A
DEFINITIONS: Final = 0x00080310
_SAFE, _UNSAFE = b"SAFE", b"UNSAFE"
_ACTIONS: Final = {b"D": "dummy", b"Z": "empty", b"X": "remove", b"U": "uid"}

Key = tuple[int, bytes]


@frozen
class Block:
    """
    Hold what is said of the private elements of one creator in one group.

    ``actions`` are those for elements that may identify, ``safe`` the elements that do not, by their last two digits.
    """

    status: bytes = b""
    safe: frozenset[int] = frozenset()
    actions: Mapping[int, str] = field(factory=dict)
    vrs: Mapping[int, str] = field(factory=dict)

    def action(self, element: int) -> str:
        """Return ``keep`` for an element that is said to be safe, another action for one that is not, else nothing."""
        if element in self.actions:
            return self.actions[element]
        if self.status == _UNSAFE:
            return "remove"
        return "keep" if self.status == _SAFE or element in self.safe else ""

    def joined(self, other: Block) -> Block:
        """Return what two items say together; the less favourable counts."""
        status = (
            self.status if self.status == other.status else _UNSAFE if _UNSAFE in (self.status, other.status) else b""
        )
        return Block(status, self.safe | other.safe, {**self.actions, **other.actions}, {**self.vrs, **other.vrs})


def stated(node: Node | None) -> dict[Key, Block]:
    """Return what an object says, by group and creator; creators that are no plain technical words do not count."""
    found: dict[Key, Block] = {}
    for item in (node.items if node is not None else None) or ():
        key = _key(item)
        if key is not None and is_technical(key[1]):
            block = _block(item)
            found[key] = found[key].joined(block) if key in found else block
    return found


def rewritten(walk: Walk, node: Node, where: str) -> bytes | None:
    """Return the items that describe private elements of the output, as far as they do; None when there are none."""
    parts: list[bytes] = []
    for number, item in enumerate(node.items or ()):
        key = _key(item)
        left = walk.private_left.get(key, {}) if key is not None else {}
        if left:
            parts.append(encode_item(b"".join(_described(walk, item, left, f"{where}[{number}].")), item.coding))
        else:
            for one in item.nodes:
                walk.collect(one)
    return b"".join(parts) or None


def _described(walk: Walk, item: Item, left: Mapping[int, bool], where: str) -> Iterator[bytes]:
    """Yield the elements of one item; what is left is safe, but for what a rule of the recipe kept."""
    safe = sorted(element for element, is_safe in left.items() if is_safe)
    status = _SAFE if len(safe) == len(left) else b"MIXED" if safe else _UNSAFE
    for node in item.nodes:
        if node.tag in (GROUP, CREATOR):
            yield node.raw()
        elif node.tag == STATUS:
            yield encode(STATUS, "CS", status, item.coding)
            if status == b"MIXED":
                values = b"".join(one.to_bytes(2, "big" if item.coding.big else "little") for one in safe)
                yield encode(SAFE_ELEMENTS, "US", values, item.coding)
        elif node.tag == DEFINITIONS and node.items is not None:
            kept = [one for one in node.items if _number(one, ELEMENT) in left]
            parts, _ = walk.treated(node, kept, f"{SEQUENCE:08X}.{DEFINITIONS:08X}.", where, "")
            if parts:
                yield encode(DEFINITIONS, node.wire or "SQ", b"".join(parts), node.coding)
        else:
            walk.collect(node)


def _block(item: Item) -> Block:
    actions: dict[int, str] = {}
    vrs: dict[int, str] = {}
    for one in _items(item, ACTIONS):
        action = _ACTIONS.get(_value(one, ACTION), "remove")
        actions.update(dict.fromkeys(_numbers(one, IDENTIFYING), action))
    for one in _items(item, DEFINITIONS):
        element = _number(one, ELEMENT)
        if element is not None:
            vrs[element] = _value(one, ELEMENT_VR).decode("latin-1").split("\\")[0].strip()
    return Block(_value(item, STATUS), frozenset(_numbers(item, SAFE_ELEMENTS)), actions, vrs)


def _key(item: Item) -> Key | None:
    group, creator = _number(item, GROUP, 0xFFFF), _value(item, CREATOR)
    return (group, creator) if group is not None and group & 1 and creator else None


def _items(item: Item, tag: int) -> list[Item]:
    return next((node.items for node in item.nodes if node.tag == tag and node.items is not None), [])


def _value(item: Item, tag: int) -> bytes:
    return next((node.content().strip(b" \0") for node in item.nodes if node.tag == tag), b"")


def _number(item: Item, tag: int, mask: int = 0xFF) -> int | None:
    return next(iter(_numbers(item, tag, mask)), None)


def _numbers(item: Item, tag: int, mask: int = 0xFF) -> list[int]:
    node = next((node for node in item.nodes if node.tag == tag), None)
    if node is None:
        return []
    data, big = node.content(), node.coding.big
    return [int.from_bytes(data[at : at + 2], "big" if big else "little") & mask for at in range(0, len(data) - 1, 2)]
