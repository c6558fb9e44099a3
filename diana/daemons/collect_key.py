"""The key of a collection: which studies belong to it, and under which pseudonyms they went."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Final

from attrs import define, evolve, field

from diana.daemons.collect_plan import PlannedStudy
from diana.daemons.worklist import Row, read_worklist
from diana.utils.files import whole_file

COLUMNS: Final = ("AccessionNumber", "StudyInstanceUID", "Pseudonym")


@define(eq=False)
class KeyFile:
    """Keep accession number, study UID and, where there is one, the pseudonym of each study; for this user only."""

    path: Path
    _lines: dict[str, tuple[str, str]] = field(init=False, factory=dict, repr=False)

    def rows(self, listed: Path) -> list[Row]:
        """
        Return what is to be collected: the studies of the key, then what a list names besides.

        Without a key the list must be there. Raises ConfigError.
        """
        if not self.path.exists():
            return read_worklist(listed)
        known = [row for row in read_worklist(self.path, "csv") if row.study and not row.problem]
        self._lines = {row.study: (row.accession, row.pseudonym) for row in known}
        studies, numbers = set(self._lines), {row.accession for row in known if row.accession}
        besides = read_worklist(listed) if listed.exists() else []
        new = [row for row in besides if row.study not in studies and (row.study or row.accession not in numbers)]
        # what the key says of pseudonyms was given, not chosen
        rows = [*(Row(row.number, study=row.study) for row in known), *new]
        return [evolve(row, number=number) for number, row in enumerate(rows, 1)]

    def write(self, studies: Iterable[PlannedStudy]) -> None:
        """Enter studies, and write the file whole."""
        for one in studies:
            _, given = self._lines.get(one.study, ("", ""))
            self._lines[one.study] = (one.accession, given)
        self._save()

    def note(self, pseudonyms: Mapping[str, str]) -> None:
        """Enter pseudonyms by study, and write the file whole."""
        for study, given in pseudonyms.items():
            if study in self._lines and given:
                self._lines[study] = (self._lines[study][0], given)
        self._save()

    def _save(self) -> None:
        wide = any(given for _, given in self._lines.values())
        text = StringIO()
        writer = csv.writer(text)
        writer.writerow(COLUMNS if wide else COLUMNS[:2])
        writer.writerows(
            (accession, study, given)[: 3 if wide else 2] for study, (accession, given) in self._lines.items()
        )
        with whole_file(self.path) as out:
            out.write(text.getvalue().encode())
