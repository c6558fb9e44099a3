"""``diana-cli find``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any  # query values

import click
from attrs import evolve

from diana.exceptions import Unsupported
from diana.utils.dicom.levels import DicomLevel
from diana_cli.app import App, say
from diana_cli.items import row_of
from diana_cli.params import LINES, MAPPING, level_option

if TYPE_CHECKING:
    from diana.dixel import Dixel
    from diana.utils.dicom.query import Query
    from diana.utils.endpoint import Endpoint

COLUMNS: Mapping[DicomLevel, Sequence[str]] = {
    DicomLevel.PATIENTS: ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    DicomLevel.STUDIES: ("StudyDate", "ModalitiesInStudy", "StudyDescription", "PatientName", "PatientID"),
    DicomLevel.SERIES: ("Modality", "SeriesNumber", "SeriesDescription", "StudyInstanceUID"),
    DicomLevel.INSTANCES: ("InstanceNumber", "SeriesInstanceUID"),
}
DANGEROUS = "*?\\"


@click.command("find", short_help="Search a service.")
@click.argument("source")
@click.option("-q", "--query", type=MAPPING, help='DICOM keywords to values, such as {"PatientName": "B*"}.')
@level_option()
@click.option("-a", "--accession-number", "accessions", multiple=True, type=LINES, help="May be repeated.")
@click.option("--today", is_flag=True, help="Only studies of today.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after that many.")
@click.option("--all", "everything", is_flag=True, help="Allow a search without any key.")
@click.option("--fields", multiple=True, metavar="KEYWORD[,...]", help="More keywords to ask for and to show.")
@click.option("-d", "--domain", metavar="NAME", help="Ask this remote modality through the service.")
@click.option("-r", "--retrieve", is_flag=True, help="Also bring what is found to the service that asks.")
@click.pass_obj
def command(
    app: App,
    source: str,
    query: Mapping[str, Any] | None,
    level: DicomLevel,
    accessions: tuple[list[str], ...],
    today: bool,
    limit: int | None,
    everything: bool,
    fields: tuple[str, ...],
    domain: str | None,
    retrieve: bool,
) -> int:
    """
    Search a service and print one line per item.

    Values may hold * and ?, lists, and ranges of dates (20240101-20240131). With accession numbers there is one
    search for each, and those that find nothing are counted on standard error.
    """
    from diana.utils.dicom.query import Query
    from diana.utils.dicom.query import today as date_of_today

    match = dict(query or {})
    if today:
        match["StudyDate"] = date_of_today()
    numbers = _accession_numbers(accessions)
    if not (match or numbers or everything or limit):
        raise click.UsageError("a search without any key reads the whole service; say --all or --limit")
    wanted = [keyword.strip() for one in fields for keyword in one.split(",") if keyword.strip()]
    matches = [{**match, "AccessionNumber": number} for number in numbers] or [match]
    endpoint = app.endpoint(source)
    search = _search(endpoint, domain, retrieve)
    absent: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        left = limit
        for place, one in enumerate(matches, 1):
            asked = Query(one, level, limit=left, fields=wanted)
            count = 0
            for dixel in search(asked):
                count += 1
                yield row_of(dixel, endpoint)
                if count == left:
                    break
            if left is not None:
                left -= count
                if left <= 0:
                    return
            if not count:
                absent.append(place)

    columns = [*COLUMNS[level], *wanted, "uid"]
    app.out.rows(rows(), [one for one in dict.fromkeys(columns) if one != level.uid_keyword])
    if numbers and absent:
        say(f"nothing found for {len(absent)} of {len(numbers)} accession numbers: place {_places(absent)}")
    return 0


def _accession_numbers(given: Sequence[Sequence[str]]) -> list[str]:
    numbers = list(dict.fromkeys(one for group in given for one in group))
    for place, one in enumerate(numbers, 1):
        if not one or any(sign in one for sign in DANGEROUS):
            raise click.BadParameter(f"number {place} is empty or has a wildcard", param_hint="--accession-number")
    return numbers


def _search(endpoint: Endpoint, domain: str | None, retrieve: bool) -> Callable[[Query], Iterable[Dixel]]:
    """Return how to search: the service itself, or a modality that it knows. Raises Unsupported."""
    if domain is not None:
        return lambda asked: endpoint.handle(_with_keys(asked), "rfind", domain, retrieve=retrieve)
    if not retrieve:
        return endpoint.iter_find
    if "retrieve" not in signature(type(endpoint)._find).parameters:
        raise Unsupported(f"{endpoint.name}: has nothing to retrieve from; name a modality with --domain")
    return lambda asked: endpoint.iter_find(asked, retrieve=True)


def _with_keys(asked: Query) -> Query:
    """Return a query that also asks for what addresses an item and for what is shown."""
    uids = [level.uid_keyword for level in DicomLevel if level <= asked.level]
    more = [*asked.fields, *uids, *COLUMNS[asked.level]]
    return evolve(asked, fields=[one for one in dict.fromkeys(more) if one not in asked.match])


def _places(places: Sequence[int]) -> str:
    shown = ", ".join(str(one) for one in places[:20])
    return shown if len(places) <= 20 else f"{shown}, ..."
