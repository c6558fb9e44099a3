"""De-identify many objects: what is left of a folder, an archive or an endpoint, with a record of each."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any  # reports are JSON

from attrs import define, evolve, field, frozen

from diana.daemons.deid_crew import work_all
from diana.daemons.deid_custody import Custody, Places
from diana.daemons.deid_sources import EndpointSource, FileSource, Marks, Source, paths_of_registry
from diana.daemons.deid_work import Bench, Done, add_counts
from diana.deid.audit import Audit
from diana.deid.key import Key
from diana.deid.recipe import Recipe
from diana.deid.setup import Setup, begin_record, recipe_digest, table_name
from diana.dixel import Dixel
from diana.exceptions import ConfigError, DianaError
from diana.utils.dicom import read_header
from diana.utils.endpoint import Endpoint
from diana.utils.files import PART, remove_parts

BATCH = 128
BATCH_S = 1.0
STATES = ("done", "quarantined", "refused", "failed")


@define
class Summary:
    """
    Count how objects ended; it holds no original value.

    ``before`` were done in an earlier run. ``actions`` counts by path of tags what was done. ``head`` is the hash of
    the last record of the audit.
    """

    table: str
    recipe: str
    key: str
    states: Counter[str] = field(factory=Counter)
    reasons: Counter[tuple[str, str]] = field(factory=Counter)
    actions: dict[str, Counter[str]] = field(factory=dict)
    before: int = 0
    bytes_in: int = 0
    seconds: float = 0.0
    head: str = ""

    def add(self, done: Done) -> None:
        """Count one object."""
        self.states[done.state] += 1
        self.bytes_in += done.bytes_in
        if done.state != "done":
            self.reasons[done.state, done.reason] += 1
        add_counts(self.actions, done.actions)

    @property
    def clean(self) -> bool:
        """Tell whether nothing was held back."""
        return not self.reasons

    def asdict(self) -> dict[str, Any]:
        """Return the summary as JSON data, without the counts by path."""
        return {
            "table": self.table,
            "recipe": self.recipe,
            "key": self.key,
            **{state: self.states[state] for state in STATES},
            "before": self.before,
            "reasons": {f"{state}: {reason}": count for (state, reason), count in sorted(self.reasons.items())},
            "bytes": self.bytes_in,
            "seconds": round(self.seconds, 3),
            "audit": self.head,
        }


@frozen
class Batch:
    """
    De-identify what a source holds into a folder or an endpoint.

    What an earlier run of the same recipe, key and table did is left out; what it held back is tried again. Outputs are
    named by their new UIDs. Raises ConfigError when something secret would lie in the output folder, or when that holds
    the output of another recipe or key.
    """

    setup: Setup
    source: Path | Endpoint
    out: Path | Endpoint
    places: Places
    jobs: int = 1
    match: dict[str, Any] = field(factory=dict, repr=False)
    review: bool = True

    def run(self, on_done: Callable[[Done], None] = lambda _: None) -> Summary:
        """Do the work and return the summary; ``on_done`` hears of each object."""
        start = time.monotonic()
        recipe, key = self.setup.make_recipe(), self.setup.load_key()
        self._check()
        custody = Custody(self.places, Audit(self.places.audit, key))
        custody.open()
        try:
            self._remove_parts()
            run = self._run_id(recipe, key)
            self._check_unmixed(custody, run)
            summary = Summary(table_name(), recipe.name, key.id)
            custody.audit.add(begin_record(recipe, key, run=run))
            try:
                self._work(custody, run, recipe, key, summary, on_done)
            finally:
                summary.seconds = time.monotonic() - start
                paths = {path: dict(counts) for path, counts in sorted(summary.actions.items())}
                summary.head = custody.audit.add({"event": "end", "run": run, **_shown(summary), "paths": paths})
            return summary
        finally:
            custody.close()

    def _work(
        self,
        custody: Custody,
        run: str,
        recipe: Recipe,
        key: Key,
        summary: Summary,
        on_done: Callable[[Done], None],
    ) -> None:
        def is_done(item: str) -> bool:
            found = custody.known.get(item)
            if found is None or found.run != run or found.state != "done" or not self._is_there(found.out, found.size):
                return False
            summary.before += 1
            return True

        source = self._source(Marks(key))
        bench = Bench(
            self.setup,
            recipe,
            key,
            self.out if isinstance(self.out, Path) else None,
            self.places.quarantine,
            self.review,
        )
        waiting: list[Done] = []
        entered = time.monotonic()
        with closing(work_all(bench, source.tasks(is_done), self.jobs, custody.private)) as results:
            try:
                for done in self._delivered(results):
                    source.release(done.item)
                    waiting.append(done)
                    summary.add(done)
                    on_done(done)
                    if len(waiting) >= BATCH or time.monotonic() - entered > BATCH_S:
                        batch, waiting, entered = waiting, [], time.monotonic()
                        custody.enter(run, batch)
            finally:
                custody.enter(run, waiting)

    def _delivered(self, results: Iterator[Done]) -> Iterator[Done]:
        """Put each output that has no file of its own into the endpoint."""
        for done in results:
            if done.blob is None or isinstance(self.out, Path):
                yield done
                continue
            try:
                with done.blob.open() as stream:
                    self.out.put(Dixel.from_header(read_header(stream), file=done.blob))
                yield evolve(done, blob=None)
            except DianaError as error:
                text = f"{type(error).__name__}: {error}"
                record = {**done.record, "state": "failed", "reason": "undelivered", "text": text}
                yield evolve(
                    done, state="failed", reason="undelivered", text=text, out="", record=record, actions={}, blob=None
                )
            finally:
                done.blob.close()

    def _source(self, marks: Marks) -> Source:
        if not isinstance(self.source, Path):
            return EndpointSource(self.source, marks, self.match)
        places = (self.places.custody, self.places.audit, self.places.quarantine)
        files = [self.setup.key_path, *paths_of_registry(self.setup.registry)]
        return FileSource(self.source, marks, (*places, *files))

    def _remove_parts(self) -> None:
        """Remove what a killed run left unfinished in the output folder."""
        if isinstance(self.out, Path) and self.out.is_dir():
            for folder, _, names in os.walk(self.out):
                if any(name.endswith(PART) for name in names):
                    remove_parts(Path(folder))

    def _check(self) -> None:
        """Raise ConfigError for places that would let a secret out, or the originals in."""
        if isinstance(self.source, Path) and not self.source.exists():
            raise ConfigError("the input is neither a service nor there as a file or folder")
        source, out = _folder(self.source), _folder(self.out)
        if source is not None and out is not None and _is_inside(out, source):
            raise ConfigError("the output must not lie in the input, where it would be input itself")
        if not isinstance(self.out, Path):
            return
        there = next(one for one in (self.out, *self.out.absolute().parents) if os.path.lexists(one))
        if not there.is_dir():
            raise ConfigError("the output is no folder, nor can there be one")
        registry = next(iter(paths_of_registry(self.setup.registry)), None)
        named = {"key": self.setup.key_path, "registry": registry}
        self.places.check(self.out, named)
        if source is not None and _is_inside(source, self.out):
            raise ConfigError("the input must not lie in the output folder")

    def _is_there(self, out: str, size: int) -> bool:
        if not isinstance(self.out, Path):
            return True
        try:
            return (self.out / out).stat().st_size == size
        except OSError:
            return False

    def _run_id(self, recipe: Recipe, key: Key) -> str:
        """Return the name of all runs to one place (before the hyphen) that give the same output."""
        out = os.path.realpath(self.out) if isinstance(self.out, Path) else self.out.name
        place = key.before()[-1] if key.history else key
        how = (recipe_digest(recipe), key.id, table_name(), self.setup.registry, self.setup.project)
        return f"{place.mac('place', out)[:4].hex()}-{key.mac('run', *how)[:8].hex()}"

    def _check_unmixed(self, custody: Custody, run: str) -> None:
        if not isinstance(self.out, Path):
            return
        place, _, _ = run.partition("-")
        for known in custody.known.values():
            is_other = known.state == "done" and known.run != run and known.run.startswith(f"{place}-")
            if is_other and (self.out / known.out).exists():
                raise ConfigError(
                    "the output folder holds what another recipe, key, registry or table made; name an empty one"
                )


def _shown(summary: Summary) -> dict[str, Any]:
    found = summary.asdict()
    del found["audit"]
    return found


def _folder(place: Path | Endpoint) -> Path | None:
    """Return the folder that a place is or keeps its items in, None for a service elsewhere."""
    return place if isinstance(place, Path) else place.local_folder


def _is_inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
