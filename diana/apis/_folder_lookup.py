"""Find what lies in a folder by its index."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from threading import Event, Thread
from typing import Final

from attrs import define, field

from diana.apis._folder_find import FolderLookup, check, grouped
from diana.apis._folder_registry import FolderRegistry
from diana.apis._folder_sql import Unusable, place_of
from diana.apis._folder_sql_find import IndexSearch, known_part, knows
from diana.dixel import Dixel
from diana.exceptions import GatewayConnectionError
from diana.utils.dicom import DicomLevel, Query
from diana.utils.gateways.file_handlers.paths import disk_error

log = logging.getLogger(__name__)

PAUSE: Final = 1.0


@define(eq=False)
class IndexedLookup(FolderLookup):
    """
    Find what lies in a folder by an index in SQLite; where that cannot be used, by reading the folder.

    ``folder`` is where the index is kept, see ``place_of``; without ``notify`` the kernel is not asked what changes.
    """

    folder: str = field(default="", kw_only=True)
    notify: bool = field(default=True, kw_only=True)
    registry: FolderRegistry = field(init=False, repr=False)
    _warned: bool = field(init=False, default=False)
    _keeper: Thread | None = field(init=False, repr=False, default=None)
    _stopped: Event = field(init=False, repr=False, factory=Event)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        place = place_of(self.root, "orthanc" if self.orthanc else "index", self.folder)
        self.registry = FolderRegistry(self.root, place, label=self.label, orthanc=self.orthanc, notify=self.notify)

    def files(self, level: DicomLevel, wanted: Mapping[str, str] | None = None, oid: str = "") -> list[str]:
        """Return the files, relative and sorted, with the ids wanted, or with this Orthanc id at the level."""
        try:
            return self.registry.files(level, wanted, oid)
        except Unusable as error:
            self._warn(error)
            return super().files(level, wanted, oid)

    def find(self, query: Query, offset: int = 0) -> Iterator[Dixel]:
        """Yield what a query describes, at its level, but the first ``offset`` of it. Raises Unsupported."""
        check(query, self.label)
        try:
            odd = IndexSearch(self.registry, query).odd()
        except Unusable as error:
            self._warn(error)
            return super().find(query, offset)
        except OSError as error:
            raise disk_error(self.label, error) from None
        return self._found(query, offset, odd)

    def keep(self) -> None:
        """Bring the index up to date now, and as long as the kernel says what changes, in a thread of its own."""
        if self._keeper is None:
            self._stopped.clear()
            self._keeper = Thread(target=self._keep, name="folder-index", daemon=True)
            self._keeper.start()

    def touched(self, name: str) -> None:
        """Note that a file was written or removed."""
        self.registry.touched(name)

    def close(self) -> None:
        """Give back files and threads."""
        self._stopped.set()
        keeper, self._keeper = self._keeper, None
        self.registry.close()
        if keeper is not None:
            keeper.join()
            self.registry.close()

    def _keep(self) -> None:
        while not self._stopped.is_set():
            try:
                self.registry.refresh()
            except (OSError, Unusable) as error:
                log.debug("%s: the index could not be brought up to date (%s)", self.label, type(error).__name__)
            if not self.registry.notified:
                return
            self._stopped.wait(PAUSE)

    def _warn(self, error: Unusable) -> None:
        if not self._warned:
            log.warning("%s: searched without its index, which cannot be used (%s)", self.label, error)
        self._warned = True

    def _found(self, query: Query, offset: int, odd: list[str]) -> Iterator[Dixel]:
        begun = False
        try:
            for one in self._answers(query, offset, odd):
                begun = True
                yield one
        except Unusable:
            if begun:
                raise GatewayConnectionError(f"{self.label}: the index was replaced meanwhile; ask again") from None
            yield from super().find(query, offset)
        except OSError as error:
            raise disk_error(self.label, error) from None

    def _answers(self, query: Query, offset: int, odd: list[str]) -> Iterator[Dixel]:
        if not knows(query):
            names = (path for path, _ in IndexSearch(self.registry, known_part(query)).instances())
            return islice(self.read(query, chain(names, odd)), offset, None)
        if odd:
            return islice(self._indexed(IndexSearch(self.registry, query), odd), offset, None)
        return self._indexed(IndexSearch(self.registry, query, offset), ())

    def _indexed(self, search: IndexSearch, odd: Iterable[str]) -> Iterator[Dixel]:
        """Yield what the index finds, and what the files give that it does not know enough of."""
        level = search.query.level
        others = self._instances(search.query, odd)
        if level == DicomLevel.INSTANCES:
            for path, one in search.instances():
                one.meta["FileName"] = self.name_of(path)
                yield one
            yield from others
            return
        left: dict[str, list[Dixel]] = {}
        for one in others:
            for oid in grouped([one], level):
                left.setdefault(oid, []).append(one)
        for group in search.groups():
            for one in left.pop(group.oid, ()):
                group.add(one)
            yield group.dixel()
        for group in grouped(chain.from_iterable(left.values()), level).values():
            yield group.dixel()
