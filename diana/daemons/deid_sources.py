"""Where a batch de-identification finds its objects: folders, ZIP archives, endpoints."""

from __future__ import annotations

import os
import stat
from base64 import b32encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any  # query values

from attrs import evolve, field, frozen

from diana.daemons.deid_work import Task
from diana.deid.key import Key
from diana.dixel import Dixel
from diana.exceptions import DianaError, InvalidItem, Unsupported
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.endpoint import Endpoint
from diana.utils.files import PART
from diana.utils.gateways.file_handlers.zip_file import members

IsDone = Callable[[str], bool]


@frozen
class Marks:
    """Name objects for reports: the same object has the same mark in each run, and the mark tells nothing of it."""

    key: Key = field(repr=False)

    def of(self, *parts: object) -> str:
        """Return 16 letters and digits."""
        return b32encode(self.key.mac("item", *map(str, parts))[:10]).decode().lower()


@frozen
class FileSource:
    """
    Find objects in a file, or in every file below a folder; a ZIP archive counts as what it holds.

    Links to files are followed, links to folders are not. ``skip`` are paths, and what is below them, that are left
    out. What is no regular file, cannot be read, or is a link to a folder, is a task with a problem.
    """

    root: Path
    marks: Marks
    skip: tuple[Path, ...] = ()
    _held: dict[str, Blob] = field(init=False, factory=dict, repr=False)

    def release(self, item: str) -> None:
        """Remove what was unpacked for a task that has ended."""
        if blob := self._held.pop(item, None):
            blob.close()

    def tasks(self, is_done: IsDone) -> Iterator[Task]:
        """Yield what is not done yet, in order of name."""
        base = str(Path(os.path.realpath(self.root)))
        unread: list[OSError] = []
        for path in self._files(unread):
            name = os.path.relpath(path, self.root)
            try:
                found = os.stat(path)
            except OSError as error:
                yield Task(self.marks.of(base, name), {"path": path}, problem=f"cannot be read: {error.strerror}")
                continue
            facts = (base, name, found.st_size, found.st_mtime_ns)
            source = {"path": path, "size": found.st_size, "mtime": found.st_mtime_ns}
            if not stat.S_ISREG(found.st_mode):
                yield Task(self.marks.of(*facts), source, problem=_odd(found.st_mode))
            elif path.lower().endswith(".zip"):
                yield from self._members(path, source, facts, is_done)
            else:
                item = self.marks.of(*facts)
                if not is_done(item):
                    yield Task(item, source, path)
        for one in unread:
            problem = f"a folder cannot be read: {one.strerror}"
            yield Task(self.marks.of(base, one.filename), {"path": one.filename}, problem=problem)

    def _files(self, unread: list[OSError]) -> Iterator[str]:
        """Yield the paths of files; add what went wrong with folders to ``unread``."""
        if not self.root.is_dir():
            yield str(self.root)
            return
        barred = {os.path.realpath(one) for one in self.skip}

        for folder, folders, names in os.walk(self.root, onerror=unread.append):
            real = os.path.realpath(folder)
            folders[:] = sorted(one for one in folders if os.path.join(real, one) not in barred)
            links = [one for one in folders if os.path.islink(os.path.join(folder, one))]
            for name in sorted((*names, *links)):
                is_ours = name.startswith(".") and name.endswith(PART)
                if not is_ours and os.path.join(real, name) not in barred:
                    yield os.path.join(folder, name)

    def _members(self, path: str, source: dict[str, Any], facts: tuple[object, ...], is_done: IsDone) -> Iterator[Task]:
        try:
            with open(path, "rb") as stream:
                count = 0
                for member in members(stream):
                    count += 1
                    item = self.marks.of(*facts, member.index)
                    about = {**source, "member": member.name, "index": member.index}
                    if member.blob is None:
                        reason = f"a member of the archive cannot be read: {member.problem}"
                        yield Task(item, about, problem=reason)
                    elif is_done(item):
                        member.blob.close()
                    else:
                        self._held[item] = member.blob
                        yield _with_blob(Task(item, about), member.blob)
                if not count:
                    yield Task(self.marks.of(*facts), source, problem="the archive is empty")
        except (InvalidItem, OSError) as error:
            reason = (error.strerror or "unreadable") if isinstance(error, OSError) else str(error)
            yield Task(self.marks.of(*facts), source, problem=reason)


def _odd(mode: int) -> str:
    return "a link to a folder is not followed" if stat.S_ISDIR(mode) else "no regular file"


def _with_blob(task: Task, blob: Blob) -> Task:
    return evolve(task, data=blob.read()) if blob.path is None else evolve(task, path=str(blob.path))


@frozen
class EndpointSource:
    """Find objects in an endpoint: what a query describes, everything without one."""

    endpoint: Endpoint
    marks: Marks
    match: Mapping[str, Any] = field(factory=dict, repr=False)
    _held: dict[str, Blob] = field(init=False, factory=dict, repr=False)

    def release(self, item: str) -> None:
        """Remove what was fetched for a task that has ended."""
        if blob := self._held.pop(item, None):
            blob.close()

    def tasks(self, is_done: IsDone) -> Iterator[Task]:
        """Yield what is not done yet, study by study. Raises DianaError when the endpoint cannot be searched."""
        for ref in self._wanted(is_done):
            try:
                for dixel in self.endpoint.pull(ref):
                    item = self._item(dixel.ref)
                    if not is_done(item):
                        yield self._task(item, dixel)
                    elif dixel.blob is not None:
                        dixel.blob.close()
            except DianaError as error:
                yield Task(self._item(ref), {"uid": ref.uid}, problem=f"{type(error).__name__}: {error}")

    def _wanted(self, is_done: IsDone) -> Iterator[Ref]:
        """Yield what to pull: whole studies, or single instances of those that were begun."""
        try:
            rows = self.endpoint.find(Query(self.match), DicomLevel.INSTANCES)
        except Unsupported:
            for row in self.endpoint.find(Query(self.match), DicomLevel.STUDIES):
                yield self.endpoint.ref(row)
            return
        studies: dict[str, list[Ref]] = {}
        for row in rows:
            ref = self.endpoint.ref(row)
            studies.setdefault(ref.study or "", []).append(ref)
        for study, refs in studies.items():
            left = [ref for ref in refs if not is_done(self._item(ref))]
            whole = study and len(left) == len(refs) and not self.match
            yield from [Ref(DicomLevel.STUDIES, study=study)] if whole else left

    def _item(self, ref: Ref) -> str:
        return self.marks.of(self.endpoint.name, ref.study, ref.instance or ref.uid or ref.id)

    def _task(self, item: str, dixel: Dixel) -> Task:
        task = Task(item, {"service": self.endpoint.name, **dixel.ref.tags()})
        if dixel.blob is None:
            return evolve(task, problem="the instance came without a file")
        self._held[item] = dixel.blob
        return _with_blob(task, dixel.blob)


Source = FileSource | EndpointSource


def paths_of_registry(where: str) -> Iterable[Path]:
    """Return the files of a registry in SQLite, none for another database."""
    if not where:
        return []
    if "://" in where:
        from sqlalchemy import make_url

        url = make_url(where)
        where = (url.database or "") if url.get_backend_name() == "sqlite" else ""
    if not where:
        return []
    path = Path(where)
    if path.suffix not in (".sqlite", ".sqlite3", ".db"):
        path = path / "ledger.sqlite"
    return [path, *(Path(f"{path}{ending}") for ending in ("-wal", "-shm", ".lock"))]
