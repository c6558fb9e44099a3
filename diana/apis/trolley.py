"""A searcher and a downloader that work as one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar  # Any: objects of several kinds

from attrs import define, field

from diana.apis.trolley_parts.caching import studies_by
from diana.apis.trolley_parts.download import Download, drop
from diana.apis.trolley_parts.objects import Study
from diana.apis.trolley_parts.plan import Wish, ref_by_uids, units_of, wishes_of
from diana.apis.trolley_parts.search import Asked, only
from diana.apis.trolley_parts.storage import DICOMDiskStorage, StorageDir
from diana.dixel import Dixel, DixelView
from diana.exceptions import ConfigError, GatewayConnectionError, InvalidItem, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.endpoint import Endpoint, Factory
from diana.utils.endpoint.serializable import SECRET

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Trolley"]

WORKERS = 4


def _as_endpoint(part: Endpoint | Mapping[str, Any] | None) -> Endpoint | None:
    return Factory.create(**part) if isinstance(part, Mapping) else part


@define(eq=False)
class Trolley(Endpoint):
    """
    Find through one endpoint and fetch through another; either can be exchanged at any time.

    ``searcher`` is any endpoint that can find, ``downloader`` any that can pull; either may be a mapping with its
    ``ctype``. The downloader says how deep it ``needs`` to know what to fetch, the searcher finds that out before, with
    one search per study and no more than was asked for. ``list_first`` has it list the instances of everything, so that
    what is missing can be named and what is there need not be fetched again; without it, references that are deep
    enough need no search. ``storage`` says where ``download`` puts things. Ids are DICOM UIDs.
    """

    views: ClassVar[DixelView] = DixelView.TAGS | DixelView.FILE | DixelView.PIXELS

    searcher: Endpoint | None = field(default=None, converter=_as_endpoint)
    downloader: Endpoint | None = field(default=None, converter=_as_endpoint)
    storage: DICOMDiskStorage = field(factory=StorageDir, repr=False, metadata=SECRET)
    list_first: bool = field(default=True, kw_only=True)
    name: str = field(default="Trolley", kw_only=True)

    def __attrs_post_init__(self) -> None:
        for verb, part in (("find", self.searcher), ("pull", self.downloader)):
            if part is not None and not (isinstance(part, Endpoint) and part.can(verb)):
                raise ConfigError(f"{self.name}: {type(part).__name__} cannot {verb}")

    def find_studies(self, query: Asked) -> list[Study]:
        """Return the studies that a query finds, with series and instances as deep as it goes."""
        return studies_by(self._searcher(), query)

    def find_study(self, query: Asked) -> Study:
        """Return the one study that a query finds. Raises ItemNotFound for none, InvalidItem for several."""
        return only(self.find_studies(query))

    def download(
        self,
        objects: Any,
        output_dir: str | os.PathLike[str],
        use_async: bool = False,
        max_workers: int | None = None,
    ) -> Download:
        """
        Fetch one or several objects or references into a folder; return what became of each instance.

        What the storage has already is not fetched again. With ``use_async`` ``max_workers`` requests (4 when None)
        run at a time. Raises ItemNotFound, IncompleteDownload (an IncompleteTransfer) with the list of what did not
        arrive, StorageError.
        """
        downloader, folder = self._downloader(), Path(output_dir)
        workers = self._workers(use_async, max_workers)
        wishes = self._wishes(objects)
        job = Download(self.name, downloader, wishes)

        def has(ref: Ref) -> bool:
            if not self.storage.has(ref, folder):
                return False
            path_of = getattr(self.storage, "path_of", None)
            job.note_kept(ref, path_of(ref, folder) if callable(path_of) else None)
            return True

        many = callable(getattr(downloader, "pull_many", None))
        units = units_of(wishes, downloader.needs, has=has, workers=workers, many=many)
        job.run(units, self.storage, folder, workers)
        job.finish()
        return job

    def fetch_all_datasets(self, objects: Any) -> Iterator[Dataset]:
        """Yield each instance of one or several objects or references as a pydicom data set."""
        from diana.apis.trolley_parts.datasets import dataset_of_file

        for dixel in self._stream(objects):
            try:
                dataset = dataset_of_file(dixel)
            finally:
                drop(dixel)
            yield dataset

    def close(self) -> None:
        """Give back what both parts hold."""
        for part in (self.searcher, self.downloader):
            if part is not None:
                part.close()

    def _find(self, query: Query) -> Iterator[Dixel]:
        return self._searcher().iter_find(query)

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        return self._stream(ref_by_uids(ref))

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        from diana.apis._web_pull import with_view

        ref = ref_by_uids(ref)
        if DixelView.FILE not in view and DixelView.PIXELS not in view:
            found = next(self._searcher().iter_find(self._by_uid(ref)), None)
            if found is None:
                raise ItemNotFound(f"{self.name}: no such {ref.level.singular.lower()}")
            return Dixel(tags={**ref.tags(), **found.tags}, level=ref.level)
        if ref.level != DicomLevel.INSTANCES:
            raise InvalidItem(f"{self.name}: files and pixels belong to instances; pull a {ref.level.singular.lower()}")
        (one,) = self._stream(ref)
        return with_view(one, view)

    def _exists(self, ref: Ref) -> bool:
        try:
            return next(self._searcher().iter_find(self._by_uid(ref_by_uids(ref))), None) is not None
        except ItemNotFound:
            return False

    def _check(self) -> None:
        for part in (self._searcher(), self._downloader()):
            if part.can("check") and not part.check():
                raise GatewayConnectionError(f"{self.name}: {part.name} is not available")

    @staticmethod
    def _by_uid(ref: Ref) -> Query:
        return Query(ref.tags(), ref.level)

    def _stream(self, objects: Any) -> Iterator[Dixel]:
        """Yield the instances of some objects as they come, then say what is missing."""
        downloader = self._downloader()
        wishes = self._wishes(objects)
        many = callable(getattr(downloader, "pull_many", None))
        units = units_of(wishes, downloader.needs, has=lambda _: False, workers=1, many=many)
        yield from Download(self.name, downloader, wishes).stream(units)

    def _wishes(self, objects: Any) -> list[Wish]:
        searcher = self.searcher
        search = None if searcher is None else searcher.iter_find
        return wishes_of(objects, search, self._downloader().needs, list_first=self.list_first and search is not None)

    @staticmethod
    def _workers(use_async: bool, max_workers: int | None) -> int:
        if max_workers is not None and (type(max_workers) is not int or max_workers < 1):
            raise InvalidItem("max_workers is a whole number from 1")
        return (max_workers or WORKERS) if use_async else 1

    def _searcher(self) -> Endpoint:
        if self.searcher is None:
            raise Unsupported(f"{self.name}: there is no searcher")
        return self.searcher

    def _downloader(self) -> Endpoint:
        if self.downloader is None:
            raise Unsupported(f"{self.name}: there is no downloader")
        return self.downloader
