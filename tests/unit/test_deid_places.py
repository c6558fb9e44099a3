"""Places where an identifier hides, an object is cut, or something harmless looks like a leak."""

from __future__ import annotations

from typing import Any

import pytest

from diana.deid import Deidentifier, Option, Recipe
from diana.deid.result import Result
from diana.utils.blob import Blob
from tests.fakes.deid_engine import KEY, item, treated
from tests.fakes.deid_files import make_ds, to_bytes

GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
ENHANCED_PET = "1.2.840.10008.5.1.4.1.1.130"


def apply(data: bytes, recipe: Recipe | None = None) -> Result:
    return Deidentifier(recipe or Recipe(), KEY).apply(Blob(data))


def code(scheme: str, value: str = "T-1", meaning: str = "Mueller") -> Any:
    found = item(CodeValue=value, CodeMeaning=meaning)
    if scheme:
        found.CodingSchemeDesignator = scheme
    return found


@pytest.mark.parametrize("keyword", ["ReferencedImageSequence", "SourceImageSequence"])
def test_text_beside_a_reference_goes_and_its_purpose_stays(keyword: str) -> None:
    held = code("DCM", meaning="Mueller")
    held.Manufacturer = "Mueller"
    held.ReferencedSOPClassUID, held.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.9"
    held.PurposeOfReferenceCodeSequence = [code("DCM", "121311", "Localizer")]
    (found,) = treated(make_ds(**{keyword: [held]}))[keyword].value
    assert not {"CodeValue", "CodeMeaning", "Manufacturer"} & set(found.dir())
    assert found.ReferencedSOPInstanceUID not in ("", "1.2.3.9")
    assert found.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Localizer"


@pytest.mark.parametrize(("scheme", "stays"), [("DCM", True), ("99LOCAL", True), ("", False)])
def test_a_meaning_without_a_coding_scheme_is_no_code(scheme: str, stays: bool) -> None:
    ds = treated(make_ds(AnatomicRegionSequence=[code(scheme)]))
    assert (ds.AnatomicRegionSequence[0].CodeMeaning == "Mueller") is stays


def test_a_date_with_the_name_of_a_month_is_no_technical_text() -> None:
    assert "12-Mar" not in str(treated(make_ds(SoftwareVersions="Scanner 12-Mar-1958")))


def test_encrypted_attributes_go_in_strict_mode_only() -> None:
    held = item(EncryptedContentTransferSyntaxUID="1.2.840.10008.1.2.1", EncryptedContent=b"\1\2\3\4")
    assert "EncryptedAttributesSequence" not in treated(make_ds(EncryptedAttributesSequence=[held]))
    profile = Recipe(name="test", mode="profile")
    assert "EncryptedAttributesSequence" in treated(make_ds(EncryptedAttributesSequence=[held]), profile)


def test_dates_that_a_presentation_state_must_have_become_others() -> None:
    values = {"PresentationCreationDate": "20230415", "PresentationCreationTime": "101112"}
    ds = treated(make_ds(SOPClassUID=GSPS, PixelData=None, Rows=None, Columns=None, **values))
    assert ds.PresentationCreationDate not in ("", "20230415")
    assert ds.PresentationCreationTime not in ("", "101112")
    assert "PresentationCreationDate" not in treated(make_ds(**values))


def test_the_start_of_a_radiopharmaceutical_stays_filled_where_it_must() -> None:
    held = [item(RadiopharmaceuticalStartDateTime="20230415101112")]
    ds = treated(make_ds(SOPClassUID=ENHANCED_PET, RadiopharmaceuticalInformationSequence=held))
    assert ds.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime not in ("", "20230415101112")


def test_an_image_that_ends_inside_the_head_of_an_element_is_refused() -> None:
    data = to_bytes(make_ds())
    at = data.rindex(b"\xe0\x7f\x10\x00")
    for left in range(1, 8):
        result = apply(data[: at + left])
        assert (result.done, result.reason) == (False, "broken"), left


def test_an_encapsulated_document_in_an_image_is_no_reason_to_refuse_it() -> None:
    ds = treated(make_ds(EncapsulatedDocument=b"%PDF-1.4 of Quersfeld"))
    assert b"Quersfeld" not in (ds.get("EncapsulatedDocument") or b"")


def test_a_creator_that_goes_in_one_place_and_stays_in_another_is_no_leak() -> None:
    ds = make_ds()
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    inner = item()
    inner.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x99, "LO", "anything")
    ds.ReferencedImageSequence = [inner]
    assert apply(to_bytes(ds), Recipe(name="test", options=(Option.SAFE_PRIVATE,))).done


def test_a_sequence_that_is_written_as_unknown_is_searched_as_one() -> None:
    ds = make_ds(AnatomicRegionSequence=[code("99LOCAL")], ProcedureCodeSequence=[code("99LOCAL")])
    data = to_bytes(ds)
    for tag in (b"\x08\x00\x18\x22", b"\x08\x00\x32\x10"):
        assert data.count(tag + b"SQ") == 1
        data = data.replace(tag + b"SQ", tag + b"UN")
    result = apply(data)
    assert result.done, (result.reason, result.text)


def test_a_name_in_han_is_found_inside_of_a_longer_value() -> None:
    ds = make_ds(SpecificCharacterSet="ISO_IR 192", PatientName="山田花子", SeriesDescription=None)
    ds.TextValue = "患者山田花子の検査"
    result = apply(to_bytes(ds), Recipe(name="test", mode="profile"))
    assert not result.done or "山田花子" not in result.blob.read().decode("utf-8", "replace")  # type: ignore[union-attr]
