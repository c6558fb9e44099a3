"""Memories that count what a trolley asks of them, lack some instances, and can break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from attrs import define, field

from diana.apis import Memory
from diana.dixel import Dixel
from diana.exceptions import GatewayConnectionError
from diana.trolley import InstanceReference, SeriesReference, StudyReference, Trolley
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.dicom import Query as Question
from tests.contract import samples


@define(eq=False)
class Archive(Memory):
    """A memory that counts searches and pulls, lacks some instances, and can break."""

    needs: ClassVar[DicomLevel] = DicomLevel.STUDIES

    searches: list[Question] = field(factory=list, repr=False)
    pulls: list[Ref] = field(factory=list, repr=False)
    lacking: set[str] = field(factory=set, repr=False)
    break_after: int | None = None
    error: Exception = field(factory=lambda: GatewayConnectionError("gone"), repr=False)

    def _find(self, query: Question) -> Iterator[Dixel]:
        self.searches.append(query)
        return super()._find(query)

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        self.pulls.append(ref)
        for dixel in super()._pull(ref):
            if self.break_after is not None:
                if self.break_after == 0:
                    raise self.error
                self.break_after -= 1
            if dixel.tags["SOPInstanceUID"] not in self.lacking:
                yield dixel


class SeriesArchive(Archive):
    """Fetches series."""

    needs: ClassVar[DicomLevel] = DicomLevel.SERIES


class InstanceArchive(Archive):
    """Fetches instances."""

    needs: ClassVar[DicomLevel] = DicomLevel.INSTANCES


class ManyArchive(InstanceArchive):
    """Takes several instances at a time."""

    def pull_many(self, refs: Any) -> Iterator[Dixel]:
        for ref in list(refs):
            yield from self._pull(ref)


KINDS = (Archive, SeriesArchive, InstanceArchive, ManyArchive)


def filled(kind: type[Archive] = Archive) -> Archive:
    """Return an archive of two studies of two series of three instances."""
    archive = kind()
    for item in samples.instances(2, 2, 3):
        archive.put(item)
    return archive


def trolley_of(archive: Archive, **options: Any) -> Trolley:
    """Return a trolley that finds and fetches in the same archive."""
    return Trolley(archive, archive, **options)


def study(n: int = 0) -> StudyReference:
    """Return a reference."""
    return StudyReference(samples.uid(n + 1))


def series(n: int = 0, m: int = 0) -> SeriesReference:
    """Return a reference."""
    return SeriesReference(samples.uid(n + 1), samples.uid(n + 1, m + 1))


def instance(n: int = 0, m: int = 0, k: int = 0) -> InstanceReference:
    """Return a reference."""
    return InstanceReference(samples.uid(n + 1), samples.uid(n + 1, m + 1), samples.uid(n + 1, m + 1, k + 1))


def names(folder: Path) -> list[str]:
    """Return the files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def expected(*triples: tuple[int, int, int]) -> list[str]:
    """Return the files of some instances, named by study, series and number."""
    refs = [instance(*one) for one in triples]
    return sorted(f"{one.study_uid}/{one.series_uid}/{one.instance_uid}.dcm" for one in refs)


STUDY_0 = [(0, m, k) for m in range(2) for k in range(3)]
SERIES_00 = [(0, 0, k) for k in range(3)]
