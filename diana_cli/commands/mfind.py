"""``diana-cli mfind``."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any  # rows

import click

from diana.exceptions import ConfigError, InvalidItem
from diana_cli.app import App, say
from diana_cli.params import LINES, MAPPING, Data

if TYPE_CHECKING:
    from diana.apis import Montage
    from diana.dixel import Dixel

COLUMNS = ("AccessionNumber", "StudyDate", "Modality", "StudyDescription")
MORE = ("CPTCodes", "BodyParts")
EXTRACTS = ("radcat", "lungrads")
WILD = "*?\\"


class Words(Data):
    """Take words as they are, or a mapping of Montage's own words, as JSON or YAML in braces."""

    name = "words|{mapping}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the mapping to send."""
        if isinstance(value, str) and not value.lstrip().startswith("{"):
            return {"q": value} if value else {}
        return super().convert(value, param, ctx)


WORDS = Words(dict, "a mapping")


@click.command("mfind", short_help="Search an archive of reports.")
@click.argument("source")
@click.option("-q", "--query", "words", type=WORDS, default="", help="Words of the report, as Montage takes them.")
@click.option("--when", type=MAPPING, help="Take only what matches, such as {Modality: CT, PatientSex: F}.")
@click.option(
    "-a",
    "--accession_numbers",
    "--accession-number",
    "numbers",
    multiple=True,
    type=LINES,
    help="May be repeated; commas, or @file.",
)
@click.option(
    "--start_date", "--start-date", type=click.DateTime(["%Y-%m-%d"]), default="2003-01-01", show_default=True
)
@click.option("--end_date", "--end-date", type=click.DateTime(["%Y-%m-%d"]), help="The last day. [today]")
@click.option("--today", is_flag=True, help="Only reports of today.")
@click.option("-e", "--extraction", multiple=True, metavar="radcat,lungrads", help="Categories to read from the text.")
@click.option("--meta", is_flag=True, help="Look up CPT codes and body parts.")
@click.option("--index", default="", metavar="NAME", help="Another archive of the server than the service's own.")
@click.option(
    "--csv", "sheet", type=click.Path(path_type=Path), help="Write the worklist to this private file, as CSV."
)
@click.option("--days", type=click.IntRange(min=1), default=365, show_default=True, help="Asked for at once.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after that many.")
@click.pass_obj
def command(
    app: App,
    source: str,
    words: dict[str, Any],
    when: Mapping[str, Any] | None,
    numbers: tuple[list[str], ...],
    start_date: dt.datetime,
    end_date: dt.datetime | None,
    today: bool,
    extraction: tuple[str, ...],
    meta: bool,
    index: str,
    sheet: Path | None,
    days: int,
    limit: int | None,
) -> int:
    """
    Search an archive of reports, and print one line per study: a worklist for `collect`.

    The lines hold the accession number, date, modality and description, no name and no text. Accession numbers are
    searched for one by one, and those without a report are counted on standard error.
    """
    montage: Any = app.endpoint(source)
    if not hasattr(montage, "iter_query_by_date"):
        raise ConfigError(f"{montage.name} is no archive of reports")
    wanted = _extractions(extraction)
    listed = _accession_numbers(numbers)
    if not (listed or words or today):
        raise click.UsageError(
            "a search without words or accession numbers reads the whole archive; say --today at least"
        )
    if words.keys() & {"start_date", "end_date"}:
        raise click.UsageError("dates are given by --start-date and --end-date")
    now = dt.date.today()
    span = (now, now) if today else (start_date.date(), end_date.date() if end_date else now)
    absent: list[int] = []
    found = _found(montage, {**(when or {}), **words}, listed, span, days, index, absent)
    rows = _rows(montage, found, wanted, meta=meta, limit=limit)
    if sheet is not None:
        rows = iter(_write(sheet, list(rows), (*COLUMNS, *(MORE if meta else ()), *wanted)))
    app.out.rows(rows, (*COLUMNS, *wanted))
    if absent:
        places = ", ".join(map(str, absent[:20])) + (", ..." if len(absent) > 20 else "")
        say(f"no report for {len(absent)} of {len(listed)} accession numbers: place {places}")
    return 0


def _extractions(given: Sequence[str]) -> list[str]:
    wanted = [one.strip() for several in given for one in several.split(",") if one.strip()]
    unknown = sorted(set(wanted) - set(EXTRACTS))
    if unknown:
        raise click.UsageError(f"unknown extraction {unknown[0]!r}; there are {', '.join(EXTRACTS)}")
    return wanted


def _accession_numbers(given: Sequence[Sequence[str]]) -> list[str]:
    """Return the numbers, each once. Raises BadParameter for a wildcard, naming its place."""
    listed = [one.strip() for several in given for line in several for one in line.split(",") if one.strip()]
    for place, one in enumerate(listed, 1):
        if any(sign in one for sign in WILD):
            raise click.BadParameter(f"number {place} has a wildcard", param_hint="--accession-number")
    return list(dict.fromkeys(listed))


def _found(
    montage: Montage,
    query: Mapping[str, Any],
    numbers: Sequence[str],
    span: tuple[dt.date, dt.date],
    days: int,
    index: str,
    absent: list[int],
) -> Iterator[Dixel]:
    """Yield what is found, and note the places of numbers that find nothing."""
    if not numbers:
        stop, step = span[1] + dt.timedelta(days=1), dt.timedelta(days=days)
        yield from montage.iter_query_by_date(query, span[0], stop, step, index=index)
        return
    text = query.get("q", "")
    for place, number in enumerate(numbers, 1):
        asked = {**query, "AccessionNumber": number, "start_date": str(span[0]), "end_date": str(span[1])}
        if text:
            asked["q"] = f'"{number}" {text}'
        found = False
        for one in montage.iter_find(asked, index=index):
            found = True
            yield one
        if not found:
            absent.append(place)


def _rows(
    montage: Montage, found: Iterator[Dixel], wanted: Sequence[str], *, meta: bool, limit: int | None
) -> Iterator[dict[str, Any]]:
    for count, one in enumerate(found, 1):
        moment = one.meta.get("StudyDateTime")
        row = {
            "AccessionNumber": one.tags["AccessionNumber"],
            "StudyDate": "" if moment is None else moment.strftime("%Y%m%d"),
            "Modality": one.tags.get("Modality"),
            "StudyDescription": one.tags.get("StudyDescription"),
        }
        if meta:
            montage.get_meta(one)
            row.update(CPTCodes=one.meta["CPTCodes"], BodyParts=one.meta["BodyParts"])
        yield row | {name: _extracted(one, name) for name in wanted}
        if limit is not None and count >= limit:
            return


def _extracted(found: Dixel, name: str) -> str:
    """Return a category of the report, empty when it names none."""
    if found.report is None:
        return ""
    try:
        return found.report.radcat()[0] if name == "radcat" else found.report.lungrads()
    except InvalidItem:
        return ""


def _write(path: Path, rows: list[dict[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Write the rows as CSV, for this user only; return them."""
    from diana.utils.files import make_private, whole_file

    text = io.StringIO(newline="")
    sheet = csv.writer(text)
    sheet.writerow(columns)
    for row in rows:
        cells = (row.get(name) for name in columns)
        sheet.writerow([";".join(one) if isinstance(one, list) else one for one in cells])
    try:
        make_private(path.absolute().parent)
        with whole_file(path) as out:
            out.write(text.getvalue().encode())
    except OSError as error:
        raise ConfigError(f"the worklist cannot be written ({error.strerror})") from None
    return rows
