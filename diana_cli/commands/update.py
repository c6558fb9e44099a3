"""``diana-cli update``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any  # data and rows

import click

from diana.utils.dicom.levels import DicomLevel
from diana_cli.app import App
from diana_cli.batch import Batch
from diana_cli.items import Item, mark, read_items
from diana_cli.params import MAPPING, items_argument, level_option


@click.command("update", short_help="Change items of a service.")
@click.argument("dest")
@items_argument
@click.option("--data", type=MAPPING, required=True, help="Keys to new values.")
@level_option(None)
@click.pass_obj
def command(app: App, dest: str, items: tuple[str, ...], data: Mapping[str, Any], level: DicomLevel | None) -> int:
    """
    Change items of a service and print their ids after it.

    ITEMS are ids, lines of `find`, or - to read them from standard input.
    """
    endpoint, batch = app.endpoint(dest), Batch()

    def change(item: Item) -> dict[str, Any]:
        ref = item.at_service(endpoint)
        return {"level": str(ref.level), "id": endpoint.update(ref, data), "uid": ref.uid, "at": mark(endpoint)}

    app.out.rows(batch.each(read_items(items or ("-",), level), change))
    return batch.code
