"""Collections from a real archive behind an Orthanc, and by workers on many machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from diana.apis import Memory, Orthanc, ProxiedDicom
from diana.daemons.collect_report import CollectReport
from diana.daemons.collector import Collector
from diana.daemons.worklist import rows_of
from diana.deid.key import Key
from diana.dixel import Dixel
from diana.exceptions import Unsupported
from diana.utils.dicom import DicomLevel, Query
from diana.utils.endpoint import ServiceManager
from diana.utils.gateways import dimse
from tests.contract import samples
from tests.helpers import REPO
from tests.servers import DcmqrscpServer, OrthancServer, RedisServer

pytestmark = pytest.mark.live

CT: dict[str, Any] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "ConversionType": None,
    "Modality": "CT",
}
SERVICES = """
source: {{ctype: Orthanc, url: "{source}", user: "{user}", password: "{password}"}}
dest: {{ctype: Orthanc, url: "{dest}", user: "{user}", password: "{password}"}}
"""


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


def cli(folder: Path, *arguments: str) -> list[str]:
    program = [sys.executable, "-m", "diana_cli", "--json", "-s", str(folder / "services.yml")]
    return [*program, "--state", str(folder / "state"), *arguments]


@pytest.mark.timeout(180)
def test_workers_elsewhere_collect_and_deidentify(
    orthanc_factory: Callable[..., OrthancServer], clean_redis: RedisServer, postgres_url: str, tmp_path: Path
) -> None:
    studies = 6
    source, dest = orthanc_factory(), orthanc_factory()
    for number in range(studies):
        for at in range(2):
            source.upload(samples.instance(number, 0, at, **{**CT, "PatientID": f"P{number}"}).file or b"")
    Key.make().save(tmp_path / "key")
    values = {"source": source.url, "dest": dest.url, "user": source.user, "password": source.password}
    (tmp_path / "services.yml").write_text(SERVICES.format(**values))
    (tmp_path / "list.csv").write_text(
        "accession,pseudonym\n" + "".join(f"{accession(number)},S{number}\n" for number in range(studies))
    )
    env = {
        **os.environ,
        "PYTHONPATH": str(REPO),
        "DIANA_DEID_KEY": str(tmp_path / "key"),
        "DIANA_WORKER_LEDGER": postgres_url,
        "DIANA_WORKER_BROKER": clean_redis.url,
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            cli(tmp_path, *arguments), env=env, cwd=REPO, capture_output=True, text=True, timeout=120, check=False
        )

    plan = str(tmp_path / "plan.json")
    planned = run(
        "collect", "plan", str(tmp_path / "list.csv"), "-S", "source", "-D", "dest", "-P", "p", "--to", plan,
        "--step", "deid",
    )  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    groups = [subprocess.Popen(cli(tmp_path, "worker", "-t", "2"), env=env, cwd=REPO) for _ in range(2)]
    try:
        ran = run("collect", "run", plan)
    finally:
        for group in groups:
            group.terminate()
        for group in groups:
            group.wait(60)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"project": "p", "verified": studies}
    end = Orthanc(url=dest.url, user=dest.user, password=dest.password)
    given = [str(one.tags["PatientID"]) for one in end.find({}, "studies")]
    assert sorted(given) == [f"S{number}" for number in range(studies)]
    assert run("collect", "report", plan).returncode == 0
    end.close()
