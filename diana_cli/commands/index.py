"""``diana-cli index``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any  # registries, signal frames

import click

from diana.utils.signals import stop_signal
from diana_cli.app import WITH_FAILURES, App, say
from diana_cli.output import progress

if TYPE_CHECKING:
    from diana.daemons.file_indexer import IndexReport, UploadReport
    from diana.daemons.file_indexer_task import IndexJobs

Command = Callable[..., int]


def _options(function: Command) -> Command:
    registry = click.option("-R", "--registry", help="A Redis service. [an SQLite file beside the ledger]")
    return click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))(registry(function))


def _elsewhere(function: Command) -> Command:
    for option in (
        click.option(
            "--ledger", metavar="URL", envvar="DIANA_WORKER_LEDGER", help="The ledger that the workers share."
        ),
        click.option(
            "--broker",
            metavar="URL",
            envvar="DIANA_WORKER_BROKER",
            help="Let workers on any machine work: their Redis. Needs --ledger and --registry.",
        ),
    ):
        function = option(function)
    return function


class _Default(click.Group):
    """Take ``index FOLDER`` for ``index path FOLDER``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command to run."""
        if args and args[0] not in self.commands:
            args = ["path", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let options that are not of the group go to ``path``."""
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = ["path", *args]
        return super().parse_args(ctx, args)


@click.group("index", cls=_Default, short_help="Register the files of a folder by accession number.")
def command() -> None:
    """
    Register the DICOM files of a folder by accession number.

    `index FOLDER` reads what is new or changed; `index get` lists the collections or the files of one; `index upload`
    sends them to a service.
    """


@command.command("path")
@_options
@click.option("--pattern", default="*", show_default=True, help="File names to look at.")
@click.option("--orthanc", is_flag=True, help="The folder is the storage of an Orthanc.")
@click.option("--jobs", type=click.IntRange(0, 64), help="Processes that read headers. [one for each CPU]")
@click.option("--watch", is_flag=True, help="Keep the registry current until told to stop.")
@click.option(
    "--pause",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Seconds between looks, with --watch where the system does not tell of changes.",
)
@_elsewhere
@click.pass_obj
def path_command(
    app: App,
    /,
    folder: Path,
    registry: str | None,
    pattern: str,
    orthanc: bool,
    jobs: int | None,
    watch: bool,
    pause: float,
    broker: str | None,
    ledger: str | None,
) -> int:
    """
    Bring the registry up to date with FOLDER. Exit 3 when a file belongs to no collection; each is named.

    With --broker the headers are read by `diana-cli worker` on any machine that has FOLDER under the same path and
    knows the same services; give URLs with passwords as DIANA_WORKER_BROKER and DIANA_WORKER_LEDGER. --watch works
    here alone.
    """
    from diana.daemons.file_indexer import FileIndexer, cpus

    folder, style = folder.absolute(), "ORTHANC" if orthanc else "UNSTRUCTURED"
    if broker and not watch:
        with _jobs(app, broker, ledger, registry) as (work, name), stop_signal() as stop, _counted() as on_files:
            far = work.index_path(folder, name, pattern, style, on_files=on_files, stop=stop)
        return _told(app, far, stop)
    indexer = FileIndexer(cpus() if jobs is None else jobs)
    chosen = _registry(app, registry)
    try:
        with stop_signal() as stop:
            if watch:
                indexer.watch_path(
                    folder,
                    chosen,
                    pattern,
                    style,
                    pause=pause,
                    stop=stop,
                    on_report=lambda one: _tell(app, one, quiet=True),
                )
                return 0
            with _counted() as on_files:
                report = indexer.index_path(folder, chosen, pattern, style, on_files=on_files, stop=stop)
            return _told(app, report, stop)
    finally:
        indexer.close()
        chosen.close()


@command.command("get")
@_options
@click.argument("collection", required=False)
@click.pass_obj
def get_command(app: App, /, folder: Path, registry: str | None, collection: str | None) -> int:
    """List the accession numbers registered for FOLDER, or the files of one."""
    from diana.daemons.file_indexer import FileIndexer
    from diana.daemons.file_registry import as_registry

    folder, chosen = folder.absolute(), _registry(app, registry)
    try:
        if collection is None:
            app.out.rows({"collection": one} for one in FileIndexer.items_on_path(folder, chosen))
            return 0
        found = as_registry(chosen).collected_items(FileIndexer.prefix_for_path(folder), collection)
        app.out.rows({"file": one} for one in sorted(found))
        return 0 if found else 1
    finally:
        chosen.close()


@command.command("upload")
@_options
@click.argument("dest")
@click.argument("collections", nargs=-1)
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Files at once.")
@_elsewhere
@click.pass_obj
def upload_command(
    app: App,
    /,
    folder: Path,
    registry: str | None,
    dest: str,
    collections: tuple[str, ...],
    workers: int,
    broker: str | None,
    ledger: str | None,
) -> int:
    """
    Put the registered files of FOLDER, or of some COLLECTIONS, into the service DEST. Exit 3 when one failed.

    With --broker `diana-cli worker` on any machine does it, as with `index path`; started again after a kill it does
    the rest.
    """
    from diana.daemons.file_indexer import FileIndexer

    folder = folder.absolute()
    if broker:
        with _jobs(app, broker, ledger, registry) as (work, name), stop_signal() as stop:
            reports = [work.upload_path(folder, name, dest, collections, stop=stop)]
        return _told_upload(app, reports, stop)
    chosen, target, indexer = _registry(app, registry), app.endpoint(dest), FileIndexer()
    try:
        reports = (
            [indexer.upload_collection(one, folder, chosen, target, workers=workers) for one in collections]
            if collections
            else [indexer.upload_path(folder, chosen, target, workers=workers)]
        )
    finally:
        chosen.close()
    return _told_upload(app, reports, threading.Event())


def _told_upload(app: App, reports: list[UploadReport], stop: threading.Event) -> int:
    failed = {name: reason for one in reports for name, reason in one.failed.items()}
    for reason in sorted(set(failed.values())):
        say(f"{sum(one == reason for one in failed.values())} files: {reason}")
    app.out.rows([{"uploaded": sum(one.uploaded for one in reports), "failed": len(failed)}])
    if stop.is_set():
        say("stopped; run it again for the rest")
    return WITH_FAILURES if failed or stop.is_set() else 0


@contextmanager
def _counted() -> Iterator[Callable[[int], None]]:
    with progress("files") as step:

        def on_files(count: int) -> None:
            for _ in range(count):
                step()

        yield on_files


@contextmanager
def _jobs(app: App, broker: str, ledger: str | None, registry: str | None) -> Iterator[tuple[IndexJobs, str]]:
    from diana.daemons.file_indexer_task import IndexJobs
    from diana.daemons.runner_dramatiq import Dramatiq
    from diana.ledger import Store, Work

    if not ledger or not registry:
        raise click.UsageError("--broker needs --ledger and --registry: a database and a Redis that all workers reach")
    store = Store(ledger)
    try:
        work = Work(store)
        yield IndexJobs(work, Dramatiq(work, broker), app.services), registry
    finally:
        store.close()


def _registry(app: App, name: str | None) -> Any:
    from diana.daemons.file_registry import SqliteRegistry

    return SqliteRegistry(app.state / "files.sqlite") if name is None else app.endpoint(name)


def _told(app: App, report: IndexReport, stop: threading.Event) -> int:
    _tell(app, report)
    if stop.is_set():
        say("stopped; run it again for the rest")
    return WITH_FAILURES if report.bad_count or stop.is_set() else 0


def _tell(app: App, report: IndexReport, *, quiet: bool = False) -> None:
    for name, reason in report.bad.items():
        say(f"{name}: {reason}")
    if report.bad_count > len(report.bad):
        say(f"and {report.bad_count - len(report.bad)} more")
    if not quiet or report.registered or report.removed or report.bad_count:
        app.out.rows([report.asdict()])
