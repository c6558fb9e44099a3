"""``diana-cli watch``."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any  # signal frames

import click
from attrs import define, field

from diana.exceptions import ConfigError
from diana.utils.files import make_private
from diana_cli.app import App, say

if TYPE_CHECKING:
    from diana.daemons.watch import WatchConfig
    from diana.utils.endpoint import Watcher


@click.command("watch", short_help="Run routes until told to stop.")
@click.argument("config", required=False, metavar="[CONFIG]", type=click.Path(path_type=Path))
@click.option(
    "-r",
    "--route",
    "routes",
    nargs=3,
    multiple=True,
    metavar="HANDLER SOURCE DEST",
    help="A route by the name of its handler, such as upload_files; DEST - for none. May be repeated.",
)
@click.option("--state", type=click.Path(path_type=Path), metavar="FOLDER", help="The ledger, as the global --state.")
@click.option("--grace", type=click.FloatRange(min=0), metavar="SECONDS", help="For the work in hand at a stop. [30]")
@click.option("--once", is_flag=True, help="End when the sources are quiet and the work is done.")
@click.pass_obj
def command(
    app: App,
    config: Path | None,
    routes: tuple[tuple[str, str, str], ...],
    state: Path | None,
    grace: float | None,
    once: bool,
) -> int:
    """
    Run the routes of a file until told to stop.

    SIGTERM or Ctrl-C: nothing new is started, what is in hand ends within the grace, exit 0; a second one ends at
    once. SIGHUP reads the file again; a file with mistakes leaves the old routes running.
    """
    if config is None and not routes:
        raise click.UsageError("name a file of routes, or give routes with -r")
    app.state_given = state or app.state_given

    def read() -> WatchConfig:
        from diana.daemons.watch import WatchConfig, load_config

        found = load_config(config, os.environ) if config is not None else WatchConfig(app.services)
        found.handlers.extend(routes)
        found.grace = found.grace if grace is None else grace
        if not (found.routes or found.handlers):
            raise ConfigError("no routes: nothing is to be watched")
        if app.state_given is not None or found.state is None:
            found.state = app.state
        if not found.state.is_file():
            make_private(found.state)
        return found

    def make(found: WatchConfig) -> Watcher:
        from diana.daemons.watch import make_watcher

        return make_watcher(found, until_idle=once)

    return Runner(read, make).run()


@define
class Runner:
    """
    Run a watcher in a thread of its own, and listen to signals meanwhile.

    ``read`` reads the configuration and is called again at SIGHUP; ``make`` makes the watcher of it.
    """

    read: Callable[[], WatchConfig]
    make: Callable[[WatchConfig], Watcher]
    _wake: threading.Event = field(factory=threading.Event, init=False)
    _stops: int = field(default=0, init=False)
    _reload: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)
    _error: BaseException | None = field(default=None, init=False)

    def run(self) -> int:
        """Run until told to stop; return the exit code. Raises what made the watcher end by itself."""
        config: WatchConfig | None = self.read()
        with self._signals():
            while config is not None:
                config = self._run_one(self.make(config))
        return 0

    def _run_one(self, watcher: Watcher) -> WatchConfig | None:
        """Run one watcher to its end; return the configuration that takes its place after a reload."""
        self._ended = False
        thread = threading.Thread(target=self._work, args=(watcher,), name="watcher", daemon=True)
        thread.start()
        following: WatchConfig | None = None
        while not self._ended:
            self._wake.wait()
            self._wake.clear()
            if self._reload and not self._stops:
                self._reload = False
                following = self._read_again()
            if self._stops or following is not None:
                watcher.stop()
                break
        thread.join()
        if self._error is not None:
            raise self._error
        return None if self._stops else following

    def _read_again(self) -> WatchConfig | None:
        """Return the new configuration, or None when it has mistakes."""
        try:
            found = self.read()
        except ConfigError as error:
            say("the new configuration is not used, the old one goes on:")
            for problem in error.problems:
                say(problem)
            return None
        say("the new configuration is taken")
        return found

    def _work(self, watcher: Watcher) -> None:
        try:
            watcher.run()
        except BaseException as error:  # noqa: BLE001  # raised again by the main thread
            self._error = error
        self._ended = True
        self._wake.set()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, _frame: Any) -> None:
            self._stops += 1
            if self._stops > 1:
                os._exit(128 + number)
            self._wake.set()

        def reload(_number: int, _frame: Any) -> None:
            self._reload = True
            self._wake.set()

        wanted = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
