"""What every file handler can do: lay names out below one folder, and write files that are whole."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from attrs import define, field

from diana.exceptions import ItemNotFound
from diana.utils.blob import Blob
from diana.utils.files import PART, make_private, sync_folder, whole_file
from diana.utils.gateways.file_handlers import paths

TEMPORARY = re.compile(r"\.[0-9a-f]{16}" + re.escape(PART))
OLD = 3600.0


@define(eq=False, slots=False)
class FileHandler:
    """
    Read and write the files below one folder by name.

    A name ``abcdef.dcm`` lies in ``path/ab/cd/abcdef.dcm`` with ``subpath_width=2, subpath_depth=2``. Names never lead
    out of ``path``, links are not followed, and a file is written whole (mode 0600) or not at all. With ``durable`` it
    is on disk when the write returns; without, a loss of power may take the last seconds.
    """

    path: str = field(default=".", converter=os.fspath)
    subpath_width: int = 2
    subpath_depth: int = 0
    name: str = "FileHandler"
    durable: bool = field(default=True, kw_only=True)
    _swept: set[str] = field(init=False, factory=set, repr=False)

    @property
    def root(self) -> Path:
        """Return the folder."""
        return Path(self.path)

    def relative(self, fn: str | os.PathLike[str]) -> str:
        """Return where a new file of this name goes below the folder. Raises InvalidItem."""
        return paths.layout(paths.checked(fn), self.subpath_width, self.subpath_depth)

    def located(self, fn: str | os.PathLike[str]) -> str:
        """Return where the file of this name is: by the layout, else at the very path. Raises InvalidItem."""
        laid = self.relative(fn)
        if (
            self.subpath_depth
            and not os.path.lexists(self.root / laid)
            and os.path.lexists(self.root / paths.checked(fn))
        ):
            return paths.checked(fn)
        return laid

    def name_of(self, relative: str) -> str:
        """Return the name of the file at a path below the folder."""
        return paths.name_at(relative, self.subpath_width, self.subpath_depth)

    def open(self, fn: str | os.PathLike[str]) -> BinaryIO:
        """Return a binary reader of a regular file. Raises ItemNotFound, InvalidItem, GatewayError."""
        with self.errors():
            return os.fdopen(paths.open_inside(self.root, self.located(fn)), "rb")

    def blob(self, fn: str | os.PathLike[str]) -> Blob:
        """Return the file as a blob that notices when the file is changed. Raises like ``open``."""
        where = self.located(fn)
        with self.open(fn) as stream:
            return paths.FileBlob(self.root / where, paths.signature(os.fstat(stream.fileno())))

    def exists(self, fn: str | os.PathLike[str]) -> bool:
        """Tell whether a regular file of this name is there. Raises InvalidItem, GatewayError."""
        try:
            self.open(fn).close()
        except ItemNotFound:
            return False
        return True

    def delete(self, fn: str | os.PathLike[str]) -> bool:
        """Remove a file; False when it was not there. Raises InvalidItem, GatewayError."""
        if not self.exists(fn):
            return False
        target = self.root / self.located(fn)
        paths.inside(self.root, target)
        with self.errors():
            try:
                target.unlink()
            except FileNotFoundError:
                return False
            sync_folder(target.parent)
        return True

    def write(self, fn: str | os.PathLike[str], fill: Callable[[BinaryIO], object], *, replace: bool = True) -> str:
        """
        Write a file by a function that fills it; return its path below the folder.

        Raises FileExistsError with ``replace=False`` when the name is taken; InvalidItem, GatewayError.
        """
        relative = self.located(fn)
        target = self.root / relative
        with self.errors(absent=False):
            paths.inside(self.root, target)
            make_private(target.parent)
            self._sweep(target.parent)
            paths.inside(self.root, target)
            if target.is_dir():
                raise IsADirectoryError(21, os.strerror(21))
            try:
                with whole_file(target, durable=self.durable, replace=replace) as out:
                    fill(out)
            except FileExistsError:
                if replace:
                    raise
            else:
                return relative
        raise FileExistsError

    def _sweep(self, folder: Path) -> None:
        """Remove what killed writers left in a folder, once per folder; files of the last hour may be alive."""
        if str(folder) in self._swept:
            return
        self._swept.add(str(folder))
        with os.scandir(folder) as entries:
            for entry in entries:
                if TEMPORARY.fullmatch(entry.name):
                    with suppress(OSError):  # its writer may rename it meanwhile
                        if time.time() - entry.stat(follow_symlinks=False).st_mtime > OLD:
                            os.unlink(entry.path)

    @contextmanager
    def errors(self, *, absent: bool = True) -> Iterator[None]:
        """Translate errors of the disk; a name that is not there is ItemNotFound only with ``absent``."""
        try:
            yield
        except OSError as error:
            if absent and isinstance(error, FileNotFoundError):
                raise ItemNotFound(f"{self.name}: no such file") from None
            raise paths.disk_error(self.name, error) from None
