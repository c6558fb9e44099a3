"""De-identification on the way: routes, transfers, handlers, folders; what may not go on does not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from diana.apis import DcmDir, Memory, Orthanc
from diana.daemons.routes import mk_route, pull_and_save_item, send_item, upload_item
from diana.daemons.steps import ServerAnonymize, make_step
from diana.daemons.transfer import transfer
from diana.daemons.watch import load_config, make_watcher
from diana.deid.audit import Audit
from diana.deid.key import Key
from diana.deid.registry import Registry
from diana.deid.result import Quarantined
from diana.dixel import Dixel
from diana.exceptions import ConfigError, DianaError, InvalidItem
from diana.ledger import Journal, Store
from diana.utils.blob import Blob
from diana.utils.dicom import Ref
from tests.contract import samples
from tests.planted import PLANTED_ACCESSIONS, PLANTED_IDS, PLANTED_NAMES, assert_nothing_planted
from tests.servers import OrthancServer

CT = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "ConversionType": None,
    "PatientName": PLANTED_NAMES[0],
    "PatientID": PLANTED_IDS[0],
    "AccessionNumber": PLANTED_ACCESSIONS[0],
}


def ct(number: int = 0, **tags: Any) -> Dixel:
    """Return a CT slice of a planted patient."""
    return samples.instance(0, 0, number, **{**CT, **tags})


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a key, which the environment names too."""
    Key.make().save(tmp_path / "k")
    monkeypatch.setenv("DIANA_DEID_KEY", str(tmp_path / "k"))
    return str(tmp_path / "k")


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key in the environment."""
    monkeypatch.delenv("DIANA_DEID_KEY", raising=False)


@pytest.fixture
def source() -> Memory:
    """Three slices of one study."""
    found = Memory(name="source")
    for number in range(3):
        found.put(ct(number))
    return found


STUDY = Ref("studies", study=samples.uid(1))


def stored(endpoint: Any) -> Iterator[Dixel]:
    """Yield every instance of an endpoint with its file."""
    for row in endpoint.find({}, "instances"):
        yield endpoint.get(row, view="tags|file")


def assert_clean(endpoint: Any, count: int) -> None:
    found = list(stored(endpoint))
    assert len(found) == count
    for one in found:
        assert one.file is not None
        assert b"PatientIdentityRemoved" not in one.file
        assert_nothing_planted(one.file.decode("latin-1"), "an instance that went on")
        assert samples.ROOT.encode() not in one.file


class TestTransfer:
    """The step of a transfer."""

    def test_what_arrives_is_deidentified_and_proved(self, source: Memory, key: str) -> None:
        dest = Memory(name="dest")
        receipt = transfer(source, dest, STUDY, [make_step("deid")])
        assert (receipt.state, receipt.verified, receipt.steps) == ("verified", 3, ("deid",))
        assert_clean(dest, 3)
        assert all(one.stored_uid != one.uid for one in receipt.proofs)

    def test_quarantined_instances_are_rejected_with_the_reason(self, source: Memory, key: str, tmp_path: Path) -> None:
        options = {"registry": str(tmp_path / "r.sqlite"), "mode": "quarantine", "audit": str(tmp_path / "a.jsonl")}
        dest = Memory(name="dest")
        receipt = transfer(source, dest, STUDY, [make_step({"deid": options})])
        assert receipt.state == "failed"
        assert len(receipt.rejected) == 3
        assert all("unknown-patient" in one for one in receipt.rejected.values())
        assert_nothing_planted(str(receipt.rejected))
        assert list(stored(dest)) == []
        records = list(Audit(options["audit"]).records())
        assert [one.get("reason") for one in records[1:]] == ["unknown-patient"] * 3
        assert Audit(options["audit"], Key.load(key)).verify().ok

    def test_the_good_ones_of_a_study_go_on(self, key: str, tmp_path: Path) -> None:
        with Registry(tmp_path / "r.sqlite", Key.load(key)) as registry:
            known = registry.subject("", PLANTED_IDS[0])
        source, dest = Memory(name="source"), Memory(name="dest")
        source.put(ct(0))
        source.put(ct(1, PatientID=PLANTED_IDS[1]))
        step = make_step({"deid": {"registry": str(tmp_path / "r.sqlite"), "mode": "refuse"}})
        receipt = transfer(source, dest, STUDY, [step])
        assert (receipt.state, receipt.verified) == ("incomplete", 1)
        assert [one.tags["PatientID"] for one in stored(dest)] == [known.pseudonym]

    @pytest.mark.parametrize(
        "options",
        [
            "none",
            {"presett": "basic"},
            {"preset": 3},
            {"mode": "guess"},
            [1],
            {"key": "absent"},
            {"recipe": "absent.yml"},
            {"recipe": "a.yml", "preset": "basic"},
        ],
    )
    def test_mistakes_are_said_before_anything_moves(self, key: str, options: Any) -> None:
        with pytest.raises(ConfigError):
            make_step({"deid": options})

    def test_no_key_is_said_with_the_way_out(self, no_key: None) -> None:
        with pytest.raises(ConfigError, match=r"DIANA_DEID_KEY"):
            make_step("deid")

    def test_the_sham_preset_needs_no_key_and_warns(
        self, source: Memory, no_key: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        dest = Memory(name="dest")
        with caplog.at_level(logging.WARNING):
            receipt = transfer(source, dest, STUDY, [make_step({"deid": "sham"})])
        assert receipt.state == "verified"
        assert "can be guessed" in caplog.text


@define(eq=False)
class Server(Memory):
    """A Memory that anonymizes as a server would; ``careless`` ones leave the name in a comment."""

    careless: bool = field(default=False, kw_only=True)

    def anonymize(self, dixel: Dixel, **_: Any) -> Dixel:
        from diana.daemons.steps import deidentify

        if not self.careless:
            made = deidentify()(dixel)
            assert made is not None
            return made
        return ct(7, PatientID="X", AccessionNumber="Y", PatientName="Z", PatientComments=f"see {PLANTED_NAMES[0]}")


class TestServer:
    """Anonymization by the server stays, and is checked."""

    @pytest.mark.parametrize("careless", [False, True])
    def test_what_the_server_leaves_does_not_go_on(self, key: str, careless: bool) -> None:
        source, dest = Server(name="server", careless=careless), Memory(name="dest")
        source.put(ct())
        receipt = send_item(STUDY, "studies", source, dest, anonymize=True, on_server=True, remove_src=False)
        assert receipt.steps == ("server_anonymize",)
        if careless:
            assert receipt.state == "failed"
            assert all("leak" in one for one in receipt.rejected.values())
            assert_nothing_planted(str(receipt.rejected))
            assert list(stored(dest)) == []
        else:
            assert receipt.state == "verified"

    @pytest.mark.live
    def test_an_orthanc_leaves_nothing_with_the_map_of_the_key(self, key: str, clean_orthanc: OrthancServer) -> None:
        source = Orthanc(url=clean_orthanc.url, user=clean_orthanc.user, password=clean_orthanc.password)
        here, there = Memory(name="here"), Memory(name="there")
        source.put(ct(InstitutionName="Planted Hospital", StudyDescription=f"of {PLANTED_NAMES[0]}"))
        for dest, on_server in ((there, True), (here, False)):
            receipt = send_item(STUDY, "studies", source, dest, anonymize=True, on_server=on_server, remove_src=False)
            assert receipt.state == "verified", receipt.reason
            assert_clean(dest, 1)
        same = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        (one,), (two,) = stored(here), stored(there)
        assert [one.tags[name] for name in same] == [two.tags[name] for name in same]

    def test_others_cannot(self, key: str, source: Memory) -> None:
        with pytest.raises(ConfigError):
            send_item(STUDY, "studies", source, Memory(), anonymize=True, on_server=True)

    def test_without_a_key_only_the_sham_preset_is_taken(self, no_key: None, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(ConfigError, match="needs a key"):
            make_step("server_anonymize")
        with pytest.raises(ConfigError, match="needs a key"):
            send_item(STUDY, "studies", Server(name="server"), Memory(), anonymize=True, on_server=True)
        assert make_step({"server_anonymize": "sham"}).name == "server_anonymize"
        assert "can be guessed" in caplog.text

    def test_the_step_works_at_the_source_of_its_route(self, tmp_path: Path, key: str) -> None:
        (tmp_path / "r.yml").write_text(
            "services: {i: {ctype: ObservableDcmDir, path: .}, o: {ctype: Memory},"
            " s: {ctype: ObservableOrthanc, url: 'http://localhost:1'}}\n"
            "routes: [{name: a, source: s, event: instance, steps: [server_anonymize], to: o}]\n"
        )
        (route,) = load_config(tmp_path / "r.yml").routes
        assert isinstance(route.steps[0], ServerAnonymize)
        assert route.steps[0].server is route.source
        (tmp_path / "r.yml").write_text((tmp_path / "r.yml").read_text().replace("source: s", "source: i"))
        with pytest.raises(ConfigError, match="cannot anonymize"):
            load_config(tmp_path / "r.yml")


ROUTES = """
services:
  inbox: {{ctype: ObservableDcmDir, path: {folder}/inbox}}
  research: {{ctype: DcmDir, path: {folder}/research}}
routes:
  - {route}
state: {folder}/state
"""
BY_STEP = "{name: r, source: inbox, event: file, steps: [{deid: {preset: research, %s}}], to: research}"
BY_HANDLER = "{handler: upload_and_anonymize_files, source: inbox, dest: research}"


def watched(folder: Path, route: str) -> Journal:
    """Run a route over one file until nothing is left to do; return its ledger."""
    (folder / "inbox").mkdir()
    (folder / "research").mkdir()
    (folder / "inbox" / "x.dcm").write_bytes(ct().file or b"")
    (folder / "r.yml").write_text(ROUTES.format(folder=folder, route=route))
    make_watcher(load_config(folder / "r.yml"), until_idle=True).run()
    return Journal(Store(folder / "state"))


class TestRoutes:
    """Routes in a file."""

    @pytest.mark.parametrize("route", [BY_STEP % "project: p", BY_HANDLER])
    def test_a_route_delivers_what_is_deidentified(self, tmp_path: Path, key: str, route: str) -> None:
        journal = watched(tmp_path, route)
        assert [one["state"] for one in journal.receipts.list()] == ["verified"]
        assert_clean(DcmDir(str(tmp_path / "research")), 1)

    def test_what_is_quarantined_is_a_dead_letter(self, tmp_path: Path, key: str) -> None:
        journal = watched(tmp_path, BY_STEP % f"registry: {tmp_path}/r.sqlite, mode: quarantine")
        assert list((tmp_path / "research").iterdir()) == []
        (dead,) = journal.dead()
        assert "unknown-patient" in dead["note"]
        assert_nothing_planted(str(dead["note"]))
        assert [one["state"] for one in journal.receipts.list()] == ["failed"]

    @pytest.mark.parametrize("route", [BY_STEP % "project: p", BY_HANDLER])
    def test_without_a_key_the_file_is_wrong(self, tmp_path: Path, no_key: None, route: str) -> None:
        (tmp_path / "inbox").mkdir()
        (tmp_path / "r.yml").write_text(ROUTES.format(folder=tmp_path, route=route))
        with pytest.raises(ConfigError, match="needs a key"):
            load_config(tmp_path / "r.yml")


class TestHandlers:
    """The handlers by name, as functions."""

    def test_mk_route_needs_the_key(self, tmp_path: Path, no_key: None) -> None:
        described = {"ctype": "ObservableDcmDir", "path": str(tmp_path)}
        with pytest.raises(ConfigError, match="needs a key"):
            mk_route("upload_and_anonymize_files", described, {"ctype": "Memory"})

    def test_upload_and_pull_deidentify(self, tmp_path: Path, key: str, source: Memory) -> None:
        (tmp_path / "x.dcm").write_bytes(ct().file or b"")
        dest = Memory(name="dest")
        folder = DcmDir(str(tmp_path))
        assert upload_item({"fn": "x.dcm"}, folder, dest, anonymizing=True).state == "verified"
        assert_clean(dest, 1)
        other = Memory(name="other")
        pull_and_save_item(source.find({}, "studies")[0], source, other, anonymize=True, deid="research")
        assert_clean(other, 3)
        third = Memory(name="third")
        send_item(STUDY, "studies", source, third, anonymize=True, remove_src=False)
        assert_clean(third, 3)

    def test_a_study_that_is_held_back_is_an_error_of_pull_and_save(
        self, tmp_path: Path, key: str, source: Memory
    ) -> None:
        options = {"registry": str(tmp_path / "r.sqlite"), "mode": "refuse"}
        with pytest.raises(InvalidItem, match="unknown-patient"):
            pull_and_save_item(source.find({}, "studies")[0], source, Memory(), anonymize=True, deid=options)


class TestFolder:
    """DcmDir(anonymizing=True)."""

    def test_what_is_put_is_deidentified(self, tmp_path: Path, key: str) -> None:
        shelf = DcmDir(str(tmp_path / "d"), anonymizing=True)
        item = ct()
        item.fn = f"{PLANTED_NAMES[0]}.dcm"
        name = shelf.put(item)
        assert shelf.put(item) == name
        assert name == f"{shelf.get(name).tags['SOPInstanceUID']}.dcm"
        assert_clean(shelf, 1)
        shelf.update(name, ct())
        assert_clean(shelf, 1)

    def test_archives_hold_what_is_deidentified(self, tmp_path: Path, key: str) -> None:
        shelf = DcmDir(str(tmp_path / "d"), anonymizing=True)
        (tmp_path / "d").mkdir()
        shelf.put_zipped("a.zip", [ct(0), ct(1)])
        dest = Memory()
        for one in shelf.get_zipped("a.zip"):
            dest.put(one)
        assert_clean(dest, 2)

    def test_without_a_key_nothing_is_put(self, tmp_path: Path, no_key: None) -> None:
        shelf = DcmDir(str(tmp_path / "d"), anonymizing=True)
        with pytest.raises(ConfigError, match="needs a key"):
            shelf.put(ct())
        assert not (tmp_path / "d").exists()

    def test_what_is_held_back_is_not_put(self, tmp_path: Path, key: str) -> None:
        options = {"registry": str(tmp_path / "r.sqlite"), "mode": "quarantine"}
        shelf = DcmDir(str(tmp_path / "d"), anonymizing=True, deid=options)
        with pytest.raises(Quarantined) as caught:
            shelf.put(ct())
        assert caught.value.reason == "unknown-patient"
        assert not (tmp_path / "d").exists()

    def test_the_sham_preset_is_for_compatibility(self, tmp_path: Path, no_key: None) -> None:
        shelf = DcmDir(str(tmp_path / "d"), anonymizing=True, deid="sham")
        name = shelf.put(ct())
        assert shelf.get(name).tags["PatientName"] != PLANTED_NAMES[0]

    def test_options_are_in_no_description(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path), anonymizing=True, deid={"registry": "postgresql://u:secret-word@h/d"})
        assert "secret-word" not in repr(shelf) + shelf.json()

    def test_no_dicom_is_refused(self, tmp_path: Path, key: str) -> None:
        item = ct()
        item.blob = Blob(b"no DICOM")
        with pytest.raises(DianaError):
            DcmDir(str(tmp_path / "d"), anonymizing=True).put(item)
        assert not (tmp_path / "d").exists()
