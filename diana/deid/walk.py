"""Apply a plan to the tree of one object and write it anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from diana.deid import characteristics, dates
from diana.deid.allowed import SCHEME, URN, is_number, is_technical, is_term, public_schemes
from diana.deid.modes import CONTENT, GRAPHICS, KEEPS, STUB, TEXT_VRS, in_mode
from diana.deid.plan import MARKERS, PATIENT_ID, Plan, Verdict
from diana.deid.raw import PIXELS, Item, Node, Nodes, encode, encode_item
from diana.deid.result import Step
from diana.deid.structured import outline
from diana.deid.tables import name_of
from diana.deid.values import Uids, dummy, literal, telling, token
from diana.utils.dicom import _text

if TYPE_CHECKING:
    from diana.deid.key import Key
    from diana.deid.pseudonyms import Subject

UNREADABLE: Final = Verdict("remove", "a sequence that cannot be read")
_CHECKS: Final[Mapping[str, Callable[[bytes], bool]]] = {
    "text": is_technical,
    "term": is_term,
    "number": is_number,
    "age": dates.is_age,
}
_SHELLS: Final = frozenset(("keep", "walk", CONTENT, GRAPHICS, STUB, "outline"))
_DATED: Final = frozenset(("dummy", "replace", "tidy", "keep", "birth", "shift"))


class Changed(NamedTuple):
    """Hold a value before it was changed: tag, VR, raw bytes."""

    tag: int
    vr: str
    value: bytes


class Piece(NamedTuple):
    """Hold one element of the output: its bytes, or None for ``node`` as it stands in the source."""

    tag: int
    data: bytes | None
    node: Node | None = None

    def content(self) -> bytes:
        """Return the bytes; none for what stays in the source."""
        return self.data if self.data is not None else b"" if self.node is None else self.node.raw()


class Walk:
    """
    Treat the elements of one object.

    ``gone`` collects what was removed or replaced, ``counts`` what was done by path, ``kept`` the tags that an option
    or a rule kept although the profile removes them, ``dated`` the tags, in hexadecimal, that hold a date put or
    kept there on purpose.
    """

    def __init__(
        self,
        plan: Plan,
        key: Key,
        subject: Subject,
        other_subject: Callable[[str, str], Subject],
        clean: Callable[[bytes, str], bytes],
    ) -> None:
        self.plan = plan
        self.key = key
        self.subject = subject
        self.days = -7 * subject.weeks
        self.counts: dict[tuple[str, int], Counter[str]] = {}
        self.gone: list[Changed] = []
        self.kept: set[int] = set()
        self.dated: set[str] = set()
        self.loosened = False
        self.done: set[str] = set()
        self.uids = Uids(key)
        self.patient_id = b""
        self.steps: list[Step] | None = None
        self.private_left: dict[tuple[int, bytes], dict[int, bool]] = {}
        self._by_rule: set[int] = set()
        self._stated: dict[tuple[int, bytes], characteristics.Block] = {}
        self._other_subject = other_subject
        self._clean = clean
        self._charset = ""
        self._issuer = ""
        self._schemes = public_schemes()
        self._code = ""

    def top(self, nodes: Nodes, charset: str, issuer: str = "") -> list[Piece]:
        """Return the elements of the top level as they go into the output; ``issuer`` is that of the patient's id."""
        self._charset = charset
        self._issuer = issuer
        self.patient_id = next((node.content() for node in nodes if node.tag == PATIENT_ID), b"").strip(b" \0")
        described = next((node for node in nodes if node.tag == characteristics.SEQUENCE and node.items), None)
        if described is not None and self.plan.safe_private:
            self._stated = characteristics.stated(described)
        pieces = self._nodes(nodes, "", "", "")
        return pieces if described is None else self._described(pieces, described)

    def _described(self, pieces: list[Piece], node: Node) -> list[Piece]:
        """Let the description of private elements tell of those that are left, which is known in the end."""
        at = next((at for at, piece in enumerate(pieces) if piece.node is node and piece.data is None), -1)
        if at < 0:
            return pieces  # a rule has decided
        content = characteristics.rewritten(self, node, "(0008,0300)")
        found = Verdict("walk" if content else "remove", "E.3.10: describes the private elements that are left")
        self._told(node, found, "")
        self._note("", node, found, found.action)
        new = (
            []
            if content is None
            else [Piece(node.tag, encode(node.tag, node.wire or "SQ", content, node.coding), node)]
        )
        return [*pieces[:at], *new, *pieces[at + 1 :]]

    def _nodes(self, nodes: Nodes, prefix: str, where: str, mode: str) -> list[Piece]:
        out: list[Piece] = []
        verdict = self.plan.verdict
        creators = self._creators(nodes) if self.plan.creators else {}
        used: set[int] = set()
        for node in nodes:
            tag = node.tag
            if tag & 0x10000:
                found = self._private(node, creators, used)
                if found is None:
                    out.append(Piece(tag, None, node))  # a creator; kept below when something of its block is
                    continue
            elif not tag & 0xFFFF:
                continue  # group lengths would be wrong
            else:
                found = verdict(tag, node.vr, prefix)
            if tag == characteristics.SEQUENCE and not prefix and node.items and found.action in ("keep", "walk"):
                out.append(Piece(tag, None, node))  # settled when it is known what is left
                continue
            if node.items is None and node.vr == "SQ" and node.stop > node.value:
                found = UNREADABLE
            elif mode:
                found = in_mode(found, node, mode)
            if found.action == "keep" and node.items is None and not node.fragments and self.steps is None:
                out.append(Piece(tag, None, node))
                if not found.quiet:
                    self._note(prefix, node, found, "keep")
                continue
            piece = self._apply(node, found, prefix, where, mode)
            if piece is not None:
                out.append(piece)
        if creators:
            out = [one for one in out if not self._is_unused_creator(one, creators, used, prefix)]
            self._note_private(out, creators)
        return out

    def _note_private(self, pieces: list[Piece], creators: Mapping[int, bytes]) -> None:
        """Remember which private elements go into the output, and whether they are known to be safe."""
        for piece in pieces:
            if piece.tag & 0x10000 and (number := piece.tag & 0xFFFF) > 0xFF:
                group = piece.tag >> 16
                creator = creators.get(group << 8 | number >> 8, b"")
                left = self.private_left.setdefault((group, creator), {})
                left[number & 0xFF] = left.get(number & 0xFF, True) and piece.tag not in self._by_rule

    def _apply(self, node: Node, found: Verdict, prefix: str, where: str, mode: str) -> Piece | None:
        action = found.action
        self._told(node, found, where)
        if action in _SHELLS and node.items is not None:
            if not found.quiet:
                self._note(prefix, node, found, action)
            if action == "outline":
                return outline(self, node, prefix, where)
            return self.sequence(node, prefix, where, mode if action in ("keep", "walk") else action)
        if node.fragments and node.tag not in PIXELS:
            action = "remove"
        if node.items is not None and action not in ("empty", "remove"):
            if action == "dummy":
                self._note(prefix, node, found, STUB)
                return self.sequence(node, prefix, where, STUB)
            action = "remove"
        if action in KEEPS and self._passes(node, action):
            if not found.quiet:
                self._note(prefix, node, found, action)
            return Piece(node.tag, None, node)
        value, action = self._new_value(node, found, action, prefix)
        self._note(prefix, node, found, action)
        if value is None:
            return None
        return Piece(node.tag, encode(node.tag, node.wire or node.vr, value, node.coding), node)

    def _told(self, node: Node, found: Verdict, where: str) -> None:
        """Write down what is done to an element, for who asked to have it explained."""
        if self.steps is not None:
            path = f"{where}({node.tag >> 16:04X},{node.tag & 0xFFFF:04X})"
            self.steps.append(Step(path, name_of(node.tag), node.vr, found.action, found.rule))

    def _passes(self, node: Node, action: str) -> bool:
        if action == "keep":
            return True
        value = node.content()
        if node.data is None:
            return False
        if action == "code":
            return self._code == "public" or (self._code == "local" and is_technical(value))
        if action == "age" and self.plan.recipe.age_cap:
            return dates.is_age(value) and dates.cap_age(value, self.plan.recipe.age_cap) == b"\\".join(
                part.strip(b" \0") for part in value.split(b"\\")
            )
        return _CHECKS[action](value)

    def _new_value(self, node: Node, found: Verdict, action: str, prefix: str) -> tuple[bytes | None, str]:
        """Return the new value, None when the element goes, and the action that was taken in the end."""
        value = node.content()
        made: bytes | None = None
        if action == "remove":
            return None, action
        if action == "empty":
            return b"", action
        if action == "uid":
            return self.uids.mapped(value), action
        if action == "shift":
            made = self._shifted(node.vr, value, found)
        elif action == "tidy":
            made = self._tidy(node.vr, value)
        elif action == "age":
            made = dates.cap_age(value, self.plan.recipe.age_cap) if dates.is_age(value) else None
        elif action == "subject":
            made = self._subject_value(node, value, prefix)
        elif action == "birth":
            made = dates.year_of(value) or b""
        elif action == "hash":
            made = self._token(node, value)
        elif action == "clean":
            made = self._clean(value, self._charset) or None
        elif action == "replace":
            made = literal(node.vr, found.value, self._charset, big=node.coding.big)
        if made is not None:
            return made, action
        if action != "dummy":
            action = found.fallback if found.fallback in ("empty", "dummy", "subject", "hash") else "remove"
        if action == "hash" and node.vr in TEXT_VRS:
            return self._token(node, value), action
        if action == "dummy" and value.strip(b" \0") == b"" and node.data is not None and not node.fragments:
            return b"", "empty"  # empty stays empty
        if action == "dummy":
            return dummy(node.tag, node.vr, len(value)), action
        return (b"" if action == "empty" else None), action

    def _shifted(self, vr: str, value: bytes, found: Verdict) -> bytes | None:
        days = int(found.value) if found.value else self.days
        if vr == "DA":
            return dates.shift_date(value, days)
        if vr == "DT":
            return dates.shift_datetime(value, days)
        return value if vr == "TM" and dates.is_time(value) else None

    def _tidy(self, vr: str, value: bytes) -> bytes | None:
        fits = dates.is_time(value) if vr == "TM" else self._dated(vr, value)
        return value if fits else None

    @staticmethod
    def _dated(vr: str, value: bytes) -> bool:
        return (dates.shift_date if vr == "DA" else dates.shift_datetime)(value, 0) is not None

    def _token(self, node: Node, value: bytes) -> bytes | None:
        if not value.strip(b" \0"):
            return b""
        return token(self.key, node.tag, value) if node.vr in TEXT_VRS else None

    def _subject_value(self, node: Node, value: bytes, prefix: str) -> bytes:
        """Return the pseudonym; inside sequences that of the patient named there."""
        if not prefix or not value.strip(b" \0"):
            chosen = self.subject if not prefix else None
        elif node.tag != PATIENT_ID or value.strip(b" \0") == self.patient_id:
            chosen = self.subject
        else:
            name = _text.decode(value, _text.codecs_of(self._charset)).strip(" \0")
            chosen = self._other_subject(self._issuer, name)
        if chosen is None:
            return b""
        text = chosen.name if node.vr == "PN" else chosen.pseudonym
        return text.encode("ascii", "replace")

    def sequence(self, node: Node, prefix: str, where: str, mode: str) -> Piece:
        """Return a sequence with its items treated; as it stands when nothing in it changed."""
        parts, changed = self.treated(node, node.items or [], f"{prefix}{node.tag:08X}.", where, mode)
        if not changed:
            return Piece(node.tag, None, node)
        return Piece(node.tag, encode(node.tag, node.wire or "SQ", b"".join(parts), node.coding), node)

    def treated(self, node: Node, items: Iterable[Item], inner: str, where: str, mode: str) -> tuple[list[bytes], bool]:
        """Return items of a sequence with their elements treated, and whether anything in them changed."""
        parts: list[bytes] = []
        changed = False
        for number, item in enumerate(items):
            place = (
                f"{where}({node.tag >> 16:04X},{node.tag & 0xFFFF:04X})[{number}]." if self.steps is not None else ""
            )
            outer, self._code = self._code, self._kind_of_code(item)
            pieces = self._nodes(item.nodes, inner, place, mode)
            self._code = outer
            same = len(pieces) == len(item.nodes) and all(one.data is None for one in pieces)
            changed = changed or not same
            parts.append(joined(node.data, item, pieces, same))
        return parts, changed

    def _kind_of_code(self, item: Item) -> str:
        """Tell whether a code is of a public vocabulary, of a local one, or no code (PS3.3 8.8)."""
        for node in item.nodes:
            if node.tag == SCHEME and (scheme := node.content().strip(b" \0").upper()):
                return "public" if scheme in self._schemes else "local"
            if node.tag == URN:
                return "local"
            if node.tag > URN:
                break
        return ""

    def _creators(self, nodes: Nodes) -> dict[int, bytes]:
        """Return the private blocks of a data set by group and block (PS3.5 7.8.1)."""
        found: dict[int, bytes] = {}
        for node in nodes:
            if node.tag & 0x10000 and 0x10 <= (number := node.tag & 0xFFFF) <= 0xFF and node.data is not None:
                found.setdefault((node.tag >> 16) << 8 | number, node.content().strip(b" \0"))
        return found

    def _private(self, node: Node, creators: Mapping[int, bytes], used: set[int]) -> Verdict | None:
        """Return what to do with a private element; None for the creator of a block that may be kept."""
        number = node.tag & 0xFFFF
        group = node.tag >> 16
        if 0x10 <= number <= 0xFF:
            return None if (group << 8 | number) in creators else Verdict("remove", "E.1-1: private X")
        block = group << 8 | number >> 8
        creator = creators.get(block)
        if not creator:
            return Verdict("remove", "E.1-1: private X")
        stated = self._stated.get((group, creator))
        found = self.plan.private(node.tag, node.vr, creator.decode("latin-1"), stated)
        if found.loosens:
            self._by_rule.add(node.tag)
        if found.action != "remove":
            used.add(block)
            self.done.add("private")
        return found

    def _is_unused_creator(self, piece: Piece, creators: Mapping[int, bytes], used: set[int], prefix: str) -> bool:
        number = piece.tag & 0xFFFF
        if not piece.tag & 0x10000 or not 0x10 <= number <= 0xFF:
            return False
        if ((piece.tag >> 16) << 8 | number) in used:
            return False
        if piece.node is not None:
            self._note(prefix, piece.node, Verdict("remove", "E.1-1: private X"), "remove")
        return True

    def _note(self, prefix: str, node: Node, found: Verdict, action: str) -> None:
        """Count what was done, and collect the original value unless it was kept."""
        tag = node.tag
        counter = self.counts.get((prefix, tag))
        if counter is None:
            counter = self.counts[prefix, tag] = Counter()
        counter[action] += 1
        if found.loosens:
            self.loosened = True
        if node.vr in ("DA", "DT") and action in _DATED:
            self.dated.add(f"{tag:08X}")
        if action in KEEPS or action == "tidy":
            self.kept.add(tag)
            return
        if action == "clean":
            self.kept.add(tag)
        if action not in _SHELLS or node.items is None:
            self.collect(node)

    def note_overlay(self, pixels: Node) -> None:
        """Count that bits of the pixels which hold an overlay go."""
        self.counts.setdefault(("", pixels.tag), Counter())["clear"] += 1
        self._told(pixels, Verdict("clear", "E.1-1: overlay X, its bits in pixels"), "")

    def collect(self, node: Node) -> None:
        """Note the values of an element that does not go into the output, nested ones too, but for those of ours."""
        if node.tag in MARKERS:
            return
        if node.items is None:
            if node.data is not None and (value := telling(node.vr, node.data[node.value : node.stop])):
                self.gone.append(Changed(node.tag, node.vr, value))
            return
        for item in node.items:
            for inner in item.nodes:
                self.collect(inner)


def joined(data: bytes | None, item: Item, pieces: list[Piece], same: bool) -> bytes:
    """Return an item with its elements; the bytes of the source when they are the same."""
    if same and data is not None:
        return data[item.start : item.end]
    return encode_item(b"".join(one.content() for one in pieces), item.coding)
