"""A folder searched by its index gives what it gives when it is read."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pydicom.config
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diana.apis._folder_lookup import IndexedLookup
from diana.apis.dcmdir import DcmDir
from diana.dixel import Dixel
from diana.exceptions import InvalidItem, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, Query, Ref
from tests.contract import samples
from tests.helpers import wait_for

ODD: tuple[dict[str, Any], ...] = (
    {},
    {"PatientID": " LEADING", "PatientName": "DOE^JANE^^", "StudyDate": "2020.01.11"},
    {"PatientID": "A\\B", "PatientName": "Doe^Jane", "Modality": "CT\\MR"},
    {"PatientID": None, "PatientName": "Straße^Ünï", "StudyDate": ""},
    {"PatientID": "", "PatientName": "STRASSE^Ünï", "AccessionNumber": "A*B?"},
    {"StudyInstanceUID": None, "StudyDate": "20200111\\20200312"},
    {"SeriesInstanceUID": None, "StudyDate": "2019", "InstanceNumber": 7},
    {"StudyInstanceUID": None, "SeriesInstanceUID": None, "Rows": None},
    {"StudyDescription": "OTHER", "PatientName": "doe^jane"},
    {"PatientID": "GENPID0001", "SeriesDescription": "", "SOPClassUID": "1.2.3", "ImageComments": "note"},
    {"PatientName": "Doe^Jane=ideo=phon", "StudyID": "7", "InstanceNumber": None},
    {"AccessionNumber": "x" * 16, "StudyDate": "20201231", "PatientBirthDate": None, "ProtocolName": "HEAD"},
)
LEVELS = ("patients", "studies", "series", "instances")


@cache
def pool() -> tuple[bytes, ...]:
    """Return files: well-formed ones, some of which disagree about their study, and others that are not."""
    found = []
    with pydicom.config.disable_value_validation():
        for number in range(60):
            tags = ODD[number % len(ODD)] if number >= 24 else {}
            found.append(samples.file_bytes(samples.dataset(number % 3, number % 2, number, **tags)))
        # an UID with padding in front
        found.append(samples.file_bytes(samples.dataset(1, 1, 90, SOPInstanceUID=f" {samples.uid(2, 2, 91)}")))
    whole = found[0]
    # cut before the ids, between ids and pixels, and in the middle of the pixels; a file without an instance; no DICOM
    found += [whole[:at] for at in (140, 200, 400, 700, 800, 860, 900, len(whole) - 20)]
    found += [b"", b"no DICOM at all " * 40, whole.replace(b"\x08\x00\x18\x00UI", b"\x08\x00\x19\x00UI")]
    return tuple(found)


def fill(folder: Path) -> None:
    for number, data in enumerate(pool()):
        below = folder / ("", "a", "a/b", "c")[number % 4]
        below.mkdir(parents=True, exist_ok=True)
        (below / (f"{number}.dcm" if number else os.fsdecode(b"\xe9.dcm"))).write_bytes(data)


def shown(found: Iterable[Dixel]) -> list[tuple[str, str]]:
    return sorted((repr(sorted(one.tags.items())), repr(sorted(one.meta.items()))) for one in found)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DcmDir, DcmDir]]:
    folder = tmp_path_factory.mktemp("both")
    fill(folder)
    indexed = DcmDir(str(folder), index=True)
    yield DcmDir(str(folder)), indexed
    indexed.close()


WORDS = """* ?* doe^* DOE^JANE d?e^jane strasse* Straße^Ünï GEN* GENPID0001 LEADING A B A\\GENPID0000 A*B? CT M* *STUDY*
    7 gen*\\*x 20200111 20200101-20200131 -20200211 2020- 2019-20200111 2020-01-11 2020* - 1-9 abc"""
TEXTS = st.sampled_from([*WORDS.split(), "", " ", "\0", "\udc80", " LEADING", "GENERATED STUDY 1"])
UIDS = st.sampled_from([samples.uid(1), samples.uid(2), samples.uid(1, 1), samples.uid(1, 2, 2), samples.uid(2, 2, 91)])
NUMBERS = st.sampled_from([1, 7, 8, 12, ">2", "<=5", ">2020", 0])
VALUES = st.one_of(
    TEXTS,
    UIDS,
    NUMBERS,
    st.just(dt.date(2020, 1, 11)),
    st.none(),
    st.lists(st.one_of(TEXTS, UIDS), max_size=3),
)
KEYWORDS = """PatientID PatientName StudyDate StudyInstanceUID SeriesInstanceUID SOPInstanceUID Modality StudyTime
    AccessionNumber StudyDescription SeriesDescription InstanceNumber SOPClassUID StudyID Rows PatientBirthDate
    ImageComments ProtocolName SeriesNumber BitsStored HighBit"""
KEYS = st.sampled_from(KEYWORDS.split())
FLAT = st.dictionaries(KEYS, VALUES, max_size=3)
MATCHES = st.one_of(
    FLAT,
    st.builds(lambda one, rest: {**rest, "not": one}, FLAT, FLAT),
    st.builds(lambda some, rest: {**rest, "any": some}, st.lists(FLAT, max_size=2), FLAT),
)
FIELDS = st.lists(KEYS, max_size=3)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(match=MATCHES, level=st.sampled_from(LEVELS), fields=FIELDS, offset=st.integers(0, 9), limit=st.integers(1, 9))
def test_any_query_finds_the_same_with_and_without_index(
    both: tuple[DcmDir, DcmDir], match: dict[str, Any], level: str, fields: list[str], offset: int, limit: int
) -> None:
    plain, indexed = both
    query = Query(match, DicomLevel.from_label(level), fields=fields)
    expected = shown(plain.iter_find(query))
    whole = indexed.find(query)
    assert shown(whole) == expected
    assert shown(indexed.iter_find(query, limit=limit, offset=offset)) == shown(whole[offset : offset + limit])
    assert len(plain.find(query, offset=offset)) == max(0, len(expected) - offset)


@pytest.mark.parametrize("key", ["ModalitiesInStudy", "NumberOfStudyRelatedInstances", "RequestAttributesSequence"])
def test_what_cannot_be_searched_is_refused_with_and_without_index(both: tuple[DcmDir, DcmDir], key: str) -> None:
    for one in both:
        with pytest.raises(Unsupported):
            one.find({key: "1"})


def test_an_offset_that_is_none_is_refused(both: tuple[DcmDir, DcmDir]) -> None:
    with pytest.raises(InvalidItem):
        both[1].find({}, offset=-1)
    assert both[1].find({}, offset=1 << 70) == both[0].find({}, offset=1 << 70) == []


def test_addresses_by_uid_and_by_orthanc_id_give_the_same_files(both: tuple[DcmDir, DcmDir]) -> None:
    plain, indexed = both
    count = 0
    for level in DicomLevel:
        for one in plain.find({}, level=level):
            whole = all(one.tags.get(above.uid_keyword) for above in DicomLevel if 1 < above <= level)
            refs = [Ref(level, id=one.meta.get("ID") or one.parent_oid(level))] if whole else []
            refs += [one.ref] if one.ref.uid else []
            for ref in refs:
                count += 1
                assert pulled(indexed, ref) == pulled(plain, ref)
                assert indexed.exists(ref) == plain.exists(ref)
    assert count > 100


def pulled(folder: DcmDir, ref: Ref) -> list[str] | str:
    try:
        return [folder.digest(one.meta["FileName"]) for one in folder.pull(ref)]
    except (InvalidItem, ItemNotFound) as error:
        return str(error)


class Both:
    """A folder that is looked at through its index, and by reading it."""

    def __init__(self, root: Path, *, notify: bool) -> None:
        self.root = root
        self.plain = DcmDir(str(root))
        self.indexed = IndexedLookup(str(root), "indexed", lambda name: name, notify=notify)
        self.notify = notify

    def agree(self) -> bool:
        queries = [Query({}, level) for level in DicomLevel] + [Query({"PatientName": "gen*", "InstanceNumber": ">3"})]
        return all(shown(self.plain.iter_find(one)) == shown(self.indexed.find(one)) for one in queries)

    def check(self) -> None:
        if self.notify:
            assert self.agree()
        else:  # the next look comes a while after the last
            wait_for(self.agree, 60, "what the index says")


@pytest.fixture(params=[True, False], ids=["notified", "looking"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Both]:
    found = Both(tmp_path, notify=request.param)
    yield found
    found.indexed.close()


class TestChanges:
    """What others do to the folder is noticed."""

    def test_files_come_change_move_and_go(self, pair: Both) -> None:
        files, root = pool(), pair.root
        pair.check()
        (root / "0").write_bytes(files[0])
        (root / "sub").mkdir()
        pair.check()
        (root / "sub" / "1").write_bytes(files[1])
        (root / "deep" / "er").mkdir(parents=True)
        (root / "deep" / "er" / "2").write_bytes(files[2])
        pair.check()
        (root / "0").rename(root / "sub" / "0")
        (root / "sub" / "1").unlink()
        pair.check()
        (root / "sub").rename(root / "deep" / "sub")
        (root / "deep" / "sub" / "3").write_bytes(files[3])
        pair.check()
        os.link(root / "deep" / "sub" / "3", root / "3")
        shutil.rmtree(root / "deep")
        pair.check()
        assert [one.meta["FileName"] for one in pair.indexed.find(Query({}, DicomLevel.INSTANCES))] == ["3"]

    def test_a_file_written_over_in_place_is_read_again(self, pair: Both) -> None:
        files, target = pool(), pair.root / "x.dcm"
        times = []
        for data in (files[0], files[6], files[1][:150], files[40], b"", files[2]):
            with target.open("r+b" if target.exists() else "wb") as out:
                out.write(data)
                out.truncate()
            if times:  # others set the times of files to what they were
                os.utime(target, ns=(times[0], times[0]))
            times.append(target.stat().st_mtime_ns)
            pair.check()

    def test_links_pipes_and_hidden_files_are_passed_by(self, pair: Both) -> None:
        files, root = pool(), pair.root
        (root / "a").write_bytes(files[0])
        (root / "real").mkdir()
        (root / "real" / "b").write_bytes(files[1])
        pair.check()
        (root / "real").rename(root / ".real")
        (root / "link").symlink_to(root / ".real")
        (root / "a").rename(root / ".a")
        (root / "a").symlink_to(root / ".a")
        os.mkfifo(root / "pipe")
        pair.check()
        assert list(pair.indexed.find(Query({}))) == []
        (root / ".real").rename(root / "real")
        pair.check()

    def test_folders_that_swap_their_names_are_told_apart(self, pair: Both) -> None:
        files, root = pool(), pair.root
        for name, data in (("a", files[0]), ("b", files[1])):
            (root / name / "in").mkdir(parents=True)
            (root / name / "in" / "x").write_bytes(data)
        pair.check()
        (root / "a").rename(root / "c")
        (root / "b").rename(root / "a")
        (root / "c").rename(root / "b")
        pair.check()
        (root / "b" / "in" / "x").write_bytes(files[2])
        (root / "a" / "in" / "y").write_bytes(files[3])
        pair.check()

    def test_another_folder_in_its_place_is_noticed(self, tmp_path: Path) -> None:
        for name, data in (("one", pool()[0]), ("two", pool()[1])):
            (tmp_path / name).mkdir()
            (tmp_path / name / "x").write_bytes(data)
        (tmp_path / "current").symlink_to("one")
        indexed = DcmDir(str(tmp_path / "current"), index=True)
        (first,) = indexed.find({}, level="instances")
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to("two")
        (second,) = indexed.find({}, level="instances")
        assert first.tags["SOPInstanceUID"] != second.tags["SOPInstanceUID"]
        indexed.close()

    def test_more_changes_than_the_kernel_remembers_are_found(self, tmp_path: Path) -> None:
        pair = Both(tmp_path, notify=True)
        pair.check()
        (tmp_path / "a").write_bytes(pool()[0])
        for _ in range(9000):
            (tmp_path / "x").touch()
            (tmp_path / "x").unlink()
        (tmp_path / "b").write_bytes(pool()[1])
        pair.check()
        pair.indexed.close()

    def test_what_the_endpoint_itself_does_is_seen_at_once(self, tmp_path: Path) -> None:
        indexed = DcmDir(str(tmp_path), subpath_depth=2, index=True)
        item = samples.instance()
        for _ in range(2):
            name = indexed.put(item)
            assert [one.meta["FileName"] for one in indexed.find({}, level="instances")] == [name]
            indexed.update(name, {"PatientName": "Changed^Name"})
            assert indexed.exists(Query({"PatientName": "changed^name"}))
            assert indexed.delete(item) is True
            assert indexed.find({}) == []
        indexed.close()

    def test_orthanc_style_looks_only_into_its_own_folders(self, tmp_path: Path) -> None:
        indexed = DcmDir(str(tmp_path), recurse_style="ORTHANC", index=True)
        assert indexed.find({}) == []
        for number, where in enumerate(("00/ff", "ab/cd", "xx/yy", "ab", "ab/cd/ef")):
            (tmp_path / where).mkdir(parents=True, exist_ok=True)
            (tmp_path / where / f"file{number}").write_bytes(pool()[number])
        found = indexed.find({}, level="instances")
        assert sorted(one.meta["FileName"] for one in found) == ["00/ff/file0", "ab/cd/file1"]
        indexed.close()


OPERATIONS = st.tuples(
    st.sampled_from(["write", "replace", "remove", "move", "move folder", "remove folder"]),
    st.sampled_from(["", "a", "a/b", "c"]),
    st.sampled_from(["", "a", "a/b", "c"]),
    st.integers(0, 3),
    st.integers(0, len(pool()) - 1),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(st.lists(OPERATIONS, max_size=5), max_size=5))
def test_after_any_changes_the_index_says_what_the_folder_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[tuple[str, str, str, int, int]]]
) -> None:
    pair = Both(tmp_path_factory.mktemp("folder"), notify=True)
    for step in steps:
        for operation in step:
            change(pair.root, *operation)
        pair.check()
    pair.indexed.close()
    again = Both(pair.root, notify=False)
    again.check()
    again.indexed.close()


def change(root: Path, what: str, one: str, two: str, name: int, number: int) -> None:
    file, other = root / one / str(name), root / two / str((name + 1) % 4)
    if what == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pool()[number])
    elif what == "replace":
        file.parent.mkdir(parents=True, exist_ok=True)
        (root / ".part").write_bytes(pool()[number])
        (root / ".part").rename(file)
    elif what == "remove":
        file.unlink(missing_ok=True)
    elif what == "move" and file.exists():
        other.parent.mkdir(parents=True, exist_ok=True)
        file.rename(other)
    elif what == "move folder" and one and two and not two.startswith(one) and (root / one).exists():
        shutil.rmtree(root / two, ignore_errors=True)
        if (root / one).exists() and (root / two).parent.exists():
            (root / one).rename(root / two)
    elif what == "remove folder" and one:
        shutil.rmtree(root / one, ignore_errors=True)
