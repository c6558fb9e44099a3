"""What every command shares: the services, the ledger, the output, and how failures are said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import define, field

from diana.exceptions import ConfigError

if TYPE_CHECKING:
    from diana.ledger import Store
    from diana.utils.endpoint import Endpoint, ServiceManager
    from diana_cli.output import Output

FAILURE = 1
USAGE = 2
WITH_FAILURES = 3
INTERRUPTED = 130
NO_READER = 141

DEFAULT_FILE = "services.yml"


def say(text: str) -> None:
    """Tell the person at the terminal something, on standard error; nothing in it can steer a terminal."""
    shown = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
    click.echo(f"diana-cli: {shown}", err=True)


@define
class App:
    """Hold the global options, and make from them what commands need."""

    sources: tuple[str, ...] = ()
    state_given: Path | None = None
    form: str | None = None
    verbose: int = 0
    _manager: ServiceManager | None = field(default=None, init=False, repr=False)

    @property
    def out(self) -> Output:
        """Return where results go."""
        from diana_cli.output import Output

        return Output(self.form)

    @property
    def services(self) -> ServiceManager:
        """Return the services of all given files and texts; the last one wins where names meet."""
        if self._manager is None:
            self._manager = _load(self.sources or ((DEFAULT_FILE,) if Path(DEFAULT_FILE).is_file() else ()))
        return self._manager

    def endpoint(self, name: str) -> Endpoint:
        """Return a service by its name or shortcut. Raises ConfigError with the nearest name."""
        found: Endpoint = self.services.get(name)
        return found

    @property
    def state(self) -> Path:
        """Return the folder of the ledger."""
        if self.state_given is not None:
            return self.state_given
        base = os.environ.get("XDG_STATE_HOME")
        return (Path(base) if base else Path.home() / ".local" / "state") / "diana"

    def store(self) -> Store:
        """Open the ledger; the caller closes it."""
        from diana.ledger import Store

        return Store(self.state / "ledger.sqlite")


def _load(sources: tuple[str, ...]) -> ServiceManager:
    from diana.utils.endpoint import ServiceManager

    if not sources:
        return ServiceManager(origin="no services given (-s FILE)")
    managers = [_load_one(source) for source in sources]
    described = {name: desc for one in managers for name, desc in one.descriptions.items()}
    return ServiceManager(described, managers[-1].origin)


def _load_one(source: str) -> ServiceManager:
    from diana.utils.endpoint import ServiceManager

    if source.startswith("@"):
        return ServiceManager.from_file(source[1:])
    if "\n" not in source and os.path.isfile(source):
        return ServiceManager.from_file(source)
    if ":" not in source:
        raise ConfigError(f"--services: no such file: {source}")
    return ServiceManager.from_text(source)
