"""A download: what comes, what was there, what is missing, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from attrs import define, field, frozen

from diana.apis.trolley_parts.plan import Unit, Wish
from diana.apis.trolley_parts.storage import DICOMDiskStorage, StorageError
from diana.dixel import Dixel
from diana.exceptions import DianaError, GatewayConnectionError, IncompleteTransfer, InvalidItem, ItemNotFound
from diana.utils.dicom import Ref
from diana.utils.endpoint import Endpoint
from diana.utils.pool import bounded_map

log = logging.getLogger(__name__)

__all__ = ["Download", "IncompleteDownload", "Outcome"]

GIVE_UP_AFTER = 3


@frozen
class Outcome:
    """
    Say what became of one instance.

    ``state`` is stored, kept (it was there before), missing or failed; ``path`` is its file, None for storages
    without files of their own; ``error`` says why it is missing or failed.
    """

    instance: str
    state: str
    path: Path | None = None
    error: DianaError | None = None


class IncompleteDownload(IncompleteTransfer):
    """Say which instances did not arrive; ``outcomes`` has one entry for each instance that was expected."""

    def __init__(
        self, message: str, missing: Sequence[str], received: Sequence[str], outcomes: Sequence[Outcome]
    ) -> None:
        super().__init__(message, missing, received)
        self.outcomes = list(outcomes)


@define(eq=False)
class Download:
    """
    Fetch units through one endpoint and keep count.

    A unit that fails does not stop the others; when several in a row find nobody at the far end, the rest is not
    tried. For several threads.
    """

    name: str
    downloader: Endpoint
    wishes: Sequence[Wish]
    outcomes: dict[str, Outcome] = field(init=False, factory=dict)
    trouble: list[DianaError] = field(init=False, factory=list)
    _named: list[str] = field(init=False, factory=list)
    _in_a_row: int = field(init=False, default=0)
    _lock: Any = field(init=False, factory=Lock)

    @property
    def stored(self) -> list[str]:
        """Return the SOP Instance UIDs that were fetched."""
        return [one.instance for one in self.outcomes.values() if one.state == "stored"]

    @property
    def kept(self) -> list[str]:
        """Return the SOP Instance UIDs that were there before."""
        return [one.instance for one in self.outcomes.values() if one.state == "kept"]

    @property
    def missing(self) -> list[str]:
        """Return the SOP Instance UIDs that did not arrive, as far as they are known."""
        return [one.instance for one in self.outcomes.values() if one.state in ("missing", "failed")]

    @property
    def files(self) -> list[Path]:
        """Return the files, those that were there before included."""
        return [one.path for one in self.outcomes.values() if one.path is not None]

    def note_kept(self, ref: Ref, path: Path | None) -> None:
        """Note an instance that was there before."""
        self.outcomes[ref.instance] = Outcome(ref.instance, "kept", path)

    def stream(self, units: Iterable[Unit]) -> Iterator[Dixel]:
        """Yield the instances of all units, and raise at the end what is wrong."""
        for unit in units:
            for dixel in self._arriving(unit):
                self._note(Outcome(str(dixel.tags["SOPInstanceUID"]), "stored"))
                yield dixel
        self.finish()

    def run(self, units: Iterable[Unit], storage: DICOMDiskStorage, folder: Path, workers: int) -> None:
        """Fetch and store all units, ``workers`` at a time. Raises StorageError at once, the rest by ``finish``."""

        def work(unit: Unit) -> None:
            for dixel in self._arriving(unit):
                self._store(dixel, storage, folder)

        for _ in bounded_map(work, units, workers=workers):
            pass

    def _arriving(self, unit: Unit) -> Iterator[Dixel]:
        """Yield what comes of a unit, each instance once; note what goes wrong with it."""
        if self._in_a_row >= GIVE_UP_AFTER:
            return
        came = False
        try:
            for dixel in self._open(unit):
                came = True
                with self._lock:
                    self._in_a_row = 0
                    known = self.outcomes.get(str(dixel.tags.get("SOPInstanceUID")))
                if known is not None and known.state in ("stored", "kept"):
                    drop(dixel)
                    continue
                yield dixel
        except StorageError:
            raise
        except DianaError as error:
            with self._lock:
                self.trouble.append(error)
                self._named += getattr(error, "missing", [])
                if not came and isinstance(error, GatewayConnectionError | IncompleteTransfer):
                    self._in_a_row += 1

    def _open(self, unit: Unit) -> Iterator[Dixel]:
        if len(unit.refs) == 1:
            listed = getattr(self.downloader, "pull_listed", None)
            if unit.expected is not None and callable(listed):
                known: Iterator[Dixel] = listed(unit.refs[0], unit.expected)
                return known
            return self.downloader.pull(unit.refs[0])
        found: Iterator[Dixel] = self.downloader.pull_many(unit.refs)  # type: ignore[attr-defined]  # asked before
        return found

    def _store(self, dixel: Dixel, storage: DICOMDiskStorage, folder: Path) -> None:
        uid = str(dixel.tags.get("SOPInstanceUID"))
        try:
            self._note(Outcome(uid, "stored", storage.keep(dixel, folder)))
        except InvalidItem as error:
            self._note(Outcome(uid, "failed", error=error))
            with self._lock:
                self.trouble.append(error)
        except OSError as error:
            raise StorageError(f"the storage fails: {error.strerror or type(error).__name__}") from None
        except ValueError as error:
            raise StorageError(f"the storage fails ({type(error).__name__})") from error
        finally:
            drop(dixel)

    def _note(self, outcome: Outcome) -> None:
        with self._lock:
            self.outcomes[outcome.instance] = outcome

    def finish(self) -> None:
        """
        Raise when something asked for is not there.

        ItemNotFound when nothing of it is known; what the downloader refused for good, when nothing came;
        IncompleteDownload otherwise.
        """
        received = [*self.kept, *self.stored]
        reason = self._worst()
        absent = [wish for wish in self.wishes if wish.absent]
        expected = [ref.instance for wish in self.wishes for ref in wish.instances or ()]
        for uid in dict.fromkeys((*expected, *self._named)):
            if uid not in self.outcomes:
                self.outcomes[uid] = Outcome(uid, "missing", error=reason)
        if not self.missing and not absent and not self.trouble:
            return
        if absent and not received and len(absent) == len(self.wishes):
            raise ItemNotFound(f"{self.name}: the searcher does not know what is asked for")
        hopeless = reason is not None and not reason.temporary
        if reason is not None and not received and (hopeless or not expected):
            raise reason
        text = f"{self.name}: {len(self.missing)} of {len(self.outcomes)} instances did not arrive"
        if absent:
            text += f", {len(absent)} of {len(self.wishes)} objects are not known"
        raise IncompleteDownload(
            f"{text}: {reason}" if reason else text, self.missing, received, list(self.outcomes.values())
        )

    def _worst(self) -> DianaError | None:
        """Return the first trouble that is more than an absence, else the first."""
        grave = (one for one in self.trouble if not isinstance(one, ItemNotFound))
        return next(grave, self.trouble[0] if self.trouble else None)


def drop(dixel: Dixel) -> None:
    """Give up the file of an instance that is not needed any more."""
    if dixel.blob is not None:
        dixel.blob.close()
