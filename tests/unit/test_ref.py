"""Ref and the ids of Orthanc."""

from __future__ import annotations

from hashlib import sha1

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diana.exceptions import InvalidItem
from diana.utils.dicom import DicomLevel, Ref, orthanc_id
from diana.utils.dicom.ref import OID_PATTERN, is_uid

TEXTS = st.text(max_size=20)
UIDS = st.lists(st.integers(0, 999), min_size=1, max_size=6).map(lambda parts: ".".join(map(str, parts)))
FULL = {"PatientID": "P", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3", "SOPInstanceUID": "1.2.3.4"}


def formula(*parts: str) -> str:
    digest = sha1("|".join(parts).encode("utf-8", "replace")).hexdigest()
    return "-".join(digest[at : at + 8] for at in (0, 8, 16, 24, 32))


class TestOrthancId:
    @given(TEXTS, UIDS, UIDS, UIDS)
    def test_it_is_the_formula_at_every_level(self, patient: str, study: str, series: str, instance: str) -> None:
        kept = patient.rstrip(" \0")
        assert orthanc_id(patient) == formula(kept)
        assert orthanc_id(patient, study) == formula(kept, study)
        assert orthanc_id(patient, study, series) == formula(kept, study, series)
        assert orthanc_id(patient, study, series, instance) == formula(kept, study, series, instance)

    @given(TEXTS, UIDS)
    def test_it_looks_like_one(self, patient: str, study: str) -> None:
        assert OID_PATTERN.match(orthanc_id(patient, study))

    def test_padding_behind_is_removed_and_in_front_kept(self) -> None:
        assert orthanc_id("P ", "1.2\0") == orthanc_id("P", "1.2")
        assert orthanc_id(" P", "1.2") != orthanc_id("P", "1.2")

    def test_an_absent_patient_counts_as_empty(self) -> None:
        assert orthanc_id(None, "1.2") == orthanc_id("", "1.2") == formula("", "1.2")

    def test_the_first_empty_uid_ends_the_address(self) -> None:
        assert orthanc_id("P", "1.2", "", "1.2.3.4") == orthanc_id("P", "1.2")

    def test_separators_in_an_id_are_taken_literally(self) -> None:
        assert orthanc_id("A|1.2") == orthanc_id("A", "1.2")
        assert orthanc_id("A\\B") == formula("A\\B")


class TestIsUid:
    @given(UIDS)
    def test_digits_and_dots_are_a_uid(self, uid: str) -> None:
        assert is_uid(uid) == (len(uid) <= 64)

    @pytest.mark.parametrize(
        "text",
        ["", ".", "1.", ".1", "1..2", "1.2\n", "1/2", "../1", "1" * 65, "\u0661.\u0662", "1.2\0", "a.b", "-1"],
    )
    def test_everything_else_is_not(self, text: str) -> None:
        assert not is_uid(text)


class TestRef:
    @pytest.mark.parametrize("level", DicomLevel)
    def test_a_ref_from_tags_goes_down_to_its_level(self, level: DicomLevel) -> None:
        ref = Ref.from_tags(FULL, level)
        assert ref.uid == list(FULL.values())[level - 1]
        assert ref.tags() == dict(list(FULL.items())[:level])
        assert ref.oid == orthanc_id(*list(FULL.values())[:level])

    @pytest.mark.parametrize("level", DicomLevel)
    @pytest.mark.parametrize("deeper", DicomLevel)
    def test_at_climbs_and_never_descends(self, level: DicomLevel, deeper: DicomLevel) -> None:
        ref = Ref.from_tags(FULL, deeper, id="mine")
        if level > deeper:
            with pytest.raises(InvalidItem):
                ref.at(level)
        else:
            assert ref.at(level) == Ref.from_tags(FULL, level, id="mine" if level == deeper else "")

    def test_an_incomplete_ref_has_no_oid(self) -> None:
        for missing in FULL:
            tags = {key: value for key, value in FULL.items() if key != missing}
            with pytest.raises(InvalidItem):
                _ = Ref.from_tags(tags, DicomLevel.INSTANCES).oid

    def test_an_empty_patient_id_is_known_and_none_is_not(self) -> None:
        assert Ref("study", study="1.2", patient="").oid == orthanc_id("", "1.2")
        with pytest.raises(InvalidItem):
            _ = Ref("study", study="1.2").oid

    def test_what_may_come_from_a_patient_does_not_show(self) -> None:
        shown = repr(Ref("study", study="1.2", patient="SECRET", id="SECRET"))
        assert "SECRET" not in shown
        assert "1.2" in shown

    def test_errors_hold_no_values(self) -> None:
        with pytest.raises(InvalidItem) as caught:
            _ = Ref("series", study="1.2.99", patient="SECRET").oid
        assert "SECRET" not in str(caught.value)
        assert "1.2.99" not in str(caught.value)

    def test_values_that_are_no_texts_become_texts(self) -> None:
        ref = Ref.from_tags({"PatientID": 7, "StudyInstanceUID": None}, DicomLevel.STUDIES)
        assert (ref.patient, ref.study) == ("7", "")

    def test_refs_are_values(self) -> None:
        assert Ref("study", study="1.2") == Ref(2, study="1.2")
        assert len({Ref("study", study="1.2"), Ref("STUDIES", study="1.2")}) == 1
