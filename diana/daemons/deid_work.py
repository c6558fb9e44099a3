"""The work of a batch de-identification, one object at a time."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final  # frames between processes

from attrs import define, evolve, field, frozen

from diana.deid.key import Key
from diana.deid.recipe import Recipe
from diana.deid.result import Result
from diana.deid.retained import Review
from diana.deid.setup import Engine, Setup, audit_record
from diana.exceptions import DianaError, InvalidItem
from diana.utils.blob import Blob
from diana.utils.dicom import read_header
from diana.utils.dicom.ref import is_uid
from diana.utils.endpoint.serializable import SECRET
from diana.utils.files import whole_file

log = logging.getLogger(__name__)

IDS: Final = ("IssuerOfPatientID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS))  # no reading ends so


@frozen
class Task:
    """Name one object: a file, or bytes at hand. ``source`` is for the custodian; ``item`` is what others may see."""

    item: str
    source: dict[str, Any] = field(factory=dict, repr=False)
    path: str = field(default="", repr=False)
    data: bytes | None = field(default=None, repr=False)
    problem: str = ""
    uid: str = field(default="", repr=False)

    def blob(self) -> Blob:
        """Return the object's bytes."""
        return Blob(self.path if self.data is None else self.data)


@frozen
class Done:
    """
    Say what became of one object.

    ``out`` is the name below the output folder. ``ids`` are the original ones, for the crosswalk; ``strings`` are texts
    of the output that this worker had not seen before; ``blob`` is the output when it is not for a folder. ``actions``
    may be those of several objects together, none of which is told of twice.
    """

    item: str
    state: str
    reason: str = ""
    text: str = ""
    out: str = ""
    size: int = 0
    ids: tuple[str, ...] = field(default=(), repr=False)
    source: dict[str, Any] = field(factory=dict, repr=False)
    record: dict[str, Any] = field(factory=dict, repr=False)
    actions: Mapping[str, Mapping[str, int]] = field(factory=dict, repr=False)
    strings: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    blob: Blob | None = field(default=None, repr=False)
    bytes_in: int = 0


@frozen
class Bench:
    """Hold what a worker needs; it goes to other processes as it is. Without ``out`` results keep their bytes."""

    setup: Setup
    recipe: Recipe
    key: Key | None = field(repr=False, metadata=SECRET)
    out: Path | None
    quarantine: Path
    review: bool = True

    def worker(self) -> Worker:
        """Return a worker with an engine of its own."""
        return Worker(self, self.setup.engine(self.recipe, self.key))


@define
class Worker:
    """De-identify one object after the other; whatever is wrong with one is in its result."""

    bench: Bench
    engine: Engine
    review: Review = field(init=False, factory=Review)

    def __call__(self, task: Task) -> Done:
        """Return what became of an object."""
        if task.problem:
            return failed(task, "refused", "unreadable", task.problem)
        try:
            try:
                return self._work(task)
            except Conflicting as error:
                blob = task.blob()
                self._keep(blob, error.reason, task)
                return evolve(failed(task, "quarantined", error.reason, str(error)), ids=_ids(blob))
        except DianaError as error:
            reason = getattr(error, "reason", "") or ("unavailable" if error.temporary else "failed")
            return failed(task, "failed", reason, f"{type(error).__name__}: {error}")
        except OSError as error:
            is_ours = isinstance(error, _Unwritable) or error.errno in _FULL
            reason = "unwritable" if is_ours else "unreadable"
            return failed(task, "failed", reason, error.strerror or type(error).__name__)
        except Exception as error:  # noqa: BLE001  # a fault of ours with one object must not stop the others
            log.debug("an object failed (%s)", type(error).__name__)
            return failed(task, "failed", "fault", f"{type(error).__name__} in the engine")

    def _work(self, task: Task) -> Done:
        blob = task.blob()
        result = self.engine.apply(blob)
        out, size = "", 0
        kept: Blob | None = None
        strings: tuple[tuple[str, str], ...] = ()
        if result.done and result.blob is not None:
            out, size = _name(result, task.item), len(result.blob)
            with _kept_open(result.blob, self.bench.out is None):
                strings = tuple(self.review.novel(result.blob)) if self.bench.review else ()
                if self.bench.out is None:
                    kept = result.blob if result.blob.path is not None else Blob(result.blob.read())
                else:
                    with _writing():
                        _write(self.bench.out / out, result)
        elif result.state == "quarantined":
            self._keep(blob, result.reason or "unknown", task)
        return Done(
            task.item,
            result.state,
            result.reason,
            result.text,
            out,
            size,
            _ids(blob),
            task.source,
            audit_record(result, item=task.item),
            dict(result.actions),
            strings,
            kept,
            len(blob),
        )

    def _keep(self, blob: Blob, reason: str, task: Task) -> None:
        """Put an original into the quarantine."""
        with _writing():
            _copy(blob, self.bench.quarantine / reason / f"{task.item}.dcm")


def add_counts(total: dict[str, Counter[str]], actions: Mapping[str, Mapping[str, int]]) -> None:
    """Add what was done, by path of tags, to what was done before."""
    for path, counts in actions.items():
        known = total.get(path)
        if known is None:
            total[path] = Counter(counts)
            continue
        for action, count in counts.items():
            known[action] += count


def failed(task: Task, state: str, reason: str, text: str) -> Done:
    """Return the result of a task that came to nothing."""
    record = {"event": "instance", "item": task.item, "state": state, "reason": reason, "text": text}
    return Done(task.item, state, reason, text, source=task.source, record=record)


def _ids(blob: Blob) -> tuple[str, ...]:
    try:
        with blob.open() as stream:
            header = read_header(stream, IDS)
    except InvalidItem:
        return ()
    return tuple(header.get(one, "") for one in IDS)


def _name(result: Result, item: str) -> str:
    """Return ``study/series/instance.dcm``; what the object lacks is named by its mark."""
    study, series, instance = (
        one if is_uid(one) else "" for one in (result.study_uid, result.series_uid, result.sop_uid)
    )
    return f"{study or 'no-study'}/{series or 'no-series'}/{instance or item}.dcm"


@contextmanager
def _kept_open(blob: Blob, is_handed_on: bool) -> Iterator[None]:
    """Close a blob after the block, unless all went well and somebody else does it."""
    try:
        yield
    except BaseException:
        blob.close()
        raise
    if not is_handed_on:
        blob.close()


@contextmanager
def _writing() -> Iterator[None]:
    """Tell errors of the block from those of reading."""
    try:
        yield
    except OSError as error:
        raise _Unwritable(error.errno, error.strerror or type(error).__name__) from None


def _write(path: Path, result: Result) -> None:
    """Write an output that is there as a whole or not at all; the same bytes may be there. Raises Conflicting."""
    if result.blob is None:
        return
    try:
        with whole_file(path, durable=False, replace=False) as out:
            result.blob.copy_to(out)
    except FileExistsError:
        if Blob(path).digest() != result.blob.digest():
            raise Conflicting("other bytes are there under the same new UID") from None


def _copy(blob: Blob, path: Path) -> None:
    with whole_file(path, durable=False) as out:
        blob.copy_to(out)


class _Unwritable(OSError):
    """Say that an output, or what is kept for the custodian, could not be written."""


class Conflicting(InvalidItem):
    """Say that another object has the same SOP Instance UID."""

    reason = "conflict"
