"""``diana-cli index``."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any  # registries, signal frames

import click

from diana_cli.app import WITH_FAILURES, App, say
from diana_cli.output import progress

if TYPE_CHECKING:
    from diana.daemons.file_indexer import IndexReport

Command = Callable[..., int]


def _options(function: Command) -> Command:
    registry = click.option("-R", "--registry", help="A Redis service. [an SQLite file beside the ledger]")
    return click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))(registry(function))


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
@click.option("--pause", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds, with --watch.")
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
) -> int:
    """Bring the registry up to date with FOLDER. Exit 3 when a file belongs to no collection; each is named."""
    from diana.daemons.file_indexer import FileIndexer

    stop = threading.Event()
    before = {one: signal.signal(one, lambda *_: stop.set()) for one in (signal.SIGTERM, signal.SIGINT)}
    indexer = FileIndexer(_jobs() if jobs is None else jobs)
    chosen = _registry(app, registry)
    style = "ORTHANC" if orthanc else "UNSTRUCTURED"
    try:
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
        with progress("files") as step:

            def on_files(count: int) -> None:
                for _ in range(count):
                    step()

            report = indexer.index_path(folder, chosen, pattern, style, on_files=on_files, stop=stop)
        _tell(app, report)
        if stop.is_set():
            say("stopped; run it again for the rest")
        return WITH_FAILURES if report.bad_count or stop.is_set() else 0
    finally:
        indexer.close()
        chosen.close()
        for number, handler in before.items():
            signal.signal(number, handler)


@command.command("get")
@_options
@click.argument("collection", required=False)
@click.pass_obj
def get_command(app: App, /, folder: Path, registry: str | None, collection: str | None) -> int:
    """List the accession numbers registered for FOLDER, or the files of one."""
    from diana.daemons.file_indexer import FileIndexer
    from diana.daemons.file_registry import as_registry

    chosen = _registry(app, registry)
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
@click.pass_obj
def upload_command(
    app: App, /, folder: Path, registry: str | None, dest: str, collections: tuple[str, ...], workers: int
) -> int:
    """Put the registered files of FOLDER, or of some COLLECTIONS, into the service DEST. Exit 3 when one failed."""
    from diana.daemons.file_indexer import FileIndexer

    chosen, target, indexer = _registry(app, registry), app.endpoint(dest), FileIndexer()
    try:
        reports = (
            [indexer.upload_collection(one, folder, chosen, target, workers=workers) for one in collections]
            if collections
            else [indexer.upload_path(folder, chosen, target, workers=workers)]
        )
    finally:
        chosen.close()
    failed = {name: reason for one in reports for name, reason in one.failed.items()}
    for reason in sorted(set(failed.values())):
        say(f"{sum(one == reason for one in failed.values())} files: {reason}")
    app.out.rows([{"uploaded": sum(one.uploaded for one in reports), "failed": len(failed)}])
    return WITH_FAILURES if failed else 0


def _registry(app: App, name: str | None) -> Any:
    from diana.daemons.file_indexer import SqliteRegistry

    return SqliteRegistry(app.state / "files.sqlite") if name is None else app.endpoint(name)


def _tell(app: App, report: IndexReport, *, quiet: bool = False) -> None:
    for name, reason in report.bad.items():
        say(f"{name}: {reason}")
    if report.bad_count > len(report.bad):
        say(f"and {report.bad_count - len(report.bad)} more")
    if not quiet or report.registered or report.removed or report.bad_count:
        app.out.rows([report.asdict()])


def _jobs() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
