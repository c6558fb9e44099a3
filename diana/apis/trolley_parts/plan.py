"""What a download consists of, known before it begins: exactly what was asked for, with one search per study."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from attrs import define, evolve, field, frozen

from diana.apis.trolley_parts.objects import (
    DICOMObject,
    NonInstanceParameterError,
    NonSeriesParameterError,
    each,
    references,
)
from diana.apis.trolley_parts.search import uids_of_id
from diana.dixel import Dixel
from diana.exceptions import GatewayAnswerError, InvalidItem, ItemNotFound
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.dicom.ref import is_uid

Search = Callable[[Query], Iterable[Dixel]]

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@define
class Wish:
    """
    Hold one object that was asked for, and its instances; None when nobody was asked for them.

    ``absent`` says that the searcher does not know it.
    """

    ref: Ref
    instances: list[Ref] | None = None
    absent: bool = False


@frozen
class Unit:
    """Hold what one request is for, and the SOP Instance UIDs that should come; None when that is not known."""

    refs: tuple[Ref, ...]
    expected: tuple[str, ...] | None = field(default=None, repr=False)


def wishes_of(objects: Any, search: Search | None, needs: DicomLevel, *, list_first: bool) -> list[Wish]:
    """
    Return what was asked for, as deep as it must be known.

    An object that is not deep enough for ``needs`` is looked up, and with ``list_first`` every one whose instances are
    not known: that is what makes a proof possible. Each study is searched once. Raises NonInstanceParameterError or
    NonSeriesParameterError when there is nothing to search with.
    """
    wishes = [_wish(item) for item in each(objects)]
    unknown = [one for one in wishes if one.instances is None and (list_first or _shallow(one.ref, needs))]
    if search is None:
        for one in unknown:
            if _shallow(one.ref, needs):
                kind = NonInstanceParameterError if needs == DicomLevel.INSTANCES else NonSeriesParameterError
                raise kind(f"the downloader needs {needs}, and there is no searcher to find them")
        return wishes
    groups: dict[str, list[Wish]] = {}
    for number, one in enumerate(unknown):
        groups.setdefault(one.ref.study or f"unknown {number}", []).append(one)
    for group in groups.values():
        _look_up(group, search)
    return wishes


def _shallow(ref: Ref, needs: DicomLevel) -> bool:
    return ref.level < needs or not all((ref.study, ref.series, ref.instance)[: ref.level - 1])


def _wish(item: Any) -> Wish:
    if isinstance(item, str):
        item = Ref(DicomLevel.STUDIES, id=item)
    ref = item if isinstance(item, Ref) else getattr(item, "ref", None)
    if not isinstance(ref, Ref) or ref.level < DicomLevel.STUDIES:
        raise InvalidItem("what can be fetched is a study, a series or an instance: an object, a reference or a UID")
    ref = ref_by_uids(ref)
    if ref.level == DicomLevel.INSTANCES and all((ref.study, ref.series, ref.instance)):
        return Wish(ref, [ref])
    if isinstance(item, DICOMObject) and item.max_object_depth() == DicomLevel.INSTANCES:
        return Wish(ref, references(item, DicomLevel.INSTANCES))
    return Wish(ref)


def ref_by_uids(ref: Ref) -> Ref:
    """
    Return an address made of UIDs alone. Raises ItemNotFound for what is no UID, InvalidItem for what names nothing.
    """
    known = {key: uid for key, uid in ref.tags().items() if key in UIDS}
    if ref.level.uid_keyword not in known and ref.id:
        known |= uids_of_id(ref.id, ref.level)
    if not known.get(ref.level.uid_keyword):
        raise InvalidItem(f"the address does not name a {ref.level.singular.lower()}")
    if not all(map(is_uid, known.values())):
        raise ItemNotFound("what is asked for is not named by UIDs")
    return Ref.from_tags(known, ref.level)


def _look_up(group: list[Wish], search: Search) -> None:
    """Find the instances of some objects of one study, by one search for what they have in common."""
    first = group[0].ref
    common = first if len(group) == 1 else first.at(DicomLevel.STUDIES)
    keys = {key: uid for key, uid in common.tags().items() if key in UIDS}
    found = [_instance(dixel, keys) for dixel in search(Query(keys, DicomLevel.INSTANCES))]
    for one in group:
        one.instances = [ref for ref in dict.fromkeys(found) if _inside(ref, one.ref)]
        one.absent = not one.instances


def _instance(dixel: Dixel, keys: Mapping[str, str]) -> Ref:
    ref = Ref.from_tags({**keys, **dixel.tags}, DicomLevel.INSTANCES)
    if not (is_uid(ref.study) and is_uid(ref.series) and is_uid(ref.instance)):
        raise GatewayAnswerError("the searcher found an instance without saying where it belongs")
    return evolve(ref, patient=None)


def _inside(ref: Ref, outer: Ref) -> bool:
    asked = (outer.study, outer.series, outer.instance)
    return all(not uid or uid == mine for uid, mine in zip(asked, (ref.study, ref.series, ref.instance), strict=True))


def units_of(
    wishes: Iterable[Wish], needs: DicomLevel, *, has: Callable[[Ref], bool], workers: int, many: bool
) -> list[Unit]:
    """
    Return the requests that fetch what is not there yet.

    What is wanted whole is fetched whole, at the level that the downloader ``needs``; of what is there in part only
    the rest. ``many``: the downloader takes several instances at a time. With several ``workers`` the requests are
    smaller, so that each has something to do.
    """
    units: list[Unit] = []
    single: list[Ref] = []
    seen: set[Ref] = set()
    for wish in wishes:
        if wish.absent:
            continue
        if wish.instances is None:
            units.append(Unit((wish.ref,)))
            continue
        fresh = [ref for ref in wish.instances if ref not in seen]
        seen.update(fresh)
        rest = [ref for ref in fresh if not has(ref)]
        whole = len(rest) == len(wish.instances)
        if whole and wish.ref.level == DicomLevel.STUDIES and needs <= DicomLevel.STUDIES and workers <= 1:
            units.append(Unit((wish.ref,), tuple(ref.instance for ref in rest)))
        else:
            sizes = _grouped(wish.instances)
            for series, refs in _grouped(rest).items():
                complete = len(refs) == len(sizes[series]) and wish.ref.level < DicomLevel.INSTANCES
                if complete and needs <= DicomLevel.SERIES:
                    units.append(Unit((refs[0].at(DicomLevel.SERIES),), tuple(ref.instance for ref in refs)))
                else:
                    single += refs
    return [*units, *_piles(single, workers=workers, many=many)]


def _piles(refs: list[Ref], *, workers: int, many: bool) -> Iterator[Unit]:
    """Yield requests for single instances, those of a series together as far as the downloader takes several."""
    share = max(1, -(-len(refs) // (workers * 4))) if workers > 1 else max(1, len(refs))
    step = share if many else 1
    for group in _grouped(refs).values():
        for at in range(0, len(group), step):
            pile = group[at : at + step]
            yield Unit(tuple(pile), tuple(ref.instance for ref in pile))


def _grouped(refs: Iterable[Ref]) -> dict[str, list[Ref]]:
    groups: dict[str, list[Ref]] = {}
    for ref in refs:
        groups.setdefault(ref.series, []).append(ref)
    return groups
