"""``diana-cli exists``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any  # query values and rows

import click

from diana.utils.dicom.levels import DicomLevel
from diana_cli.app import FAILURE, App
from diana_cli.batch import Batch
from diana_cli.items import Item, read_items
from diana_cli.params import MAPPING, items_argument, level_option


@click.command("exists", short_help="Tell whether items are there.")
@click.argument("source")
@items_argument
@click.option("-q", "--query", type=MAPPING, help="Ask whether anything matches, instead of items.")
@level_option(None)
@click.pass_obj
def command(
    app: App, source: str, items: tuple[str, ...], query: Mapping[str, Any] | None, level: DicomLevel | None
) -> int:
    """
    Tell whether items are there: exit 0 when all are, 1 when one is not, 3 when nobody can say.

    ITEMS are ids, lines of `find`, or - to read them from standard input.
    """
    endpoint, batch = app.endpoint(source), Batch()
    absent = 0
    if query is not None:
        found = endpoint.exists(query, level)
        app.out.rows([{"exists": found}])
        return 0 if found else FAILURE

    def ask(item: Item) -> dict[str, Any]:
        nonlocal absent
        ref = item.at_service(endpoint)
        there = endpoint.exists(ref)
        absent += not there
        return {"level": str(ref.level), "id": ref.id, "uid": ref.uid, "exists": there}

    app.out.rows(batch.each(read_items(items or ("-",), level), ask))
    return batch.code or (FAILURE if absent else 0)
