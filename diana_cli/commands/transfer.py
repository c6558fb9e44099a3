"""``diana-cli transfer``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any  # rows

import click
from attrs import define, evolve, field

from diana.exceptions import DianaError
from diana.utils.dicom.levels import DicomLevel
from diana_cli.app import WITH_FAILURES, App
from diana_cli.batch import Batch
from diana_cli.items import Item, read_items
from diana_cli.output import progress
from diana_cli.params import ANY_DATA, items_argument, level_option
from diana_cli.receipt_rows import COLUMNS, receipt_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from diana.daemons.steps import Step
    from diana.ledger import ReceiptBook
    from diana.utils.dicom import Ref
    from diana.utils.endpoint import Endpoint


@click.command("transfer", short_help="Move items from one service to another and prove it.")
@click.argument("source")
@click.argument("dest")
@items_argument
@level_option(None)
@click.option("--step", "steps", type=ANY_DATA, multiple=True, metavar="NAME|YAML", help="Such as pseudonymize.")
@click.option("--tries", type=click.IntRange(1, 100), default=1, show_default=True, help="Starts, for what may heal.")
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Instances at once.")
@click.pass_obj
def command(
    app: App,
    source: str,
    dest: str,
    items: tuple[str, ...],
    level: DicomLevel | None,
    steps: tuple[Any, ...],
    tries: int,
    workers: int,
) -> int:
    """
    Copy items from one service to another, read each instance back, and print the receipts.

    ITEMS are ids, lines of `find`, or - to read them from standard input. Receipts are kept in the ledger; sending an
    item again asks the destination first and moves only the rest. Exit 3 when a receipt is not verified.
    """
    from diana.daemons.steps import make_step
    from diana.ledger import ReceiptBook

    store = app.store()
    try:
        mover = Mover(ReceiptBook(store), [make_step(one) for one in steps], tries, workers)
        code, rows = mover.run(app.endpoint(source), app.endpoint(dest), read_items(items or ("-",), level))
        app.out.rows(map(_shown, rows) if app.out.is_table else rows, COLUMNS)
        return code()
    finally:
        store.close()


@define
class Mover:
    """Transfer items and enter the receipts into the ledger."""

    book: ReceiptBook
    steps: Sequence[Step] = ()
    tries: int = 1
    workers: int = 4
    batch: Batch = field(factory=Batch, init=False)
    unproved: int = field(default=0, init=False)

    def run(
        self, source: Endpoint, dest: Endpoint, items: Iterator[Item]
    ) -> tuple[Callable[[], int], Iterator[dict[str, Any]]]:
        """Return the receipts as they come, and the exit code to ask for after the last."""

        def rows() -> Iterator[dict[str, Any]]:
            with progress("instances") as step:
                for item in items:
                    with self.batch.guard(item.label):
                        yield self.move(source, dest, item.at_service(source), step)

        return self.code, rows()

    def move(self, source: Endpoint, dest: Endpoint, ref: Ref, step: Callable[[], None]) -> dict[str, Any]:
        """Transfer one item and return its receipt as data."""
        from diana.daemons.transfer import transfer

        first, was_sent = self._before(source, dest, ref)
        receipt = transfer(
            source,
            dest,
            ref,
            self.steps,
            workers=self.workers,
            tries=self.tries,
            look_first=was_sent,
            on_instance=lambda _: step(),
        )
        receipt = evolve(receipt, follows=first)
        receipt = evolve(receipt, id=self.book.save(receipt))
        self.unproved += receipt.state != "verified"
        return receipt.asdict()

    def _before(self, source: Endpoint, dest: Endpoint, ref: Ref) -> tuple[str, bool]:
        """Return the first receipt of the study at the destination, and whether the item may be there already."""
        study = ref.study
        if not study and ref.id and source.can("get"):
            with suppress(DianaError):
                study = source.get(ref).ref.study
        if not study:
            return "", False
        first, known = self.book.previous("", dest.name, study)
        is_new_instance = bool(ref.instance) and ref.instance not in known
        return first, bool(first) and not is_new_instance

    def code(self) -> int:
        """Return the exit code: 3 when a receipt is not verified or an item could not be read."""
        return WITH_FAILURES if self.unproved else self.batch.code


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return receipt_row(row)
