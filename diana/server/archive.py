"""What all faces need of an endpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Final, cast  # Any: values of queries

from attrs import define, evolve

from diana.dixel import Dixel, DixelView
from diana.exceptions import DianaError, IncompleteTransfer, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.endpoint import Endpoint
from diana.utils.gateways.key_levels import level_of

log = logging.getLogger(__name__)

LISTED: Final = 100
MODALITIES: Final = "ModalitiesInStudy"


@define(eq=False)
class Archive:
    """Ask an endpoint for what the protocols want, in the way that it can give it."""

    endpoint: Endpoint

    @property
    def can_read(self) -> bool:
        """Tell whether instances can be fetched."""
        return self.endpoint.can("pull") or (self.endpoint.can("find") and DixelView.FILE in self.endpoint.views)

    def search(
        self,
        level: DicomLevel,
        match: Mapping[str, Any],
        *,
        wanted: Sequence[str] = (),
        usual: Sequence[str] = (),
        offset: int = 0,
        limit: int,
    ) -> list[Dixel]:
        """
        Return what matches; ``wanted`` are keywords that must be asked for, ``usual`` those that may be.

        Raises Unsupported for a key that the endpoint cannot honour.
        """
        if MODALITIES in match:
            return self._by_modality(level, match, wanted, usual, offset, limit)
        try:
            found = self._found(level, match, (*usual, *wanted), offset, limit)
        except Unsupported:
            if not self.endpoint.can("find"):
                raise
            found = self._found(level, match, wanted, offset, limit)
        if level < DicomLevel.INSTANCES and any(level_of(key) > level for key in match):
            self._recount(level, found)
        return found

    def _recount(self, level: DicomLevel, found: list[Dixel]) -> None:
        """Count all instances of what was found by keys of a deeper level, where the endpoint counted those found."""
        counted = {str(one.tags.get(level.uid_keyword) or ""): one for one in found if "Instances" in one.meta}
        uids = [uid for uid in counted if uid]
        for at in range(0, len(uids), LISTED):
            for one in self.endpoint.iter_find(Query({level.uid_keyword: listed(uids[at : at + LISTED])}, level)):
                same = counted.get(str(one.tags.get(level.uid_keyword) or ""))
                if same is not None and same.oid() == one.oid():
                    same.meta["Instances"] = one.meta.get("Instances")

    def _found(
        self, level: DicomLevel, match: Mapping[str, Any], fields: Sequence[str], offset: int, limit: int
    ) -> list[Dixel]:
        names = tuple(dict.fromkeys(fields))
        if offset and getattr(self.endpoint, "skips", False):
            return self.endpoint.find(Query(match, level, limit=limit, fields=names), offset=offset)
        found = self.endpoint.iter_find(Query(match, level, limit=offset + limit, fields=names))
        with closing(cast(Any, found)):
            return list(islice(found, offset, offset + limit))

    def _by_modality(
        self,
        level: DicomLevel,
        match: Mapping[str, Any],
        wanted: Sequence[str],
        usual: Sequence[str],
        offset: int,
        limit: int,
    ) -> list[Dixel]:
        """Search by ModalitiesInStudy, which not every endpoint keeps: by the series that have the modality then."""
        if level == DicomLevel.STUDIES:
            try:
                if found := self._found(level, match, (*usual, *wanted), offset, limit):
                    return found
            except Unsupported:
                log.debug("%s: modalities of studies are looked up by series", self.endpoint.name)
        rest = {key: value for key, value in match.items() if key != MODALITIES}
        of_study = {key: value for key, value in rest.items() if level_of(key) <= DicomLevel.STUDIES}
        of_study["Modality"] = match[MODALITIES]
        series = self.endpoint.iter_find(Query(of_study, DicomLevel.SERIES, fields=("StudyInstanceUID",)))
        found = []
        with closing(cast(Any, series)):
            for uids in _batches(str(one.tags.get("StudyInstanceUID") or "") for one in series):
                some = {**rest, "StudyInstanceUID": listed(uids)}
                found += self.search(level, some, wanted=wanted, usual=usual, limit=offset + limit - len(found))
                if len(found) >= offset + limit:
                    break
        return found[offset : offset + limit]

    def instances(self, ref: Ref) -> Iterator[Dixel]:
        """
        Yield every instance of an item with its file; the caller closes each blob.

        Raises ItemNotFound when there is none, Unsupported when the endpoint cannot give files.
        """
        if not self.can_read:
            raise Unsupported(f"{self.endpoint.name}: has no files to give")
        count = 0
        for deep in self._deepened(ref):
            for one in self._files(deep):
                if not _is_of(one, ref):
                    if one.blob is not None:
                        one.blob.close()
                    continue
                if one.blob is None:
                    raise IncompleteTransfer(f"{self.endpoint.name}: an instance came without its file")
                count += 1
                yield one
        if not count:
            raise ItemNotFound(f"{self.endpoint.name}: no such {ref.level.singular.lower()}")

    def one(self, ref: Ref) -> Dixel:
        """Return the first instance of an item with its file."""
        found = self.instances(ref)
        with closing(cast(Any, found)):
            return next(found)

    def _files(self, ref: Ref) -> Iterator[Dixel]:
        if self.endpoint.can("pull"):
            yield from self.endpoint.pull(ref)
        elif ref.level == DicomLevel.INSTANCES:
            found = self.endpoint.get(ref, view=DixelView.FILE)
            yield found if found.tags else Dixel.merged(Dixel(tags=ref.tags(), level=ref.level), found)

    def _deepened(self, ref: Ref) -> Iterator[Ref]:
        """Yield what the endpoint can pull: the item itself, or what a search finds below it."""
        needs = self.endpoint.needs if self.endpoint.can("pull") else DicomLevel.INSTANCES
        whole = ref.study and (ref.series or ref.level < DicomLevel.SERIES)
        if ref.level >= needs and whole:
            yield ref
            return
        if not self.endpoint.can("find"):
            if ref.level < needs:
                raise Unsupported(f"{self.endpoint.name}: cannot tell what belongs to a {ref.level.singular.lower()}")
            yield ref
            return
        for one in self.endpoint.iter_find(Query(ref.tags(), max(needs, ref.level))):
            yield one.ref

    def listing(self, ref: Ref) -> dict[str, Dixel] | None:
        """Return the instances of an item by UID, without files; None when the endpoint cannot search."""
        if not self.endpoint.can("find"):
            return None
        found = self.endpoint.iter_find(Query(ref.tags(), DicomLevel.INSTANCES))
        return {str(one.tags.get("SOPInstanceUID") or ""): one for one in found}

    def series_of(self, studies: Sequence[str]) -> dict[str, list[Dixel]]:
        """Return the series of some studies by Study Instance UID, as far as the endpoint can tell."""
        found: dict[str, list[Dixel]] = {}
        try:
            for at in range(0, len(studies), LISTED):
                query = Query(
                    {"StudyInstanceUID": listed(studies[at : at + LISTED])}, DicomLevel.SERIES, fields=("Modality",)
                )
                for one in self.endpoint.iter_find(query):
                    found.setdefault(str(one.tags.get("StudyInstanceUID") or ""), []).append(one)
        except DianaError as error:
            log.debug("%s: the series cannot be counted (%s)", self.endpoint.name, type(error).__name__)
            return {}
        return found


def _batches(uids: Iterable[str]) -> Iterator[list[str]]:
    """Yield each UID once, some at a time, as they come."""
    seen: set[str] = set()
    some: list[str] = []
    for uid in uids:
        if uid in seen:
            continue
        seen.add(uid)
        some.append(uid)
        if len(some) == LISTED:
            yield some
            some = []
    if some:
        yield some


def listed(uids: Sequence[str]) -> str | list[str]:
    """Return some UIDs as the value of a query."""
    return uids[0] if len(uids) == 1 else list(uids)


def _is_of(one: Dixel, ref: Ref) -> bool:
    """Tell whether an instance is of an item, as far as both say."""
    wanted = evolve(ref, patient=None).tags()
    return all(str(one.tags.get(key) or uid) == uid for key, uid in wanted.items())
