"""Folders of reports and of pictures release only what is de-identified."""

from __future__ import annotations

from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import pytest

from diana.apis import DcmDir, ImageDir, ReportDir
from diana.deid.audit import Audit
from diana.deid.key import Key
from diana.deid.pseudonyms import new_uid, subject_of
from diana.deid.registry import Entry, Registry
from diana.deid.result import Quarantined, Refused
from diana.dixel import Dixel, RadiologyReport
from diana.exceptions import ConfigError, InvalidItem
from diana.utils.dicom import DicomLevel
from tests.contract import samples
from tests.flows.test_deid_routes import ct
from tests.planted import PLANTED_ACCESSIONS, PLANTED_IDS, PLANTED_NAMES, assert_nothing_planted

TEXT = f"""Patient: {PLANTED_NAMES[0].replace("^", ", ")}
MRN: {PLANTED_IDS[0]} Accession: {PLANTED_ACCESSIONS[0]}
FINDINGS: no fracture. Compared to 12 March 2019. See {samples.uid(1)}.
Also 1.2.840.113619.2.55.3.604688119.
"""


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Key:
    """A key that the environment names."""
    made = Key.make()
    made.save(tmp_path / "k")
    monkeypatch.setenv("DIANA_DEID_KEY", str(tmp_path / "k"))
    return made


def study(text: str = TEXT, **tags: Any) -> Dixel:
    """Return a study of a planted patient with a report."""
    known = {"PatientName": PLANTED_NAMES[0], "PatientID": PLANTED_IDS[0], "AccessionNumber": PLANTED_ACCESSIONS[0]}
    found = samples.study(0, **{**known, **tags})
    found.report = RadiologyReport(text)
    return found


def names_below(folder: Path) -> list[str]:
    return sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())


def assert_no_hash_of(text: str, *values: str) -> None:
    for value in values:
        for made in (md5(value.encode(), usedforsecurity=False), sha256(value.encode())):
            assert made.hexdigest()[:12] not in text.lower()


class TestReports:
    """ReportDir(anonymizing=True)."""

    def test_a_report_is_cleaned_into_the_pseudonym_of_its_images(self, tmp_path: Path, key: Key) -> None:
        reports = ReportDir(str(tmp_path / "r"), anonymizing=True)
        fn = reports.put(study())
        text = (tmp_path / "r" / fn).read_text()
        assert_nothing_planted(text + fn, "a report that went on")
        assert f"MRN: {subject_of(key, '', PLANTED_IDS[0]).pseudonym}" in text
        assert "no fracture" in text
        assert "2019" not in text
        assert samples.ROOT not in text
        assert "604688119" not in text
        images = DcmDir(str(tmp_path / "d"), anonymizing=True)
        assert images.get(images.put(ct())).tags["PatientID"] in text

    def test_the_name_is_keyed_and_finds_the_report(self, tmp_path: Path, key: Key) -> None:
        reports = ReportDir(str(tmp_path / "r"), anonymizing=True, subpath_depth=1)
        fn = reports.put(study())
        assert_no_hash_of(fn, PLANTED_ACCESSIONS[0], PLANTED_IDS[0])
        for item in (study(), PLANTED_ACCESSIONS[0], fn, reports.get(fn, view="meta")):
            assert reports.exists(item)
        other = ReportDir(str(tmp_path / "o"), anonymizing=True)
        assert other.put(study("another")) == fn
        Key.make().save(tmp_path / "k2")
        assert ReportDir(str(tmp_path / "p"), anonymizing=True, deid={"key": str(tmp_path / "k2")}).put(study()) != fn

    def test_cleaning_a_clean_report_again_changes_nothing(self, tmp_path: Path, key: Key) -> None:
        reports = ReportDir(str(tmp_path / "r"), anonymizing=True)
        fn = reports.put(study())
        text = (tmp_path / "r" / fn).read_text()
        assert reports.put(study(text)) == fn
        assert (tmp_path / "r" / fn).read_text() == text

    def test_a_name_that_another_folder_gave_does_not_stay(self, tmp_path: Path, key: Key) -> None:
        plain = ReportDir(str(tmp_path / "plain"))
        nameless = study("no fracture")
        plain.put(nameless)
        found = plain.get(PLANTED_ACCESSIONS[0], view="meta")
        found.tags["PatientID"] = PLANTED_IDS[0]
        reports = ReportDir(str(tmp_path / "r"), anonymizing=True)
        assert reports.put(found) == reports.put(study())
        assert_nothing_planted(str(names_below(tmp_path / "r")))

    def test_everything_that_the_tags_tell_is_looked_for(self, tmp_path: Path, key: Key) -> None:
        reports = ReportDir(str(tmp_path / "r"), anonymizing=True)
        told = {
            "OtherPatientIDs": ["QX-771", "QX-772"],
            "OperatorsName": "Quillfeather^Ottoline",
            "PatientAddress": "12 Nowhere Lane",
            "InstitutionName": "Saint Elsewhere",
        }
        fn = reports.put(study("Ottoline of Saint Elsewhere saw qx-772 of 12 Nowhere Lane. Clear.", **told))
        assert (tmp_path / "r" / fn).read_text() == "[name] of [place] saw [id] of [address]. Clear.\n"

    def test_patterns_of_the_house_are_used(self, tmp_path: Path, key: Key) -> None:
        (tmp_path / "p.yml").write_text("builtin: true\npatterns: [{find: 'ward \\d+', put: '[place]'}]")
        reports = ReportDir(str(tmp_path / "r"), anonymizing=True, deid={"patterns": str(tmp_path / "p.yml")})
        fn = reports.put(study("on ward 12, call 555-867-5309"))
        assert (tmp_path / "r" / fn).read_text() == "on [place], call [phone]\n"
        bad = ReportDir(str(tmp_path / "r"), anonymizing=True, deid={"patterns": str(tmp_path / "absent.yml")})
        with pytest.raises(ConfigError):
            bad.put(study())

    def test_the_registry_decides(self, tmp_path: Path, key: Key) -> None:
        options = {"registry": str(tmp_path / "r.sqlite"), "mode": "refuse", "audit": str(tmp_path / "a.jsonl")}
        reports = ReportDir(str(tmp_path / "r"), anonymizing=True, deid=options)
        with pytest.raises(Refused) as caught:
            reports.put(study())
        assert caught.value.reason == "unknown-patient"
        assert not (tmp_path / "r").exists()
        with Registry(tmp_path / "r.sqlite", key) as registry:
            registry.add([Entry(PLANTED_IDS[0], "TRIAL-0001")])
        fn = reports.put(study())
        assert "MRN: TRIAL-0001" in (tmp_path / "r" / fn).read_text()
        records = list(Audit(options["audit"], key).records())
        assert [one.get("state") for one in records if one["event"] == "report"] == ["refused", "done"]
        assert_nothing_planted(str(records))

    def test_a_leak_is_quarantined_and_not_written(self, tmp_path: Path, key: Key) -> None:
        with Registry(tmp_path / "r.sqlite", key) as registry:
            registry.add([Entry(PLANTED_IDS[0], f"T-{PLANTED_NAMES[0].split('^')[0]}")])
        reports = ReportDir(str(tmp_path / "r"), anonymizing=True, deid={"registry": str(tmp_path / "r.sqlite")})
        with pytest.raises(Quarantined) as caught:
            reports.put(study())
        assert caught.value.reason == "leak"
        assert_nothing_planted(str(caught.value))
        assert not (tmp_path / "r").exists()

    def test_without_a_key_nothing_is_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DIANA_DEID_KEY", raising=False)
        for endpoint, item in ((ReportDir, study()), (ImageDir, ct())):
            with pytest.raises(ConfigError, match="needs a key"):
                endpoint(str(tmp_path / "r"), anonymizing=True).put(item)
        assert not (tmp_path / "r").exists()


class TestPictures:
    """ImageDir(anonymizing=True)."""

    @pytest.fixture(autouse=True)
    def _pillow(self) -> None:
        pytest.importorskip("PIL", reason="pictures need the extra 'images'")

    def test_pictures_are_named_by_new_uids(self, tmp_path: Path, key: Key) -> None:
        pictures = ImageDir(str(tmp_path / "i"), anonymizing=True)
        item = ct()
        fn = pictures.put(item)
        uid = new_uid(key, samples.uid(1))
        assert fn == f"{uid}-0001-0001.png"
        assert names_below(tmp_path / "i") == [fn]
        assert pictures.exists(item)
        above = samples.above(item, DicomLevel.SERIES)
        above.tags.update(SeriesNumber=1, AccessionNumber=PLANTED_ACCESSIONS[0])
        assert pictures.exists(above)
        assert pictures.put(item) == fn
        assert pictures.delete(item)

    def test_a_study_without_uid_is_named_by_a_keyed_hash(self, tmp_path: Path, key: Key) -> None:
        item = ct()
        del item.tags["StudyInstanceUID"]
        fn = ImageDir(str(tmp_path / "i"), anonymizing=True).put(item)
        assert_nothing_planted(fn)
        assert_no_hash_of(fn, PLANTED_ACCESSIONS[0])

    def test_what_somebody_must_look_at_is_not_shown(self, tmp_path: Path, key: Key) -> None:
        item = ct(BurnedInAnnotation="YES")
        with pytest.raises(Quarantined) as caught:
            ImageDir(str(tmp_path / "i"), anonymizing=True).put(item)
        assert caught.value.reason == "pixel-review"
        assert not (tmp_path / "i").exists() or not names_below(tmp_path / "i")

    def test_regions_of_ultrasound_are_masked_in_the_picture(self, tmp_path: Path, key: Key) -> None:
        np = pytest.importorskip("numpy")
        from pydicom.dataset import Dataset

        ds = samples.dataset(Modality="US", SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1", ConversionType=None)
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        region = Dataset()
        region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 4
        region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 7, 7
        ds.SequenceOfUltrasoundRegions = [region]
        ds.PixelData = np.full((8, 8), 1000, "<u2").tobytes()
        item = Dixel.from_pydicom(ds, "x.dcm", samples.file_bytes(ds))
        pictures = ImageDir(str(tmp_path / "i"), anonymizing=True, deid="teaching")
        shown = pictures.get(pictures.put(item), view="pixels").pixels
        assert not shown[:4].any()
        assert shown[4:].all()

    def test_pixels_without_a_file_are_refused(self, tmp_path: Path, key: Key) -> None:
        item = ct()
        item.pixels, item.blob = [[0]], None
        with pytest.raises(InvalidItem):
            ImageDir(str(tmp_path / "i"), anonymizing=True).put(item)
