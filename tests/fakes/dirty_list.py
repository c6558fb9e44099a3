"""Worklists with every kind of dirt, and for each row what is true of it."""

from __future__ import annotations

import csv
import datetime as dt
import random
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

from attrs import define, field, frozen

COLUMNS = ("accession", "study", "patient", "date", "comment")
FIRST_DAY = dt.date(2023, 1, 1)
REMARKS = ("", "", "first", "Größe 5 cm", "a, b; c", 'said "no"', "two\nlines", "x" * 300, "*")
Cells = dict[str, str]


@frozen
class Study:
    """A study of the archive, by number."""

    number: int
    uid: str
    accession: str
    patient: str
    day: dt.date


def archive(count: int, root: str = "1.2.840") -> list[Study]:
    """
    Return studies of which most stand alone.

    Of the last quarter some share an accession number, of one patient or of two, and some patient and date.
    """
    found = []
    for number in range(1, count + 1):
        accession, patient, day = f"{number:07}", f"P{number}", FIRST_DAY + dt.timedelta(number * 7 % 700)
        if number % 3 == 0:
            accession = f"Ac{number}"
        pair = number - number % 2
        if number > count * 3 // 4 and pair < count:
            shared = pair % 6
            if shared in (0, 2):
                accession = f"Z{pair}"
            if shared in (0, 4):
                patient, day = f"P{pair}", FIRST_DAY + dt.timedelta(pair * 7 % 700)
        found.append(Study(number, f"{root}.{number}", accession, patient, day))
    return found


@define
class Line:
    """One line of the list: cells or raw text, and the truth; ``state`` is empty where ``studies`` are asked for."""

    cells: Cells = field(factory=dict)
    state: str = ""
    studies: tuple[str, ...] = ()
    raw: str = ""
    lines: int = 1
    number: int = 0
    same_as: int = 0


class Dirt:
    """Make lines about an archive."""

    def __init__(self, studies: list[Study], chance: random.Random) -> None:
        self.studies, self.chance = studies, chance

    def lines(self, count: int) -> list[Line]:
        """Return so many rows in any order: each study in a clean way once, and each kind of dirt again and again."""
        found = [self.clean(one) for one in self.studies]
        kinds = self.kinds()
        while len(found) < count:
            found.append(kinds[len(found) % len(kinds)](self.chance.choice(self.studies)))
        self.chance.shuffle(found)
        return self.settled(found)

    def settled(self, lines: list[Line]) -> list[Line]:
        """Tell which rows are the first to ask for a study."""
        owner: dict[str, Line] = {}
        for line in lines:
            if line.state:
                continue
            fresh = [uid for uid in line.studies if uid not in owner]
            line.state = "ready" if fresh else "duplicate"
            owner.update(dict.fromkeys(fresh, line))
        self.owner = owner
        return lines

    def clean(self, one: Study) -> Line:
        return Line({"study": one.uid}, studies=(one.uid,))

    def by_accession(self, one: Study, cell: str = "", **more: str) -> Line:
        """Return a row that asks by accession number, and what else it says."""
        fitting = [two for two in self.studies if two.accession == one.accession]
        if "patient" in more:
            fitting = [two for two in fitting if two.patient == one.patient]
        if "date" in more:
            fitting = [two for two in fitting if two.day == one.day]
        state = "ambiguous" if len({two.patient for two in fitting}) > 1 else ""
        return Line({"accession": cell or one.accession, **more}, state, tuple(two.uid for two in fitting))

    def by_patient(self, one: Study, text: str) -> Line:
        fitting = [two.uid for two in self.studies if (two.patient, two.day) == (one.patient, one.day)]
        return Line({"patient": one.patient, "date": text}, studies=tuple(fitting))

    def bad(self, state: str, **cells: str) -> Line:
        return Line(cells, state)

    def dates(self, day: dt.date) -> str:
        """Return a date as somebody writes it, in a way that can be read in one way only."""
        forms = ["%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%Y/%m/%d", "%Y-%m-%d 10:30", "%d-%b-%Y", "%b %d, %Y"]
        if day.day > 12 or day.day == day.month:
            forms += ["%m/%d/%Y", "%d/%m/%Y", "%m/%d/%Y 08:00"]
        return day.strftime(self.chance.choice(forms))

    def kinds(self) -> list[Callable[[Study], Line]]:
        """Return what makes rows of each kind from a study."""
        spelled = [
            "{0}", " {0} ", "\u00a0{0}\u00a0", '="{0}"', "'{0}", '"{0}"', "\u200b{0}\ufeff", "{0}\t ", "\u2003{0}",
        ]  # fmt: skip
        good: list[Callable[[Study], Line]] = [
            *(lambda one, form=form: self.by_accession(one, form.format(one.accession)) for form in spelled),
            lambda one: Line({"study": f" {one.uid} "}, studies=(one.uid,)),
            lambda one: Line({"study": one.uid, "accession": one.accession}, studies=(one.uid,)),
            lambda one: Line({"study": one.uid, "patient": one.patient, "comment": "-"}, studies=(one.uid,)),
            lambda one: self.by_accession(one, patient=one.patient),
            lambda one: self.by_accession(one, date=self.dates(one.day)),
            lambda one: self.by_accession(one, date=self.dates(one.day), patient=f"{one.patient} "),
            lambda one: self.by_patient(one, self.dates(one.day)),
            lambda one: self.by_patient(one, self.dates(one.day)),
        ]
        wrong: list[Callable[[Study], Line]] = [
            lambda one: self.bad("conflict", accession=one.accession, patient="P0"),
            lambda one: self.bad("conflict", accession=one.accession, date="1999-12-31"),
            lambda one: self.bad("conflict", study=one.uid, accession="OTHER"),
            lambda one: self.bad("conflict", study=one.uid, date=self.dates(one.day + dt.timedelta(1))),
            lambda one: self.bad("invalid", accession=one.accession, date="03/04/2024"),
            lambda one: self.bad("invalid", accession=one.accession, date="45322"),
            lambda one: self.bad("invalid", patient=one.patient, date="30.02.2024"),
            lambda one: self.bad("invalid", patient=one.patient),
            lambda one: self.bad("invalid", accession=f"{one.number}.23E+11"),
            lambda one: self.bad("invalid", accession=f"{one.accession}\x00"),
            lambda one: self.bad("invalid", accession=f"{one.accession}\x07{one.accession}"),
            lambda one: self.bad("invalid", accession="9" * 65),
            lambda one: self.bad("invalid", study=f"{one.uid}."),
            lambda one: self.bad("invalid", study=f"{one.uid}x"),
            lambda one: self.bad("wildcard", accession=f"{one.accession[:3]}*"),
            lambda one: self.bad("wildcard", accession=f"?{one.accession[1:]}"),
            lambda one: self.bad("wildcard", accession=f"{one.accession}\\{one.accession}"),
            lambda one: self.bad("wildcard", patient="*", date="2024-01-01"),
            lambda one: self.bad("wildcard", accession=one.accession, patient=f"{one.patient}?"),
            lambda one: self.bad("missing", accession=f"X{one.accession}"),
            lambda one: self.bad("missing", accession=one.accession.lstrip("0").lower() + "x"),
            lambda one: self.bad("missing", accession=str(one.number + 10**8)),
            lambda one: self.bad("missing", study=f"{one.uid}.1.2"),
            lambda one: self.bad("missing", patient=one.patient, date="1999-12-31"),
            lambda one: self.bad("blank"),
            lambda one: self.bad("blank", comment="nothing but this"),
            lambda one: self.bad("blank", date=self.dates(one.day)),
        ]
        raw: list[Callable[[Study], Line]] = [
            lambda one: Line(raw="{0}", state="blank"),
            lambda one: Line(raw=f"{one.accession}{{0}}{{0}}{{0}}{{0}}{{0}}more", state="invalid"),
            lambda one: Line(raw=f'{one.accession}{{0}}{{0}}{{0}}{{0}}"5 cm', state="invalid"),
            lambda one: Line(raw=f'"{one.accession}', state="invalid"),
            lambda one: Line(
                raw=one.accession, state=self.by_accession(one).state, studies=self.by_accession(one).studies
            ),
        ]
        return [*good, *wrong, *raw]


@frozen
class Form:
    """How a list is written."""

    delimiter: str = ","
    encoding: str = "utf-8"
    newline: str = "\r\n"
    heads: tuple[str, ...] = ("Accession Number", "Study UID", "MRN", "Study Date", "Comment")
    before: tuple[str, ...] = ()
    between: str = ""

    def write(self, lines: list[Line], chance: random.Random) -> bytes:
        """Return the list as bytes, and enter the number of each row's line."""
        out: list[str] = [*self.before, self.delimiter.join(self.heads)]
        for line in lines:
            if self.between and chance.random() < 0.02:
                out.append(self.between)
            line.number = len(out) + 1
            text = line.raw.replace("{0}", self.delimiter)
            if not text:
                cells = {"comment": chance.choice(REMARKS), **line.cells}
                text = _csv([cells.get(column, "") for column in COLUMNS], self.delimiter)
            out += text.split("\n")
        return (self.newline.join(out) + self.newline).encode(self.encoding, "ignore")


def _csv(cells: list[str], delimiter: str) -> str:
    text = StringIO()
    csv.writer(text, delimiter=delimiter).writerow(cells)
    return text.getvalue().removesuffix("\r\n")


def instances(studies: list[Study], make: Callable[..., Any], each: int = 1) -> Iterator[Any]:
    """Yield the instances of an archive, made by a function that takes DICOM keywords."""
    for one in studies:
        for at in range(1, each + 1):
            yield make(
                at,
                study=one.uid,
                AccessionNumber=one.accession,
                PatientID=one.patient,
                StudyDate=one.day.strftime("%Y%m%d"),
            )
