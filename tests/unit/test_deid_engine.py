"""The engine: what each option and rule does to elements, and what the output says of it."""

from __future__ import annotations

import pytest

from diana.deid import Deidentifier, Key, Recipe
from diana.deid.pseudonyms import new_uid, subject_of
from diana.deid.recipe import SafePrivate
from diana.utils.blob import Blob
from tests.fakes.deid_engine import KEY, deid, item, sequence, treated, with_options
from tests.fakes.deid_files import CT, make_ds, read, to_bytes
from tests.fakes.planted import inflated


def test_basic_profile_replaces_removes_and_empties() -> None:
    ds = treated(make_ds())
    subject = subject_of(KEY, "", "PID-990817")
    assert (ds.PatientID, ds.PatientName) == (subject.pseudonym, subject.pseudonym)
    assert not any((ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber, ds.StudyDate, ds.StudyTime))
    for keyword in ("PatientAge", "PatientWeight", "StudyDescription", "SeriesDescription", "InstitutionName"):
        assert keyword not in ds
    assert "SeriesDate" not in ds
    assert ds.SOPInstanceUID == new_uid(KEY, "1.2.3.4.5.6") == ds.file_meta.MediaStorageSOPInstanceUID


def test_technical_attributes_stay() -> None:
    before, ds = make_ds(), treated(make_ds())
    for keyword in ("ImageType", "Modality", "Manufacturer", "KVP", "SliceThickness", "ConvolutionKernel", "Rows"):
        assert ds[keyword] == before[keyword]
    assert ds.PixelData == before.PixelData
    assert ds.SOPClassUID == CT


def test_markers_of_the_basic_profile() -> None:
    ds = treated(make_ds())
    assert ds.PatientIdentityRemoved == "YES"
    assert [one.CodeValue for one in ds.DeidentificationMethodCodeSequence] == ["113100"]
    assert ds.LongitudinalTemporalInformationModified == "REMOVED"
    assert "2026d" in str(ds.DeidentificationMethod)
    assert "BurnedInAnnotation" not in ds


@pytest.mark.parametrize(
    ("options", "codes", "dates"),
    [
        (("full-dates",), ["113100", "113106"], "UNMODIFIED"),
        (("modified-dates",), ["113100", "113107"], "MODIFIED"),
        (("patient-characteristics", "device"), ["113100", "113108", "113109"], "REMOVED"),
        (("uids", "institution", "safe-private"), ["113100", "113110", "113111", "113112"], "REMOVED"),
        (("clean-pixel-data",), ["113100"], "REMOVED"),
    ],
)
def test_codes_say_what_was_done(options: tuple[str, ...], codes: list[str], dates: str) -> None:
    ds = treated(make_ds(), with_options(*options))
    assert [one.CodeValue for one in ds.DeidentificationMethodCodeSequence] == codes
    assert ds.LongitudinalTemporalInformationModified == dates


def test_file_meta_and_preamble_are_new() -> None:
    before = make_ds()
    before.file_meta.SourceApplicationEntityTitle = "QUIRIN_CT"
    before.preamble = b"II*\0Quersfeld".ljust(128, b"\0")
    result = deid(before)
    assert result.blob is not None
    data = result.blob.read()
    assert data[:132] == bytes(128) + b"DICM"
    assert "SourceApplicationEntityTitle" not in read(data).file_meta


def test_full_dates_stay_and_odd_ones_go() -> None:
    before = make_ds()
    before.add_new(0x00080023, "LO", "Annegret")
    data = to_bytes(before).replace(b"\x08\0\x23\0LO", b"\x08\0\x23\0DA")
    result = Deidentifier(with_options("full-dates"), KEY).apply(Blob(data))
    assert result.blob is not None
    ds = read(result.blob.read())
    assert (ds.StudyDate, ds.SeriesDate, ds.StudyTime) == ("20230415", "20230416", "101112.5")
    assert b"Annegret" not in result.blob.read()


def test_modified_dates_move_back_by_whole_weeks_and_keep_intervals() -> None:
    import datetime as dt

    ds = treated(make_ds(), with_options("modified-dates"))
    weeks = subject_of(KEY, "", "PID-990817").weeks
    assert 52 <= weeks <= 520
    study = dt.datetime.strptime(ds.StudyDate, "%Y%m%d").date()
    assert dt.date(2023, 4, 15) - study == dt.timedelta(weeks=weeks)
    assert dt.datetime.strptime(ds.SeriesDate, "%Y%m%d").date() - study == dt.timedelta(days=1)
    assert str(ds.AcquisitionDateTime) == f"{study:%Y%m%d}101112.500000+0100"
    assert ds.StudyTime == "101112.5"
    assert not ds.PatientBirthDate


def test_old_spelling_of_a_date_moves_too() -> None:
    before = make_ds(StudyDate=None)
    before.add_new(0x00080020, "LO", "2023.04.15")
    data = to_bytes(before).replace(b"\x08\0\x20\0LO", b"\x08\0\x20\0DA")
    result = Deidentifier(with_options("modified-dates"), KEY).apply(Blob(data))
    assert result.blob is not None
    ds = read(result.blob.read())
    assert len(ds.StudyDate) == 8
    assert ds.StudyDate < "20220501"


def test_times_can_be_removed() -> None:
    ds = treated(make_ds(), with_options("full-dates", remove_times=True))
    assert not ds.StudyTime
    assert ds.LongitudinalTemporalInformationModified == "MODIFIED"


def test_patient_characteristics_stay_with_the_age_capped() -> None:
    ds = treated(make_ds(), with_options("patient-characteristics", age_cap=90))
    assert (ds.PatientSex, ds.PatientAge, str(ds.PatientWeight)) == ("F", "090Y", "61.5")


def test_year_of_birth_can_stay() -> None:
    assert treated(make_ds(), with_options(keep_year_of_birth=True)).PatientBirthDate == "19310101"


def test_device_and_institution_stay_on_request() -> None:
    ds = treated(make_ds(), with_options("device", "institution"))
    assert (ds.StationName, ds.DeviceSerialNumber, ds.InstitutionName) == ("CTSUITE7", "SN445566", "St. Quirin Clinic")


def test_uids_stay_on_request() -> None:
    ds = treated(make_ds(), with_options("uids"))
    assert (ds.SOPInstanceUID, ds.StudyInstanceUID) == ("1.2.3.4.5.6", "1.2.3.4.5")


def test_descriptors_keep_known_words_only() -> None:
    ds = treated(make_ds(), with_options("clean-descriptors"))
    assert ds.SeriesDescription == "Thorax axial 5mm"
    assert ds.StudyDescription == "Thorax for"


def test_multi_valued_uids_are_mapped_one_by_one() -> None:
    before = make_ds()
    before.add_new(0x00081195, "UI", ["1.2.3", "1.2.4"])
    assert treated(before)[0x00081195].value == [new_uid(KEY, "1.2.3"), new_uid(KEY, "1.2.4")]


def test_uids_of_the_standard_stay_in_references() -> None:
    before = make_ds()
    before.ReferencedSeriesSequence = sequence(
        [
            item(
                SeriesInstanceUID="1.2.3.4.5.1",
                ReferencedInstanceSequence=sequence([item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID="1.2.9")]),
            )
        ]
    )
    ds = treated(before)
    inner = ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert (inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID) == (CT, new_uid(KEY, "1.2.9"))
    assert ds.ReferencedSeriesSequence[0].SeriesInstanceUID == ds.SeriesInstanceUID


def test_same_key_gives_the_same_and_another_key_another() -> None:
    first, again = treated(make_ds()), treated(make_ds())
    other = Deidentifier(Recipe(), Key(b"x" * 32)).apply(Blob(to_bytes(make_ds())))
    assert first == again
    assert other.sop_uid != first.SOPInstanceUID


def test_patient_of_a_nested_item_gets_an_own_pseudonym() -> None:
    before = make_ds()
    before.add_new(0x00081250, "SQ", sequence([item(PatientID="OTHER-4711"), item(PatientID="PID-990817")]))
    first, second = treated(before)[0x00081250].value
    assert first.PatientID == subject_of(KEY, "", "OTHER-4711").pseudonym
    assert second.PatientID == subject_of(KEY, "", "PID-990817").pseudonym


def test_object_without_patient_id_belongs_to_its_study() -> None:
    one, two = deid(make_ds(PatientID="")), deid(make_ds(PatientID="", StudyInstanceUID="1.9.9"))
    assert one.done
    assert two.done
    assert one.blob is not None
    assert two.blob is not None
    assert read(one.blob.read()).PatientID != read(two.blob.read()).PatientID


def test_private_elements_go_but_safe_ones_stay_on_request() -> None:
    before = make_ds()
    before.add_new(0x00190010, "LO", "GEMS_ACQU_01")
    before.add_new(0x00191023, "DS", "1.5")
    before.add_new(0x00191024, "LO", "secret")
    before.add_new(0x00290010, "LO", "MINE")
    before.add_new(0x00291001, "LO", "mine too")
    assert not [one for one in treated(before) if one.tag.is_private]
    ds = treated(before, with_options("safe-private", safe_private=[SafePrivate("MINE", 0x0029, 1)]))
    assert [one.tag for one in ds if one.tag.is_private] == [0x00190010, 0x00191023, 0x00290010, 0x00291001]


def test_creator_without_safe_elements_goes() -> None:
    before = make_ds()
    before.add_new(0x00190010, "LO", "GEMS_ACQU_01")
    before.add_new(0x00191024, "LO", "secret")
    assert not [one for one in treated(before, with_options("safe-private")) if one.tag.is_private]


def test_safe_place_with_another_vr_goes() -> None:
    before = make_ds()
    before.add_new(0x00190010, "LO", "GEMS_ACQU_01")
    before.add_new(0x00191023, "LO", "Mr Somebody")
    assert not [one for one in treated(before, with_options("safe-private")) if one.tag.is_private]


def test_unlisted_text_goes_in_strict_and_stays_in_profile_mode() -> None:
    before = make_ds()
    before.add_new(0x00700208, "ST", "somebody wrote this")
    assert 0x00700208 not in treated(before)
    assert treated(before, with_options(mode="profile"))[0x00700208].value == "somebody wrote this"


def test_technical_text_with_a_number_of_a_patient_goes() -> None:
    ds = treated(make_ds(ConvolutionKernel="PID 990817", SoftwareVersions="syngo CT 2012B"))
    assert ds.ConvolutionKernel == "ANONYMIZED"
    assert ds.SoftwareVersions == "syngo CT 2012B"


def test_local_codes_are_hashed_and_public_ones_stay() -> None:
    before = make_ds()
    local = item(CodeValue="4711-08-15-99999", CodingSchemeDesignator="99CLINIC", CodeMeaning="ward of 12345 Smith")
    public = item(CodeValue="818981001", CodingSchemeDesignator="SCT", CodeMeaning="Abdomen")
    before.AnatomicRegionSequence = sequence([public])
    before.ViewCodeSequence = sequence([local])
    ds = treated(before)
    assert ds.AnatomicRegionSequence[0] == public
    assert "99999" not in str(ds.ViewCodeSequence)
    assert "Smith" not in str(ds.ViewCodeSequence)


def test_overlays_go_as_a_whole() -> None:
    before = make_ds()
    before.add_new(0x60000010, "US", 8)
    before.add_new(0x60003000, "OW", bytes(8))
    assert not [one for one in treated(before) if one.tag.group == 0x6000]


def test_tail_and_padding_are_gone() -> None:
    before = make_ds()
    before.add_new(0xFFFCFFFC, "OB", b"Quersfeld ")
    result = Deidentifier(Recipe(), KEY).apply(Blob(to_bytes(before) + b"Quersfeld was here"))
    assert result.done
    assert result.blob is not None
    assert b"uersfeld" not in result.blob.read()
    assert result.actions["tail"]["remove"] == 1


def test_what_follows_the_last_pixel_is_cut_unless_it_is_zeros() -> None:
    hidden = treated(make_ds(PixelData=bytes(range(128)) + b"Quersfeld^Annegret"))
    padded = treated(make_ds(PixelData=bytes(range(128)) + bytes(10)))
    assert hidden.PixelData == bytes(range(128))
    assert len(padded.PixelData) == 138


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]
)
def test_transfer_syntax_stays(syntax: str) -> None:
    ds = treated(make_ds(), syntax=syntax)
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert (ds.Rows, ds.PatientIdentityRemoved) == (8, "YES")
    assert len(ds.PixelData) == 128


def test_deflated_output_holds_nothing_of_the_patient() -> None:
    result = deid(make_ds(), syntax="1.2.840.10008.1.2.1.99")
    assert result.blob is not None
    assert b"uersfeld" not in inflated(result.blob.read())
