"""Reports meet their images under one pseudonym, or it is said why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diana.apis import CsvFile, Memory, Montage, ReportDir
from diana.daemons.collect_plan import PlannedStudy
from diana.daemons.report_join import Joined, join_reports
from diana.deid.key import Key
from diana.deid.pseudonyms import new_uid
from diana.deid.text import Pattern
from diana.exceptions import GatewayConnectionError
from tests.fakes.make import instance
from tests.fakes.montage_server import MontageServer
from tests.helpers import free_port

UID = "1.2.3.77"


class House:
    """A source, de-identified images and an archive of reports of one study."""

    def __init__(self, server: MontageServer) -> None:
        self.server = server
        self.key = Key.ephemeral()
        self.reports = Montage(host="127.0.0.1", port=server.port)
        self.pacs, self.research = Memory(), Memory()
        tags = {"PatientID": "PATNO4711", "PatientName": "Quill^Generated", "PatientBirthDate": "19500213"}
        self.image = instance(study=UID, AccessionNumber="ACC7001", **tags)
        self.pacs.put(self.image)
        self.research.put(instance(study=new_uid(self.key, UID), PatientID="PSN-X", PatientName="PSN-X"))
        server.add(self.image, "Patient PATNO4711, Quill, born 02/13/1950: a nodule.")

    def join(self, **options: Any) -> Joined:
        study = PlannedStudy(UID, accession="ACC7001")
        (found,) = join_reports([study], self.reports, self.research, self.key, **options)
        return found


@pytest.fixture
def house() -> Iterator[House]:
    with MontageServer() as server:
        yield House(server)


def test_a_report_takes_the_pseudonym_of_its_images(house: House, tmp_path: Path) -> None:
    found = house.join(source=house.pacs)
    assert (found.place, found.state, found.reason) == (1, "joined", "")
    assert found.report is not None
    assert found.report.tags["PatientID"] == "PSN-X"
    assert found.report.tags["StudyInstanceUID"] == new_uid(house.key, UID)
    text = str(found.report.report)
    assert "Patient PSN-X" in text
    assert "nodule" in text
    assert not any(one in text for one in ("4711", "Quill", "1950"))
    assert "ACC7001" not in repr(found.report.tags) + repr(found.report.meta)
    name = ReportDir(path=str(tmp_path)).put(found.report)
    assert (tmp_path / name).read_text() == text
    table = CsvFile(tmp_path / "table.csv")
    assert table.put(found.report) == new_uid(house.key, UID)


def test_patterns_of_ones_own_are_used(house: House) -> None:
    found = house.join(source=house.pacs, patterns=[Pattern("nodule", "[finding]")])
    assert "[finding]" in str(found.report and found.report.report)


def test_studies_without_images_or_report_say_so(house: House) -> None:
    house.research.delete(new_uid(house.key, UID))
    for item in list(house.research.find({}, level="instances")):
        house.research.delete(item)
    assert house.join().state == "no images"
    house = House(house.server)
    house.server.rows.clear()
    assert house.join().state == "no report"
    house.server.add(house.image, " ")
    assert house.join().state == "no report"


def test_a_report_of_another_patient_is_a_conflict(house: House) -> None:
    house.server.rows["ACC7001"]["patient_mrn"] = "PATNO9999"
    found = house.join(source=house.pacs)
    assert (found.state, found.report) == ("conflict", None)
    assert "9999" not in found.reason + repr(found)
    house.server.rows["other"] = {**house.server.rows["ACC7001"], "patient_mrn": "PATNO4711"}
    assert house.join().state == "conflict"


def test_an_archive_that_cannot_be_asked_raises(house: House) -> None:
    house.reports = Montage(host="127.0.0.1", port=free_port())
    with pytest.raises(GatewayConnectionError):
        house.join()
