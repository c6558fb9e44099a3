"""``diana-cli mfind``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any  # rows

import click

from diana.exceptions import ConfigError, InvalidItem
from diana_cli.app import App
from diana_cli.params import LINES

if TYPE_CHECKING:
    from diana.apis import Montage
    from diana.dixel import Dixel

COLUMNS = ("AccessionNumber", "StudyDate", "Modality", "StudyDescription")
EXTRACTS = ("radcat", "lungrads")


@click.command("mfind", short_help="Search an archive of reports.")
@click.argument("source")
@click.option("-q", "--query", "text", default="", help="Words of the report, as Montage takes them.")
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
@click.option("--days", type=click.IntRange(min=1), default=365, show_default=True, help="Asked for at once.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after that many.")
@click.pass_obj
def command(
    app: App,
    source: str,
    text: str,
    numbers: tuple[list[str], ...],
    start_date: dt.datetime,
    end_date: dt.datetime | None,
    today: bool,
    extraction: tuple[str, ...],
    meta: bool,
    days: int,
    limit: int | None,
) -> int:
    """
    Search an archive of reports, and print one line per study: a worklist for `collect`.

    The lines hold the accession number, date, modality and description, no name and no text.
    """
    montage: Any = app.endpoint(source)
    if not hasattr(montage, "iter_query_by_date"):
        raise ConfigError(f"{montage.name} is no archive of reports")
    wanted = [one for given in extraction for one in given.split(",") if one]
    unknown = sorted(set(wanted) - set(EXTRACTS))
    if unknown:
        raise click.UsageError(f"unknown extraction {unknown[0]!r}; there are {', '.join(EXTRACTS)}")
    listed = [one.strip() for given in numbers for line in given for one in line.split(",") if one.strip()]
    if not listed and not text and not today:
        raise click.UsageError(
            "a search without words or accession numbers reads the whole archive; say --today at least"
        )
    now = dt.date.today()
    first, last = (now, now) if today else (start_date.date(), end_date.date() if end_date else now)
    found = _found(montage, text, listed, (first, last), days)
    app.out.rows(_rows(montage, found, wanted, meta=meta, limit=limit), (*COLUMNS, *wanted))
    return 0


def _found(
    montage: Montage, text: str, numbers: Sequence[str], span: tuple[dt.date, dt.date], days: int
) -> Iterator[Dixel]:
    stop, step = span[1] + dt.timedelta(days=1), dt.timedelta(days=days)
    if not numbers:
        yield from montage.iter_query_by_date({"q": text}, span[0], stop, step)
        return
    for number in numbers:
        asked = {"q": f'"{number}" {text}'.strip(), "start_date": str(span[0]), "end_date": str(span[1])}
        yield from (one for one in montage.reports(asked) if one.tags["AccessionNumber"] == number)


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
