"""Searches whose answers are remembered for a while."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any  # Any: whatever is remembered

from attrs import define, field

from diana.apis.trolley_parts import queries
from diana.apis.trolley_parts.objects import Study
from diana.apis.trolley_parts.search import Asked, Searcher, find_studies, only, question_of
from diana.dixel import Dixel
from diana.exceptions import GatewayConnectionError
from diana.utils.dicom import DicomLevel, Query
from diana.utils.endpoint import Endpoint
from diana.utils.endpoint.serializable import SECRET, encode
from diana.utils.gateways.key_levels import level_of

__all__ = ["CachedSearcher", "DICOMObjectCache"]

SIZE = 100_000


class DICOMObjectCache:
    """
    Remember values by key until they are ``expiry_seconds`` old (None: for good); for any number of threads.

    At most ``size`` studies, series and instances are held; the least used go first. ``clock`` tells seconds that
    never go back.
    """

    def __init__(
        self,
        initial_objects: Iterable[Study] | None = None,
        expiry_seconds: float | None = 600,
        *,
        size: int = SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.expiry_seconds = expiry_seconds
        self.size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: OrderedDict[str, tuple[float, int, Any]] = OrderedDict()
        self._held = 0
        for study in initial_objects or ():
            self.add(study)

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str) -> Any:
        """Return a copy of a value, None when there is none or it is too old."""
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                return None
            if self.expiry_seconds is not None and self._clock() - row[0] >= self.expiry_seconds:
                self._drop(key)
                return None
            self._rows.move_to_end(key)
        return deepcopy(row[2])

    def put(self, key: str, value: Any, weight: int = 1) -> None:
        """Remember a copy of a value that counts as ``weight`` objects; one that is too large is not kept."""
        if weight > self.size:
            return
        kept = deepcopy(value)
        with self._lock:
            if key in self._rows:
                self._drop(key)
            self._rows[key] = (self._clock(), weight, kept)
            self._held += weight
            while self._held > self.size:
                self._drop(next(iter(self._rows)))

    def add(self, study: Study) -> None:
        """Remember a study by its UID, unless a deeper one is known."""
        known = self.get(_study_key(study.uid))
        if known is None or known.max_object_depth() <= study.max_object_depth():
            self.put(_study_key(study.uid), study, _weight([study]))

    def study(self, uid: str) -> Study | None:
        """Return a study that is known."""
        found: Study | None = self.get(_study_key(uid))
        return found

    def _drop(self, key: str) -> None:
        self._held -= self._rows.pop(key)[1]


def _study_key(uid: str) -> str:
    return f"study {uid}"


def _weight(studies: list[Study]) -> int:
    return sum(1 + sum(1 + len(series.instances) for series in study.series) for study in studies) or 1


def _as_cache(value: DICOMObjectCache | float | None) -> DICOMObjectCache:
    return value if isinstance(value, DICOMObjectCache) else DICOMObjectCache(expiry_seconds=value)


@define(eq=False)
class CachedSearcher(Searcher, Endpoint):
    """
    Search through another endpoint and remember what it answered.

    ``cache`` is a ``DICOMObjectCache`` or the seconds after which an answer is asked for anew. The same query is
    answered from memory, and a study by its UID when it is known deep enough. What is handed out may be changed.
    """

    searcher: Endpoint
    cache: DICOMObjectCache = field(factory=DICOMObjectCache, converter=_as_cache, repr=False, metadata=SECRET)
    name: str = field(default="CachedSearcher", kw_only=True)

    def _find(self, query: Query) -> Iterator[Dixel]:
        key = _key("find", query)
        found = self.cache.get(key)
        if found is None:
            found = list(self.searcher.iter_find(query))
            self.cache.put(key, found, len(found) or 1)
        return iter(found)

    def _check(self) -> None:
        if not self.searcher.check():
            raise GatewayConnectionError(f"{self.name}: {self.searcher.name} is not available")

    def close(self) -> None:
        """Give back what the searcher holds."""
        self.searcher.close()

    def find_studies(self, query: Asked) -> list[Study]:
        """Return the studies that a query finds, remembered or not."""
        question = question_of(query)
        key = _key(f"studies {type(query).__name__}", question)
        found: list[Study] | None = self.cache.get(key)
        if found is None:
            found = studies_by(self.searcher, query)
            self.cache.put(key, found, _weight(found))
            if all(level_of(key) <= DicomLevel.STUDIES for key in question.match) and not question.limit:
                for study in found:
                    self.cache.add(study)
        return found

    def find_study_by_id(
        self, study_uid: str, query_level: queries.QueryLevels | str = queries.QueryLevels.STUDY
    ) -> Study:
        """Return the study of a UID, remembered if it is known as deep as asked. Raises ItemNotFound."""
        query = queries.Query(StudyInstanceUID=study_uid, query_level=query_level)
        known = self.cache.study(study_uid)
        if known is not None and known.max_object_depth() >= query.level:
            return known
        return only(self.find_studies(query))


def studies_by(searcher: Endpoint, query: Asked) -> list[Study]:
    """Return what any endpoint that finds, finds as studies: in its own way if it has one."""
    own = getattr(searcher, "find_studies", None)
    return list(own(query)) if callable(own) else find_studies(searcher, query)


def _key(kind: str, query: Query) -> str:
    asked = [dict(query.match), int(query.level), query.limit, list(query.fields)]
    return f"{kind} {json.dumps(asked, default=encode, sort_keys=True)}"
