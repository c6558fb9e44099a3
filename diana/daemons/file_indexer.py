"""Register the files of a tree by accession number, keep the registry current, and upload from it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from hashlib import md5
from pathlib import Path
from typing import Any, Final  # registries are endpoints or embedded ones

from attrs import define, field

from diana.daemons.file_reader import UNSETTLED, read_file, read_files, walk
from diana.daemons.file_readers import Readers, Rows
from diana.daemons.file_registry import FileRegistry, FileRow, FolderChange, SqliteRegistry, as_registry
from diana.dixel import Dixel
from diana.exceptions import ConfigError, DianaError, IncompleteTransfer, InvalidItem, ItemNotFound
from diana.utils.blob import Blob
from diana.utils.dicom.header import read_header
from diana.utils.endpoint import Endpoint
from diana.utils.gateways.file_handlers import paths
from diana.utils.pool import bounded_map

__all__ = ["FileIndexer", "IndexReport", "SqliteRegistry", "UploadReport", "index_file", "put_inst"]

CHUNK: Final = 400
BATCH: Final = 4000
AHEAD: Final = 4
STYLES: Final = ("UNSTRUCTURED", "ORTHANC")
LISTED: Final = 1000
Bad = Callable[[str, str], None]


@define
class IndexReport:
    """
    Say how a run over a tree went.

    ``checked`` files were looked at, ``registered`` read and found good, ``unchanged`` known already, ``removed`` gone
    since. ``bad`` maps a path to the reason why it is in no collection, for the first thousand.
    """

    checked: int = 0
    registered: int = 0
    unchanged: int = 0
    removed: int = 0
    bad_count: int = 0
    bad: dict[str, str] = field(factory=dict, repr=False)

    def note_bad(self, path: str, reason: str) -> None:
        """Count a file that is in no collection."""
        self.bad_count += 1
        if len(self.bad) < LISTED:
            self.bad[path] = reason

    def asdict(self) -> dict[str, int]:
        """Return the numbers."""
        return {
            "checked": self.checked,
            "registered": self.registered,
            "unchanged": self.unchanged,
            "removed": self.removed,
            "bad": self.bad_count,
        }


@define
class UploadReport:
    """Say how many files were uploaded and proved; ``failed`` maps a path to the reason."""

    uploaded: int = 0
    failed: dict[str, str] = field(factory=dict, repr=False)


@define(eq=False)
class FileIndexer:
    """
    Create and keep a registry of the DICOM files in a folder and its subfolders.

    ``pool_size`` processes read headers; 0: this one. A registry is a ``SqliteRegistry``, or a ``Redis`` endpoint,
    whose sets ``prefix + accession number`` other programs may read. Killed anywhere, the next run does the rest.
    Folders that look the same by names, inodes, sizes and times are not read again.
    """

    pool_size: int = 0
    _readers: Readers | None = field(init=False, default=None, repr=False)

    def create_pool(self) -> Readers | None:
        """Start the processes, and return them; None for ``pool_size`` 0."""
        if self._readers is None and self.pool_size > 0:
            self._readers = Readers(self.pool_size)
        return self._readers

    def close(self) -> None:
        """End the processes."""
        readers, self._readers = self._readers, None
        if readers is not None:
            readers.close()

    @staticmethod
    def prefix_for_path(basepath: str | os.PathLike[str]) -> str:
        """Return the prefix of a tree's collections: four hexadecimal digits of the MD5 of its path, and a hyphen."""
        text = os.fsencode(Path(basepath))
        return md5(text, usedforsecurity=False).hexdigest()[:4] + "-"

    @staticmethod
    def items_on_path(basepath: str | os.PathLike[str], registry: Any) -> list[str]:
        """Return the collections (accession numbers) registered for a tree, sorted."""
        return as_registry(registry).collections(FileIndexer.prefix_for_path(basepath))

    def index_path(
        self,
        basepath: str | os.PathLike[str],
        registry: Any,
        rex: str = "*.dcm",
        recurse_style: str = "UNSTRUCTURED",
        *,
        on_files: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> IndexReport:
        """
        Make the registry say what is in a tree now.

        ``rex`` is a pattern of file names; hidden files and folders are passed by, links are not followed. With
        ``recurse_style`` ORTHANC only folders of an Orthanc's storage are entered. ``on_files`` hears how many more
        files were looked at. Raises ConfigError when the folder is not there, StateError or GatewayError of the
        registry.
        """
        base = os.path.abspath(basepath)
        if recurse_style not in STYLES:
            raise ConfigError(f"recurse_style is one of {', '.join(STYLES)}")
        if not os.path.isdir(base):
            raise ConfigError("the folder to index is not there")
        run = _Run(
            as_registry(registry),
            self.prefix_for_path(basepath),
            base,
            rex,
            recurse_style == "ORTHANC",
            self.create_pool,
            on_files or _ignore,
            stop or threading.Event(),
        )
        return run.run()

    def watch_path(
        self,
        basepath: str | os.PathLike[str],
        registry: Any,
        rex: str = "*.dcm",
        recurse_style: str = "UNSTRUCTURED",
        *,
        pause: float = 10.0,
        stop: threading.Event,
        on_report: Callable[[IndexReport], None] | None = None,
    ) -> None:
        """Keep the registry current until ``stop`` is set, looking every ``pause`` seconds."""
        while not stop.is_set():
            report = self.index_path(basepath, registry, rex, recurse_style, stop=stop)
            if on_report is not None:
                on_report(report)
            stop.wait(pause)

    def upload_collection(
        self, collection: str, basepath: str | os.PathLike[str], registry: Any, dest: Endpoint, *, workers: int = 4
    ) -> UploadReport:
        """Put the files of one collection into an endpoint; each is read back where the endpoint can tell."""
        found = as_registry(registry).collected_items(self.prefix_for_path(basepath), collection)
        return _upload(sorted(found), dest, workers)

    def upload_path(
        self, basepath: str | os.PathLike[str], registry: Any, dest: Endpoint, *, workers: int = 4
    ) -> UploadReport:
        """Put all registered files of a tree into an endpoint."""
        found = as_registry(registry)
        prefix = self.prefix_for_path(basepath)
        names = (path for key in found.collections(prefix) for path in sorted(found.collected_items(prefix, key)))
        return _upload(names, dest, workers)


@define(eq=False)
class _Run:
    """One run over a tree."""

    registry: FileRegistry
    prefix: str
    base: str
    pattern: str
    orthanc: bool
    create_pool: Callable[[], Readers | None]
    on_files: Callable[[int], None]
    stop: threading.Event
    report: IndexReport = field(factory=IndexReport, init=False)
    _waiting: deque[tuple[_Folder, Future[Rows] | None, list[str]]] = field(factory=deque, init=False)
    _changes: list[FolderChange] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)

    def run(self) -> IndexReport:
        """Compare folder by folder, read what differs, save in batches."""
        known = self.registry.folders(self.prefix)
        for path, seen in walk(self.base, self.pattern, self.orthanc):
            if self.stop.is_set():
                break
            if seen is None:
                below = os.path.join(path, "")
                known = {one: before for one, before in known.items() if one != path and not one.startswith(below)}
                continue
            digest = seen.digest()
            self.report.checked += len(seen.rows)
            self.on_files(len(seen.rows))
            if known.pop(path, None) == digest:
                self.report.unchanged += len(seen.rows)
                continue
            self._compare(path, digest, seen.stamps())
        while self._waiting:
            self._take()
        if not self.stop.is_set():
            for path in known:
                self._forget(path)
        self._save()
        return self.report

    def _compare(self, path: str, digest: bytes, entries: dict[str, bytes]) -> None:
        before = self.registry.files(self.prefix, path)
        folder = _Folder(path, digest, before)
        gone = [name for name in before if name not in entries]
        fresh = [name for name, stamp in entries.items() if name not in before or before[name].stamp != stamp]
        self.report.unchanged += len(entries) - len(fresh)
        folder.rows.update(dict.fromkeys(gone))
        self.report.removed += len(gone)
        chunks = [fresh[at : at + CHUNK] for at in range(0, len(fresh), CHUNK)] or [[]]
        folder.left = len(chunks)
        for chunk in chunks:
            pool = self.create_pool() if chunk else None
            self._waiting.append((folder, pool.submit(path, chunk) if pool else None, chunk))
            if pool is None or len(self._waiting) > AHEAD * pool.count:
                self._take()

    def _take(self) -> None:
        """Take in the next chunk that was read."""
        folder, future, chunk = self._waiting.popleft()
        rows = read_files(folder.path, chunk) if future is None else future.result()
        for name, row in rows:
            folder.rows[name] = row
            if row is None or row.stamp in UNSETTLED:
                folder.is_settled = False
            if row is not None and row.key:
                self.report.registered += 1
            elif row is not None:
                self.report.note_bad(os.path.join(folder.path, name), row.reason)
        folder.left -= 1
        # a folder counts as finished when all of it was read, and nothing moved meanwhile
        digest = folder.digest if folder.left == 0 and folder.is_settled else b""
        taken, folder.rows = folder.rows, {}
        before = {name: folder.before[name] for name in taken if name in folder.before}
        self._changes.append(FolderChange(folder.path, digest, taken, before))
        self._size += len(taken)
        if self._size >= BATCH:
            self._save()

    def _forget(self, path: str) -> None:
        """Take out a folder that is gone."""
        before = self.registry.files(self.prefix, path)
        self.report.removed += len(before)
        if before:
            self._changes.append(FolderChange(path, b"", dict.fromkeys(before), before))

    def _save(self) -> None:
        if self._changes:
            self.registry.save(self.prefix, self._changes)
        self._changes, self._size = [], 0


@define(eq=False)
class _Folder:
    path: str
    digest: bytes
    before: dict[str, FileRow]
    rows: dict[str, FileRow | None] = field(factory=dict)
    left: int = 0
    is_settled: bool = True


def _ignore(_: int) -> None:
    """Nobody listens."""


def index_file(
    fn: str | os.PathLike[str], path: str | os.PathLike[str] | None = None, reg: Any = None, prefix: str | None = None
) -> str:
    """
    Register one file (of the folder ``path``), and return the key of its collection.

    Raises ItemNotFound; InvalidItem for a file that belongs to none.
    """
    full = os.path.abspath(os.path.join(path, fn) if path is not None else fn)
    row = read_file(full)
    if row is None:
        raise ItemNotFound("the file to index is not there")
    if not row.key:
        raise InvalidItem(f"the file {row.reason}")
    if reg is not None:
        folder, name = os.path.split(full)
        registry, chosen = as_registry(reg), prefix or FileIndexer.prefix_for_path(path or folder)
        before = registry.files(chosen, folder)
        known = {name: before[name]} if name in before else {}
        registry.save(chosen, [FolderChange(folder, b"", {name: row}, known)])
    return row.key


def put_inst(fn: str | os.PathLike[str], dest: Endpoint) -> str:
    """
    Put one file into an endpoint, read it back where the endpoint can tell, and return its id there.

    Raises ItemNotFound, InvalidItem, IncompleteTransfer, GatewayError.
    """
    path = Path(fn)
    try:
        with path.open("rb") as stream:
            blob: Blob = paths.FileBlob(path, paths.signature(os.fstat(stream.fileno())))
            dixel = Dixel.from_header(read_header(stream), file=blob)
    except FileNotFoundError:
        raise ItemNotFound("the registered file is gone") from None
    except OSError as error:
        raise InvalidItem(f"the registered file cannot be read ({error.strerror})") from None
    there = dest.put(dixel)
    if dest.can("digest") and dest.digest(dixel) != blob.digest():
        raise IncompleteTransfer("the destination holds other bytes")
    return there


def _upload(names: Iterable[str], dest: Endpoint, workers: int) -> UploadReport:
    report = UploadReport()

    def put(name: str) -> tuple[str, str]:
        try:
            put_inst(name, dest)
        except DianaError as error:
            return name, f"{type(error).__name__}: {error}"
        return name, ""

    for name, reason in bounded_map(put, names, workers=workers):
        if reason:
            report.failed[name] = reason
        else:
            report.uploaded += 1
    return report
