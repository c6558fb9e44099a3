"""What a collection will do: each row of a worklist settled against the source, no pixel moved."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final  # JSON

import attrs
from attrs import define, evolve, field, frozen

from diana.daemons.worklist import Row
from diana.dixel import Dixel
from diana.exceptions import ConfigError, DianaError, GatewayRefused, Unsupported
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.endpoint import Endpoint
from diana.utils.endpoint.circuit import Backoff
from diana.utils.files import whole_file
from diana.utils.pool import bounded_map

VERSION: Final = 1
ASSUMED_RATE: Final = 20.0
WORKERS: Final = 4
TRIES: Final = 12
DOWN_AFTER: Final = 3

OF_STUDIES: Final = frozenset(
    (
        "AccessionNumber",
        "ModalitiesInStudy",
        "PatientBirthDate",
        "PatientID",
        "PatientName",
        "PatientSex",
        "ReferringPhysicianName",
        "StudyDate",
        "StudyDescription",
        "StudyID",
        "StudyInstanceUID",
        "StudyTime",
    )
)

READY, DELIVERED = "ready", "verified"
STATES: Final = (
    READY,
    "duplicate",
    "delivered",
    "filtered",
    "missing",
    "ambiguous",
    "conflict",
    "wildcard",
    "invalid",
    "blank",
    "unreachable",
)


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


def _numbers(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(values)


@frozen
class Verdict:
    """
    Say what becomes of one row.

    *ready*: its ``studies`` are collected. *duplicate*: row ``same_as`` asks for the same studies. *delivered*: done by
    an earlier run. *filtered*: the filter excludes what was found. *missing*: the source has no such study.
    *ambiguous*: studies of several patients fit. *conflict*: the study is there, but with another patient, date or
    accession number than the row says, or the rows do not agree on its patient's pseudonym. *wildcard*, *invalid*,
    *blank*: not looked for. *unreachable*: the source could not be asked; plan again.
    """

    row: int
    state: str
    studies: tuple[str, ...] = field(default=(), converter=_texts)
    reason: str = ""
    same_as: int = 0


@frozen
class PlannedStudy:
    """Hold a study to collect: ``instances`` is None when the source does not count."""

    study: str = field(repr=False)
    rows: tuple[int, ...] = field(default=(), converter=_numbers)
    instances: int | None = None
    accession: str = field(default="", repr=False)
    patient: str | None = field(default=None, repr=False)
    pseudonym: str = field(default="", repr=False)


@define(eq=False)
class Plan:
    """
    Hold what a run will do; it is kept as a private JSON file, since it holds the ids of the worklist.

    ``source`` and ``dest`` are names of services or shortcuts; ``steps``, ``hours``, ``match`` and the rest are what
    the run shall use.
    """

    project: str
    source: str
    dest: str
    rows: list[Verdict] = field(factory=list, repr=False)
    studies: list[PlannedStudy] = field(factory=list, repr=False)
    options: dict[str, Any] = field(factory=dict, repr=False)
    rate: float = ASSUMED_RATE
    version: int = VERSION

    def counts(self) -> dict[str, int]:
        """Return the number of rows in each state that occurs."""
        found = Counter(one.state for one in self.rows)
        return {state: found[state] for state in STATES if found[state]}

    @property
    def instances(self) -> int:
        """Return how many instances the source counts in all."""
        return sum(one.instances or 0 for one in self.studies)

    @property
    def uncounted(self) -> int:
        """Return how many studies the source does not count."""
        return sum(one.instances is None for one in self.studies)

    @property
    def seconds(self) -> float:
        """Return the estimated time of the run, by the rate of earlier runs or 20 instances a second."""
        return self.instances / self.rate

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan, whole or not at all, for this user only. Raises ConfigError."""
        data = json.dumps(attrs.asdict(self), separators=(",", ":"))
        try:
            with whole_file(Path(path)) as out:
                out.write(data.encode())
        except OSError as error:
            raise ConfigError(f"the plan cannot be written ({error.strerror})") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan. Raises ConfigError when it is none."""
        try:
            data = json.loads(Path(path).read_bytes())
            if data.pop("version") != VERSION:
                raise ConfigError("the plan is of another version; plan again")
            rows = [Verdict(**one) for one in data.pop("rows")]
            studies = [PlannedStudy(**one) for one in data.pop("studies")]
            return cls(rows=rows, studies=studies, **data)
        except OSError as error:
            raise ConfigError(f"the plan cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ConfigError("the file is no plan, or a damaged one") from None


@frozen
class Earlier:
    """Say how a study ended in earlier runs of the project, and the pseudonym that was chosen for it."""

    state: str
    pseudonym: str = field(default="", repr=False)


@define(eq=False)
class Planner:
    """
    Settle rows against a source, with at most ``workers`` questions at once.

    ``match`` is a predicate on studies; ``several`` says whether all studies of one accession number are taken (of one
    patient only), or the row is *ambiguous*. ``earlier`` says what earlier runs made of studies.
    """

    source: Endpoint
    match: Mapping[str, Any] = field(factory=dict, repr=False)
    earlier: Mapping[str, Earlier] = field(factory=dict, repr=False)
    several: bool = True
    workers: int = WORKERS
    tries: int = TRIES
    backoff: Backoff = field(factory=lambda: Backoff(base=0.1, cap=3.0))
    _known: dict[str, PlannedStudy] = field(factory=dict, init=False, repr=False)
    _names: dict[str, str] = field(factory=dict, init=False, repr=False)
    _lost: int = field(default=0, init=False)
    _torn: set[str] = field(factory=set, init=False, repr=False)

    def plan(self, rows: Iterable[Row]) -> tuple[list[Verdict], list[PlannedStudy]]:
        """Return a verdict for each row, in order, and the studies to collect."""
        listed = list(rows)
        first: dict[tuple[str, str, str, str], int] = {}
        for row in listed:
            if not row.problem:
                first.setdefault(row.key, row.number)
        asked = [row for row in listed if not row.problem and first[row.key] == row.number]
        found = {
            row.number: answer
            for row, answer in zip(asked, bounded_map(self._settle, asked, workers=self.workers), strict=True)
        }
        self._choose((row, found[first[row.key]]) for row in listed if row.pseudonym and not row.problem)
        owner: dict[str, int] = {}
        verdicts = [self._verdict(row, first, found, owner) for row in listed]
        return verdicts, self._planned(verdicts)

    def _choose(self, rows: Iterable[tuple[Row, Verdict]]) -> None:
        """Take note of who shall have which pseudonym, and of the patients about whom the rows do not agree."""
        owners: dict[str, str] = {}
        for row, verdict in rows:
            for uid in verdict.studies if verdict.state == READY else ():
                whose = self._known[uid].patient or uid
                if self._names.setdefault(whose, row.pseudonym) != row.pseudonym:
                    self._torn.add(whose)
                owner = owners.setdefault(row.pseudonym, whose) if self._known[uid].patient else whose
                if owner != whose:
                    self._torn |= {owner, whose}

    def _verdict(
        self,
        row: Row,
        first: Mapping[tuple[str, str, str, str], int],
        found: Mapping[int, Verdict],
        owner: dict[str, int],
    ) -> Verdict:
        if row.problem:
            return Verdict(row.number, row.problem, reason=row.reason)
        verdict = evolve(found[first[row.key]], row=row.number)
        if verdict.state != READY:
            return verdict
        for uid in verdict.studies:
            whose = self._known[uid].patient or uid
            if whose in self._torn:
                return evolve(verdict, state="conflict", reason="the rows do not agree on the patient's pseudonym")
            chosen, before = self._names.get(whose, ""), self.earlier.get(uid)
            if chosen and before is not None and before.pseudonym != chosen:
                return evolve(verdict, state="conflict", reason="an earlier run has another pseudonym for the study")
        fresh = tuple(uid for uid in verdict.studies if uid not in owner)
        if not fresh:
            return evolve(verdict, state="duplicate", same_as=owner[verdict.studies[0]])
        for uid in fresh:
            owner[uid] = row.number
        ended = {self.earlier[uid].state for uid in fresh if uid in self.earlier}
        if ended == {DELIVERED} and all(uid in self.earlier for uid in fresh):
            return evolve(verdict, state="delivered", reason="an earlier run proved it")
        again = sorted(ended & {"failed", "incomplete", "unverifiable"})
        return evolve(verdict, reason=f"an earlier run ended {' and '.join(again)}") if again else verdict

    def _planned(self, verdicts: Sequence[Verdict]) -> list[PlannedStudy]:
        by_study: dict[str, list[int]] = {}
        for one in verdicts:
            if one.state in (READY, "duplicate"):
                for uid in one.studies:
                    by_study.setdefault(uid, []).append(one.row)
        planned = []
        for uid, numbers in by_study.items():
            before = self.earlier.get(uid)
            if before is None or before.state != DELIVERED:
                known = self._known[uid]
                pseudonym = self._names.get(known.patient or uid, "")
                planned.append(evolve(known, rows=tuple(numbers), pseudonym=pseudonym))
        return planned

    def _settle(self, row: Row) -> Verdict:
        """Look for what a row names, for all rows that ask the same."""
        try:
            verdict = self._look(row)
        except Unsupported as error:
            return Verdict(row.number, "invalid", reason=str(error))
        except DianaError as error:
            self._lost += 1
            return Verdict(row.number, "unreachable", reason=f"{type(error).__name__} of the source")
        self._lost = 0
        return verdict

    def _ask(self, asked: Mapping[str, Any], level: DicomLevel) -> list[Dixel]:
        """
        Search the source, again when it fails for the moment; after several rows in vain, once.

        Raises DianaError.
        """
        tries = self.tries if self._lost < DOWN_AFTER else 1
        for attempt in range(1, tries):
            try:
                return list(self.source.find(Query(asked), level))
            except DianaError as error:
                if not error.temporary:
                    raise
                time.sleep(self.backoff.delay(attempt))
        return list(self.source.find(Query(asked), level))

    def _look(self, row: Row) -> Verdict:
        found = self._find(row)
        if not found:
            return Verdict(row.number, "missing", reason="the source has no such study")
        fitting = [one for one in found if _fits(one, row)]
        if not fitting:
            return Verdict(row.number, "conflict", reason="the study is there with another patient, date or number")
        kept = [one for one in fitting if self._passes(one)]
        if not kept:
            return Verdict(row.number, "filtered", reason="the filter excludes it")
        studies = {str(one.tags.get("StudyInstanceUID") or ""): one for one in kept}
        patients = {str(one.tags.get("PatientID") or "") for one in kept}
        if "" in studies:
            return Verdict(row.number, "unreachable", reason="the source does not tell Study Instance UIDs")
        if len(patients) > 1 or (len(studies) > 1 and not self.several):
            return Verdict(row.number, "ambiguous", tuple(studies), reason="several studies fit")
        for uid, one in studies.items():
            if uid not in self._known:
                self._known[uid] = self._describe(uid, one)
        return Verdict(row.number, READY, tuple(studies))

    def _passes(self, study: Dixel) -> bool:
        """Tell whether the filter lets a study pass, or one of its series; what cannot be told yet passes."""
        if not self.match:
            return True
        query = Query(self.match)
        if query.keywords() <= OF_STUDIES:
            return query.matches(study.tags)
        try:
            asked = {"StudyInstanceUID": study.tags.get("StudyInstanceUID")}
            series = [{**study.tags, **one.tags} for one in self._ask(asked, DicomLevel.SERIES)]
        except Unsupported:
            return True
        return any(not query.keywords() <= set(tags) or query.matches(tags) for tags in series)

    def _find(self, row: Row) -> list[Dixel]:
        """Ask for the most exact thing that a row names; what comes back must be exactly that."""
        if row.study:
            asked = {"StudyInstanceUID": row.study}
        elif row.accession:
            asked = {"AccessionNumber": row.accession}
        else:
            asked = {"PatientID": row.patient, "StudyDate": row.date}
        rows = self._ask(asked, DicomLevel.STUDIES)
        return [one for one in rows if all(_same(one.tags.get(key), wanted) for key, wanted in asked.items())]

    def _describe(self, uid: str, found: Dixel) -> PlannedStudy:
        patient = found.tags.get("PatientID")
        return PlannedStudy(
            uid,
            instances=self._count(uid, found),
            accession=str(found.tags.get("AccessionNumber") or ""),
            patient=None if patient is None else str(patient),
        )

    def _count(self, uid: str, found: Dixel) -> int | None:
        said = found.tags.get("NumberOfStudyRelatedInstances")
        if said not in (None, ""):
            try:
                return int(str(said))
            except ValueError:
                pass
        try:
            return len(self._ask({"StudyInstanceUID": uid}, DicomLevel.INSTANCES)) or None
        except (Unsupported, GatewayRefused):
            return None


def _fits(found: Dixel, row: Row) -> bool:
    """Tell whether what was found agrees with everything the row says and the source tells."""
    told = {
        "AccessionNumber": row.accession,
        "PatientID": row.patient,
        "StudyDate": row.date,
        "StudyInstanceUID": row.study,
    }
    return all(not wanted or _same(found.tags.get(key), wanted) for key, wanted in told.items())


def _same(value: Any, wanted: str) -> bool:
    """Tell whether a value is the wanted one; a source that does not tell cannot contradict."""
    if value is None or value == "":
        return True
    text = value.strftime("%Y%m%d") if hasattr(value, "strftime") else str(value)
    return text.strip() == wanted


def items_of(plan: Plan) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield key and payload of each study for the ledger."""
    for one in plan.studies:
        yield one.study, {"instances": one.instances, "patient": one.patient, "pseudonym": one.pseudonym}


def ref_of(study: str, patient: str | None) -> Ref:
    """Return the address of a study."""
    return Ref(DicomLevel.STUDIES, study=study, patient=patient)
