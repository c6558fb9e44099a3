"""The registry: which patient has which pseudonym in a project, for many processes at once."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar  # rows of a database

from attrs import frozen
from sqlalchemy import Connection, Row, select, update

from diana.deid.key import Key
from diana.deid.pseudonyms import MODES, Subject, normal_id, subject_of
from diana.deid.registry_tables import FIND, create, projects, subjects
from diana.deid.result import Quarantined, Reason, Refused
from diana.exceptions import ConfigError, StateUnavailable
from diana.ledger.schema import storable
from diana.ledger.store import Store

if TYPE_CHECKING:
    from diana.deid.audit import Audit

log = logging.getLogger(__name__)

Out = TypeVar("Out")

ATTEMPTS: Final = 8
PATIENCE: Final = 5
REMEMBERED: Final = 200_000
GROUP: Final = 500
_UNKNOWN: Final = "the registry does not know the patient"


@frozen
class Entry:
    """Hold one row: an original patient id and its pseudonym. ``line`` is where an imported file says so."""

    patient_id: str
    pseudonym: str
    issuer: str = ""
    name: str = ""
    weeks: int | None = None
    origin: str = "imported"
    key: str = ""
    at: float = 0.0
    line: int = 0

    def __repr__(self) -> str:
        return f"Entry(line {self.line})"


class _Patient(NamedTuple):
    """Name a patient: issuer and id in their normal forms, and the id as it was spelled."""

    issuer: str
    original: str
    spelled: str

    @property
    def key(self) -> tuple[str, str]:
        """Return what makes two of them the same patient."""
        return self[0], self[1]


class Registry:
    """
    Give each patient of a project one pseudonym, one name and one shift of dates, for good.

    ``where`` is a ``Store``, or what it takes: a file ``*.sqlite``, a folder, a SQLAlchemy URL, or None for memory.
    What is stored wins over what the key gives, so that imported pseudonyms and those of an older key stay. Rows are
    only added. Many processes may use one registry. ``mode`` says what happens to an unknown patient: *mint*, *refuse*
    or *quarantine*. A patient known without an issuer by import is known with any. Raises ConfigError when the
    project was begun with a key that ``key`` does not remember.
    """

    def __init__(
        self,
        where: Store | str | os.PathLike[str] | None,
        key: Key,
        project: str = "default",
        mode: str = "mint",
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"the mode of a registry is one of {', '.join(MODES)}")
        if not project:
            raise ConfigError("a registry needs the name of a project")
        self.where = where
        self.key = key
        self.project = storable(project)
        self.mode = mode
        self._lock = RLock()
        self._known: dict[tuple[str, str], Subject] = {}
        self._reader: sqlite3.Connection | None = None
        self._owns = not isinstance(where, Store)
        self.store = where if isinstance(where, Store) else _patiently(lambda: Store(where))
        _patiently(lambda: create(self.store))
        _patiently(self._bind)

    def __repr__(self) -> str:
        return f"Registry({self.project!r}, {self.mode})"

    def __getstate__(self) -> tuple[Any, ...]:
        if not self._owns or self.where is None:
            raise TypeError("a registry goes to another process by its address only")
        return self.where, self.key, self.project, self.mode

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # the arguments are all there is

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database, unless it was given as a ``Store``; twice does no harm."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
        if self._owns:
            self.store.close()

    def subject(self, issuer: str, patient_id: str, others: Sequence[tuple[str, str]] = ()) -> Subject:
        """
        Return the subject of a patient, minting it when it is unknown and the mode allows.

        ``others`` are further (issuer, id) pairs that the same patient is said to have. When the registry knows one of
        them, an unknown patient becomes another id of that subject. Those that it does not know are not stored: what an
        object says merges nobody that is met later. Raises Refused or Quarantined *unknown-patient* (by the mode),
        Quarantined *conflict* (the ids belong to different subjects, or the id is itself a pseudonym of the project) or
        *pseudonym-collision*; StateUnavailable when the database cannot be reached.
        """
        asked = _clean(issuer, patient_id)
        found = self._known.get(asked.key) or self._remember(asked, _patiently(lambda: self._find(asked)))
        rivals = [(other, rival) for other in self._others(asked, others) if (rival := self._seen(other)) is not None]
        if len({one.pseudonym for one in (found, *(rival for _, rival in rivals)) if one is not None}) > 1:
            raise Quarantined(Reason.CONFLICT, "the ids of the patient belong to different subjects of the registry")
        if found is None and rivals:
            other, found = rivals[0]
            self._alias(asked, other)
            self._remember(asked, found)
        if found is not None:
            return found
        if self.mode != "mint":
            raise (Refused if self.mode == "refuse" else Quarantined)(Reason.PATIENT, _UNKNOWN)
        return self._mint(asked)

    @staticmethod
    def _others(asked: _Patient, others: Sequence[tuple[str, str]]) -> Iterator[_Patient]:
        cleaned = (_clean(*one) for one in others)
        return (other for other in cleaned if other.original and other.key != asked.key)

    def _seen(self, other: _Patient) -> Subject | None:
        return self._known.get(other.key) or self._remember(other, _patiently(partial(self._find, other)))

    def lookup(self, issuer: str, patient_id: str) -> Subject | None:
        """Return the subject of a patient, or None; nothing is minted."""
        return _patiently(lambda: self._find(_clean(issuer, patient_id)))

    def alias(self, new: tuple[str, str], known: tuple[str, str]) -> None:
        """
        Let another (issuer, id) mean a known patient; repeating it does no harm.

        Raises Quarantined *conflict* when it means somebody else, *unknown-patient* without a known one.
        """
        self._alias(_clean(*new), _clean(*known))

    def _alias(self, new: _Patient, known: _Patient) -> None:
        def add() -> None:
            with self.store.begin() as connection:
                row = self._row(connection, known) or self._row(connection, known._replace(issuer=""), "imported")
                if row is None:
                    raise Quarantined(Reason.PATIENT, _UNKNOWN)
                subject = _subject(row)
                connection.execute(self.store.insert_new(subjects), [self._values(new, subject, "alias", owned=False)])
                there = self._row(connection, new)
                if there is None or there.pseudonym != subject.pseudonym:
                    raise Quarantined(Reason.CONFLICT, "the other id belongs to another subject of the registry")

        _patiently(add)

    def add(self, entries: Iterable[Entry], *, aliases: bool = False) -> int:
        """
        Store given pseudonyms, all or none; return how many rows are new.

        With ``aliases`` an id whose pseudonym is taken becomes another id of that patient. Raises ConfigError with a
        line for each entry that contradicts the registry or another entry.
        """
        given = list(entries)
        return _patiently(lambda: self._add(given, aliases=aliases))

    def entries(self) -> Iterator[Entry]:
        """Yield every row of the project, oldest first."""
        last = 0
        while True:
            asked = select(subjects).where(subjects.c.project == self.project, subjects.c.id > last)
            with self.store.begin() as connection:
                rows = connection.execute(asked.order_by(subjects.c.id).limit(GROUP)).all()
            if not rows:
                return
            last = rows[-1].id
            for row in rows:
                yield Entry(row.spelled, row.pseudonym, row.issuer, row.name, row.weeks, row.origin, row.key, row.at)

    def reidentify(self, pseudonym: str, audit: Audit, reason: str) -> list[tuple[str, str]]:
        """
        Return the (issuer, id) pairs behind a pseudonym; that it was asked, and why, is in the audit before.

        Raises ConfigError without a reason, or when the reason itself holds one of the ids.
        """
        asked = select(subjects.c.issuer, subjects.c.spelled).where(
            subjects.c.project == self.project, subjects.c.pseudonym == pseudonym.strip()
        )
        with self.store.begin() as connection:
            found = [(row.issuer, row.spelled) for row in connection.execute(asked.order_by(subjects.c.id))]
        if not reason.strip():
            raise ConfigError("re-identification needs a reason")
        if any(original and original in reason for _, original in found):
            raise ConfigError("the reason goes into the audit; it must not hold the patient's id")
        audit.add(
            {
                "event": "reidentify",
                "project": self.project,
                "pseudonym": pseudonym.strip() if found else "",
                "reason": reason.strip(),
                "uid": os.getuid(),
                "found": len(found),
            }
        )
        return found

    def _bind(self) -> None:
        """Tie the project to the key, or to the newest of its rotations."""
        with self.store.begin() as connection:
            connection.execute(self.store.insert_new(projects), [{"project": self.project, "key": self.key.id}])
            bound = connection.execute(select(projects.c.key).where(projects.c.project == self.project)).scalar_one()
            if bound not in self.key.ids:
                raise ConfigError(f"the project {self.project!r} of the registry belongs to another key")
            if bound != self.key.id:
                connection.execute(update(projects).where(projects.c.project == self.project).values(key=self.key.id))

    def _find(self, asked: _Patient) -> Subject | None:
        """Return a stored subject; on SQLite without waiting for those that write."""
        values = {"project": self.project, "issuer": asked.issuer, "original": asked.original}
        if self.store.path is None:
            with self.store.begin() as connection:
                return _best(connection.execute(FIND, values).all(), asked.issuer)
        with self._lock:
            if self._reader is None:
                self._reader = sqlite3.connect(self.store.path, timeout=20, check_same_thread=False)
                self._reader.execute("PRAGMA query_only=1")
            try:
                with closing(self._reader.execute(str(FIND), values)) as cursor:
                    return _best(cursor.fetchall(), asked.issuer)
            except sqlite3.Error as error:
                raise StateUnavailable(f"the registry cannot be read now: {type(error).__name__}") from None

    def _mint(self, asked: _Patient) -> Subject:
        for attempt in range(ATTEMPTS):
            made = subject_of(self.key, asked.issuer if not attempt else f"{asked.issuer}\\{attempt}", asked.original)
            stored = _patiently(partial(self._claim, asked, made))
            if stored is not None:
                self._remember(asked, stored)
                return stored
            log.warning("a pseudonym was taken, attempt %d", attempt + 1)
        raise Quarantined("pseudonym-collision", "every pseudonym that the key gives the patient is taken")

    def _claim(self, asked: _Patient, made: Subject) -> Subject | None:
        """Store a subject unless the patient has one, and return what is stored; None when the pseudonym is taken."""
        with self.store.begin() as connection:
            connection.execute(self.store.insert_new(subjects), [self._values(asked, made, "minted")])
            row = self._row(connection, asked)
            if asked.original and self._is_pseudonym(connection, asked):
                raise Quarantined(Reason.CONFLICT, "the patient id is itself a pseudonym of the registry")
            return None if row is None else _subject(row)

    def _add(self, given: Sequence[Entry], *, aliases: bool) -> int:
        problems, count = _inner_problems(given, aliases), 0
        with self.store.begin() as connection:
            for entry in given:
                asked = _clean(entry.issuer, entry.patient_id)
                there = self._row(connection, asked)
                if there is not None and there.pseudonym != entry.pseudonym:
                    problems.append(f"line {entry.line}: the patient has another pseudonym already")
                elif there is None:
                    owner = self._owner(connection, entry.pseudonym)
                    if owner is not None and not (aliases or entry.origin == "alias"):
                        problems.append(f"line {entry.line}: the pseudonym belongs to another patient already")
                        continue
                    subject = self._imported(entry) if owner is None else _subject(owner)
                    values = self._values(
                        asked, subject, "alias" if owner is not None else "imported", owned=owner is None
                    )
                    connection.execute(self.store.insert_new(subjects), [values])
                    count += 1
                if self._is_pseudonym(connection, asked) or self._is_original(connection, entry.pseudonym):
                    problems.append(f"line {entry.line}: a pseudonym is the id of a patient of the registry")
                if len(problems) > GROUP:
                    break
            if problems:
                raise ConfigError(list(dict.fromkeys(problems)))
        return count

    def _imported(self, entry: Entry) -> Subject:
        made = subject_of(self.key, entry.issuer, entry.patient_id)
        weeks = made.weeks if entry.weeks is None else entry.weeks
        return Subject(entry.pseudonym, entry.name or entry.pseudonym, weeks)

    def _values(self, asked: _Patient, made: Subject, origin: str, *, owned: bool = True) -> dict[str, Any]:
        return {
            "project": self.project,
            "issuer": asked.issuer,
            "original": asked.original,
            "spelled": asked.spelled,
            "pseudonym": made.pseudonym,
            "owned": made.pseudonym if owned else None,
            "name": made.name,
            "weeks": made.weeks,
            "key": self.key.id,
            "origin": origin,
            "at": time.time(),
        }

    def _row(self, connection: Connection, asked: _Patient, origin: str = "") -> Row[Any] | None:
        found = select(subjects).where(subjects.c.project == self.project)
        found = found.where(subjects.c.original == asked.original, subjects.c.issuer == asked.issuer)
        return connection.execute(found.where(subjects.c.origin == origin) if origin else found).one_or_none()

    def _owner(self, connection: Connection, pseudonym: str) -> Row[Any] | None:
        same = (subjects.c.project == self.project, subjects.c.owned == pseudonym)
        return connection.execute(select(subjects).where(*same)).one_or_none()

    def _is_pseudonym(self, connection: Connection, asked: _Patient) -> bool:
        return any(self._owner(connection, one) is not None for one in {asked.spelled, asked.original})

    def _is_original(self, connection: Connection, text: str) -> bool:
        same = (subjects.c.project == self.project, subjects.c.original == storable(normal_id(text)))
        return connection.execute(select(subjects.c.id).where(*same).limit(1)).first() is not None

    def _remember(self, asked: _Patient, found: Subject | None) -> Subject | None:
        if found is not None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[asked.key] = found
        return found


def _clean(issuer: str, patient_id: str) -> _Patient:
    """Return issuer and id in the form in which they are compared, and the id as it was given."""
    spelled = storable(" ".join(patient_id.replace("\0", " ").split()))
    return _Patient(storable(normal_id(issuer)), storable(normal_id(patient_id)), spelled)


def _subject(row: Row[Any]) -> Subject:
    return Subject(row.pseudonym, row.name, row.weeks)


def _best(rows: Sequence[Sequence[Any]], issuer: str) -> Subject | None:
    """Return the row of the issuer itself, else an imported one that names none."""
    exact = [row for row in rows if row[0] == issuer]
    chosen = exact or [row for row in rows if row[1] == "imported"]
    return Subject(chosen[0][2], chosen[0][3], chosen[0][4]) if chosen else None


def _inner_problems(given: Sequence[Entry], aliases: bool) -> list[str]:
    """Return where the entries contradict each other."""
    problems: list[str] = []
    by_id: dict[tuple[str, str], Entry] = {}
    by_pseudonym: dict[str, Entry] = {}
    for entry in given:
        first = by_id.setdefault(_clean(entry.issuer, entry.patient_id).key, entry)
        if first.pseudonym != entry.pseudonym:
            problems.append(f"line {entry.line}: the patient of line {first.line} with another pseudonym")
        owner = by_pseudonym.setdefault(entry.pseudonym, entry)
        is_alias = aliases or entry.origin == "alias"
        if not is_alias and (owner.issuer, owner.patient_id) != (entry.issuer, entry.patient_id):
            problems.append(f"line {entry.line}: the pseudonym of line {owner.line} for another patient")
    return problems


def _patiently(work: Callable[[], Out]) -> Out:
    """Do something with the database, again after a moment when others keep it busy."""
    for attempt in range(1, PATIENCE):
        try:
            return work()
        except StateUnavailable:
            time.sleep(random.uniform(0.0, 0.2) * attempt)  # noqa: S311  # spreads the writers, hides nothing
    return work()
