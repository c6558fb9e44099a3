"""What the engine wrote goes through the engine again: its own markers and dummies identify nobody."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from diana.deid.engine import Deidentifier
from diana.deid.key import Key
from diana.deid.pseudonyms import subject_of
from diana.deid.recipe import PRESETS, Recipe, Rule
from diana.deid.result import Refused, Result
from diana.deid.text import clean_report, known_of
from diana.dixel import RadiologyReport
from diana.utils.blob import Blob
from tests.contract import samples
from tests.fakes.deid_files import make_ds, read, to_bytes

MR, SR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.88.11"
KEY = Key.ephemeral()
PIXELS = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PhotometricInterpretation", "PixelData", "KVP", "SliceThickness", "ConvolutionKernel", "ImageType"),
)
EMPTY: dict[str, Any] = {"PatientName": "", "PatientID": "", "PatientBirthDate": "", "ReferringPhysicianName": ""}


def text_item(name: str, text: str) -> Any:
    from pydicom.dataset import Dataset

    item, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "121071", "DCM", name
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = "CONTAINS", "TEXT", [code]
    item.TextValue = text
    return item


def report() -> Any:
    """Return a structured report of the made-up patient."""
    ds = make_ds(SOPClassUID=SR, Modality="SR", **dict.fromkeys(PIXELS))
    ds.ValueType, ds.CompletionFlag, ds.VerificationFlag = "CONTAINER", "COMPLETE", "VERIFIED"
    ds.ContinuityOfContent, ds.ContentDate, ds.ContentTime = "SEPARATE", "20230416", "111213"
    ds.ContentSequence = [text_item("Finding", "Annegret Quersfeld, seen on 2023-04-15, call 0431 123 4567")]
    return ds


def made(kind: str) -> bytes:
    return to_bytes({"CT": make_ds, "MR": lambda: make_ds(SOPClassUID=MR, Modality="MR"), "SR": report}[kind]())


def deid(data: bytes, recipe: Recipe | None = None, key: Key = KEY) -> Result:
    return Deidentifier(recipe or Recipe(), key).apply(Blob(data))


@pytest.mark.parametrize("key", [KEY, Key.ephemeral()], ids=["same-key", "other-key"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["CT", "MR", "SR"])
def test_our_own_output_goes_through_again(kind: str, preset: str, key: Key) -> None:
    first = deid(made(kind), Recipe.preset(preset))
    assert first.blob is not None, first.text
    for again in PRESETS:
        second = deid(first.blob.read(), Recipe.preset(again), key)
        assert (second.state, second.text) == ("done", "")
        assert second.sop_uid != first.sop_uid


@pytest.mark.parametrize("key", [KEY, Key.ephemeral()], ids=["same-key", "other-key"])
def test_our_own_text_of_a_report_goes_through_again(key: Key) -> None:
    source = samples.study(0, PatientName="Quersfeld^Annegret", PatientID="PID-990817")
    subject = subject_of(KEY, "", "PID-990817")
    source.report = RadiologyReport("Patient: Annegret Quersfeld, MRN PID-990817, 2023-04-15. No fracture.")
    first = clean_report(source.report, subject, known_of(source))
    assert subject.pseudonym in first
    again = samples.study(0, PatientName=subject.name, PatientID=subject.pseudonym)
    again.report = RadiologyReport(first)
    new = subject_of(key, "", subject.pseudonym)
    second = clean_report(again.report, new, known_of(again))
    assert second == first.replace(subject.pseudonym, new.pseudonym)


@pytest.mark.parametrize("name", ["ANONYMIZED", "anonymized", "Anonymized^Patient", "ANONYMIZED\\ANONYMIZED"])
def test_the_dummy_as_a_name_is_nobody(name: str) -> None:
    ds = make_ds(PatientName="Quersfeld^Annegret", OperatorsName=name, PatientID="ANONYMIZED", StudyID="ANONYMIZED")
    ds.ReferringPhysicianName, ds.InstitutionName, ds.DeviceUID = name.split("\\")[0], "ANONYMIZED", "2.25.0"
    for recipe in (Recipe(), Recipe(rules=[Rule("InstitutionName", "dummy"), Rule("OperatorsName", "dummy")])):
        found = deid(to_bytes(ds), recipe)
        assert (found.state, found.text) == ("done", "")


def test_who_is_named_beside_a_dummy_is_still_looked_for() -> None:
    ds = make_ds(OperatorsName="ANONYMIZED^Quillfeather", PatientName="", PatientID="ANONYMIZED\\PID-990817")
    for value in ("Quillfeather", "PID-990817"):
        assert deid(to_bytes(ds), Recipe(rules=[Rule("StationName", "replace", value=value)])).reason == "leak"


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID"])
@pytest.mark.parametrize("value", ["", None], ids=["empty", "absent"])
def test_a_uid_that_only_the_file_meta_has_is_refused_with_a_reason(keyword: str, value: str | None) -> None:
    whole = to_bytes(make_ds())
    ds = read(whole)
    if value is None:
        delattr(ds, keyword)
    else:
        setattr(ds, keyword, value)
    from io import BytesIO

    from pydicom.filewriter import dcmwrite

    out = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(out, ds, enforce_file_format=False)
    found = deid(out.getvalue())
    assert (found.state, found.reason) == ("refused", "no-uid")
    assert "file meta" in found.text
    with pytest.raises(Refused):
        list(Deidentifier(Recipe(), KEY).explain(Blob(out.getvalue())))


@pytest.mark.parametrize("rule", [Rule("SOPInstanceUID", "empty"), Rule("SOPClassUID", "remove")])
def test_a_recipe_cannot_part_the_data_set_from_its_file_meta(rule: Rule) -> None:
    found = deid(made("CT"), Recipe(rules=[rule]))
    assert (found.state, found.reason) == ("refused", "no-uid")
    assert "file meta" in found.text


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(options=["uids"])], ids=["mapped", "kept"])
def test_data_set_and_file_meta_hold_the_same_uids(recipe: Recipe) -> None:
    found = deid(made("CT"), recipe)
    assert found.blob is not None
    ds = read(found.blob.read())
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == found.sop_uid
    assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID


@pytest.mark.parametrize("preset", ["research", "teaching"])
def test_an_age_is_capped_only_when_a_recipe_asks(preset: str) -> None:
    found = deid(made("CT"), Recipe.preset(preset))
    assert found.blob is not None, found.text
    assert read(found.blob.read()).PatientAge == "092Y"
    from diana.deid.recipe_files import parse

    found = deid(made("CT"), parse(f"preset: {preset}\nage_cap: 90\n"))
    assert found.blob is not None
    assert read(found.blob.read()).PatientAge == "090Y"
