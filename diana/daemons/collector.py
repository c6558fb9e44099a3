"""Collect studies by a worklist: find, pull, de-identify, send, prove; killed anywhere, it does only the rest."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final  # options are JSON
from uuid import uuid4

from attrs import define, evolve, field

from diana.daemons.collect_deid import registry_of
from diana.daemons.collect_key import KeyFile
from diana.daemons.collect_plan import ASSUMED_RATE, Earlier, Plan, PlannedStudy, Planner, Verdict, items_of
from diana.daemons.collect_task import KIND, steps_of
from diana.daemons.manners import Hours
from diana.daemons.runner import OnItem, Runner, Threads
from diana.daemons.steps import Deidentify
from diana.daemons.worklist import Row, rows_of
from diana.dixel import Dixel
from diana.exceptions import ConfigError, GatewayConnectionError, ItemNotFound
from diana.ledger import Store
from diana.ledger.work import Work
from diana.ledger.work_rows import Item
from diana.utils.dicom import DicomLevel, Query
from diana.utils.endpoint import Endpoint, ServiceManager
from diana.utils.files import make_private

__all__ = ["Collector", "Plan", "PlannedStudy", "Verdict"]

DEID: Final[tuple[Any, ...]] = ("deid",)
OPTIONS: Final = ("match", "steps", "hours", "budget", "tries", "workers")
AGAIN: Final = ("failed", "incomplete")
SOURCE, DEST = "source", "dest"
WORDS: Final = {"match": "filters", "steps": "steps"}


def job_of(project: str) -> str:
    """Return the name of a project's job in the ledger."""
    return f"collect:{project}"


@define(eq=False)
class Collector:
    """
    Collect studies; ``pool_size`` at once (0: in the caller's thread), remembered in the ledger ``store``.

    Without a ``store`` what is known ends with the process, except in ``run``, which keeps its ledger beside the key.
    """

    pool_size: int = 0
    store: Store | None = field(default=None, kw_only=True, repr=False)
    _memory: Store | None = field(default=None, init=False, repr=False)

    def create_pool(self) -> Runner:
        """Return the runner that works in ``pool_size`` threads."""
        return Threads(self._work(), self.pool_size)

    def elsewhere(self, broker_url: str) -> Runner:
        """
        Return the runner that has ``diana-cli worker`` on any machine work, by way of a Redis.

        The ledger must be one that all of them reach.
        """
        from diana.daemons.runner_dramatiq import Dramatiq

        return Dramatiq(self._work(), broker_url)

    def _ledger(self) -> Store:
        if self.store is not None:
            return self.store
        if self._memory is None:
            self._memory = Store()
        return self._memory

    def _work(self) -> Work:
        return Work(self._ledger())

    def plan(
        self,
        project: str,
        source: Endpoint,
        dest: Endpoint,
        rows: Iterable[Row],
        *,
        several: bool = True,
        names: tuple[str, str] = (SOURCE, DEST),
        **options: Any,
    ) -> Plan:
        """
        Return what a run would do; nothing is moved.

        ``options``: ``match`` (predicate on studies and instances), ``steps``, ``hours`` such as ``22:00-06:00``,
        ``budget`` (studies at once from this source), ``tries``, ``workers`` (instances at once). ``names`` are the
        services of the two ends. Raises ConfigError.
        """
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise ConfigError([f"unknown option {one!r}; there are {', '.join(OPTIONS)}" for one in unknown])
        chosen = {key: value for key, value in options.items() if value not in (None, "", (), [], {})}
        Hours.parse(str(chosen.get("hours", "")))
        plan = Plan(project, *names, options=chosen)
        self._check_same(plan)
        steps = steps_of(chosen.get("match"), chosen.get("steps", ()), self._ledger(), project)
        listed = list(rows)
        if not any(isinstance(step, Deidentify) for step in steps):
            # nothing de-identifies, so no pseudonym is used
            listed = [evolve(row, pseudonym="") for row in listed]
        elif any(row.pseudonym for row in listed) and registry_of(steps) is None:
            raise ConfigError("the worklist chooses pseudonyms, and this way of de-identifying takes none")
        earlier, plan.rate = self._earlier(project)
        planner = Planner(source, match=chosen.get("match", {}), earlier=earlier, several=several)
        plan.rows, plan.studies = planner.plan(listed)
        return plan

    def _earlier(self, project: str) -> tuple[dict[str, Earlier], float]:
        """Return what became of a project's studies so far, and its instances per second."""
        found: dict[str, Earlier] = {}
        spent, done = 0.0, 0
        with suppress(ItemNotFound):
            for item in self.items(project):
                found[item.key] = Earlier(item.state, str(item.payload.get("pseudonym") or ""))
                if item.outcome.get("ended"):
                    spent += item.outcome["ended"] - item.outcome["started"]
                    done += item.outcome["verified"]
        return found, done / spent if spent > 0 and done else ASSUMED_RATE

    def _check_same(self, plan: Plan) -> None:
        """Raise ConfigError when the ledger knows the project with other ends, steps or filter."""
        try:
            before = self._work().job(job_of(plan.project)).spec
        except ItemNotFound:
            return
        if (before.get("source"), before.get("dest")) != (plan.source, plan.dest):
            raise ConfigError("the ledger knows the project with another source or destination; choose another name")
        for word in ("match", "steps"):
            if json.dumps(before.get(word) or None) != json.dumps(plan.options.get(word) or None):
                raise ConfigError(f"the ledger knows the project with other {WORDS[word]}; choose another name")

    def execute(
        self,
        plan: Plan,
        services: ServiceManager,
        *,
        runner: Runner | None = None,
        on_item: OnItem | None = None,
        stop: threading.Event | None = None,
        again: bool = False,
    ) -> dict[str, int]:
        """
        Carry out a plan, or the rest of it, and return the number of studies in each final state.

        ``again`` starts once more what ended *failed* or *incomplete*. Without a ``runner`` threads of this process
        work. Raises ConfigError when the project's ledger knows it with another source or destination.
        """
        work, job = self._work(), job_of(plan.project)
        self._check_same(plan)
        work.create(KIND, {"project": plan.project, "source": plan.source, "dest": plan.dest, **plan.options}, (), job)
        chosen = {one.study: one.pseudonym for one in plan.studies if one.pseudonym}
        if chosen and any(
            chosen.get(i.key, i.payload.get("pseudonym")) != i.payload.get("pseudonym") for i in work.items(job)
        ):
            raise ConfigError("the ledger knows a study of the plan with another pseudonym; choose another name")
        work.create(KIND, work.job(job).spec, items_of(plan), job)
        if again:
            work.again(job, AGAIN)
        return (runner or Threads(work, self.pool_size, services=services)).run(job, on_item, stop)

    def items(self, project: str) -> Iterator[Item]:
        """Yield the items of a project. Raises ItemNotFound when it never ran."""
        work, job = self._work(), job_of(project)
        work.job(job)
        yield from work.items(job)

    def outcomes(self, project: str) -> dict[str, Item]:
        """Return study to item of the ledger. Raises ItemNotFound for a project that never ran."""
        return {item.key: item for item in self.items(project)}

    # the verbs of the public API

    def run(
        self,
        project: str,
        data_path: str | os.PathLike[str],
        source: Endpoint,
        domain: str,
        dest: Endpoint,
        anonymize: bool = False,
    ) -> dict[str, int]:
        """
        Collect the accession numbers or study UIDs listed in ``{project}.studies.txt`` of a folder.

        ``domain`` names the archive behind the Orthanc ``source``; empty: the source itself. The studies that were
        found go to ``{project}.key.csv`` (mode 0600: accession numbers, study UIDs, and with ``anonymize`` the
        pseudonyms that were given), from which a later run takes them; only what is new in the list, or was not found,
        is asked for then. ``{project}.sqlite`` is the ledger, unless there is a ``store``. Returns state to number of
        studies. Raises ConfigError, and GatewayConnectionError when a row could not be asked about: run again.
        """
        folder = Path(data_path)
        make_private(folder)
        if self.store is None:
            with closing(Collector(self.pool_size, store=Store(folder / f"{project}.sqlite"))) as own:
                return own.run(project, folder, source, domain, dest, anonymize)
        key = KeyFile(folder / f"{project}.key.csv")
        with _searched(source, domain) as near:
            services, names = _held(near, dest)
            plan = self.plan(
                project,
                near,
                dest,
                key.rows(folder / f"{project}.studies.txt"),
                names=names,
                steps=DEID if anonymize else (),
                budget=max(1, self.pool_size),
            )
            key.write(plan.studies)
            counts = self.execute(plan, services)
            if anonymize:
                key.note({item.key: str(item.outcome.get("pseudonym") or "") for item in self.items(project)})
        if unasked := plan.counts().get("unreachable"):
            raise GatewayConnectionError(f"{near.name}: {unasked} rows could not be asked about; run again for them")
        return counts

    def make_key(self, ids: Iterable[str], source: Endpoint, domain: str) -> set[Dixel]:
        """Return the studies that the source, or the archive ``domain`` behind it, has for some accession numbers."""
        found: set[Dixel] = set()
        with _searched(source, domain) as near:
            _, studies = Planner(near).plan(rows_of(list(ids)))
            for one in studies:
                found.update(near.find(Query({"StudyInstanceUID": one.study}), DicomLevel.STUDIES))
        return found

    def handle_worklist(
        self, items: Iterable[Any], source: Endpoint, domain: str, dest: Endpoint, anonymize: bool
    ) -> dict[str, int]:
        """
        Collect some studies: accession numbers, study UIDs, or dixels such as ``make_key`` returns.

        Returns state to number of studies.
        """
        listed = [str(one.tags["StudyInstanceUID"]) if hasattr(one, "tags") else str(one) for one in items]
        steps = DEID if anonymize else ()
        with _searched(source, domain) as near:
            services, names = _held(near, dest)
            # without a ledger nothing is remembered from one call to the next
            project = "-".join(("worklist", *names, *steps)) if self.store is not None else f"worklist-{uuid4().hex}"
            plan = self.plan(
                project, near, dest, rows_of(listed), names=names, steps=steps, budget=max(1, self.pool_size)
            )
            return self.execute(plan, services)

    def pull_and_save(
        self, items: Iterable[Any], source: Endpoint, domain: str, dest: Endpoint, anonymize: bool = False
    ) -> dict[str, int]:
        """Collect some studies into a folder; see ``handle_worklist``."""
        return self.handle_worklist(items, source, domain, dest, anonymize)

    def pull_and_send(
        self, items: Iterable[Any], source: Endpoint, domain: str, dest: Endpoint, anonymize: bool = False
    ) -> dict[str, int]:
        """Collect some studies into another archive; see ``handle_worklist``."""
        return self.handle_worklist(items, source, domain, dest, anonymize)

    def close(self) -> None:
        """Close the ledger."""
        for store in (self.store, self._memory):
            if store is not None:
                store.close()


@contextmanager
def _searched(source: Endpoint, domain: str) -> Iterator[Endpoint]:
    """Give the endpoint that finds and reads: the source, or the archive that an Orthanc knows by a name."""
    if not domain:
        yield source
        return
    from diana.apis import ProxiedDicom

    with closing(ProxiedDicom.through(source, domain)) as near:
        yield near


def _held(source: Endpoint, dest: Endpoint) -> tuple[ServiceManager, tuple[str, str]]:
    """Return services that hold the two ends, and their names, which differ for other addresses."""
    services = ServiceManager(origin="the caller")
    names = tuple(f"{word}-{_fingerprint(one)}" for word, one in (("source", source), ("dest", dest)))
    for name, one in zip(names, (source, dest), strict=True):
        services.hold(name, one)
    return services, (names[0], names[1])


def _fingerprint(end: Endpoint) -> str:
    """Return a word for what an endpoint is connected to; secrets have no part in it."""
    text = end.json() if "memory" not in end.type_name.lower() else f"{end.type_name} {id(end)}"
    return sha256(text.encode()).hexdigest()[:12]
