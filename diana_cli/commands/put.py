"""``diana-cli put``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any  # rows

import click

from diana_cli.app import App
from diana_cli.batch import Batch
from diana_cli.items import Item


@click.command("put", short_help="Store files in a service.")
@click.argument("dest")
@click.argument("files", nargs=-1, metavar="[FILES...|-]")
@click.pass_obj
def command(app: App, dest: str, files: tuple[str, ...]) -> int:
    """
    Store DICOM files in a service; print the id of each there.

    FILES are files and folders (with everything below them), or - for one path per line, or lines of `pull` and
    `get`. What is not DICOM is named by its place and left out.
    """
    from diana_cli.files import load, paths_of

    endpoint, batch = app.endpoint(dest), Batch()

    def store(item: Item) -> dict[str, Any]:
        dixel = load(item)
        stored = endpoint.put(dixel)
        from diana_cli.items import mark

        ref = dixel.ref
        return {"level": str(dixel.level), "id": stored, "uid": ref.uid, "at": mark(endpoint), "tags": ref.tags()}

    def rows() -> Iterator[dict[str, Any]]:
        yield from batch.each(paths_of(files or ("-",), batch), store)

    app.out.rows(rows(), ("id", "uid"))
    return batch.code
