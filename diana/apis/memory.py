"""The reference endpoint: everything in memory, nothing left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import RLock
from typing import Any, ClassVar  # tag values may be of any type

from attrs import define, evolve, field

from diana.dixel import Dixel, DixelView
from diana.exceptions import Conflict, InvalidItem, ItemNotFound
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.endpoint import Endpoint


@define(eq=False)
class Memory(Endpoint):
    """
    Hold instances in memory, by SOP Instance UID.

    Ids are Orthanc ids at every level. It is what the contract is measured by, and handy in tests and notebooks.
    """

    views: ClassVar[DixelView] = DixelView.META | DixelView.TAGS | DixelView.FILE | DixelView.PIXELS
    needs: ClassVar[DicomLevel] = DicomLevel.PATIENTS

    name: str = field(default="Memory", kw_only=True)
    _rows: dict[str, Dixel] = field(init=False, factory=dict, repr=False)
    _lock: Any = field(init=False, factory=RLock, repr=False)

    def _put(self, dixel: Dixel) -> str:
        if dixel.level != DicomLevel.INSTANCES:
            raise InvalidItem(f"{self.name}: takes instances, one at a time")
        if dixel.blob is None:
            raise InvalidItem(f"{self.name}: the instance has no file")
        oid = dixel.parent_oid(DicomLevel.INSTANCES)
        kept = Dixel(meta={**dixel.meta, "ID": oid}, tags=dixel.tags, level=DicomLevel.INSTANCES)
        kept.file = dixel.blob.read()
        with self._lock:
            before = self._rows.get(oid)
            if before is not None and before.file != kept.file:
                raise Conflict(f"{self.name}: other bytes are stored under the same SOP Instance UID")
            self._rows[oid] = kept
        return oid

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        rows = self._below(ref)
        found = self._summary(rows, ref.level)
        if DixelView.FILE in view or DixelView.PIXELS in view:
            if ref.level != DicomLevel.INSTANCES:
                raise InvalidItem(
                    f"{self.name}: file and pixels belong to instances; pull a {ref.level.singular.lower()}"
                )
            found.blob = rows[0].blob
        if DixelView.PIXELS in view:
            from pydicom import dcmread

            with rows[0].blob.open() as stream:  # type: ignore[union-attr]  # put checked it
                found.pixels = dcmread(stream).pixel_array
        return found

    def _find(self, query: Query) -> Iterator[Dixel]:
        seen: dict[str, list[Dixel]] = {}
        with self._lock:
            rows = list(self._rows.values())
        for row in rows:
            if query.matches(row.tags):
                seen.setdefault(row.parent_oid(query.level), []).append(row)
        for group in seen.values():
            yield self._summary(group, query.level)

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        for row in self._below(ref):
            yield self._copy(row)

    def _exists(self, ref: Ref) -> bool:
        return bool(self._matching(ref))

    def _update(self, ref: Ref, data: Mapping[str, Any] | Dixel) -> str:
        rows = self._below(ref)
        meta = data.meta if isinstance(data, Dixel) else data
        with self._lock:
            for row in rows:
                row.meta.update(meta)
        return rows[0].parent_oid(ref.level)

    def _delete(self, ref: Ref) -> bool:
        with self._lock:
            rows = self._matching(ref)
            for row in rows:
                del self._rows[row.oid()]
        return bool(rows)

    def _digest(self, ref: Ref) -> str:
        blob = self._below(ref)[0].blob
        return blob.digest() if blob is not None else ""

    def _check(self) -> None:
        return

    def _matching(self, ref: Ref) -> list[Dixel]:
        with self._lock:
            if ref.id and ref.level == DicomLevel.INSTANCES:
                return [self._rows[ref.id]] if ref.id in self._rows else []
            rows = list(self._rows.values())
        if ref.id:
            return [row for row in rows if row.parent_oid(ref.level) == ref.id]
        wanted = evolve(ref, id="").tags()
        if ref.level.uid_keyword not in wanted:
            raise InvalidItem(f"{self.name}: the ref does not name a {ref.level.singular.lower()}")
        return [row for row in rows if all(str(row.tags.get(key)) == value for key, value in wanted.items())]

    def _below(self, ref: Ref) -> list[Dixel]:
        rows = self._matching(ref)
        if not rows:
            raise ItemNotFound(f"{self.name}: no such {ref.level.singular.lower()}")
        return rows

    def _summary(self, rows: list[Dixel], level: DicomLevel) -> Dixel:
        """Return one dixel for several instances: at higher levels the tags that all of them share."""
        if level == DicomLevel.INSTANCES:
            found = self._copy(rows[0])
            found.blob = None
            return found
        first = rows[0].tags
        shared = {key: value for key, value in first.items() if all(row.tags.get(key) == value for row in rows)}
        return Dixel(meta={"ID": rows[0].parent_oid(level), "Instances": len(rows)}, tags=shared, level=level)

    @staticmethod
    def _copy(row: Dixel) -> Dixel:
        found = Dixel(meta=row.meta, tags=row.tags, level=row.level)
        found.blob = row.blob
        return found
