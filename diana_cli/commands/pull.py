"""``diana-cli pull``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any  # rows

import click

from diana.utils.dicom.levels import DicomLevel
from diana_cli.app import App
from diana_cli.batch import Batch
from diana_cli.items import mark, read_items
from diana_cli.output import progress
from diana_cli.params import items_argument, level_option

if TYPE_CHECKING:
    from diana.dixel import Dixel


@click.command("pull", short_help="Save every instance of items to a folder.")
@click.argument("source")
@items_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="Where to.")
@level_option(None)
@click.pass_obj
def command(app: App, source: str, items: tuple[str, ...], output: Path, level: DicomLevel | None) -> int:
    """
    Save every instance of items as FOLDER/study/series/instance.dcm, and print one line per file.

    ITEMS are ids, lines of `find`, or - to read them from standard input. Each file is whole or absent.
    """
    from diana_cli.files import save

    endpoint, batch = app.endpoint(source), Batch()

    def rows() -> Iterator[dict[str, Any]]:
        with progress("instances") as step:
            for item in read_items(items or ("-",), level):
                with batch.guard(item.label):
                    for found in endpoint.pull(item.at_service(endpoint)):
                        yield saved(found)
                        step()

    def saved(found: Dixel) -> dict[str, Any]:
        path = save(found, output)
        if found.blob is not None:
            found.blob.close()
        ref = found.ref
        return {
            "level": str(found.level),
            "id": ref.id,
            "uid": ref.uid,
            "at": mark(endpoint),
            "file": str(path),
            "tags": ref.tags(),
        }

    app.out.rows(rows(), ("uid", "file"))
    return batch.code
