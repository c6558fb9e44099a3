"""Cut files, bombs and lying lengths: the sound files beside them are found and delivered, memory is bounded."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diana.apis import DcmDir, Memory, ObservableDcmDir
from diana.apis.observables._folder_file import State, judge
from diana.daemons.rules import Route
from diana.daemons.transfer import transfer
from diana.dixel import Dixel, DixelView
from diana.exceptions import DianaError, IncompleteTransfer, InvalidItem
from diana.ledger import Journal, Store
from diana.utils.dicom import DicomEventType, DicomLevel, Ref, read_header
from diana.utils.endpoint import Endpoint, Watcher
from diana.utils.gateways.file_handlers import paths
from tests.fakes import hostile
from tests.fakes.hostile import bad_dicom, bad_zips, good_dicom, peak_mib, run_apart

# pydicom warns about each odd value
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CUT = (
    "cut in the pixels",
    "4 GiB in the middle",
    "4 GiB of pixels",
    "deflate cut",
    "endless fragments",
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sound files among thirty bad ones and fifteen bad archives; nobody may change it. The bomb waits apart."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, data in good_dicom(3).items():
        (folder / name).write_bytes(data)
    for name, data in bad_dicom().items():
        if name != "deflate bomb":
            (folder / f"bad {name}.dcm").write_bytes(data)
    for name, data in bad_zips().items():
        (folder / f"bad {name}.zip").write_bytes(data)
    return folder


@pytest.fixture
def bad(mixed: Path) -> list[str]:
    """The names of the bad files."""
    return sorted(path.name for path in mixed.iterdir() if path.name.startswith("bad "))


@pytest.mark.parametrize("level", list(DicomLevel), ids=str)
@pytest.mark.parametrize("match", [{"PatientID": ""}, {"PatientID": "GEN*"}, {"StudyDate": "20200111"}], ids=range(3))
def test_find_passes_the_bad_by_and_finds_the_good(mixed: Path, level: DicomLevel, match: dict[str, str]) -> None:
    found = DcmDir(str(mixed)).find(match, level)
    wanted = {"SOPInstanceUID": {read_header(data).instance for data in good_dicom(3).values()}}
    wanted["StudyInstanceUID"] = {read_header(data).get("StudyInstanceUID") for data in good_dicom(1).values()}  # type: ignore[arg-type]
    wanted["SeriesInstanceUID"] = {read_header(data).get("SeriesInstanceUID") for data in good_dicom(1).values()}  # type: ignore[arg-type]
    wanted["PatientID"] = {"GENPID0000"}
    assert wanted[level.uid_keyword] <= {one.tags.get(level.uid_keyword) for one in found}


def test_the_study_is_pulled_whole_from_among_the_bad(mixed: Path) -> None:
    uid = read_header(next(iter(good_dicom(1).values()))).get("StudyInstanceUID") or ""
    pulled = list(DcmDir(str(mixed)).pull(Ref(DicomLevel.STUDIES, study=uid)))
    assert sorted(one.file or b"" for one in pulled) == sorted(good_dicom(3).values())


def test_no_verb_raises_anything_else_than_the_tree(mixed: Path, bad: list[str]) -> None:
    folder = DcmDir(str(mixed))
    for name in bad:
        for view in (DixelView.TAGS, DixelView.FILE, DixelView.PIXELS, DixelView.META):
            tolerated(lambda name=name, view=view: folder.get(name, view=view))
        tolerated(lambda name=name: [one.blob and one.blob.close() for one in folder.pull(name)])
        tolerated(lambda name=name: folder.exists(name))
        tolerated(lambda name=name: transfer(folder, Memory(), name))


def tolerated(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except DianaError as error:
        return error


@pytest.mark.parametrize("name", bad_zips())
def test_a_bad_archive_is_no_passing_trouble(mixed: Path, name: str) -> None:
    found = tolerated(lambda: list(DcmDir(str(mixed)).pull(f"bad {name}.zip")))
    assert isinstance(found, InvalidItem | IncompleteTransfer), found
    assert "folder" not in str(found)


@pytest.mark.parametrize("name", CUT)
def test_transfer_rejects_what_is_cut_and_delivers_the_rest(tmp_path: Path, name: str) -> None:
    for good, data in good_dicom(2).items():
        (tmp_path / good).write_bytes(data)
    uid = read_header(next(iter(good_dicom(1).values()))).get("StudyInstanceUID") or ""
    (tmp_path / "bad.dcm").write_bytes(bad_dicom()[name])
    source, dest = DcmDir(str(tmp_path)), Memory()
    receipt = transfer(source, dest, "bad.dcm")
    assert receipt.state in ("failed", "incomplete")
    assert receipt.reason
    assert dest.find({"PatientID": ""}, "instances") == []
    assert transfer(source, dest, Ref(DicomLevel.STUDIES, study=uid)).state == "verified"


@pytest.mark.parametrize("name", ["meta group alone", "no instance", "other syntax"])
def test_a_folder_refuses_an_object_without_sop_instance_uid(tmp_path: Path, name: str) -> None:
    item = hostile.nasty_dixel()
    item.file = bad_dicom()[name]
    with pytest.raises(InvalidItem):
        DcmDir(str(tmp_path)).put(item)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*bad_dicom(), *bad_zips()])
def test_the_watched_folder_takes_nothing_bad_for_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"bad{'.zip' if name in bad_zips() else '.dcm'}"
    path.write_bytes((bad_dicom() | bad_zips())[name])
    found = judge(str(tmp_path), path.name, paths.signature(path.stat()))
    if name == "meta length lies":  # what the length says is known from the group's end as well
        return
    if path.suffix == ".zip" and found.state is State.WHOLE:
        return  # its directory is whole; what is inside is said by the receipt
    assert found.state in (State.UNFINISHED, State.BROKEN, State.FOREIGN, State.DOUBTFUL)
    if found.state is State.DOUBTFUL:
        assert name in ("cut after the header", "cut in the ids")


class Deaf(Memory):
    """A Memory that cannot stand one instance."""

    def _put(self, dixel: Dixel) -> str:
        if dixel.tags["SOPInstanceUID"].endswith(".2"):
            raise RuntimeError("no idea what this is")
        return super()._put(dixel)


def watched(folder: Path, dest: Endpoint) -> dict[str, dict[str, int]]:
    """Route a folder until it is quiet; return what became of the deliveries."""
    source = ObservableDcmDir(str(folder), polling_interval=0.05, settle=0.01)
    journal = Journal(Store())
    watcher = Watcher(0.02, journal=journal, until_idle=True, max_attempts=1)
    for trigger in Route("r", source, DicomEventType.FILE_ADDED, [dest]).triggers(journal.receipts):
        watcher.add_trigger(trigger)
    counts: dict[str, dict[str, int]] = {}
    close = journal.store.close
    journal.store.close = lambda: (counts.update(journal.counts()), close())[1]  # type: ignore[method-assign]
    watcher.run()
    return counts


@pytest.mark.timeout(60)
def test_a_watcher_delivers_the_good_and_stops_at_nothing(mixed: Path) -> None:
    dest = Memory()
    counts = watched(mixed, dest)
    found = {one.tags["SOPInstanceUID"] for one in dest.find({"PatientID": ""}, "instances")}
    assert {read_header(data).instance for data in good_dicom(3).values()} <= found
    assert not found - {read_header(data).instance for data in good_dicom(3).values()} - {"1.2.3.4"}
    assert set(counts["r:Memory"]) <= {"done", "dead"}


def test_a_destination_that_raises_anything_for_one_item_gets_the_others(tmp_path: Path) -> None:
    for name, data in good_dicom(4).items():
        (tmp_path / name).write_bytes(data)
    dest = Deaf()
    source = DcmDir(str(tmp_path))
    uid = read_header(next(iter(good_dicom(1).values()))).get("StudyInstanceUID") or ""
    receipt = transfer(source, dest, Ref(DicomLevel.STUDIES, study=uid))
    assert receipt.state == "incomplete"
    assert (receipt.verified, receipt.expected) == (3, 4)


def test_a_step_that_raises_anything_rejects_its_item_only(tmp_path: Path) -> None:
    class Broken:
        name = "broken"

        def __call__(self, dixel: Dixel) -> Dixel | None:
            if dixel.tags["SOPInstanceUID"].endswith(".2"):
                raise KeyError("GENPID0000")
            return dixel

    source = Memory()
    for data in good_dicom(3).values():
        source.put(Dixel.from_header(read_header(data), file=data))
    uid = read_header(next(iter(good_dicom(1).values()))).get("StudyInstanceUID") or ""
    receipt = transfer(source, Memory(), Ref(DicomLevel.STUDIES, study=uid), [Broken()])
    assert (receipt.state, receipt.verified) == ("incomplete", 2)
    assert "GENPID" not in json.dumps(receipt.asdict())


FIND = """
import warnings; warnings.simplefilter("ignore")
from diana.apis import DcmDir, Memory
from diana.daemons.transfer import transfer
from diana.exceptions import DianaError
from diana.apis.observables._folder_file import judge
from diana.utils.gateways.file_handlers import paths
import os
folder = DcmDir(sys.argv[1])
assert len(folder.find({"PatientID": "GENPID0000"}, "instances")) == 3
for name in os.listdir(sys.argv[1]):
    judge(sys.argv[1], name, paths.signature(os.stat(os.path.join(sys.argv[1], name))))
    try:
        for one in folder.pull(name):
            one.blob.close()
    except DianaError:
        pass
"""


def test_find_pull_and_the_watched_folder_take_little_memory(mixed: Path, tmp_path: Path) -> None:
    for path in mixed.iterdir():
        (tmp_path / path.name).hardlink_to(path)
    (tmp_path / "bomb.dcm").write_bytes(bad_dicom()["deflate bomb"])
    assert peak_mib(run_apart(FIND, str(tmp_path))) < 120


LOOK = """
from diana.apis.observables._folder_file import judge
from diana.apis import DcmDir
from diana.exceptions import DianaError
from diana.utils.gateways.file_handlers import paths
import os, pathlib
path = pathlib.Path(sys.argv[1])
print(judge(str(path.parent), path.name, paths.signature(path.stat())).state.value)
try:
    print(len(list(DcmDir(str(path.parent)).pull(path.name))))
except DianaError as error:
    print(error)
"""


@pytest.mark.parametrize("entries", [100_500, 600_000])
def test_an_archive_of_countless_members_takes_little_memory(tmp_path: Path, entries: int) -> None:
    (tmp_path / "many.zip").write_bytes(hostile.directory_of(entries))
    assert peak_mib(run_apart(LOOK, str(tmp_path / "many.zip"))) < 160


def test_an_archive_with_two_sizes_of_its_directory_takes_little_memory(tmp_path: Path) -> None:
    hostile.zip64_directory(tmp_path / "two.zip", 600)
    assert peak_mib(run_apart(LOOK, str(tmp_path / "two.zip"))) < 160


def test_a_sparse_file_of_a_tebibyte_is_looked_at_in_no_time(tmp_path: Path) -> None:
    for name, start in (("a.dcm", hostile.nasty_file()), ("b.dcm", b""), ("c.zip", b"PK\3\4")):
        with (tmp_path / name).open("wb") as out:
            out.write(start)
            out.truncate(1 << 36)
    found = DcmDir(str(tmp_path)).find({"PatientID": ""}, "instances")
    assert len(found) <= 1
    done = run_apart(LOOK, str(tmp_path / "c.zip"), timeout=30)
    assert peak_mib(done) < 120


def test_a_name_that_ends_like_an_archive_does_not_hide_an_instance(tmp_path: Path) -> None:
    folder = DcmDir(str(tmp_path))
    name = folder.put(hostile.nasty_dixel(fn="x.zip"))
    assert len(list(folder.pull(name))) == 1


def test_a_bad_file_is_counted_in_one_warning_without_its_name(mixed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "diana"):
        DcmDir(str(mixed)).find({"PatientID": ""}, "instances")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("diana")]
    assert len(said) == 1
    assert "bad " not in said[0]
