"""Index trees and upload collections by the workers of a ledger: an item is some folders, or some files."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from secrets import token_hex
from typing import Any, Final, cast  # specs, payloads and outcomes are JSON
from zlib import crc32

from attrs import define, field

from diana.daemons.file_indexer import FileIndexer, UploadReport, base_of, put_inst
from diana.daemons.file_reader import UNSETTLED, read_files
from diana.daemons.file_registry import FileRegistry, FileRow, FolderChange, as_registry
from diana.daemons.file_run import IndexReport, Run, ignore
from diana.daemons.file_tree import seen_at
from diana.daemons.file_walk import fits_of
from diana.daemons.runner import Runner
from diana.daemons.task import Beat, Later, Outcome
from diana.exceptions import ConfigError, DianaError
from diana.ledger.store import Store
from diana.ledger.work import OPEN, Work
from diana.ledger.work_rows import Claim
from diana.utils.endpoint import Endpoint, ServiceManager
from diana.utils.endpoint.circuit import Backoff

log = logging.getLogger(__name__)

KIND: Final = "index"
FILES: Final = 1000
PARTED: Final = 5000
PARTS: Final = 16
PUTS: Final = 50
CHUNK: Final = 200
TRIES: Final = 8


@define(eq=False)
class IndexTask:
    """
    Register what is new or changed in some folders.

    Nothing is taken out of the registry: a folder that this machine cannot see may be there for others. Whoever started
    the job does that in the end.
    """

    registry: FileRegistry
    base: str
    prefix: str
    pattern: str
    kind: str = KIND

    def do(self, claim: Claim, beat: Beat) -> Outcome | Later:
        """Register the files of one item; see ``Task``."""
        if not os.path.isdir(self.base):
            reason = "the folder to index is not on this machine"
            return (
                Later(2.0 * claim.attempt, reason) if claim.attempt < TRIES else Outcome("failed", {"reason": reason})
            )
        report, changes = IndexReport(), []
        part, parts = int(claim.payload.get("part", 0)), int(claim.payload.get("parts", 1))
        for folder in claim.payload["folders"]:
            change = self._folder(os.path.join(self.base, folder) if folder else self.base, part, parts, report, beat)
            if not beat():
                return Later(reason="stopped", spent=False)
            changes += [] if change is None else [change]
        # nothing is saved by who has lost the item
        self.registry.save(self.prefix, changes)
        bad = {os.path.relpath(path, self.base): reason for path, reason in report.bad.items()}
        return Outcome("done", {**report.asdict(), "names": bad})

    def _folder(self, path: str, part: int, parts: int, report: IndexReport, beat: Beat) -> FolderChange | None:
        try:
            seen, _ = seen_at(os.fsencode(path), fits_of(self.pattern))
        except OSError:
            return None
        before = self.registry.files(self.prefix, path)
        mine = {name: stamp for name, stamp in seen.files().items() if crc32(os.fsencode(name)) % parts == part}
        report.checked += len(mine)
        fresh = [name for name, stamp in mine.items() if name not in before or before[name].stamp != stamp]
        report.unchanged += len(mine) - len(fresh)
        rows: dict[str, FileRow | None] = {}
        for at in range(0, len(fresh), CHUNK):
            if not beat():
                return None
            rows.update(read_files(path, fresh[at : at + CHUNK]))
        for name, row in rows.items():
            if row is not None and row.key:
                report.registered += 1
            elif row is not None:
                report.note_bad(os.path.join(path, name), row.reason)
        is_whole = parts == 1 and all(row is not None and row.stamp not in UNSETTLED for row in rows.values())
        digest = seen.digest if is_whole and all(name in mine for name in before) else b""
        return FolderChange(path, digest, rows, {name: before[name] for name in rows if name in before})


@define(eq=False)
class UploadTask:
    """Put some files into an endpoint; what might heal is tried again, ``TRIES`` times in all."""

    dest: Endpoint
    base: str
    kind: str = KIND
    backoff: Backoff = field(factory=Backoff)

    def do(self, claim: Claim, beat: Beat) -> Outcome | Later:
        """Put the files of one item; see ``Task``."""
        uploaded, failed, heals = 0, {}, ""
        for name in claim.payload["files"]:
            if not beat():
                return Later(reason="stopped", spent=False)
            try:
                put_inst(os.path.join(self.base, name), self.dest)
                uploaded += 1
            except DianaError as error:
                failed[name] = f"{type(error).__name__}: {error}"
                heals = heals or (failed[name] if error.temporary else "")
        if heals and claim.attempt < TRIES:
            return Later(self.backoff.delay(claim.attempt), heals)
        return Outcome("done", {"uploaded": uploaded, "failed": failed})


def make_task(spec: Mapping[str, Any], services: ServiceManager, store: Store) -> IndexTask | UploadTask:
    """Return the task of a job of the kind *index*: of one that uploads when it names ``dest``. Raises ConfigError."""
    try:
        base, registry = str(spec["base"]), spec["registry"]
        if "dest" in spec:
            return UploadTask(services.get(spec["dest"]), base)
        found = as_registry(services.get(registry))
        return IndexTask(found, base, str(spec["prefix"]), str(spec["pattern"]))
    except (KeyError, TypeError):
        raise ConfigError("the job names no folder, registry or destination") from None


@define(eq=False)
class IndexJobs:
    """
    Index and upload by a ``Runner``: the workers of a ledger, or threads of this process.

    Registry and destination are named as in the services that every worker knows; each sees the folder under the same
    path. Raises as ``FileIndexer`` and the runner.
    """

    work: Work
    runner: Runner
    services: ServiceManager

    def index_path(
        self,
        basepath: str | os.PathLike[str],
        registry: str,
        rex: str = "*.dcm",
        recurse_style: str = "UNSTRUCTURED",
        *,
        on_files: Callable[[int], None] = ignore,
        stop: threading.Event | None = None,
    ) -> IndexReport:
        """
        Make the registry say what is in a tree now.

        Folders that do not look as they did go to the workers. What they left, and what is gone, is done here.
        """
        base, stop = base_of(basepath, recurse_style), stop or threading.Event()
        prefix, found = FileIndexer.prefix_for_path(base), as_registry(self.services.get(registry))
        options = (found, prefix, base, rex, recurse_style == "ORTHANC")
        spec = {"base": base, "registry": registry, "prefix": prefix, "pattern": rex}
        line = f"index:{_fingerprint(spec)}:"
        self._tidy(line)
        report, job = IndexReport(), ""
        items = _index_items(Run(*options, stop=stop).differing())
        first = next(items, None)
        if first is not None:
            # a new name each time: what another run has found is no longer news
            job = self.work.create(KIND, spec, _chain(first, items), line + token_hex(4))
            self.runner.run(job, lambda item: on_files(int(item.outcome.get("checked", 0))), stop)
        rest = Run(*options, stop=stop).everything()
        self._add(report, job, base)
        report.checked, report.removed = rest.checked, rest.removed
        for path, reason in rest.bad.items():
            if path not in report.bad:
                report.note_bad(path, reason)
        report.bad_count += rest.bad_count - len(rest.bad)
        # what had just been written was read by a worker, and once more here
        report.registered = min(report.registered + rest.registered, report.checked - report.bad_count)
        report.unchanged = max(0, report.checked - report.registered - report.bad_count)
        if job:
            self.work.forget(job)
        return report

    def upload_path(
        self,
        basepath: str | os.PathLike[str],
        registry: str,
        dest: str,
        collections: Iterable[str] = (),
        *,
        stop: threading.Event | None = None,
    ) -> UploadReport:
        """
        Put the registered files of a tree, or of some collections, into an endpoint.

        Started again after a kill or a stop it does only the rest.
        """
        base, stop = os.path.abspath(basepath), stop or threading.Event()
        found, prefix = as_registry(self.services.get(registry)), FileIndexer.prefix_for_path(base)
        keys = sorted(set(collections))
        spec = {"base": base, "registry": registry, "dest": dest}
        job = f"upload:{_fingerprint({**spec, 'keys': keys})}"
        self._tidy(job)
        chosen = keys or found.collections(prefix)
        names = (path for key in chosen for path in sorted(found.collected_items(prefix, key)))
        self.work.create(KIND, spec, _upload_items(names, base), job)
        self.runner.run(job, None, stop)
        report = UploadReport()
        for item in self.work.items(job):
            report.uploaded += int(item.outcome.get("uploaded", 0))
            failed = dict(item.outcome.get("failed", {}))
            if item.state not in (*OPEN, "done"):
                failed = dict.fromkeys(item.payload["files"], item.reason or item.state)
            report.failed |= {os.path.join(base, name): reason for name, reason in failed.items()}
        if not stop.is_set():
            self.work.forget(job)
        return report

    def _add(self, report: IndexReport, job: str, base: str) -> None:
        """Add what workers told, and say what they could not do."""
        reasons: Counter[str] = Counter()
        for item in self.work.items(job) if job else ():
            report.registered += int(item.outcome.get("registered", 0))
            names = dict(item.outcome.get("names", {}))
            for name, reason in names.items():
                report.note_bad(os.path.join(base, name), str(reason))
            report.bad_count += max(0, int(item.outcome.get("bad", 0)) - len(names))
            if item.state not in (*OPEN, "done"):
                reasons[item.reason] += 1
        for reason, count in reasons.items():
            log.warning("%d items were done here, since no worker could: %s", count, reason)

    def _tidy(self, name: str) -> None:
        """Forget jobs of earlier runs that have ended, or that were stopped."""
        for job in self.work.jobs():
            if job.kind == KIND and job.name.startswith(name):
                has_ended = not set(self.work.counts(job.number)) & set(OPEN)
                if has_ended or (not job.is_open and name != job.name):
                    self.work.forget(job.number)


def _chain(first: tuple[str, dict[str, Any]], rest: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[Any]:
    yield first
    yield from rest


def _index_items(folders: Iterable[tuple[str, int]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield items of about a thousand files: several small folders, or a part of a large one."""
    number, held, size = 0, cast("list[str]", []), 0
    for folder, count in folders:
        parts = min(PARTS, -(-count // PARTED))
        if parts > 1:
            for part in range(parts):
                number += 1
                yield f"{number:08}", {"folders": [folder], "part": part, "parts": parts}
            continue
        held.append(folder)
        size += max(1, count)
        if size >= FILES:
            number += 1
            yield f"{number:08}", {"folders": held}
            held, size = [], 0
    if held:
        yield f"{number + 1:08}", {"folders": held}


def _upload_items(paths: Iterable[str], base: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield items of some files each; the same files make the same key."""
    held: list[str] = []
    for path in paths:
        held.append(os.path.relpath(path, base))
        if len(held) == PUTS:
            yield _fingerprint(held), {"files": held}
            held = []
    if held:
        yield _fingerprint(held), {"files": held}


def _fingerprint(value: Any) -> str:
    return sha256(repr(value).encode("utf-8", "surrogateescape")).hexdigest()[:16]
