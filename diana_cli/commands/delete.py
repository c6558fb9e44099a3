"""``diana-cli delete``."""

from __future__ import annotations

from typing import Any  # rows

import click

from diana.utils.dicom.levels import DicomLevel
from diana_cli.app import FAILURE, App, say
from diana_cli.batch import Batch
from diana_cli.items import Item, read_items
from diana_cli.params import items_argument, level_option


@click.command("delete", short_help="Remove items from a service.")
@click.argument("source")
@items_argument
@level_option(None)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(app: App, source: str, items: tuple[str, ...], level: DicomLevel | None, yes: bool) -> int:
    """
    Remove items from a service; say for each whether it was there.

    ITEMS are ids, lines of `find`, or - to read them from standard input, which needs --yes.
    """
    if not items:
        raise click.UsageError("say which items, or - for standard input")
    endpoint, batch = app.endpoint(source), Batch()
    if not yes:
        if "-" in items:
            raise click.UsageError("nobody can be asked while standard input holds the items; say --yes")
        if not click.confirm(f"Delete {len(items)} item(s) from {endpoint.name}?", err=True):
            say("nothing was deleted")
            return FAILURE

    def remove(item: Item) -> dict[str, Any]:
        ref = item.at_service(endpoint)
        return {"level": str(ref.level), "id": ref.id, "uid": ref.uid, "deleted": endpoint.delete(ref)}

    app.out.rows(batch.each(read_items(items, level), remove))
    return batch.code
