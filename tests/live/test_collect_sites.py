"""Collections from a real archive behind an Orthanc."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from diana.apis import Memory, Orthanc, ProxiedDicom
from diana.daemons.collect_report import CollectReport
from diana.daemons.collector import Collector
from diana.daemons.worklist import read_worklist, rows_of
from diana.dixel import Dixel
from diana.exceptions import Unsupported
from diana.utils.dicom import DicomLevel, Query
from diana.utils.endpoint import ServiceManager
from diana.utils.gateways import dimse
from tests.contract import samples
from tests.fakes.dirty_list import Dirt, Form, archive, instances
from tests.fakes.make import instance
from tests.servers import DcmqrscpServer, OrthancServer

pytestmark = pytest.mark.live

CT: dict[str, Any] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "ConversionType": None,
    "Modality": "CT",
}


@define(eq=False)
class Site:
    """A dcmtk archive, and the Orthanc through which it is reached."""

    near: OrthancServer
    far: DcmqrscpServer

    def orthanc(self) -> Orthanc:
        return Orthanc(url=self.near.url, user=self.near.user, password=self.near.password)

    def fill(self, number: int, series: int = 2, each: int = 3) -> set[str]:
        items = [samples.instance(number, s, n, **CT) for s in range(series) for n in range(each)]
        files = [item.file for item in items if item.file]
        assert all(one.ok for one in dimse.store(files, "127.0.0.1", self.far.port, called_aet=self.far.aet))
        return {item.ref.instance for item in items}

    def lose(self, uid: str) -> None:
        """Remove a file that the archive goes on listing."""
        whole = re.compile(re.escape(uid.encode()) + b"[^.0-9]")
        [path] = [path for path in self.far.files() if whole.search(path.read_bytes())]
        path.unlink()


@define(eq=False)
class NoImageLevel(ProxiedDicom):
    """The archive as it is when it takes no questions about images."""

    def _find(self, query: Query, *, retrieve: bool = False) -> Iterator[Dixel]:
        if query.level == DicomLevel.INSTANCES:
            raise Unsupported("archive: no image level")
        return super()._find(query, retrieve=retrieve)


@pytest.fixture
def site(orthanc_factory: Callable[..., OrthancServer], dcmqrscp_factory: Callable[..., DcmqrscpServer]) -> Site:
    near = orthanc_factory(aet="NEAR")
    far = dcmqrscp_factory(peers={"NEAR": ("127.0.0.1", near.dicom_port)})
    near.add_modality("archive", far.aet, far.port)
    return Site(near, far)


def accession(number: int) -> str:
    return f"GEN{number:06}"


@pytest.mark.timeout(120)
def test_studies_behind_an_orthanc_are_collected_and_lost_images_are_listed(site: Site, tmp_path: Path) -> None:
    whole, torn = site.fill(1), site.fill(2)
    lost = samples.uid(3, 1, 2)
    site.lose(lost)
    dest, collector = Memory(name="dest"), Collector(2)
    pacs = ProxiedDicom.through(site.orthanc(), "archive")
    plan = collector.plan("p", pacs, dest, rows_of([accession(1), accession(2), accession(9)]), tries=2)
    assert plan.counts() == {"ready": 2, "missing": 1}
    assert plan.instances == 12
    assert site.near.ids("studies") == set()
    services = ServiceManager()
    services.hold("source", pacs)
    services.hold("dest", dest)
    assert collector.execute(plan, services) == {"verified": 1, "incomplete": 1}
    items = {item.state: item for item in collector.outcomes("p").values()}
    assert items["incomplete"].outcome["missing"] == [lost]
    assert items["incomplete"].outcome["verified"] == 5
    assert {one.ref.instance for one in dest.find({}, "instances")} == whole | (torn - {lost})
    assert lost in CollectReport(plan, collector.outcomes("p")).html()
    (tmp_path / "trial.studies.txt").write_text(accession(1))
    assert Collector().run("trial", tmp_path, site.orthanc(), "archive", Memory(name="other")) == {"verified": 1}
    pacs.close()


@pytest.mark.timeout(120)
def test_an_archive_that_lists_no_images_ends_unverifiable(site: Site) -> None:
    site.fill(1)
    dest, collector = Memory(name="dest"), Collector()
    pacs = NoImageLevel.through(site.orthanc(), "archive")
    plan = collector.plan("p", pacs, dest, rows_of([accession(1)]))
    assert (plan.uncounted, plan.counts()) == (1, {"ready": 1})
    services = ServiceManager()
    services.hold("source", pacs)
    services.hold("dest", dest)
    assert collector.execute(plan, services) == {"unverifiable": 1}
    (item,) = collector.outcomes("p").values()
    assert "cannot list instances" in item.reason
    pacs.close()


@pytest.mark.timeout(120)
def test_a_dirty_list_is_planned_without_a_pixel_and_run_as_planned(
    orthanc_factory: Callable[..., OrthancServer], flaky_proxy: Callable[..., Any], tmp_path: Path
) -> None:
    server, chance = orthanc_factory(), random.Random(3)
    studies = archive(24, samples.ROOT)
    for one in instances(studies, instance):
        server.upload(one.file)
    reads = {"path": r"/(file|archive|media|attachments|frames|preview|pdf|numpy|store)"}
    proxy = flaky_proxy(("127.0.0.1", server.http_port), rules=[{"match": reads, "fault": {"kind": "delay", "ms": 1}}])
    source = Orthanc(url=proxy.url, user=server.user, password=server.password)
    dirt = Dirt(studies, chance)
    lines = dirt.lines(120)
    (tmp_path / "list.csv").write_bytes(Form(";", "cp1252").write(lines, chance))
    dest, collector, services = Memory(name="dest"), Collector(2), ServiceManager()
    services.hold("source", source)
    services.hold("dest", dest)
    plan = collector.plan("p", source, dest, read_worklist(tmp_path / "list.csv"))
    assert "delay" not in proxy.stats()["counts"]
    verdicts = {one.row: one for one in plan.rows}
    for line in lines:
        verdict = verdicts.pop(line.number)
        assert (verdict.state, line.state and set(verdict.studies)) == (line.state, set(line.studies)), verdict.reason
    assert not verdicts
    assert collector.execute(plan, services) == {"verified": len(dirt.owner)}
    assert proxy.stats()["counts"]["delay"] == len(dirt.owner)
    assert {one.ref.uid for one in dest.find({}, "studies")} == set(dirt.owner)
    source.close()
    collector.close()
