"""Register the files of a tree by accession number, keep the registry current, and upload from it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from hashlib import md5
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final  # Any: registries are endpoints or embedded ones

from attrs import define, field

from diana.daemons.file_reader import read_file
from diana.daemons.file_registry import FolderChange, SqliteRegistry, as_registry
from diana.daemons.file_run import IndexReport, Run, ignore
from diana.exceptions import ConfigError, DianaError, IncompleteTransfer, InvalidItem, ItemNotFound

if TYPE_CHECKING:
    from diana.daemons.file_readers import Readers
    from diana.utils.blob import Blob
    from diana.utils.endpoint import Endpoint

__all__ = ["FileIndexer", "IndexReport", "SqliteRegistry", "UploadReport", "index_file", "put_inst"]

HELPERS: Final = 4
STYLES: Final = ("UNSTRUCTURED", "ORTHANC")


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
    Folders that look the same by names, inodes, sizes and times are not read again; when many are known, the other
    processors look at them too.
    """

    pool_size: int = 0
    _readers: Readers | None = field(init=False, default=None, repr=False)

    def create_pool(self) -> Readers | None:
        """Start the processes, and return them; None for ``pool_size`` 0."""
        if self._readers is None and self.pool_size > 0:
            from diana.daemons.file_readers import Readers

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
        text = os.fsencode(os.path.abspath(basepath))
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
        return self._run(basepath, registry, rex, recurse_style, on_files, stop).everything()

    def _run(
        self,
        basepath: str | os.PathLike[str],
        registry: Any,
        rex: str,
        recurse_style: str,
        on_files: Callable[[int], None] | None,
        stop: threading.Event | None,
    ) -> Run:
        base = base_of(basepath, recurse_style)
        return Run(
            as_registry(registry),
            self.prefix_for_path(base),
            base,
            rex,
            recurse_style == "ORTHANC",
            self.create_pool,
            on_files or ignore,
            stop or threading.Event(),
            helpers=min(HELPERS, cpus() - 1),
        )

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
        """
        Keep the registry current until ``stop`` is set.

        Where the system tells of changes it is woken by them, and looks only where something changed; elsewhere it
        looks every ``pause`` seconds. ``on_report`` hears of each look. A folder or registry that goes away is waited
        for. Raises as ``index_path`` at the start.
        """
        from diana.daemons.file_watch import keep_current

        def make() -> Run:
            return self._run(basepath, registry, rex, recurse_style, None, stop)

        keep_current(make, pause=pause, stop=stop, on_report=on_report)

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
    from diana.dixel import Dixel
    from diana.utils.dicom.header import read_header
    from diana.utils.gateways.file_handlers import paths

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
    from diana.utils.pool import bounded_map

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


def cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def base_of(basepath: str | os.PathLike[str], recurse_style: str) -> str:
    """Return the whole path of a folder to index. Raises ConfigError when it is not there or the style is unknown."""
    base = os.path.abspath(basepath)
    if recurse_style not in STYLES:
        raise ConfigError(f"recurse_style is one of {', '.join(STYLES)}")
    if not os.path.isdir(base):
        raise ConfigError("the folder to index is not there")
    return base
