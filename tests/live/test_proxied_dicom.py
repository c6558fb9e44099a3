"""ProxiedDicom searches and reads real archives, dcmqrscp and Orthanc, through a real Orthanc."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from diana.apis import ProxiedDicom
from diana.exceptions import (
    ConfigError,
    GatewayConnectionError,
    GatewayError,
    GatewayRefused,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.gateways import dimse
from tests.contract import samples
from tests.planted import PASSWORD, assert_nothing_planted
from tests.servers import DcmqrscpServer, OrthancServer, ServerPool

pytestmark = pytest.mark.live

Archive = DcmqrscpServer | OrthancServer


class Site:
    """An archive, the Orthanc before it, and numbers of studies that no other test uses."""

    numbers = itertools.count()

    def __init__(self, near: OrthancServer, far: Archive) -> None:
        self.near, self.far = near, far
        self.made: list[ProxiedDicom] = []

    @property
    def far_port(self) -> int:
        return self.far.dicom_port if isinstance(self.far, OrthancServer) else self.far.port

    def endpoint(self, **options: Any) -> ProxiedDicom:
        desc = {
            "host": "127.0.0.1",
            "port": self.near.http_port,
            "user": self.near.user,
            "password": self.near.password,
        }
        self.made.append(ProxiedDicom(desc, "archive", name="pacs", **options))
        return self.made[-1]

    def fill(self, series: int = 1, per_series: int = 1, **tags: Any) -> int:
        """Put a new study into the archive; return its number."""
        number = next(self.numbers)
        items = [samples.instance(number, s, n, **tags) for s in range(series) for n in range(per_series)]
        outcomes = dimse.store(
            [item.file for item in items if item.file], "127.0.0.1", self.far_port, called_aet=self.far.aet
        )
        assert all(outcome.ok for outcome in outcomes)
        return number

    def here(self) -> set[str]:
        """Return the SOP Instance UIDs that the proxy holds."""
        rows = self.near.rest("GET", "/instances?expand")
        return {row["MainDicomTags"]["SOPInstanceUID"] for row in rows}

    def moves(self) -> list[str]:
        """Return the levels of all moves that the proxy was asked for, in order."""
        jobs = [job for job in self.near.rest("GET", "/jobs?expand") if job["Type"] == "DicomMoveScu"]
        jobs.sort(key=lambda job: str(job["CreationTime"]))
        return [row["0008,0052"] for job in jobs for row in job["Content"]["Query"]]


@pytest.fixture(scope="module", params=["dcmqrscp", "orthanc"])
def pair(request: pytest.FixtureRequest, server_pool: ServerPool) -> Iterator[Site]:
    near = server_pool.orthanc(aet="NEAR")
    far: Archive
    if request.param == "dcmqrscp":
        far = server_pool.dcmqrscp(peers={"NEAR": ("127.0.0.1", near.dicom_port)})
        near.add_modality("archive", far.aet, far.port)
    else:
        far = server_pool.orthanc(aet="FAR")
        far.add_modality("NEAR", "NEAR", near.dicom_port)
        near.add_modality("archive", far.aet, far.dicom_port)
    yield Site(near, far)
    near.stop()
    far.stop()


@pytest.fixture
def site(pair: Site) -> Iterator[Site]:
    pair.near.clear()
    pair.far.start()
    yield pair
    while pair.made:
        pair.made.pop().close()


@pytest.fixture
def pacs(site: Site) -> ProxiedDicom:
    return site.endpoint()


def study(number: int) -> Ref:
    return Ref(DicomLevel.STUDIES, study=samples.uid(number + 1))


def series(number: int, which: int = 0) -> Ref:
    return Ref(DicomLevel.SERIES, study=samples.uid(number + 1), series=samples.uid(number + 1, which + 1))


def uids(number: int, count: int, which: int = 0) -> set[str]:
    return {samples.uid(number + 1, which + 1, n + 1) for n in range(count)}


def test_check_is_an_echo_through_the_proxy(site: Site, pacs: ProxiedDicom) -> None:
    assert pacs.check()
    site.far.stop()
    assert not pacs.check()


def test_find_answers_at_every_level(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(2, 3)
    match = {"AccessionNumber": f"GEN{number:06}"}
    [found] = pacs.find(match)
    assert found.level == DicomLevel.STUDIES
    assert found.tags["StudyInstanceUID"] == samples.uid(number + 1)
    assert found.tags["PatientID"] == f"GENPID{number:04}"
    assert {one.tags["SeriesInstanceUID"] for one in pacs.find(match, "series")} == {
        samples.uid(number + 1, 1),
        samples.uid(number + 1, 2),
    }
    instances = pacs.find(match, "instances")
    assert {one.tags["SOPInstanceUID"] for one in instances} == uids(number, 3) | uids(number, 3, 1)
    assert all(one.tags["AccessionNumber"] == f"GEN{number:06}" for one in instances)
    assert site.here() == set()


def test_find_below_a_study_takes_keys_of_the_level(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(2, 2)
    upper = {"StudyInstanceUID": samples.uid(number + 1)}
    [one] = pacs.find({**upper, "SeriesNumber": "2"}, "series")
    assert one.tags["SeriesInstanceUID"] == samples.uid(number + 1, 2)
    [other] = pacs.find({**upper, "SeriesInstanceUID": samples.uid(number + 1, 1), "InstanceNumber": "2"}, "instances")
    assert other.tags["SOPInstanceUID"] == samples.uid(number + 1, 1, 2)


def test_find_of_nothing_is_an_empty_list(pacs: ProxiedDicom) -> None:
    assert pacs.find({"StudyInstanceUID": "1.2.3.4.5"}) == []


def test_find_understands_lists_wildcards_and_ranges(site: Site, pacs: ProxiedDicom) -> None:
    one, two = site.fill(), site.fill()
    both = {samples.uid(one + 1), samples.uid(two + 1)}
    found = pacs.find({"StudyInstanceUID": sorted(both)})
    assert {item.tags["StudyInstanceUID"] for item in found} == both
    found = pacs.find({"PatientID": f"GENPID{one:04}*", "StudyDate": "20200101-20201231"})
    assert [item.tags["StudyInstanceUID"] for item in found] == [samples.uid(one + 1)]


def test_what_cannot_be_asked_is_refused(site: Site, pacs: ProxiedDicom) -> None:
    site.fill()
    with pytest.raises(Unsupported):
        pacs.find({"any": [{"Modality": "CT"}, {"Modality": "MR"}]})
    with pytest.raises(Unsupported):
        pacs.find({"NumberOfStudyRelatedInstances": ">2"})
    with pytest.raises(ConfigError):
        pacs.find({"PatientIdd": "1"})


def test_a_key_that_the_archive_does_not_match_by_is_refused(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill()
    match = {"StudyInstanceUID": samples.uid(number + 1), "StationName": "ELSEWHERE"}
    with pytest.raises(Unsupported, match="StationName"):
        pacs.find(match)


def test_an_unknown_domain_is_said(site: Site) -> None:
    lost = site.endpoint()
    lost.archive.domain = "nowhere"
    for call in (lambda: lost.find({}), lambda: lost.exists(study(0)), lambda: list(lost.pull(study(0)))):
        with pytest.raises(GatewayRefused, match="nowhere"):
            call()
    assert not lost.check()


def test_pull_brings_a_study_and_yields_every_instance(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(2, 3)
    pulled = list(pacs.pull(study(number)))
    assert {item.tags["SOPInstanceUID"] for item in pulled} == uids(number, 3) | uids(number, 3, 1)
    assert all(item.file for item in pulled)
    assert set(site.moves()[-1:]) == {"STUDY"}


def test_a_series_asked_moves_a_series(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(2, 3)
    assert len(list(pacs.pull(series(number)))) == 3
    assert site.here() == uids(number, 3)
    assert site.moves()[-1] == "SERIES"


def test_an_instance_asked_moves_an_instance(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(1, 3)
    uid = samples.uid(number + 1, 1, 2)
    found = pacs.get(
        Ref.from_tags({**series(number).tags(), "SOPInstanceUID": uid}, DicomLevel.INSTANCES), view="tags_file"
    )
    assert found.tags["SOPInstanceUID"] == uid
    assert found.file
    assert site.here() == {uid}


def test_ids_are_uids_or_the_ids_of_the_proxy(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(1, 2)
    assert pacs.exists(samples.uid(number + 1))
    assert len(list(pacs.pull(samples.uid(number + 1, 1), "series"))) == 2
    [oid] = site.near.ids("series")
    assert len(list(pacs.pull(oid, "series"))) == 2
    assert pacs.exists(oid, "series")


def test_what_is_there_is_not_moved_again(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(1, 2)
    list(pacs.pull(study(number)))
    before = len(site.moves())
    list(pacs.pull(study(number)))
    assert pacs.get(study(number)).tags["StudyInstanceUID"] == samples.uid(number + 1)
    assert len(site.moves()) == before


def test_of_a_study_that_is_there_in_part_only_the_rest_is_moved(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(3, 2)
    list(pacs.pull(series(number, 0)))
    list(pacs.pull(series(number, 1)))
    before = len(site.moves())
    assert len(list(pacs.pull(study(number)))) == 6
    assert site.moves()[before:] == ["SERIES"]


def test_a_study_that_grew_is_brought_whole(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(1, 2)
    list(pacs.pull(study(number)))
    late = samples.instance(number, 0, 7).file
    assert late is not None
    dimse.store([late], "127.0.0.1", site.far_port, called_aet=site.far.aet)
    assert len(list(pacs.pull(study(number)))) == 3


def test_what_did_not_arrive_is_named(site: Site, pacs: ProxiedDicom) -> None:
    if not isinstance(site.far, DcmqrscpServer):
        pytest.skip("an Orthanc does not lose files")
    number = site.fill(1, 3)
    lost = samples.uid(number + 1, 1, 2)
    [path] = [path for path in site.far.files() if lost.encode() + b"\0" in path.read_bytes()]
    path.unlink()
    with pytest.raises(IncompleteTransfer) as caught:
        list(pacs.pull(study(number)))
    assert caught.value.missing == [lost]
    assert set(caught.value.received) == uids(number, 3) - {lost}
    assert caught.value.temporary


def test_an_archive_that_cannot_reach_the_proxy_is_said(site: Site) -> None:
    number = site.fill()
    astray = site.endpoint()
    astray.proxy_desc["aet"] = "ELSEWHERE"
    with pytest.raises((GatewayError, IncompleteTransfer)):
        list(astray.pull(study(number)))


def test_absent_raises_and_exists_is_false(pacs: ProxiedDicom) -> None:
    absent = Ref(DicomLevel.STUDIES, study="1.2.3.4.5.6")
    assert not pacs.exists(absent)
    for call in (lambda: list(pacs.pull(absent)), lambda: pacs.get(absent)):
        with pytest.raises(ItemNotFound):
            call()
    assert not pacs.delete(absent)


def test_when_the_archive_is_down_nobody_says_absent(site: Site, pacs: ProxiedDicom) -> None:
    cached = site.fill()
    uncached = site.fill()
    instance = next(iter(pacs.pull(study(cached))))
    site.far.stop()
    assert pacs.exists(study(cached))
    assert pacs.get(instance.ref).tags["SOPInstanceUID"] == samples.uid(cached + 1, 1, 1)
    for call in (
        lambda: pacs.exists(study(uncached)),
        lambda: pacs.find({}),
        lambda: list(pacs.pull(study(uncached))),
        lambda: pacs.get(study(uncached)),
    ):
        with pytest.raises(GatewayConnectionError):
            call()


def test_delete_empties_the_proxy_and_spares_the_archive(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill()
    list(pacs.pull(study(number)))
    assert pacs.delete(study(number))
    assert not pacs.delete(study(number))
    assert site.here() == set()
    assert pacs.exists(study(number))


def test_digest_is_that_of_the_file(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill()
    [item] = pacs.pull(study(number))
    assert item.blob is not None
    assert pacs.digest(item) == item.blob.digest()
    with pytest.raises(InvalidItem):
        pacs.digest(study(number))


def test_find_can_retrieve(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(1, 2)
    [found] = pacs.find({"StudyInstanceUID": samples.uid(number + 1)}, retrieve=True)
    assert site.here() == uids(number, 2)
    assert site.near.ids("studies") == {found.meta["ID"]}


def test_anonymize_brings_the_item_first(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(1, 2)
    [found] = pacs.find({"StudyInstanceUID": samples.uid(number + 1)})
    oid = pacs.anonymize(found, replacement_map={"Replace": {"PatientName": "Sham^Name"}})
    assert oid in site.near.ids("studies")
    assert site.near.count("studies") == 2
    assert site.near.rest("GET", f"/studies/{oid}")["PatientMainDicomTags"]["PatientName"] == "Sham^Name"


def test_query_by_date_tells_each_study_once_across_midnight(site: Site, pacs: ProxiedDicom) -> None:
    times = [("19991231", "235000"), ("19991231", "235959.5"), ("20000101", "000000"), ("20000101", "001000")]
    wanted = [site.fill(StudyDate=date, StudyTime=clock) for date, clock in times]
    site.fill(StudyDate="20000101", StudyTime="013000")
    query = {"PatientName": "Generated*"}
    for step in (300, 3600, 86400.0):
        found = list(pacs.iter_query_by_date(query, "1999-12-31T23:00:00", "2000-01-01T01:00:00", step))
        told = [item.tags["StudyInstanceUID"] for item in found]
        assert sorted(told) == sorted(samples.uid(number + 1) for number in wanted)
    assert query == {"PatientName": "Generated*"}


def test_query_by_date_works_for_series(site: Site, pacs: ProxiedDicom) -> None:
    number = site.fill(2, 1, StudyDate="19980501", StudyTime="120000")
    found = pacs.iter_query_by_date({}, "1998-05-01T11:00:00", "1998-05-01T13:00:00", 600, level="series")
    assert {item.tags["SeriesInstanceUID"] for item in found} == {samples.uid(number + 1, n) for n in (1, 2)}


def test_errors_and_reprs_hold_no_secret(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        pacs = site.endpoint()
        number = site.fill(PatientName="Zyxwv^Planted", PatientID="PLANTEDPID4711", AccessionNumber="PLANTEDACC77001")
        pulled = list(pacs.pull(study(number)))
        found = pacs.find({"PatientID": "PLANTEDPID4711"})
    text = f"{pacs!r} {pacs.json()} {pulled!r} {found!r} {caplog.text}"
    assert PASSWORD not in text
    assert_nothing_planted(text)


def test_wrong_descriptions_are_refused() -> None:
    with pytest.raises(ConfigError, match="hots"):
        ProxiedDicom({"hots": "127.0.0.1"})
    with pytest.raises(ConfigError):
        ProxiedDicom({"ctype": "DcmDir"})
