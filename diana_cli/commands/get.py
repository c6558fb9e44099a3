"""``diana-cli get``."""

from __future__ import annotations

from pathlib import Path
from typing import Any  # rows

import click

from diana.dixel.views import DixelView
from diana.utils.dicom.levels import DicomLevel
from diana_cli.app import App
from diana_cli.batch import Batch
from diana_cli.items import Item, read_items, row_of
from diana_cli.params import VIEW, items_argument, level_option


@click.command("get", short_help="Show parts of items: tags, metadata, files.")
@click.argument("source")
@items_argument
@click.option("--view", type=VIEW, default="tags", show_default=True, help="Parts: meta, metakv, tags, file, pixels.")
@level_option(None)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Where files go (view file).")
@click.pass_obj
def command(
    app: App, source: str, items: tuple[str, ...], view: DixelView, level: DicomLevel | None, output: Path | None
) -> int:
    """
    Show parts of items, one line each.

    ITEMS are ids, lines of `find`, or - to read them from standard input. Files are saved, not printed.
    """
    if DixelView.FILE in view and output is None:
        raise click.UsageError("the view file needs --output FOLDER")
    from diana_cli.files import save

    endpoint, batch = app.endpoint(source), Batch()

    def show(item: Item) -> dict[str, Any]:
        ref = item.at_service(endpoint)
        found = endpoint.get(ref, view=view)
        more: dict[str, Any] = {}
        if output is not None and found.blob is not None:
            more["file"] = str(save(found, output))
        if found.pixels is not None:
            more["pixels"] = {"shape": list(found.pixels.shape), "type": str(found.pixels.dtype)}
        row = row_of(found, endpoint, **more)
        return {**row, "id": row["id"] or ref.id, "uid": row["uid"] or ref.uid}

    app.out.rows(batch.each(read_items(items or ("-",), level), show))
    return batch.code
