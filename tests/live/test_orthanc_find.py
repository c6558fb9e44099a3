"""Searching a real Orthanc agrees with the query language, and says when the server cuts its answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from diana.apis.memory import Memory
from diana.apis.orthanc import Orthanc
from diana.dixel import Dixel
from diana.exceptions import GatewayAnswerError, Unsupported
from diana.utils.dicom import DicomLevel, Query
from tests.contract import samples
from tests.servers import OrthancServer

pytestmark = pytest.mark.live


def client(server: OrthancServer, **options: Any) -> Orthanc:
    """Return an endpoint for a server."""
    return Orthanc(url=server.url, user=server.user, password=server.password, **options)


def corpus() -> list[Dixel]:
    """Return instances with traps: cases, short times, empty values, several values, shared names."""
    return [
        *samples.instances(2, 2, 2),
        samples.instance(5, 0, 0, PatientName="Doe^Jane^^", StudyTime="1015", SeriesNumber=2, BodyPartExamined="CHEST"),
        samples.instance(6, 0, 0, PatientName="doe^jane", StudyTime="101500.000", StudyDescription="Head_50%"),
        samples.instance(
            7, 0, 0, PatientName="DOE^JANET", StudyTime="235959.5", StudyDescription="head*", Modality="MR"
        ),
        samples.instance(8, 0, 0, PatientName="Müller^Änne", AccessionNumber="", StudyDescription=""),
        samples.instance(
            9, 0, 0, OtherPatientIDs=["X1", "X2"], ReferringPhysicianName="House^G", SliceThickness="2.50"
        ),
        samples.instance(9, 1, 0, Modality="SR", OtherPatientIDs=["X1", "X2"], ReferringPhysicianName="House^G"),
        samples.instance(10, 0, 0, AccessionNumber="A-1", StudyDate="20191231", StudyTime="000000"),
    ]


QUERIES: list[dict[str, Any]] = [
    {},
    {"PatientName": "doe^jane"},
    {"PatientName": "Doe^Jane^"},
    {"PatientName": "DOE*"},
    {"PatientName": "*jane?"},
    {"PatientName": "?oe^Jane"},
    {"PatientName": ["doe^jane", "Generated^Patient0"]},
    {"PatientName": "müller*"},
    {"PatientID": "GENPID0005"},
    {"PatientID": "genpid0005"},
    {"PatientID": "GENPID000?"},
    {"PatientID": ["GENPID0005", "GENPID0009", "NOBODY"]},
    {"PatientID": ["GENPID0005", "GENPID000[0-9]", "*9"]},
    {"AccessionNumber": "GEN000001"},
    {"AccessionNumber": "gen000001"},
    {"AccessionNumber": "GEN*"},
    {"AccessionNumber": ["A-1", "GEN000005"]},
    {"AccessionNumber": ""},
    {"StudyDescription": "GENERATED STUDY 1"},
    {"StudyDescription": "Head_50%"},
    {"StudyDescription": "head*"},
    {"StudyDescription": "?ead*"},
    {"StudyDate": "20200111"},
    {"StudyDate": "2020-01-11"},
    {"StudyDate": date(2020, 1, 11)},
    {"StudyDate": "20200111-20200611"},
    {"StudyDate": "20200711-"},
    {"StudyDate": "-20200101"},
    {"StudyDate": "2020*"},
    {"StudyDate": ["20200111", "20191231"]},
    {"StudyTime": "1015"},
    {"StudyTime": "101500"},
    {"StudyTime": "101500.0"},
    {"StudyTime": "000000"},
    {"StudyTime": "10-11"},
    {"StudyTime": "1015-1015"},
    {"StudyTime": "-101500"},
    {"StudyTime": "2359-"},
    {"StudyTime": "10*"},
    {"StudyDate": "20200111-20200611", "StudyTime": "1015", "PatientSex": "F"},
    {"Modality": "CT"},
    {"Modality": ["MR", "SR"]},
    {"ModalitiesInStudy": "SR"},
    {"BodyPartExamined": "CHEST"},
    {"SeriesNumber": 2},
    {"SeriesNumber": "2"},
    {"InstanceNumber": 2},
    {"InstanceNumber": 2, "SeriesNumber": 1},
    {"Modality": "CT", "AccessionNumber": "GEN000000"},
    {"SeriesDescription": "generated*"},
    {"SeriesDescription": "GENERATED SERIES 1"},
    {"ConversionType": "SYN"},
    {"ConversionType": "syn"},
    {"SliceThickness": 2.5},
    {"OtherPatientIDs": "X2"},
    {"ReferringPhysicianName": "house*"},
    {"SOPInstanceUID": samples.uid(1, 1, 1)},
    {"SOPInstanceUID": samples.uid(1, 1) + ".*"},
    {"SeriesInstanceUID": samples.uid(1, 2), "InstanceNumber": 1},
    {"StudyInstanceUID": [samples.uid(1), samples.uid(6)], "PatientSex": "F"},
    {"PatientSex": "*"},
    {"StudyID": "1"},
    {"Rows": 8},
    {"Rows": 9},
]


@pytest.fixture(scope="module")
def both(server_pool: Any) -> tuple[Orthanc, Memory]:
    """Return an Orthanc and a Memory with the same instances."""
    here, there = Memory(), client(server_pool.orthanc())
    for item in corpus():
        assert here.put(item) == there.put(item)
    return there, here


@pytest.mark.parametrize("level", [DicomLevel.PATIENTS, DicomLevel.STUDIES, DicomLevel.SERIES, DicomLevel.INSTANCES])
@pytest.mark.parametrize("query", QUERIES, ids=lambda query: "+".join(map(str, query.items())) or "all")
def test_find_agrees_with_the_reference(both: tuple[Orthanc, Memory], query: dict[str, Any], level: DicomLevel) -> None:
    there, here = both
    renamed = {("Modality" if key == "ModalitiesInStudy" else key): value for key, value in query.items()}
    found = there.find(query, level)
    assert sorted(one.oid() for one in found) == sorted(one.oid() for one in here.find(renamed, level))
    assert {one.level for one in found} <= {level}


@pytest.mark.parametrize("level", list(DicomLevel))
def test_what_is_found_spells_its_own_id(both: tuple[Orthanc, Memory], level: DicomLevel) -> None:
    for one in both[0].find({}, level):
        assert one.parent_oid(level) == one.meta["ID"]


def test_fields_outside_the_index_are_answered(both: tuple[Orthanc, Memory]) -> None:
    (found,) = both[0].find({"PatientID": "GENPID0000"}, "studies", fields=("ConversionType", "Modality", "StudyDate"))
    assert (found.tags["ConversionType"], found.tags["Modality"]) == ("SYN", "CT")


@pytest.mark.parametrize(
    "query",
    [
        {"any": [{"Modality": "CT"}]},
        {"not": {"Modality": "CT"}},
        {"SliceThickness": ">2"},
        {"NumberOfStudyRelatedInstances": "2"},
        {"NumberOfStudyRelatedInstances": ""},
        {"RetrieveAETitle": "X"},
        {"ReferencedStudySequence": "X"},
    ],
    ids=str,
)
def test_what_an_orthanc_cannot_honour_is_refused(both: tuple[Orthanc, Memory], query: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        both[0].find(query)


def test_find_hides_paging(both: tuple[Orthanc, Memory], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diana.apis.orthanc_search.PAGE", 3)
    there, here = both
    for level in DicomLevel:
        found = [one.oid() for one in there.find({}, level)]
        assert sorted(found) == sorted(one.oid() for one in here.find({}, level))


@pytest.fixture(scope="module")
def cutting(server_pool: Any) -> Orthanc:
    """Return an Orthanc that cuts its answers, and has more than that."""
    found = client(server_pool.orthanc(config={"LimitFindResults": 4, "LimitFindInstances": 6}))
    for item in samples.instances(8, 1, 2):
        found.put(item)
    return found


class TestCutAnswers:
    """LimitFindResults is 4, LimitFindInstances 6."""

    @pytest.mark.parametrize("level", ["patients", "studies", "series", "instances"])
    def test_a_cut_answer_raises(self, cutting: Orthanc, level: str) -> None:
        with pytest.raises(GatewayAnswerError, match="LimitFindResults"):
            cutting.find({}, level)

    @pytest.mark.parametrize("query", [{"PatientName": "generated*"}, {"Modality": "CT"}, {"ConversionType": "SYN"}])
    def test_a_cut_search_raises(self, cutting: Orthanc, query: dict[str, Any]) -> None:
        with pytest.raises(GatewayAnswerError):
            cutting.find(query, "series")

    @pytest.mark.parametrize(
        ("query", "level", "count"),
        [
            ({"AccessionNumber": "GEN000003"}, "studies", 1),
            ({"AccessionNumber": ["GEN000003", "GEN000004"]}, "studies", 2),
            ({"StudyInstanceUID": samples.uid(3)}, "instances", 2),
            ({"PatientName": "nobody"}, "studies", 0),
            ({"SOPInstanceUID": [samples.uid(n, 1, 1) for n in range(1, 6)]}, "instances", 5),
        ],
    )
    def test_a_whole_answer_does_not(self, cutting: Orthanc, query: dict[str, Any], level: str, count: int) -> None:
        assert len(cutting.find(query, level)) == count

    def test_a_limit_of_ones_own_is_no_cut(self, cutting: Orthanc) -> None:
        assert len(cutting.find({}, "studies", limit=3)) == 3
        assert cutting.exists(Query({}, "studies")) is True


def test_a_study_without_patient_id_is_found_by_its_uid(clean_orthanc: OrthancServer) -> None:
    there = client(clean_orthanc)
    item = samples.instance(3)
    there.put(item)
    without = Dixel(tags={"StudyInstanceUID": item.tags["StudyInstanceUID"]})
    assert there.exists(without) is True
    assert there.get(without, view="meta").meta["ID"] == item.parent_oid(DicomLevel.STUDIES)


def test_a_search_takes_few_requests(orthanc_factory: Callable[..., OrthancServer], flaky_proxy: Any) -> None:
    server = orthanc_factory()
    proxy = flaky_proxy(("127.0.0.1", server.http_port))
    there = Orthanc(url=proxy.url, user=server.user, password=server.password)
    for item in samples.instances(3, 2, 1):
        there.put(item)

    def requests(work: Callable[[], Any]) -> int:
        before = proxy.stats()["events"]
        work()
        return int(proxy.stats()["events"] - before)

    assert requests(lambda: there.find({"AccessionNumber": "GEN000001"})) == 1
    assert requests(lambda: there.find({"StudyInstanceUID": samples.uid(1)})) == 1
    assert requests(lambda: there.find({"PatientName": "generated*"})) <= 3
    assert requests(lambda: there.find({"PatientName": "generated*"})) <= 2
