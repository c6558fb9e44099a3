"""Hospitals that do not exist, making studies at the pace of real ones."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from random import Random
from threading import Event
from typing import TYPE_CHECKING, Any  # descriptions come from files

from attrs import define, field

from diana.dixel.mock_dixel import MODALITIES, MockInstance, MockStudy
from diana.exceptions import ConfigError, DianaError

if TYPE_CHECKING:
    from diana.utils.endpoint import Endpoint

log = logging.getLogger(__name__)

_SITE_KEYS = ("name", "services", "seed")
_SERVICE_KEYS = ("name", "modality", "devices", "studies_per_hour")


@define(eq=False)
class MockDevice:
    """
    Make studies on a schedule, the first one at once.

    ``action_interval`` is the pause in seconds before a refused instance is tried again. ``clock`` says what time it
    is. With ``rng`` the studies come from a generator of the device's own, else from the shared one of mock studies;
    the schedule follows from the names of site and station.
    """

    site_name: str = "Mock Facility"
    station_name: str = "Imaging Device"
    modality: str = "CT"
    studies_per_hour: float = 6
    action_interval: float = 5.0
    clock: Callable[[], datetime] = field(default=datetime.now, kw_only=True, repr=False)
    rng: Random | None = field(default=None, kw_only=True, repr=False)
    next_action: datetime = field(init=False)
    _pace: Random = field(init=False, repr=False)
    _waiting: deque[MockInstance] = field(init=False, repr=False, factory=deque)

    def __attrs_post_init__(self) -> None:
        self.next_action = self.clock()
        self._pace = Random(f"{self.site_name}/{self.station_name}")  # noqa: S311  # a schedule, not a secret

    def gen_study(self, study_datetime: datetime | None = None) -> MockStudy:
        """Return a new study, of this moment unless another is given."""
        return MockStudy(
            study_datetime=study_datetime or self.clock(),
            site_name=self.site_name,
            station_name=self.station_name,
            modality=self.modality,
            rng=self.rng,
        )

    @property
    def waiting(self) -> int:
        """Return how many instances could not be delivered yet."""
        return len(self._waiting)

    def poll(self, dest: Endpoint | None = None, stop: Event | None = None) -> MockStudy | None:
        """
        Make a study when one is due, put every instance to ``dest``, and return it; None when nothing new is due.

        Never pauses. While ``dest`` is away, or when ``stop`` is set, instances wait, and the next poll goes on with
        them before any new study. An instance that ``dest`` refuses for good is left out, with a warning.
        """
        if self.clock() < self.next_action:
            return None
        study = None
        if not self._waiting:
            study = self.gen_study()
            self._waiting.extend(one for one in study.instances() if isinstance(one, MockInstance))
        if dest is None:
            self._waiting.clear()
        if dest is None or self._send(dest, stop):
            self.next_action = self.clock() + timedelta(seconds=self._pause())
        else:
            self.next_action = self.clock() + timedelta(seconds=self.action_interval)
        return study

    def _send(self, dest: Endpoint, stop: Event | None) -> bool:
        """Put what waits, in order; return whether nothing waits any more."""
        while self._waiting:
            if stop is not None and stop.is_set():
                return False
            try:
                dest.put(self._waiting[0].as_stored())
            except DianaError as error:
                log.warning("device=%s could not put an instance: %s", self.station_name, type(error).__name__)
                if error.temporary:
                    return False
            self._waiting.popleft()
        return True

    def _pause(self) -> float:
        """Draw the seconds until the next study: half to one and a half of the mean."""
        mean = 3600 / self.studies_per_hour
        return self._pace.randint(int(0.5 * mean), int(1.5 * mean))


@define(eq=False)
class MockService:
    """Hold devices of one modality, which share the number of studies per hour and are named ``SERVICE_NAME_n``."""

    site_name: str = "Mock Facility"
    name: str = "Imaging Service"
    modality: str = "CT"
    num_devices: int = 1
    studies_per_hour: float = 6
    clock: Callable[[], datetime] = field(default=datetime.now, kw_only=True, repr=False)
    rng: Random | None = field(default=None, kw_only=True, repr=False)
    devices: list[MockDevice] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.devices = self.setup_devices()

    def setup_devices(self) -> list[MockDevice]:
        """Return new devices."""
        station = self.name.upper().replace(" ", "_")
        return [
            MockDevice(
                site_name=self.site_name,
                station_name=f"{station}_{number}",
                modality=self.modality,
                studies_per_hour=self.studies_per_hour / self.num_devices,
                clock=self.clock,
                rng=self.rng,
            )
            for number in range(1, self.num_devices + 1)
        ]


@define(eq=False)
class MockSite:
    """
    Hold the imaging services of a hospital.

    With ``seed`` the studies come from a generator of the site's own, so that the same seed makes the same studies
    whatever other sites do.
    """

    name: str = "Mock Facility"
    seed: str | int | None = field(default=None, kw_only=True)
    clock: Callable[[], datetime] = field(default=datetime.now, kw_only=True, repr=False)
    services: list[MockService] = field(init=False, factory=list)
    _rng: Random | None = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._rng = None if self.seed is None else Random(self.seed)  # noqa: S311  # test data

    def add_service(self, name: str, modality: str, devices: int = 1, studies_per_hour: float = 6) -> None:
        """Add a service with that many devices."""
        self.services.append(
            MockService(
                site_name=self.name,
                name=name,
                modality=modality,
                num_devices=devices,
                studies_per_hour=studies_per_hour,
                clock=self.clock,
                rng=self._rng,
            )
        )

    def devices(self) -> Iterator[MockDevice]:
        """Yield the devices of all services."""
        for service in self.services:
            yield from service.devices

    def run(self, pacs: Endpoint, stop: Event | None = None, *, studies: int | None = None) -> int:
        """Send studies to ``pacs`` until ``stop`` is set or that many are made; see ``run_sites``."""
        return run_sites([self], pacs, stop, studies=studies)

    class Factory:
        """Make sites from their description in a file."""

        @classmethod
        def create(cls, desc: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[MockSite]:
            """
            Return the sites that a description, or a list of descriptions, asks for.

            A site has ``name``, ``services`` and perhaps ``seed``; a service has ``name``, ``modality`` and perhaps
            ``devices`` and ``studies_per_hour``. Raises ConfigError with all problems together.
            """
            sites = [desc] if isinstance(desc, Mapping) else list(desc)
            problems = list(_problems(sites))
            if problems:
                raise ConfigError(problems)
            return [_make_site(one) for one in sites]


def run_sites(
    sites: Iterable[MockSite], pacs: Endpoint, stop: Event | None = None, *, studies: int | None = None
) -> int:
    """
    Run all devices of all sites in turn, sending to ``pacs``, until ``stop`` is set or that many studies are made.

    Returns the number of studies. Waits without work between two studies; ``stop`` ends the wait at once. With
    ``studies`` it also waits until every instance is delivered.
    """
    stop = stop or Event()
    devices = [device for site in sites for device in site.devices()]
    made = 0
    while not stop.is_set():
        busy = devices
        for device in devices:
            enough = studies is not None and made >= studies
            if (device.waiting or not enough) and device.poll(pacs, stop) is not None:
                made += 1
                log.info("device=%s made a study", device.station_name)
        if studies is not None and made >= studies:
            busy = [device for device in devices if device.waiting]
        if not busy:
            break
        stop.wait(_seconds_to_next(busy))
    return made


def _seconds_to_next(devices: Sequence[MockDevice]) -> float:
    return max(0.0, min((device.next_action - device.clock()).total_seconds() for device in devices))


def _make_site(desc: Mapping[str, Any]) -> MockSite:
    site = MockSite(name=str(desc["name"]), seed=desc.get("seed"))
    for service in desc["services"]:
        site.add_service(**service)
    return site


def _problems(sites: Sequence[Any]) -> Iterator[str]:
    if not sites:
        yield "mock site: no site described"
    for at, site in enumerate(sites, 1):
        place = f"mock site {at}"
        if not isinstance(site, Mapping):
            yield f"{place}: not a mapping"
            continue
        yield from _key_problems(place, site, _SITE_KEYS, needed=("name", "services"))
        services = site.get("services")
        if services is not None and not (isinstance(services, list) and services):
            yield f"{place}: services is not a list of services"
            continue
        for number, service in enumerate(services or (), 1):
            yield from _service_problems(f"{place}, service {number}", service)


def _service_problems(place: str, service: Any) -> Iterator[str]:
    if not isinstance(service, Mapping):
        yield f"{place}: not a mapping"
        return
    yield from _key_problems(place, service, _SERVICE_KEYS, needed=("name", "modality"))
    if "modality" in service and service["modality"] not in MODALITIES:
        yield f"{place}: modality is not one of {', '.join(MODALITIES)}"
    devices, pace = service.get("devices", 1), service.get("studies_per_hour", 6)
    if not isinstance(devices, int) or isinstance(devices, bool) or not 0 < devices <= 1000:
        yield f"{place}: devices is not a whole number from 1 to 1000"
    if not isinstance(pace, int | float) or isinstance(pace, bool) or not 0 < pace <= 3600 * 1000:
        yield f"{place}: studies_per_hour is not a number above 0"


def _key_problems(place: str, mapping: Mapping[str, Any], known: Sequence[str], needed: Sequence[str]) -> Iterator[str]:
    for key in mapping:
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            yield f"{place}: unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")
    for key in needed:
        if key not in mapping:
            yield f"{place}: {key} is missing"
