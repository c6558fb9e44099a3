"""``diana-cli worker``."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from importlib import import_module
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any  # signal frames

import click

from diana.exceptions import ConfigError
from diana_cli.app import App

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from diana.daemons.worker import WorkerPlan


@click.command("worker", short_help="Work items of jobs that another machine hands out.")
@click.option("--broker", required=True, metavar="URL", help="The Redis of the line: redis://[:PASSWORD@]HOST:PORT/DB")
@click.option("--ledger", metavar="URL", help="The ledger: postgresql+psycopg://... or a path. [that of --state]")
@click.option("-p", "--processes", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("-t", "--threads", type=click.IntRange(1, 64), default=4, show_default=True, help="In each process.")
@click.option("--grace", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS")
@click.option("--lease", type=click.FloatRange(min=1), default=60.0, show_default=True, metavar="SECONDS")
@click.option("--tries", type=click.IntRange(1, 100), default=5, show_default=True, help="Of what may heal.")
@click.option("--kills", type=click.IntRange(1, 100), default=8, show_default=True, help="Processes an item may cost.")
@click.option("--tasks", "modules", multiple=True, metavar="MODULE", help="More kinds of work: its TASKS. Repeatable.")
@click.option("--reconcile/--no-reconcile", default=True, show_default=True, help="Send what was lost or is due.")
@click.option("--once", is_flag=True, help="End when no open job has anything left.")
@click.pass_obj
def command(
    app: App,
    broker: str,
    ledger: str | None,
    processes: int,
    threads: int,
    grace: float,
    lease: float,
    tries: int,
    kills: int,
    modules: tuple[str, ...],
    reconcile: bool,
    once: bool,
) -> int:
    """
    Work items of the jobs of a ledger that many machines share, until told to stop.

    Give URLs with passwords as DIANA_WORKER_BROKER and DIANA_WORKER_LEDGER: command lines can be read by others.
    SIGTERM or Ctrl-C: nothing new is started, what is in hand ends within the grace or is given back, exit 0; a second
    one ends at once. A process that dies is replaced; an item that kills its process again and again ends failed.
    """
    from diana.daemons.worker import WorkerGroup, WorkerPlan

    plan = WorkerPlan(
        ledger if ledger is not None else str(app.state / "ledger.sqlite"),
        broker,
        threads,
        services=dict(app.services.descriptions),
        origin=app.services.origin,
        tasks=_tasks(modules),
        lease_s=lease,
        tries=tries,
        max_kills=kills,
        grace_s=grace,
    )

    def start() -> BaseProcess:
        process = get_context("spawn").Process(target=work, args=(plan, app.verbose), name="worker", daemon=True)
        process.start()
        return process

    group = WorkerGroup(plan, start, processes, reconcile)
    group.run(_stop_at(signal.SIGTERM, signal.SIGINT), until_idle=once)
    return 0


def work(plan: WorkerPlan, verbose: int) -> None:
    """Be one process of a group; ends when the group does."""
    import warnings

    from diana.daemons.worker import Worker
    from diana_cli.cli import configure_logging

    warnings.simplefilter("ignore")
    configure_logging(verbose)
    # Ctrl-C reaches every process of the terminal; the group tells this one in its own time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = _stop_at(signal.SIGTERM)
    group = parent_process()
    if group is not None:
        threading.Thread(target=_follow, args=(group.sentinel, stop), name="group", daemon=True).start()
    Worker(plan).run(stop)


def _follow(sentinel: int, stop: threading.Event) -> None:
    """Stop when the group is gone, however it ended."""
    wait([sentinel])
    stop.set()


def _stop_at(*numbers: int) -> threading.Event:
    """Return an event that the first of these signals sets; a second one ends the process."""
    stop = threading.Event()

    def on_signal(number: int, _frame: Any) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in numbers:
        signal.signal(number, on_signal)
    return stop


def _tasks(modules: tuple[str, ...]) -> dict[str, str]:
    from diana.daemons.task import TASKS

    found = dict(TASKS)
    for name in modules:
        try:
            more = import_module(name).TASKS
        except (ImportError, AttributeError):
            raise ConfigError(f"--tasks: the module {name} cannot be imported or has no TASKS") from None
        if not isinstance(more, Mapping):
            raise ConfigError(f"--tasks: TASKS of the module {name} is no mapping")
        found.update({str(kind): str(maker) for kind, maker in more.items()})
    return found
