"""
The demo: a small hospital in one folder, and a router that proves where every study went.

A mock site makes studies. Some are written into a watched folder, slowly and without care; others are sent by a
scanner (C-STORE) to a listener. The router is a process of its own, with its routes in a file; it is killed in the
middle and started again. Older studies lie in a PACS, a folder that is served: they are found over QIDO-RS, fetched
over RAD-69 and sent over DIMSE to a second one.
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

from diana.apis import DcmDir
from diana.daemons.demo_pacs import ServedFolder, carry, check_extra, trouble_of
from diana.daemons.demo_text import ORTHANC, ROUTES, SITE, WHEN
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
ROUTED: Final = 6
ROUTERS: Final = ("archive", "index")

Say = Callable[[str], None]


@frozen
class DemoResult:
    """
    Hold the receipts, how many instances each study should have brought, and what went wrong in words.

    ``port`` is that of the PACS, by which the services of the demo know it.
    """

    folder: Path
    receipts: Sequence[Mapping[str, Any]] = field(repr=False)
    expected: Mapping[str, int] = field(repr=False)
    dests: Sequence[str]
    problems: Sequence[str]
    seconds: float
    port: int

    @property
    def is_proved(self) -> bool:
        """Tell whether every study is verified at every destination, and nothing else is amiss."""
        return not self.problems


@define
class Demo:
    """
    Run the demo in a folder that is empty or does not exist.

    ``program`` is the command line of this program, less the command. ``say`` is told what happens, in a few lines,
    ``tick`` how many instances are verified of how many. ``limit`` is in seconds. With ``ORTHANC_URL`` in the
    environment, and an Orthanc there, that is one more destination.
    """

    folder: Path = field(converter=Path)
    program: Sequence[str]
    say: Say = field(default=lambda _: None)
    tick: Callable[[int, int], None] = field(default=lambda _done, _all: None)
    limit: float = LIMIT
    environ: Mapping[str, str] = field(factory=lambda: dict(os.environ), repr=False)
    routes_file: Path = field(init=False)
    _dests: list[str] = field(init=False, factory=lambda: list(ROUTERS))
    _expected: dict[str, int] = field(init=False, factory=dict)
    _wanted: dict[tuple[str, str], int] = field(init=False, factory=dict)
    _trouble: list[str] = field(init=False, factory=list)

    @routes_file.default
    def _routes_file(self) -> Path:
        return self.folder / "routes.yml"

    def run(self) -> DemoResult:
        """Make studies, route them, and return what the ledger knows. Raises ConfigError for a folder in use."""
        started = time.monotonic()
        end = started + self.limit
        check_extra()
        with self._prepared() as pacs:
            studies = self._make_studies()
            services = load_config(self.routes_file, self.environ).services
            self._trouble += trouble_of(lambda: self._fill(pacs, studies[ROUTED:]))
            self._route(studies[:ROUTED], services.get("scanner"), end)
            self._trouble += trouble_of(lambda: self._carry(services, end))
        receipts = self._receipts()
        problems = [*self._trouble, *self._unproved(receipts), *self._amiss(services, studies)]
        dests, seconds = [*self._dests, "research"], time.monotonic() - started
        return DemoResult(self.folder, receipts, self._expected, dests, problems, seconds, pacs.http)

    def _route(self, studies: Sequence[MockStudy], listener: Any, end: float) -> None:
        """Let the router work on what is written into the folder and sent to the port, and kill it in the middle."""
        half = len(studies) // 2
        self.say(f"{half} are written into the watched folder, slowly and without care")
        self.say(f"{len(studies) - half} are sent by a scanner to the DICOM port {listener.port}")
        feeding = [
            threading.Thread(target=self._drop, args=(studies[:half],), name="demo-writer"),
            threading.Thread(target=self._scan, args=(studies[half:], listener, end), name="demo-scanner"),
        ]
        wanted = sum(count for (_, dest), count in self._wanted.items() if dest in self._dests)
        with self._running() as process:
            for thread in feeding:
                thread.start()
            self._wait(process, wanted // 4, end)
            process.kill()
            process.wait()
            self.say("the router is killed (SIGKILL) at a quarter of the work, and started again")
        with self._running() as process:
            for thread in feeding:
                thread.join()
            self._wait(process, wanted, end)

    def _fill(self, pacs: ServedFolder, studies: Sequence[MockStudy]) -> None:
        self.say(f"{len(studies)} older ones are in the PACS, which is diana-cli serve, DICOM port {pacs.dicom}")
        for study in studies:
            pacs.store([_bytes(one) for one in study.instances()])

    def _carry(self, services: ServiceManager, end: float) -> None:
        """Bring what the PACS has to the researchers."""
        self.say("the studies of the PACS are found over QIDO-RS, fetched over RAD-69, and sent over DIMSE to research")
        total = sum(self._wanted.values())
        done = total - sum(count for (_, dest), count in self._wanted.items() if dest == "research")

        def tick() -> None:
            nonlocal done
            done += 1
            self.tick(done, total)

        ledger = self.folder / "state" / "ledger.sqlite"
        carry(services.get("pacs"), services.get("research"), ledger, tick, lambda: time.monotonic() > end)

    @contextmanager
    def _running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the router; at the end ask it to stop, which it must do well."""
        command = [*self.program, "watch", str(self.routes_file)]
        beat = self.folder / "state" / "status.json"
        beat.unlink(missing_ok=True)
        with (self.folder / "router.log").open("ab") as log:
            process = subprocess.Popen(command, env=self._environ(), stdin=subprocess.DEVNULL, stderr=log)
        try:
            yield process
        finally:
            limit = time.monotonic() + 20
            while process.poll() is None and not beat.exists() and time.monotonic() < limit:
                time.sleep(0.05)  # it can be asked once it runs
            if process.poll() is None:
                process.terminate()
                try:
                    if process.wait(timeout=20) != 0:
                        self._trouble.append(f"the router ended with exit code {process.returncode}; see router.log")
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    self._trouble.append("the router did not stop when asked to")

    def _environ(self) -> dict[str, str]:
        """Return the environment of a child: the user's own services and ledger are not those of the demo."""
        return {key: value for key, value in self.environ.items() if not key.startswith("DIANA_")}

    @contextmanager
    def _prepared(self) -> Iterator[ServedFolder]:
        """Make the folders, start the archives, write the file of routes; give the PACS."""
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ConfigError(f"the folder {self.folder.name} is not empty; name another one")
        for name in ("inbox", "archive"):
            (self.folder / name).mkdir(parents=True)
        home = self.folder.resolve()
        pacs, research = (ServedFolder(home, name, self.program, self._environ()) for name in ("pacs", "research"))
        try:
            for one in (pacs, research):
                one.start()
            more = self._orthanc()
            for one in (pacs, research):
                one.wait()
            self._write_routes(pacs, research, more)
            yield pacs
        finally:
            for one in (pacs, research):
                one.stop()

    def _write_routes(self, pacs: ServedFolder, research: ServedFolder, more: str) -> None:
        # as YAML reads a text in double quotes, and the services file a dollar sign
        folder = json.dumps(str(self.folder.resolve()))[1:-1].replace("$", "$$")
        text = ROUTES.format(
            folder=folder,
            port=_free_port(),
            pacs_http=pacs.http,
            pacs_dicom=pacs.dicom,
            research_http=research.http,
            research_dicom=research.dicom,
            more=more,
            to=", ".join(self._dests),
        )
        self.routes_file.write_text(text, encoding="utf-8")

    def _orthanc(self) -> str:
        """Return the service that is one more destination, empty without an Orthanc."""
        if not self._has_orthanc():
            return ""
        self._dests.append("orthanc")
        return ORTHANC

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
        moments = [moment - timedelta(hours=number) for number in range(3)]
        studies = [device.gen_study(one) for one in moments for device in site.devices()]
        for number, study in enumerate(studies):
            uid = study.tags["StudyInstanceUID"]
            self._expected[uid] = sum(Query(WHEN).matches(one.tags) for one in study.instances())
            dests = self._dests if number < ROUTED else ["research"]
            self._wanted.update({(uid, dest): self._expected[uid] for dest in dests})
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
        total = sum(self._wanted.values())
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
        for (study, dest), wanted in self._wanted.items():
            count = found.get((study, dest), 0)
            if count != wanted:
                yield f"study {study}: {count} of {wanted} instances verified in {dest}"
        for one in receipts:
            if one["state"] != "verified":
                yield f"study {one['study']}: {one['state']} in {one['dest']}: {one['reason']}"

    def _amiss(self, services: ServiceManager, studies: Sequence[MockStudy]) -> Iterator[str]:
        """Look into the archives, past the ledger: is everything there, and no patient of the site?"""
        patients = {study.tags["PatientID"] for study in studies}
        archives: dict[str, Endpoint] = {
            "archive": services.get("archive"),
            "research": DcmDir(str(self.folder / "research")),
        }
        for name, archive in archives.items():
            held = archive.find({"PatientID": ""}, DicomLevel.INSTANCES)
            wanted = sum(count for (_, dest), count in self._wanted.items() if dest == name)
            if len(held) != wanted:
                yield f"the folder {name} holds {len(held)} instances instead of {wanted}"
            if any(one.tags.get("PatientID") in patients for one in held):
                yield f"an original patient id reached the folder {name}"


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
