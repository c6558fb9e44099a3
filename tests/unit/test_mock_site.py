"""Mock sites send studies at their pace, all of them, until told to stop."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest

from diana.daemons.mock_site import MockDevice, MockService, MockSite, run_sites
from diana.dixel import Dixel
from diana.exceptions import ConfigError, GatewayConnectionError, GatewayRefused
from diana.utils.endpoint import Endpoint

DESCRIPTION = [
    {
        "name": "North",
        "seed": "n",
        "services": [
            {"name": "Main CR", "modality": "CR", "devices": 2, "studies_per_hour": 20},
            {"name": "ER", "modality": "CR"},
        ],
    },
    {"name": "South", "seed": "s", "services": [{"name": "Film", "modality": "CR", "studies_per_hour": 3600}]},
]


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = datetime(2018, 1, 1, 8)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **period: float) -> None:
        """Let time pass."""
        self.now += timedelta(**period)


class Archive(Endpoint):
    """Keep what is put, and fail when told to."""

    def __init__(self) -> None:
        super().__init__(name="archive")
        self.kept: list[Dixel] = []
        self.errors: list[Exception] = []

    def _put(self, item: Dixel, **options: Any) -> str:
        if self.errors:
            raise self.errors.pop(0)
        self.kept.append(item)
        return item.oid()


def device(clock: Clock, **changes: Any) -> MockDevice:
    """Return a device with a generator of its own."""
    return MockDevice(**{"modality": "CR", "clock": clock, "rng": Random(1), **changes})


class TestDevice:
    """One device."""

    def test_first_study_is_due_at_once_and_the_next_in_half_to_one_and_a_half_of_the_mean(self) -> None:
        clock, archive = Clock(), Archive()
        one = device(clock, studies_per_hour=6)
        for _ in range(30):
            assert one.poll(archive) is not None
            assert one.poll(archive) is None
            pause = (one.next_action - clock.now).total_seconds()
            assert 300 <= pause <= 900
            clock.pass_by(seconds=pause - 1)
            assert one.poll(archive) is None
            clock.pass_by(seconds=1)

    def test_every_instance_is_put_with_its_file(self) -> None:
        archive = Archive()
        study = device(Clock()).poll(archive)
        assert study is not None
        wanted = [one.tags["SOPInstanceUID"] for one in study.instances()]
        assert [one.tags["SOPInstanceUID"] for one in archive.kept] == wanted
        assert all(one.file and one.file[128:132] == b"DICM" for one in archive.kept)

    def test_study_has_the_names_of_the_device(self) -> None:
        study = device(Clock(), site_name="Site", station_name="Station").gen_study(datetime(2019, 1, 1))
        assert study.tags["Institution"] == "Site"
        assert study.tags["StationName"] == "Station"
        assert study.tags["StudyDate"] == "20190101"

    def test_same_seed_gives_the_same_studies_and_schedule(self) -> None:
        archives = Archive(), Archive()
        for archive in archives:
            clock = Clock()
            one = device(clock)
            for _ in range(50):
                one.poll(archive)
                clock.pass_by(minutes=3)
        one_day, other_day = ([one.tags["SOPInstanceUID"] for one in archive.kept] for archive in archives)
        assert one_day == other_day
        assert len(one_day) > 10

    def test_without_destination_the_study_is_only_made(self) -> None:
        one = device(Clock())
        assert one.poll() is not None
        assert one.waiting == 0

    def test_instances_wait_while_the_destination_is_away(self) -> None:
        clock, archive = Clock(), Archive()
        archive.errors = [GatewayConnectionError("away"), GatewayConnectionError("away")]
        one = device(clock, action_interval=5)
        study = one.poll(archive)
        assert study is not None
        count = len(list(study.instances()))
        assert one.waiting == count
        clock.pass_by(seconds=5)
        assert one.poll(archive) is None
        assert one.waiting == count
        clock.pass_by(seconds=5)
        assert one.poll(archive) is None
        assert one.waiting == 0
        assert len(archive.kept) == count

    def test_refused_instance_is_left_out(self) -> None:
        archive = Archive()
        archive.errors = [GatewayRefused("no")]
        study = device(Clock()).poll(archive)
        assert study is not None
        assert len(archive.kept) == len(list(study.instances())) - 1

    def test_stop_ends_the_sending_between_instances(self) -> None:
        archive, stop = Archive(), threading.Event()
        stop.set()
        one = device(Clock())
        one.poll(archive, stop)
        assert archive.kept == []
        assert one.waiting


class TestSite:
    """Devices together."""

    def test_service_names_its_devices_and_divides_the_work(self) -> None:
        service = MockService(name="Main CT", num_devices=3, studies_per_hour=15)
        assert [one.station_name for one in service.devices] == ["MAIN_CT_1", "MAIN_CT_2", "MAIN_CT_3"]
        assert {one.studies_per_hour for one in service.devices} == {5}

    def test_description_makes_sites(self) -> None:
        sites = MockSite.Factory.create(DESCRIPTION)
        assert [site.name for site in sites] == ["North", "South"]
        assert [one.station_name for one in sites[0].devices()] == ["MAIN_CR_1", "MAIN_CR_2", "ER_1"]
        assert MockSite.Factory.create(DESCRIPTION[1])[0].name == "South"

    def test_all_problems_of_a_description_are_told_together(self) -> None:
        bad = [
            {"name": "A", "servces": [], "services": [{"name": "x", "modality": "XA", "devices": 0}]},
            {"services": [{"nme": "x", "modality": "CT", "studies_per_hour": "many"}, 5]},
            "site",
        ]
        with pytest.raises(ConfigError) as caught:
            MockSite.Factory.create(bad)  # type: ignore[arg-type]
        text = str(caught.value)
        for hint in ("'services'", "CT, MR, CR, US", "devices", "name is missing", "'name'", "studies_per_hour"):
            assert hint in text
        assert len(caught.value.problems) >= 8

    def test_every_site_runs(self) -> None:
        archive = Archive()
        made = run_sites(MockSite.Factory.create(DESCRIPTION), archive, studies=4)
        assert made == 4
        assert {one.tags["Institution"] for one in archive.kept} == {"North", "South"}
        assert {one.tags["StationName"] for one in archive.kept} == {"MAIN_CR_1", "MAIN_CR_2", "ER_1", "FILM_1"}

    def test_run_ends_when_told(self) -> None:
        site = MockSite.Factory.create(DESCRIPTION)[0]
        archive, stop = Archive(), threading.Event()
        runner = threading.Thread(target=site.run, args=(archive, stop))
        runner.start()
        deadline = time.monotonic() + 20
        while len({one.tags["StationName"] for one in archive.kept}) < 3 and time.monotonic() < deadline:
            stop.wait(0.01)
        stop.set()
        runner.join(5)
        assert not runner.is_alive()
        assert len({one.tags["StationName"] for one in archive.kept}) == 3

    def test_limited_run_delivers_what_waited(self) -> None:
        archive = Archive()
        archive.errors = [GatewayConnectionError("away")]
        site = MockSite(name="A", seed=1)
        site.add_service("CR", "CR")
        next(site.devices()).action_interval = 0.01
        assert site.run(archive, studies=1) == 1
        assert len(archive.kept) >= 2
        assert next(site.devices()).waiting == 0

    def test_site_without_devices_ends(self) -> None:
        assert MockSite().run(Archive()) == 0
