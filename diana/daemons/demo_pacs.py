"""The archives of the demo: ``diana-cli serve`` on folders, each a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final  # Any: what the child prints is JSON

from attrs import define, field

from diana.daemons.demo_text import WHEN
from diana.daemons.steps import make_step
from diana.daemons.transfer import transfer
from diana.exceptions import ConfigError, DianaError, GatewayConnectionError
from diana.ledger.receipts import ReceiptBook
from diana.ledger.store import Store
from diana.utils.gateways import dimse

if TYPE_CHECKING:
    from diana.utils.endpoint import Endpoint

HOST: Final = "127.0.0.1"
NEEDED: Final = ("anyio", "h11", "starlette", "uvicorn")
START_TIME: Final = 30.0
STOP_TIME: Final = 20.0
ROUTE: Final = "pacs"


def check_extra() -> None:
    """Raise ConfigError where the packages for serving are not installed."""
    if not all(find_spec(name) for name in NEEDED):
        raise ConfigError("the demo serves a PACS, which needs the extra 'server': pip install 'python-diana[server]'")


@define
class ServedFolder:
    """
    Serve a folder below ``home`` under its name, with an HTTP and a DICOM port, while the block lasts.

    ``program`` is the command line up to the name of the command.
    """

    home: Path
    name: str
    program: Sequence[str]
    environ: Mapping[str, str] = field(repr=False)
    http: int = field(init=False, default=0)
    dicom: int = field(init=False, default=0)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None, repr=False)

    @property
    def aet(self) -> str:
        """Return the AE title."""
        return self.name.upper()

    def start(self) -> None:
        """Start the process; ``wait`` says when it answers."""
        folder = self.home / self.name
        folder.mkdir()
        command = [*self.program, "serve", f"path:{folder}", "--http", "0", "--dicom", "0", "--aet", self.aet]
        with (self.home / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=dict(self.environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )

    def wait(self) -> None:
        """Wait until the ports are known. Raises GatewayConnectionError."""
        lines: list[bytes] = []
        reader = Thread(target=self._read, args=(lines,), name="demo-serve", daemon=True)
        reader.start()
        reader.join(START_TIME)
        try:
            ports: Any = json.loads(lines[0])
            self.http, self.dicom = int(ports["http"].rpartition(":")[2]), int(ports["dicom"])
        except (LookupError, TypeError, ValueError):
            raise GatewayConnectionError(f"the server of {self.name} did not start; see {self.name}.log") from None

    def _read(self, lines: list[bytes]) -> None:
        if self._process is not None and self._process.stdout is not None:
            lines.append(self._process.stdout.readline())

    def stop(self) -> None:
        """Ask the process to end, and see that it does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=STOP_TIME)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def store(self, files: Sequence[bytes]) -> None:
        """Send files by C-STORE. Raises GatewayError when one is not taken."""
        outcomes = dimse.store(files, HOST, self.dicom, "SCANNER", self.aet)
        if not all(one.ok for one in outcomes):
            raise GatewayConnectionError(f"{self.name} did not take everything")


def carry(source: Endpoint, dest: Endpoint, ledger: Path, tick: Callable[[], None], late: Callable[[], bool]) -> None:
    """Move every study that a search finds, with filter and pseudonyms, and enter the receipts; stop when late."""
    steps = [make_step({"filter": WHEN}), make_step("pseudonymize")]
    store = Store(ledger)
    try:
        book = ReceiptBook(store)
        for study in source.find({}):
            if late():
                return
            book.save(transfer(source, dest, study, steps, route=ROUTE, on_instance=lambda _: tick()))
    finally:
        store.close()
        source.close()
        dest.close()


def trouble_of(work: Callable[[], None]) -> list[str]:
    """Do some work; return what went wrong, in words."""
    try:
        work()
    except DianaError as error:
        return [f"{type(error).__name__}: {error}"]
    return []
