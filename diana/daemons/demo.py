"""
The demo: a small hospital in one folder, and a router that proves where every study went.

A mock site makes studies. Some are written into a watched folder, slowly and without care; the others are sent by a
scanner (C-STORE) to a listener. The routes lie in a file beside them; everything runs in this process.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final  # receipts are JSON

from attrs import define, field, frozen

from diana.daemons.mock_site import MockSite
from diana.daemons.watch import load_config, make_watcher
from diana.dixel import Dixel, MockInstance, MockStudy
from diana.exceptions import ConfigError, GatewayError, IncompleteTransfer
from diana.ledger.receipts import ReceiptBook
from diana.ledger.store import Store
from diana.utils.dicom import DicomLevel, Query
from diana.utils.endpoint import Endpoint, ServiceManager, Watcher
from diana.utils.gateways import dimse

LIMIT: Final = 90.0
SITE: Final = {
    "name": "Demo Hospital",
    "seed": "diana-demo",
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
    path: {folder}/inbox
  scanner:    # a DICOM port: what scanners send to it
    ctype: DicomListener
    aet: DIANA
    port: {port}
    path: {folder}/spool
  archive:    # DICOM files in a folder
    ctype: DcmDir
    path: {folder}/archive
  index:      # one row for each instance
    ctype: CsvFile
    fp: {folder}/index.csv
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
state: {folder}/state
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

    ``say`` is told what happens, in a few lines. With ``ORTHANC_URL`` in the environment, and an Orthanc there, that is
    one more destination.
    """

    folder: Path = field(converter=Path)
    say: Say = field(default=lambda _: None)
    limit: float = LIMIT
    environ: Mapping[str, str] = field(factory=lambda: dict(os.environ), repr=False)
    routes_file: Path = field(init=False)
    _dests: list[str] = field(init=False, factory=lambda: ["archive", "index"])
    _expected: dict[str, int] = field(init=False, factory=dict)

    @routes_file.default
    def _routes_file(self) -> Path:
        return self.folder / "routes.yml"

    def run(self) -> DemoResult:
        """Make studies, route them, and return what the ledger knows. Raises ConfigError for a folder in use."""
        started = time.monotonic()
        self._prepare()
        studies = self._make_studies()
        config = load_config(self.routes_file, self.environ)
        listener = config.services.get("scanner")
        with _running(make_watcher(config)) as watcher:
            self._wait_for_port(listener.host, listener.port, watcher)
            half = len(studies) // 2
            self.say(f"{half} studies are written into the watched folder, slowly and out of order,")
            self.say(f"{len(studies) - half} are sent by a scanner to port {listener.port}")
            scanner = threading.Thread(target=self._scan, args=(studies[half:], listener), name="demo-scanner")
            scanner.start()
            self._drop(studies[:half])
            scanner.join()
            self._wait(watcher)
        receipts = self._receipts()
        problems = [*self._unproved(receipts), *self._amiss(config.services, studies)]
        return DemoResult(
            self.folder, receipts, self._expected, self._dests, problems, time.monotonic() - started
        )

    def _prepare(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ConfigError(f"the folder {self.folder.name} is not empty; name another one")
        for name in ("inbox", "archive"):
            (self.folder / name).mkdir(parents=True)
        more = ""
        if self._has_orthanc():
            self._dests.append("orthanc")
            more = ORTHANC
        text = ROUTES.format(folder=self.folder.resolve(), port=_free_port(), more=more, to=", ".join(self._dests))
        self.routes_file.write_text(text, encoding="utf-8")

    def _has_orthanc(self) -> bool:
        if not self.environ.get("ORTHANC_URL"):
            return False
        services = ServiceManager.from_text(ORTHANC, environ=self.environ)
        there = bool(services.get("orthanc").check())
        self.say("the Orthanc at ORTHANC_URL " + ("is one more destination" if there else "does not answer; without it"))
        return there

    def _make_studies(self) -> list[MockStudy]:
        (site,) = MockSite.Factory.create(SITE)
        moment = datetime.now().replace(microsecond=0)
        studies = []
        for number in range(2):
            for device in site.devices():
                studies.append(device.gen_study(moment - timedelta(hours=number)))
        for study in studies:
            wanted = sum(Query(WHEN).matches(one.tags) for one in study.instances())
            self._expected[study.tags["StudyInstanceUID"]] = wanted
        total = sum(1 for study in studies for _ in study.instances())
        self.say(f"a mock site made {len(studies)} studies, {total} instances; localizers and dose reports stay out")
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

    def _scan(self, studies: Sequence[MockStudy], listener: Any) -> None:
        for study in studies:
            files = [_bytes(one) for _, one in _numbered(study)]
            try:
                outcomes = dimse.store(files, listener.host, listener.port, "SCANNER", listener.aet)
            except GatewayError as error:
                self.say(f"the scanner could not send: {error}")
                return
            refused = sum(not one.ok for one in outcomes)
            if refused:
                self.say(f"{refused} instances were not taken by the listener")

    def _wait_for_port(self, host: str, port: int, watcher: _Running) -> None:
        end = time.monotonic() + 10
        while time.monotonic() < end and watcher.is_alive:
            try:
                dimse.echo(host, port, "SCANNER", "DIANA", timeout=2.0)
                return
            except GatewayError:
                time.sleep(0.05)
        raise GatewayError(f"the listener did not open port {port}")

    def _wait(self, running: _Running) -> None:
        """Wait until the ledger has every study verified, or the time is over."""
        end = time.monotonic() + self.limit
        book = running.watcher.journal.receipts
        while time.monotonic() < end and running.is_alive and self._unproved(book.list()):
            time.sleep(0.2)

    def _receipts(self) -> list[dict[str, Any]]:
        store = Store(self.folder / "state")
        try:
            return ReceiptBook(store).list()
        finally:
            store.close()

    def _unproved(self, receipts: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return a line for each study and destination without a receipt that proves all of it."""
        found: dict[tuple[str, str], int] = {}
        for one in receipts:
            if one["state"] == "verified":
                key = (one["study"], one["dest"])
                found[key] = found.get(key, 0) + one["verified"]
        problems = []
        for study, wanted in self._expected.items():
            for dest in self._dests:
                count = found.get((study, dest), 0)
                if count != wanted:
                    problems.append(f"study {study}: {count} of {wanted} instances verified in {dest}")
        return problems

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


@define
class _Running:
    """A watcher in a thread of its own."""

    watcher: Watcher
    thread: threading.Thread

    @property
    def is_alive(self) -> bool:
        return self.thread.is_alive()


@contextmanager
def _running(watcher: Watcher) -> Iterator[_Running]:
    thread = threading.Thread(target=watcher.run, name="demo-watcher", daemon=True)
    thread.start()
    try:
        yield _Running(watcher, thread)
    finally:
        watcher.stop()
        thread.join(timeout=watcher.grace + 10)


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
