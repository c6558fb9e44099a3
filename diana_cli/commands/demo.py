"""``diana-cli demo``."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import click

from diana_cli.app import FAILURE, App, say
from diana_cli.output import share
from diana_cli.receipt_rows import COLUMNS, receipt_row

NEXT = """
Look around, or go on:
  export DIANA_SERVICES={folder}/routes.yml DIANA_STATE={folder}/state
  {program} ls --check
  {program} receipts
  {program} find archive --all
  {program} find archive --all | {program} transfer archive path:{folder}/copy -
  {program} routes explain {folder}/routes.yml '{{"SeriesDescription": "Dose Report"}}'
  {program} serve path:{folder}/pacs --http {port}     # the PACS again; Ctrl-C ends it
  {program} find pacs --all     # in another shell, while it is served
  {program} watch {folder}/routes.yml     # Ctrl-C ends it; copy DICOM files into {folder}/inbox
Write your own routes: docs/tutorial.md. Remove the demo: rm -r {folder}
"""


@click.command("demo", short_help="Show a verified route on this machine, from nothing.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to; must be empty. [a new one]")
@click.option("--limit", type=click.FloatRange(min=1), default=90.0, show_default=True, help="Seconds to wait.")
@click.pass_obj
def command(app: App, folder: Path | None, limit: float) -> int:
    """
    Show a verified route on this machine: a mock site, a watched folder, a DICOM port, filters, pseudonyms, receipts.

    The router is killed in the middle, and nothing is lost. A PACS is searched over QIDO-RS, fetched from over RAD-69,
    and what it has is sent on over DIMSE. Nothing else is needed than the extra `server`. With ORTHANC_URL set, that
    Orthanc is one more destination. Exit 0 when every study is verified at every destination.
    """
    from diana.daemons.demo import Demo

    where = folder if folder is not None else Path(tempfile.mkdtemp(prefix="diana-demo-"))
    say(f"the demo runs in {where}")
    with share("instances verified") as tick:
        demo = Demo(where, [sys.executable, "-m", "diana_cli"], say=say, tick=tick, limit=limit)
        result = demo.run()
    rows = sorted(result.receipts, key=lambda one: (one["route"], one["study"], one["dest"]))
    app.out.rows(map(receipt_row, rows) if app.out.is_table else rows, COLUMNS[1:])
    for problem in result.problems:
        say(problem)
    if not result.is_proved:
        say(f"NOT everything is proved after {result.seconds:.0f} s; see {where}")
        return FAILURE
    count = sum(result.expected.values())
    say(
        f"all {len(result.expected)} studies ({count} instances) are verified wherever they were sent: "
        f"{', '.join(result.dests)}; {result.seconds:.0f} s"
    )
    click.echo(NEXT.format(folder=shlex.quote(str(where)), port=result.port, program=_program()), err=True)
    return 0


def _program() -> str:
    """Return how this program is called from the current folder."""
    if shutil.which("diana-cli"):
        return "diana-cli"
    if sys.argv[0].endswith("__main__.py"):
        return f"{shlex.quote(sys.executable)} -m diana_cli"
    return shlex.quote(sys.argv[0])
