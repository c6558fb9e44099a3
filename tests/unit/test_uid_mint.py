"""The UID mint makes the UIDs of diana2, and wide ones that do not collide."""

from __future__ import annotations

from hashlib import sha1

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diana.utils.dicom import DicomUIDMint
from diana.utils.dicom.ref import is_uid

KEY = b"a key of sixteen bytes or more"


class TestUid:
    """The compatible UIDs."""

    @pytest.mark.parametrize(
        ("app", "component"), [("dicom", "62"), ("diana-mock", "55"), ("Diana", "1"), ("diana", "90"), ("x", "90")]
    )
    def test_app_component_is_the_known_one(self, app: str, component: str) -> None:
        mint = DicomUIDMint(app)
        assert mint.app_id == component
        known = f"1.2.826.0.1.3680043.10.43.{component}.7834598798.958245076358.6951.1763"
        assert mint.uid("patient", "study", "series", "instance") == known

    def test_default_app_is_dicom(self) -> None:
        assert DicomUIDMint() == DicomUIDMint("dicom")

    def test_false_series_ends_the_uid(self) -> None:
        mint = DicomUIDMint()
        for series in (None, "", 0):
            assert mint.uid("p", "s", series, "i") == mint.uid("p", "s")

    def test_false_instance_ends_the_uid(self) -> None:
        mint = DicomUIDMint()
        for instance in (None, "", 0):
            assert mint.uid("p", "s", 1, instance) == mint.uid("p", "s", 1)

    def test_numbers_count_as_their_text(self) -> None:
        assert DicomUIDMint().uid(1, 2, 3, 4) == DicomUIDMint().uid("1", "2", "3", "4")

    def test_absent_patient_and_study_count_as_the_text_none(self) -> None:
        assert DicomUIDMint().uid() == DicomUIDMint().uid("None", "None")

    @given(st.integers(0, 5000))
    def test_components_are_the_decimal_remainder_without_leading_zeros(self, number: int) -> None:
        last = DicomUIDMint().uid("p", "s", "e", f"i{number}").rpartition(".")[2]
        assert last == str(int(sha1(f"i{number}".encode()).hexdigest(), 16) % 10000)

    @given(st.text(), st.text(), st.text(), st.text())
    def test_uids_are_valid(self, patient: str, study: str, series: str, instance: str) -> None:
        assert is_uid(DicomUIDMint().uid(patient, study, series, instance))

    def test_suffix_is_the_uid_without_prefix_and_app(self) -> None:
        mint = DicomUIDMint()
        suffix = mint.hierarchical_suffix("p", "s", "e", "i")
        assert mint.uid("p", "s", "e", "i") == f"{DicomUIDMint.prefix}.62.{suffix}"


class TestWideUid:
    """The UIDs that do not collide."""

    @pytest.mark.parametrize("key", [b"", KEY])
    def test_a_series_of_20000_instances_has_no_collision(self, key: bytes) -> None:
        mint = DicomUIDMint()
        assert len({mint.wide_uid("p", "s", "e", n, key=key) for n in range(20000)}) == 20000

    @pytest.mark.parametrize("key", [b"", KEY])
    @given(parts=st.lists(st.one_of(st.none(), st.text(), st.integers()), max_size=4))
    def test_wide_uids_are_valid_and_reproducible(self, key: bytes, parts: list[str | int | None]) -> None:
        uid = DicomUIDMint().wide_uid(*parts, key=key)
        assert is_uid(uid)
        assert len(uid) <= 44
        assert uid == DicomUIDMint().wide_uid(*parts, key=key)

    def test_apps_and_keys_give_other_uids(self) -> None:
        uids = {DicomUIDMint(app).wide_uid("p", "s", key=key) for app in ("a", "b") for key in (b"", KEY, KEY * 2)}
        assert len(uids) == 6

    def test_shifted_parts_give_other_uids(self) -> None:
        mint = DicomUIDMint()
        assert len({mint.wide_uid("a", "b|c"), mint.wide_uid("a|b", "c"), mint.wide_uid("a", "b", "c")}) == 3
        assert mint.wide_uid("a", "b", None) != mint.wide_uid("a", "b", "None")
