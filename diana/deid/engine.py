"""De-identify one object: read, decide, write, and look for what is left before it counts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from diana.deid import container, facts, markers, output, overlays
from diana.deid.descriptors import Cleaner
from diana.deid.options import Option
from diana.deid.pixels import Decision
from diana.deid.plan import Plan
from diana.deid.pseudonyms import Subject, Subjects, subject_of
from diana.deid.recipe import Recipe, Rule
from diana.deid.result import Quarantined, Reason, Refused, Result, Step
from diana.deid.source import Opened, open_blob
from diana.deid.walk import Piece, Walk
from diana.exceptions import InvalidItem

if TYPE_CHECKING:
    from diana.deid.key import Key
    from diana.deid.pixel_rules import PixelRule
    from diana.utils.blob import Blob

log = logging.getLogger(__name__)

MAX_PLANS: Final = 512
KEPT: Final = 24 << 20


@define(eq=False)
class Deidentifier:
    """
    De-identify objects under one recipe with one key.

    ``registry`` decides who stands for whom; without one the key does. ``folder`` takes the temporary files of large
    objects. May be used from many threads.
    """

    recipe: Recipe
    key: Key = field(repr=False)
    registry: Subjects | None = field(default=None, repr=False)
    folder: Path | None = None
    _plans: dict[tuple[str, tuple[int, ...]], Plan] = field(init=False, factory=dict, repr=False)
    _rules: tuple[tuple[PixelRule, ...], tuple[str, ...]] | None = field(init=False, default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        _keep_memory()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Deidentifier, (self.recipe, self.key, self.registry, self.folder))

    def apply(self, blob: Blob) -> Result:
        """
        Return what became of an object; never raises for what is wrong with it.

        The caller closes the blob of the result. Raises OSError when a file cannot be read or written, StateError when
        the registry cannot be asked.
        """
        try:
            return self._done(blob)
        except Quarantined as error:
            return Result("quarantined", reason=error.reason, text=str(error))
        except Refused as error:
            return Result("refused", reason=error.reason, text=str(error))
        except InvalidItem as error:
            return Result("refused", reason=Reason.BROKEN.value, text=str(error))
        except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
            # hostile bytes may find a hole in the reading; nothing of them gets out
            name = type(error).__name__
            log.warning("an object could not be understood: %s", name)
            return Result("refused", reason=Reason.BROKEN.value, text=f"it cannot be understood ({name})")

    def explain(self, blob: Blob) -> Iterator[Step]:
        """
        Yield what would happen to each element and why, without values; nothing is registered.

        Raises Refused for what cannot be read or would be refused.
        """
        opened = open_blob(blob)
        try:
            known = facts.read(opened)
            facts.check(opened, known)
            output.check_uids(opened, known.class_bytes, known.sop_uid)
            subject = self._minted(known.issuer, known.patient_id)
            walk = Walk(
                self._plan(opened, known), self.key, subject, self._minted, Cleaner(opened.nodes, self.recipe).clean
            )
            walk.steps = []
            self._kept_bits(opened, walk, walk.top(opened.nodes, known.charset, known.stated_issuer))
            yield from facts.container_steps(opened)
            yield from walk.steps
            yield from markers.steps()
        finally:
            opened.reader.close()

    def subject(self, issuer: str, patient_id: str, others: Sequence[tuple[str, str]] = ()) -> Subject:
        """
        Return who stands for a patient.

        ``others`` are further (issuer, id) pairs that are said to be of the same patient; without a registry nobody
        knows of whom they are. Raises Quarantined and Refused as the registry does.
        """
        if self.registry is None:
            return self._minted(issuer, patient_id)
        own = self.recipe.issuer
        if not others:
            return self.registry.subject(issuer or own, patient_id)
        return self.registry.subject(issuer or own, patient_id, [(one or own, other) for one, other in others])

    def _done(self, blob: Blob) -> Result:
        opened = open_blob(blob)
        masked: Blob | None = None
        try:
            known = facts.read(opened)
            facts.check(opened, known)
            output.check_uids(opened, known.class_bytes, known.sop_uid)
            decision = self._decision(opened, known, blob)
            if decision.action == "mask":
                from diana.deid.masks import mask

                opened.reader.close()
                masked = mask(blob, decision.rectangles)
                opened = open_blob(masked)
            return self._written(opened, known, blob, decision.action)
        finally:
            opened.reader.close()
            if masked is not None:
                masked.close()

    def _decision(self, opened: Opened, known: facts.Facts, blob: Blob) -> Decision:
        """Return what is done with the pixels. Raises Refused and Quarantined for what may not go on."""
        from diana.deid.pixels import classify, ultrasound_regions

        if opened.pixels is None:
            return Decision("none")
        rules, keywords = self._pixel_rules()
        tags = facts.header(opened, known, keywords)
        regions = ultrasound_regions(blob) if facts.has_regions(opened) else ()
        decision = classify(tags, rules, regions)
        if decision.action == "refuse":
            raise Refused(Reason.PIXELS, f"the pixels may identify the patient: {decision.reason}")
        if decision.action == "review":
            raise Quarantined(Reason.PIXEL_REVIEW, f"somebody must look at the pixels: {decision.reason}")
        if decision.action == "mask" and Option.CLEAN_PIXEL_DATA not in self.recipe.options:
            text = f"the pixels need the option {Option.CLEAN_PIXEL_DATA.value}: {decision.reason}"
            raise Quarantined(Reason.PIXEL_REVIEW, text)
        return decision

    def _pixel_rules(self) -> tuple[tuple[PixelRule, ...], tuple[str, ...]]:
        if self._rules is None:
            from diana.deid.pixel_rules import builtin_rules, keys_of

            rules = (*self.recipe.pixel_rules, *builtin_rules())
            self._rules = rules, keys_of(rules)
        return self._rules

    @staticmethod
    def _kept_bits(opened: Opened, walk: Walk, pieces: list[Piece]) -> bytes:
        """Return the bits of a sample that stay, empty when all do, and note what goes."""
        if not any(node.tag >> 16 & 0xFF00 == 0x6000 for node in opened.nodes):
            return b""
        keep = overlays.kept_bits(opened, {piece.tag for piece in pieces})
        if keep and opened.pixels is not None:
            walk.note_overlay(opened.pixels)
        return keep

    def _plan(self, opened: Opened, known: facts.Facts) -> Plan:
        rules = self.recipe.rules
        met = tuple(number for number, rule in enumerate(rules) if self._is_met(rule, opened, known))
        plan = self._plans.get((known.sop_class, met))
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan = self._plans[known.sop_class, met] = Plan(self.recipe, known.sop_class, [rules[one] for one in met])
        return plan

    def _is_met(self, rule: Rule, opened: Opened, known: facts.Facts) -> bool:
        if not rule.when:
            return True
        from diana.utils.dicom.query import Query

        query = Query(rule.when)
        return query.matches(facts.header(opened, known, sorted(query.keywords())))

    def _minted(self, issuer: str, patient_id: str) -> Subject:
        return subject_of(self.key, issuer or self.recipe.issuer, patient_id)

    def _written(self, opened: Opened, known: facts.Facts, blob: Blob, pixels: str) -> Result:
        subject = self.subject(known.issuer, known.patient_id, facts.other_ids(opened, known) if self.registry else ())
        walk = Walk(
            self._plan(opened, known), self.key, subject, self.subject, Cleaner(opened.nodes, self.recipe).clean
        )
        pieces = walk.top(opened.nodes, known.charset, known.stated_issuer)
        claim = not walk.loosened
        codes = markers.codes(self.recipe, claim=claim, masked=pixels == "mask")
        marked = markers.add(pieces, self.recipe, walk, opened.coding, codes, masked=pixels == "mask")
        ids = [known.sop_uid, known.study_uid, known.series_uid]
        if Option.UIDS not in self.recipe.options:
            ids = [walk.uids.mapped(one) for one in ids]
        meta = container.file_meta(known.class_bytes, ids[0], opened.syntax)
        body = output.assemble(opened, marked, self._kept_bits(opened, walk, pieces))
        made, digest = container.write(meta, body, opened.reader, deflated=opened.deflated, folder=self.folder)
        try:
            output.check(made, opened, walk, known, marked)
        except BaseException:
            made.close()
            raise
        sop, study, series = (one.decode("latin-1") for one in ids)
        actions = output.actions(walk, opened)
        return Result("done", made, "", "", sop, study, series, actions, codes, pixels, digest, claim)


@lru_cache(maxsize=1)
def _keep_memory() -> None:
    """
    Let the C library keep the memory of one object for the next.

    glibc gives what a freed object took back to the kernel, and takes it again page by page for the next one, until it
    has seen a larger block come and go. The block is never touched and costs no memory.
    """
    bytes(KEPT)


def prepare() -> None:
    """Read what every object needs, so that processes which are copied from this one have it already."""
    from diana.deid.pixel_rules import builtin_rules
    from diana.deid.scan_words import is_common
    from diana.deid.tables import by_tag, text_types, vrs

    for read in (builtin_rules, by_tag, text_types, vrs):
        read()
    is_common("")
