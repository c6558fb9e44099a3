"""sham_file: an instance under its sham identity."""

from __future__ import annotations

import io

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from diana.dixel import Dixel, ShamDixel
from diana.dixel.sham_file import sham_file
from diana.exceptions import InvalidItem
from diana.utils.dicom import DicomLevel
from diana.utils.dicom.structure import check_whole
from tests.contract import samples

SECRET = "PLANTED"


def item_of(ds: Dataset) -> Dixel:
    found = Dixel(level=DicomLevel.INSTANCES)
    found.file = samples.file_bytes(ds)
    return found


def marked() -> Dataset:
    """Return a data set with a planted word wherever a patient may be named."""
    ds = samples.dataset(
        PatientName=f"{SECRET}^ONE",
        PatientID=SECRET,
        AccessionNumber=SECRET,
        InstitutionName=SECRET,
        StudyID=SECRET,
        ReferringPhysicianName=f"{SECRET}^DOC",
        OtherPatientIDs=SECRET,
        PatientAddress=SECRET,
        PatientComments=SECRET,
        OperatorsName=f"{SECRET}^OP",
        StationName=SECRET,
        ImageComments=SECRET,
        RequestedProcedureID=SECRET,
        AcquisitionDate="20200111",
        AcquisitionTime="101500",
        ContentTime="101500",
        AcquisitionDateTime="20200111101500",
        FrameOfReferenceUID=samples.uid(77),
    )
    inner = Dataset()
    inner.PatientID = SECRET
    inner.VerifyingObserverName = f"{SECRET}^VER"
    inner.ReferencedSOPClassUID = ds.SOPClassUID
    inner.ReferencedSOPInstanceUID = samples.uid(1, 1, 2)
    inner.ContentDate = "20200111"
    ds.ReferencedImageSequence = Sequence([inner])
    ds.add_new(0x00090010, "LO", SECRET)
    ds.add_new(0x00091001, "LO", SECRET)
    ds.file_meta.SourceApplicationEntityTitle = SECRET
    return ds


def test_no_name_id_or_date_of_the_original_is_left() -> None:
    ds = marked()
    data = sham_file(item_of(ds)).file
    assert data is not None
    for text in (SECRET.encode(), b"20200111", b"19700101", samples.ROOT.encode()):
        assert text not in data
    assert check_whole(data).ok


def test_the_ids_are_those_of_the_sham_dixel() -> None:
    item = samples.instance()
    found = sham_file(item, salt="pepper")
    sham = ShamDixel.from_dixel(item, "pepper", wide=True)
    assert found.tags["PatientID"] == sham.meta["ShamID"]
    assert found.tags["StudyInstanceUID"] == sham.ShamStudyUID()
    assert found.tags["SeriesInstanceUID"] == sham.ShamSeriesUID()
    assert found.oid() == sham.sham_oid()
    assert found.tags["AccessionNumber"] == sham.meta["ShamAccessionNumber"][:16]
    assert found.tags["PatientID"] != sham_file(item).tags["PatientID"]


def test_the_same_instance_gives_the_same_bytes_and_the_original_stays() -> None:
    item = samples.instance()
    before = item.file, dict(item.meta), dict(item.tags)
    assert sham_file(item).file == sham_file(item).file
    assert (item.file, item.meta, item.tags) == before


def test_instances_of_a_study_stay_together() -> None:
    found = [sham_file(one) for one in samples.instances(1, 2, 2)]
    assert len({one.tags["StudyInstanceUID"] for one in found}) == 1
    assert len({one.tags["SeriesInstanceUID"] for one in found}) == 2
    assert len({one.tags["SOPInstanceUID"] for one in found}) == 4


def test_a_reference_within_the_series_still_fits() -> None:
    blob = sham_file(item_of(marked())).file
    other = sham_file(
        item_of(samples.dataset(0, 0, 1, AccessionNumber=SECRET, PatientName=f"{SECRET}^ONE", PatientID=SECRET))
    )
    ds = dcmread(io.BytesIO(blob or b""))
    assert ds.ReferencedImageSequence[0].ReferencedSOPInstanceUID == other.tags["SOPInstanceUID"]
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID


def test_pixels_and_description_stay_and_dates_move_together() -> None:
    original = marked()
    ds = dcmread(io.BytesIO(sham_file(item_of(original)).file or b""))
    assert ds.PixelData == original.PixelData
    assert ds.StudyDescription == original.StudyDescription
    assert ds.AcquisitionDate == ds.StudyDate
    assert ds.AcquisitionTime == ds.StudyTime
    assert ds.AcquisitionDateTime == ds.AcquisitionDate + ds.AcquisitionTime
    assert not ds.ContentTime


@pytest.mark.parametrize("cut", [0, 100, -10])
def test_what_is_not_a_whole_instance_is_refused(cut: int) -> None:
    item = samples.instance()
    item.file = (item.file or b"")[:cut]
    with pytest.raises(InvalidItem):
        sham_file(item)
    with pytest.raises(InvalidItem):
        sham_file(samples.study())
