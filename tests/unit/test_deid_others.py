"""Further ids of a patient: what an object says of them, and what the registry makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diana.deid import Deidentifier, Key, Recipe, Registry
from diana.deid.registry import Entry
from diana.deid.result import Quarantined, Result
from diana.utils.blob import Blob
from tests.fakes.deid_files import make_ds, read, to_bytes
from tests.unit.test_deid_engine import item, sequence

KEY = Key(b"k" * 32)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that knows two patients."""
    with Registry(tmp_path / "r.sqlite", KEY) as made:
        made.add([Entry("A-1001", "TRIAL-1"), Entry("B-2002", "TRIAL-2"), Entry("C-3003", "TRIAL-3", issuer="HOSP")])
        yield made


def deid(registry: Registry | None, **values: Any) -> Result:
    ds = make_ds(**values)
    return Deidentifier(Recipe(issuer="OURS"), KEY, registry).apply(Blob(to_bytes(ds)))


def pseudonym(result: Result) -> str:
    assert result.done, (result.reason, result.text)
    assert result.blob is not None
    return str(read(result.blob.read()).PatientID)


OF_B = [
    {"OtherPatientIDs": "B-2002"},
    {"OtherPatientIDs": ["X", "b-2002 "]},
    {"OtherPatientIDs": "B-2002", "IssuerOfPatientID": "ELSEWHERE"},
    {"OtherPatientIDsSequence": [item(PatientID="X"), item(PatientID="B-2002", TypeOfPatientID="TEXT")]},
]


@pytest.mark.parametrize("values", OF_B)
def test_an_id_of_another_subject_is_a_conflict(registry: Registry, values: dict[str, Any]) -> None:
    if "OtherPatientIDsSequence" in values:
        values = {"OtherPatientIDsSequence": sequence(values["OtherPatientIDsSequence"])}
    before = len(list(registry.entries()))
    result = deid(registry, PatientID="A-1001", **values)
    assert (result.state, result.reason) == ("quarantined", "conflict")
    assert not [one for one in ("A-1001", "B-2002", "TRIAL") if one in result.text]
    assert len(list(registry.entries())) == before


def test_the_issuer_in_the_sequence_counts(registry: Registry) -> None:
    held = sequence([item(PatientID="C-3003", IssuerOfPatientID="HOSP")])
    assert deid(registry, PatientID="A-1001", OtherPatientIDsSequence=held).reason == "conflict"
    elsewhere = sequence([item(PatientID="C-3003", IssuerOfPatientID="ELSEWHERE")])
    assert pseudonym(deid(registry, PatientID="A-1001", OtherPatientIDsSequence=elsewhere)) == "TRIAL-1"


def test_ids_of_the_same_subject_are_none(registry: Registry) -> None:
    registry.alias(("", "A-1002"), ("", "A-1001"))
    assert pseudonym(deid(registry, PatientID="A-1001", OtherPatientIDs=["A-1001", "A-1002"])) == "TRIAL-1"


def test_an_unknown_patient_with_a_known_id_is_that_subject(registry: Registry) -> None:
    assert pseudonym(deid(registry, PatientID="NEW-1", OtherPatientIDs="A-1001")) == "TRIAL-1"
    assert pseudonym(deid(registry, PatientID="NEW-1")) == "TRIAL-1"
    assert [one.origin for one in registry.entries() if one.patient_id == "NEW-1"] == ["alias"]


def test_an_unknown_patient_with_ids_of_two_subjects_is_a_conflict(registry: Registry) -> None:
    before = len(list(registry.entries()))
    assert deid(registry, PatientID="NEW-2", OtherPatientIDs=["A-1001", "B-2002"]).reason == "conflict"
    assert len(list(registry.entries())) == before


def test_ids_that_nobody_knows_are_not_stored(registry: Registry) -> None:
    first = pseudonym(deid(registry, PatientID="NEW-3", OtherPatientIDs="NEW-4"))
    assert registry.lookup("OURS", "NEW-4") is None
    assert pseudonym(deid(registry, PatientID="NEW-4")) != first
    assert deid(registry, PatientID="NEW-4", OtherPatientIDs="NEW-3").reason == "conflict"


def test_a_study_without_patient_id_takes_nobodys(registry: Registry) -> None:
    assert not pseudonym(deid(registry, PatientID="", OtherPatientIDs="A-1001")).startswith("TRIAL")


def test_without_a_registry_nobody_knows(registry: Registry) -> None:
    assert pseudonym(deid(None, PatientID="A-1001", OtherPatientIDs="B-2002")) == pseudonym(
        deid(None, PatientID="A-1001")
    )


def test_a_conflict_that_is_asked_twice_stays_one(registry: Registry) -> None:
    for _ in range(2):
        with pytest.raises(Quarantined) as caught:
            registry.subject("", "A-1001", [("", "B-2002")])
        assert caught.value.reason == "conflict"
