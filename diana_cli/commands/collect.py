"""``diana-cli collect``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any  # options are JSON

import click
from attrs import define, field

from diana.exceptions import ItemNotFound
from diana.utils.files import make_private, whole_file
from diana.utils.signals import stop_signal
from diana_cli.app import WITH_FAILURES, App, say
from diana_cli.params import ANY_DATA, Data

if TYPE_CHECKING:
    from diana.daemons.collector import Collector, Plan
    from diana.daemons.worklist import Row
    from diana.ledger.work_rows import Item

PLAN_COLUMNS = ("row", "state", "studies", "reason", "same_as")
REPORT_COLUMNS = ("row", "state", "planned", "reason", "expected", "verified", "missing")


def _ledger_option(function: Any) -> Any:
    return click.option(
        "--ledger", metavar="URL", envvar="DIANA_WORKER_LEDGER", help="A ledger that workers share. [that of --state]"
    )(function)


def _run_options(function: Any) -> Any:
    for option in (
        click.option(
            "--broker",
            metavar="URL",
            envvar="DIANA_WORKER_BROKER",
            help="Let workers on any machine work: their Redis. Needs --ledger.",
        ),
        click.option("--pool", type=click.IntRange(0, 64), help="Studies at once. [the plan's budget]"),
        click.argument("plan", type=click.Path(path_type=Path, exists=True, dir_okay=False)),
    ):
        function = option(function)
    return _ledger_option(function)


@click.group("collect", short_help="Collect the studies of a worklist.")
def command() -> None:
    """
    Collect the studies of a worklist: plan, run, resume, report.

    `plan` asks the source about every row and moves nothing. `run` carries the plan out and may be killed anywhere:
    run again, it does only the rest. `resume` also tries again what failed. `report` says what became of each row.
    """


@command.command("plan")
@click.argument("worklist", required=False, type=click.Path(path_type=Path))
@click.option("-S", "--source", required=True, help="Where the studies are: a service or shortcut.")
@click.option("-D", "--dest", required=True, help="Where they go.")
@click.option("-P", "--project", required=True, help="The name under which the ledger keeps what was done.")
@click.option("-q", "--query", type=Data(dict, "a mapping"), help="Take what a query finds instead of a worklist.")
@click.option("--to", "target", type=click.Path(path_type=Path), help="The file of the plan. [PROJECT.plan.json]")
@click.option("--kind", type=click.Choice(["csv", "txt", "jsonl"]), help="What the worklist is, if it cannot be seen.")
@click.option("--column", "columns", multiple=True, metavar="ROLE=NAME", help="Such as accession='Exam no.'.")
@click.option("--when", "match", type=Data(dict, "a mapping"), help="Take only what matches, such as {Modality: CT}.")
@click.option("--one-study", is_flag=True, help="An accession number with several studies is ambiguous.")
@click.option("--step", "steps", type=ANY_DATA, multiple=True, metavar="NAME|YAML", help="Such as deid.")
@click.option("--hours", default="", metavar="22:00-06:00", help="Start work only in these hours.")
@click.option("--budget", type=click.IntRange(1, 64), default=2, show_default=True, help="Studies at once.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Instances at once per study."
)
@click.option("--tries", type=click.IntRange(1, 100), default=5, show_default=True, help="Starts in vain.")
@_ledger_option
@click.pass_obj
def plan_command(
    app: App,
    /,
    worklist: Path | None,
    source: str,
    dest: str,
    project: str,
    query: Mapping[str, Any] | None,
    target: Path | None,
    kind: str | None,
    columns: Sequence[str],
    one_study: bool,
    ledger: str | None,
    **options: Any,
) -> int:
    """
    Settle each row of WORKLIST against the source, and write the plan; no pixel is moved.

    Exit 3 when a row could not be asked about.
    """
    with _collector(app, ledger) as collector:
        end = app.endpoint(source)
        rows = _rows(app, source, worklist, query, kind or "", columns)
        options["steps"] = list(options["steps"])
        plan = collector.plan(
            project, end, app.endpoint(dest), rows, several=not one_study, names=(source, dest), **options
        )
        path = target or Path(f"{project}.plan.json")
        plan.save(path)
        shown = (
            {
                "row": one.row,
                "state": one.state,
                "studies": len(one.studies),
                "reason": one.reason,
                "same_as": one.same_as,
            }
            for one in plan.rows
        )
        app.out.rows(shown, PLAN_COLUMNS, title=f"Plan of {project}")
        _say_plan(plan, path)
        if any(row.pseudonym for row in rows) and not any(one.pseudonym for one in plan.studies):
            say("the pseudonyms of the list are not used")
        return WITH_FAILURES if plan.counts().get("unreachable") else 0


@command.command("run")
@_run_options
@click.pass_obj
def run_command(app: App, /, plan: Path, **options: Any) -> int:
    """
    Carry out a plan, or the rest of it. Exit 3 when a study is not verified.

    With --broker the studies are worked by `diana-cli worker` on any machine, which needs the same services, and the
    same key where the plan de-identifies; give URLs with passwords as DIANA_WORKER_BROKER and DIANA_WORKER_LEDGER.
    """
    return _run(app, plan, again=False, **options)


@command.command("resume")
@_run_options
@click.pass_obj
def resume_command(app: App, /, plan: Path, **options: Any) -> int:
    """Carry out the rest of a plan, and try again what failed or is incomplete."""
    return _run(app, plan, again=True, **options)


@command.command("report")
@click.argument("plan", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--html", "page", type=click.Path(path_type=Path), help="Write one page with a picture of the run.")
@click.option("--csv", "sheet", type=click.Path(path_type=Path), help="Write the rows as CSV.")
@click.option("--summary", is_flag=True, help="Print the numbers of the whole instead of the rows.")
@_ledger_option
@click.pass_obj
def report_command(
    app: App, plan: Path, page: Path | None, sheet: Path | None, summary: bool, ledger: str | None
) -> int:
    """Say what became of each row of a plan's worklist. Exit 3 when a study is not verified."""
    from diana.daemons.collect_report import CollectReport
    from diana.daemons.collector import Plan

    with _collector(app, ledger) as collector:
        found = Plan.load(plan)
        try:
            items = collector.outcomes(found.project)
        except ItemNotFound:
            items = {}
        report = CollectReport(found, items)
        if page is not None:
            _write(page, report.html())
        if sheet is not None:
            _write(sheet, report.csv())
        rows = [report.summary()] if summary else [one.asdict() for one in report.rows()]
        app.out.rows(rows, () if summary else REPORT_COLUMNS)
        all_there = all(one.study in items for one in found.studies)
        return 0 if all_there and all(one.state == "verified" for one in items.values()) else WITH_FAILURES


def _write(path: Path, text: str) -> None:
    make_private(path.absolute().parent)
    with whole_file(path) as out:
        out.write(text.encode())


def _rows(
    app: App, source: str, worklist: Path | None, query: Mapping[str, Any] | None, kind: str, columns: Sequence[str]
) -> list[Row]:
    from diana.daemons import worklist as lists
    from diana.utils.dicom import DicomLevel, Query

    if (worklist is None) == (query is None):
        raise click.UsageError("give either a worklist or --query")
    named = {}
    for one in columns:
        role, sign, name = one.partition("=")
        if not sign:
            raise click.UsageError("--column takes ROLE=NAME")
        named[role] = name
    if query is not None:
        asked = Query(query)
        asked.check_keywords()
        found = app.endpoint(source).find(asked, DicomLevel.STUDIES)
        uids = [str(one.tags.get("StudyInstanceUID") or "") for one in found]
        return [lists.Row(number, study=uid) for number, uid in enumerate(uids, 1) if uid]
    if str(worklist) == "-":
        return lists.read_text(sys.stdin.read(), kind, named)
    return lists.read_worklist(worklist or "", kind, named)


def _run(app: App, path: Path, *, again: bool, pool: int | None, broker: str | None, ledger: str | None) -> int:
    from diana.daemons.collector import Plan

    if broker and not ledger:
        raise click.UsageError("--broker needs --ledger: a database that all workers reach")
    plan = Plan.load(path)
    threads = plan.options.get("budget", 2) if pool is None else pool
    with _collector(app, ledger, threads) as collector, stop_signal(insist=True) as stop:
        before = _known(collector, plan)
        runner = None if broker is None else collector.elsewhere(broker)
        with _display(plan, before) as display:
            counts = collector.execute(plan, app.services, runner=runner, on_item=display.tell, stop=stop, again=again)
        app.out.rows([{"project": plan.project, **counts}])
        if stop.is_set():
            say("stopped; run it again for the rest")
        return 0 if set(counts) <= {"verified"} else WITH_FAILURES


def _known(collector: Collector, plan: Plan) -> int:
    try:
        return sum(one.state == "verified" for one in collector.outcomes(plan.project).values())
    except ItemNotFound:
        return 0


@contextmanager
def _collector(app: App, ledger: str | None, pool: int = 0) -> Iterator[Collector]:
    from diana.daemons.collector import Collector
    from diana.ledger import Store

    collector = Collector(pool, store=Store(ledger) if ledger else app.store())
    try:
        yield collector
    finally:
        collector.close()


@define(eq=False)
class _Display:
    """Show how far a run is: studies, instances, MB/s, failures, time left."""

    total: int
    update: Callable[..., None]
    began: float = field(factory=time.monotonic)
    instances: int = 0
    size: int = 0
    bad: int = 0

    def tell(self, item: Item) -> None:
        """Take note of a study that ended."""
        self.instances += int(item.outcome.get("verified", 0))
        self.size += int(item.outcome.get("bytes", 0))
        self.bad += item.state != "verified"
        spent = max(time.monotonic() - self.began, 0.001)
        self.update(
            advance=1,
            instances=self.instances,
            speed=f"{self.size / spent / 1e6:.1f}",
            bad=self.bad,
        )


@contextmanager
def _display(plan: Plan, done: int) -> Iterator[_Display]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = max(len(plan.studies), done)
    columns = (
        TextColumn("studies"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[instances]} instances, {task.fields[speed]} MB/s, {task.fields[bad]} not verified"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("studies", total=total, completed=done, instances=0, speed="0.0", bad=0)
        yield _Display(total, lambda **more: bar.update(task, **more))


def _say_plan(plan: Plan, path: Path) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in plan.counts().items()) or "no rows"
    say(f"{len(plan.rows)} rows: {counts}")
    uncounted = f" and {plan.uncounted} that the source does not count" if plan.uncounted else ""
    say(f"{len(plan.studies)} studies, {plan.instances} instances{uncounted}, about {_time(plan.seconds)}")
    say(f"the plan is in {path}; next: diana-cli collect run {path}")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
