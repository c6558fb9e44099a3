"""
The demo: a small hospital in one folder, and a router that proves where every study went.

A mock site makes studies. Some are written into a watched folder, slowly and without care; the others are sent by a
scanner (C-STORE) to a listener. The router is a process of its own, with its routes in a file; it is killed in the
middle and started again.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final  # receipts are JSON

from attrs import define, field, frozen

from diana.daemons.mock_site import MockSite
from diana.daemons.watch import load_config
from diana.dixel import Dixel, MockInstance, MockStudy
from diana.exceptions import ConfigError, GatewayError, IncompleteTransfer
from diana.ledger.receipts import ReceiptBook
from diana.ledger.store import Store
from diana.utils.dicom import DicomLevel, Query
from diana.utils.endpoint import Endpoint, ServiceManager
from diana.utils.gateways import dimse

LIMIT: Final = 90.0
SITE: Final = {
    "name": "Demo Hospital",
    "seed": "demo-25",
    "services": [
        {"name": "Main CT", "modality": "CT"},
        {"name": "Bedside CR", "modality": "CR"},
        {"name": "Ultrasound", "modality": "US"},
    ],
}
WHEN: Final = {"not": {"SeriesDescription": ["Dose Report*", "Localizer*"]}}
ROUTES: Final = """\
# What `diana-cli demo` ran; `diana-cli watch` runs it again, for as long as you like.
services:
  inbox:      # a watched folder: whatever is written into it, once it is whole
    ctype: ObservableDcmDir
    path: "{folder}/inbox"
  scanner:    # a DICOM port: what scanners send to it
    ctype: DicomListener
    aet: DIANA
    port: {port}
    path: "{folder}/spool"
  archive:    # DICOM files in a folder
    ctype: DcmDir
    path: "{folder}/archive"
  index:      # one row for each instance
    ctype: CsvFile
    fp: "{folder}/index.csv"
    level: instances
{more}
routes:
  - name: folder
    source: inbox
    event: file
    when: {{not: {{SeriesDescription: ["Dose Report*", "Localizer*"]}}}}
    steps: [pseudonymize]
    to: [{to}]
  - name: modality
    source: scanner
    event: instance
    when: {{not: {{SeriesDescription: ["Dose Report*", "Localizer*"]}}}}
    steps: [pseudonymize]
    to: [{to}]

# cursors, journal and receipts
state: "{folder}/state"
"""
ORTHANC: Final = """\
  orthanc:    # as the environment says
    ctype: Orthanc
    url: ${ORTHANC_URL}
    user: ${ORTHANC_USER:-orthanc}
    password: ${ORTHANC_PASSWORD:-orthanc}
"""

Say = Callable[[str], None]


@frozen
class DemoResult:
    """Hold the receipts, how many instances each study should have brought, and what went wrong in words."""

    folder: Path
    receipts: Sequence[Mapping[str, Any]] = field(repr=False)
    expected: Mapping[str, int] = field(repr=False)
    dests: Sequence[str]
    problems: Sequence[str]
    seconds: float

    @property
    def is_proved(self) -> bool:
        """Tell whether every study is verified at every destination, and nothing else is amiss."""
        return not self.problems


@define
class Demo:
    """
    Run the demo in a folder that is empty or does not exist.

    ``router`` is the command line of the router, less the file of routes. ``say`` is told what happens, in a few lines,
    ``tick`` how many instances are verified of how many. ``limit`` is in seconds. With ``ORTHANC_URL`` in the
    environment, and an Orthanc there, that is one more destination.
    """

    folder: Path = field(converter=Path)
    router: Sequence[str]
    say: Say = field(default=lambda _: None)
    tick: Callable[[int, int], None] = field(default=lambda _done, _all: None)
    limit: float = LIMIT
    environ: Mapping[str, str] = field(factory=lambda: dict(os.environ), repr=False)
    routes_file: Path = field(init=False)
    _dests: list[str] = field(init=False, factory=lambda: ["archive", "index"])
    _expected: dict[str, int] = field(init=False, factory=dict)
    _trouble: list[str] = field(init=False, factory=list)

    @routes_file.default
    def _routes_file(self) -> Path:
        return self.folder / "routes.yml"

    def run(self) -> DemoResult:
        """Make studies, route them, and return what the ledger knows. Raises ConfigError for a folder in use."""
        started = time.monotonic()
        end = started + self.limit
        self._prepare()
        studies = self._make_studies()
        services = load_config(self.routes_file, self.environ).services
        listener: Any = services.get("scanner")
        half = len(studies) // 2
        self.say(f"{half} are written into the watched folder, slowly and without care")
        self.say(f"{len(studies) - half} are sent by a scanner to the DICOM port {listener.port}")
        feeding = [
            threading.Thread(target=self._drop, args=(studies[:half],), name="demo-writer"),
            threading.Thread(target=self._scan, args=(studies[half:], listener, end), name="demo-scanner"),
        ]
        total = sum(self._expected.values()) * len(self._dests)
        with self._running() as process:
            for thread in feeding:
                thread.start()
            self._wait(process, total // 4, end)
            process.kill()
            process.wait()
            self.say("the router is killed (SIGKILL) at a quarter of the work, and started again")
        with self._running() as process:
            for thread in feeding:
                thread.join()
            self._wait(process, total, end)
        receipts = self._receipts()
        problems = [*self._trouble, *self._unproved(receipts), *self._amiss(services, studies)]
        return DemoResult(self.folder, receipts, self._expected, self._dests, problems, time.monotonic() - started)

    @contextmanager
    def _running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the router; at the end ask it to stop, which it must do well."""
        # the user's own services and ledger are not those of the demo
        environ = {key: value for key, value in self.environ.items() if not key.startswith("DIANA_")}
        command = [*self.router, str(self.routes_file)]
        with (self.folder / "router.log").open("ab") as log:
            process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    if process.wait(timeout=20) != 0:
                        self._trouble.append(f"the router ended with exit code {process.returncode}; see router.log")
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    self._trouble.append("the router did not stop when asked to")

    def _prepare(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ConfigError(f"the folder {self.folder.name} is not empty; name another one")
        for name in ("inbox", "archive"):
            (self.folder / name).mkdir(parents=True)
        more = ""
        if self._has_orthanc():
            self._dests.append("orthanc")
            more = ORTHANC
        # as YAML reads a text in double quotes, and the services file a dollar sign
        folder = json.dumps(str(self.folder.resolve()))[1:-1].replace("$", "$$")
        text = ROUTES.format(folder=folder, port=_free_port(), more=more, to=", ".join(self._dests))
        self.routes_file.write_text(text, encoding="utf-8")

    def _has_orthanc(self) -> bool:
        if not self.environ.get("ORTHANC_URL"):
            return False
        services = ServiceManager.from_text(ORTHANC, environ=self.environ)
        there = bool(services.get("orthanc").check())
        self.say("the Orthanc at ORTHANC_URL is one more destination" if there else "no Orthanc answers at ORTHANC_URL")
        return there

    def _make_studies(self) -> list[MockStudy]:
        (site,) = MockSite.Factory.create(SITE)
        moment = datetime.now().replace(microsecond=0)
        moments = [moment - timedelta(hours=number) for number in range(2)]
        studies = [device.gen_study(one) for one in moments for device in site.devices()]
        for study in studies:
            wanted = sum(Query(WHEN).matches(one.tags) for one in study.instances())
            self._expected[study.tags["StudyInstanceUID"]] = wanted
        total = sum(1 for study in studies for _ in study.instances())
        self.say(f"a mock site made {len(studies)} studies of {total} instances; localizers and dose reports stay out")
        return studies

    def _drop(self, studies: Sequence[MockStudy]) -> None:
        """Write files as careless programs do: half, a pause, the rest; some under a passing name; a foreign one."""
        inbox = self.folder / "inbox"
        (inbox / "notes.txt").write_text("not DICOM, to be left alone\n")
        for at, study in enumerate(studies):
            files = [(inbox / f"study-{at}" / f"{number:04}.dcm", _bytes(one)) for number, one in _numbered(study)]
            (inbox / f"study-{at}").mkdir()
            passing = ".part" if at % 2 else ""
            for path, data in reversed(files):
                path.with_name(path.name + passing).write_bytes(data[: len(data) // 2])
            time.sleep(0.5)
            for path, data in files:
                with path.with_name(path.name + passing).open("ab") as out:
                    out.write(data[len(data) // 2 :])
                if passing:
                    path.with_name(path.name + passing).rename(path)

    def _scan(self, studies: Sequence[MockStudy], listener: Any, end: float) -> None:
        """Send each study until all of it was taken, as scanners do."""
        for study in studies:
            files = [_bytes(one) for _, one in _numbered(study)]
            while not self._sent(files, listener):
                if time.monotonic() > end:
                    self._trouble.append("the scanner could not send everything")
                    return
                time.sleep(0.3)

    @staticmethod
    def _sent(files: Sequence[bytes], listener: Any) -> bool:
        try:
            outcomes = dimse.store(files, listener.host, listener.port, "SCANNER", listener.aet)
        except GatewayError:
            return False
        return all(one.ok for one in outcomes)

    def _wait(self, process: subprocess.Popen[bytes], wanted: int, end: float) -> None:
        """Wait until the ledger has that many instances verified, the router ends, or the time is over."""
        total = sum(self._expected.values()) * len(self._dests)
        while time.monotonic() < end:
            done = sum(self._verified(self._receipts()).values())
            self.tick(done, total)
            if done >= wanted:
                return
            if process.poll() is not None:
                self._trouble.append(f"the router ended by itself, exit code {process.returncode}; see router.log")
                return
            time.sleep(0.2)

    def _receipts(self) -> list[dict[str, Any]]:
        ledger = self.folder / "state" / "ledger.sqlite"
        if not ledger.is_file():
            return []
        store = Store(ledger)
        try:
            return ReceiptBook(store).list()
        finally:
            store.close()

    def _verified(self, receipts: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
        """Return how many instances of each study are verified at each destination."""
        found: dict[tuple[str, str], int] = {}
        for one in receipts:
            key = (one["study"], one["dest"])
            found[key] = found.get(key, 0) + one["verified"]
        return found

    def _unproved(self, receipts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Yield a line for each study and destination whose receipts do not prove all of it."""
        found = self._verified(receipts)
        for study, wanted in self._expected.items():
            for dest in self._dests:
                count = found.get((study, dest), 0)
                if count != wanted:
                    yield f"study {study}: {count} of {wanted} instances verified in {dest}"
        for one in receipts:
            if one["state"] != "verified":
                yield f"study {one['study']}: {one['state']} in {one['dest']}: {one['reason']}"

    def _amiss(self, services: ServiceManager, studies: Sequence[MockStudy]) -> Iterator[str]:
        """Look into the archive, past the ledger: is everything there, and no patient of the site?"""
        archive: Endpoint = services.get("archive")
        held = archive.find({"PatientID": ""}, DicomLevel.INSTANCES)
        wanted = sum(self._expected.values())
        if len(held) != wanted:
            yield f"the archive holds {len(held)} instances instead of {wanted}"
        patients = {study.tags["PatientID"] for study in studies}
        if any(one.tags.get("PatientID") in patients for one in held):
            yield "an original patient id reached the archive"


def _numbered(study: MockStudy) -> Iterator[tuple[int, Dixel]]:
    return enumerate(study.instances(), 1)


def _bytes(one: Dixel) -> bytes:
    if not isinstance(one, MockInstance):
        raise IncompleteTransfer("not an instance of the mock site")
    data = one.as_stored().file
    return data or b""


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
