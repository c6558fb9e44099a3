"""Collect studies by a worklist: find, pull, de-identify, send, prove; killed anywhere, it does only the rest."""

from __future__ import annotations

import csv
import os
import threading
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any, Final  # options are JSON

from attrs import define, field

from diana.daemons.collect_plan import Plan, PlannedStudy, Planner, Verdict, items_of
from diana.daemons.collect_task import KIND, steps_of
from diana.daemons.manners import Hours
from diana.daemons.runner import OnItem, Runner, Threads
from diana.daemons.worklist import Row, read_worklist, rows_of
from diana.dixel import Dixel
from diana.exceptions import ConfigError, ItemNotFound
from diana.ledger import Store
from diana.ledger.work import Work
from diana.ledger.work_rows import Item
from diana.utils.dicom import DicomLevel, Query
from diana.utils.endpoint import Endpoint, ServiceManager
from diana.utils.files import make_private, whole_file

__all__ = ["Collector", "Plan", "PlannedStudy", "Verdict"]

DEID: Final[tuple[Any, ...]] = ("deid",)
KEY_COLUMNS: Final = ("AccessionNumber", "StudyInstanceUID")
OPTIONS: Final = ("match", "steps", "hours", "budget", "tries", "workers")
AGAIN: Final = ("failed", "incomplete")
SOURCE, DEST = "source", "dest"


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

    def create_pool(self) -> Runner:
        """Return the runner that works in ``pool_size`` threads."""
        return Threads(self._work(), self.pool_size)

    def _work(self) -> Work:
        if self.store is None:
            self.store = Store()
        return Work(self.store)

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
        steps_of(chosen.get("match"), chosen.get("steps", ()))
        Hours.parse(str(chosen.get("hours", "")))
        planner = Planner(
            source, match=chosen.get("match", {}), delivered=self._delivered(project, dest.name), several=several
        )
        verdicts, studies = planner.plan(rows)
        plan = Plan(project, *names, rows=verdicts, studies=studies, options=chosen)
        plan.rate = self._rate(project) or plan.rate
        return plan

    def _delivered(self, project: str, dest: str) -> frozenset[str]:
        try:
            items = list(self._work().items(job_of(project), "verified"))
        except ItemNotFound:
            return frozenset()
        return frozenset(item.key for item in items)

    def _rate(self, project: str) -> float:
        """Return instances per second of what a project has done so far, 0 when it has done nothing."""
        try:
            done = [item.outcome for item in self._work().items(job_of(project)) if item.outcome.get("ended")]
        except ItemNotFound:
            return 0.0
        spent = sum(one["ended"] - one["started"] for one in done)
        return sum(one["verified"] for one in done) / spent if spent > 0 else 0.0

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
        spec = {"project": plan.project, "source": plan.source, "dest": plan.dest, **plan.options}
        try:
            before = work.job(job).spec
        except ItemNotFound:
            before = spec
        if (before.get("source"), before.get("dest")) != (plan.source, plan.dest):
            raise ConfigError("the ledger knows the project with another source or destination; choose another name")
        work.create(KIND, spec, items_of(plan), job)
        if again:
            work.again(job, AGAIN)
        return (runner or Threads(work, self.pool_size, services=services)).run(job, on_item, stop)

    def outcomes(self, project: str) -> dict[str, Item]:
        """Return study to item of the ledger. Raises ItemNotFound for a project that never ran."""
        return {item.key: item for item in self._work().items(job_of(project))}

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
        found go to ``{project}.key.csv`` (mode 0600: accession numbers and study UIDs, nothing more), which a later run
        reads instead of the list; ``{project}.sqlite`` is the ledger. Returns state to number of studies.
        """
        folder = Path(data_path)
        make_private(folder)
        key = folder / f"{project}.key.csv"
        if self.store is None:
            self.store = Store(folder / f"{project}.sqlite")
        near = _searched(source, domain)
        rows = read_worklist(key, "csv") if key.exists() else read_worklist(folder / f"{project}.studies.txt", "txt")
        plan = self.plan(project, near, dest, rows, steps=DEID if anonymize else ())
        if not key.exists():
            self._write_key(key, plan)
        return self.execute(plan, _held(near, dest))

    def _write_key(self, path: Path, plan: Plan) -> None:
        text = StringIO()
        writer = csv.writer(text)
        writer.writerow(KEY_COLUMNS)
        writer.writerows((one.accession, one.study) for one in plan.studies)
        with whole_file(path) as out:
            out.write(text.getvalue().encode())

    def make_key(self, ids: Iterable[str], source: Endpoint, domain: str) -> set[Dixel]:
        """Return the studies that the source, or the archive ``domain`` behind it, has for some accession numbers."""
        near = _searched(source, domain)
        _, studies = Planner(near).plan(rows_of(list(ids)))
        found: set[Dixel] = set()
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
        near = _searched(source, domain)
        listed = [str(one.tags["StudyInstanceUID"]) if hasattr(one, "tags") else str(one) for one in items]
        plan = self.plan("worklist", near, dest, rows_of(listed), steps=DEID if anonymize else ())
        return self.execute(plan, _held(near, dest))

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
        if self.store is not None:
            self.store.close()


def _searched(source: Endpoint, domain: str) -> Endpoint:
    """Return the endpoint that finds and reads: the source, or the archive that an Orthanc knows by a name."""
    if not domain:
        return source
    from diana.apis import ProxiedDicom

    return ProxiedDicom.through(source, domain)


def _held(source: Endpoint, dest: Endpoint) -> ServiceManager:
    services = ServiceManager(origin="the caller")
    services.hold(SOURCE, source)
    services.hold(DEST, dest)
    return services
