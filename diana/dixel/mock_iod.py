"""Complete the tags of a mock instance to a valid data set (PS3.3 A.2, A.3, A.4, A.6, A.7, A.8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any  # tag values may be of any type

from attrs import frozen

from diana.dixel import mock_pixels
from diana.exceptions import InvalidItem
from diana.utils.dicom.uid_mint import DicomUIDMint
from diana.utils.lazy import parent_first

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

ACCESSION_LENGTH = 16
SLICE_MM = 2.0
SPACING_MM = 1.5

# the longest text that each value representation allows (PS3.5 6.2)
_LENGTHS = {"AccessionNumber": ACCESSION_LENGTH, "StationName": 16, "StudyDescription": 64, "SeriesDescription": 64}
_COPIED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyDescription",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "SOPInstanceUID",
    "InstanceNumber",
    "InstanceCreationDate",
    "InstanceCreationTime",
)
_mint = DicomUIDMint("diana-mock")

Tags = Mapping[str, Any]


@frozen
class Kind:
    """Say how one kind of image is stored: SOP class, what completes its tags, and its pixels."""

    sop_class: str
    complete: Callable[[Dataset, Tags], None]
    draw: Callable[[str, int], NDArray[Any]]


def build(tags: Tags, size: int) -> Dataset:
    """
    Return a data set with file meta information and pixels, ready to be written as explicit VR little endian.

    The accession number, 32 characters in the tags, is cut to the 16 that its value representation allows. Raises
    InvalidItem when a tag is missing.
    """
    parent_first("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    kind = _kind(tags)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = UID(kind.sop_class)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = kind.sop_class
    try:
        for keyword in _COPIED:
            setattr(ds, keyword, _fitted(keyword, tags[keyword]))
        ds.InstitutionName = _fitted("InstitutionName", tags["Institution"])
    except KeyError as missing:
        raise InvalidItem(f"a mock instance needs {missing.args[0]}") from None
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    _add_common(ds, tags)
    kind.complete(ds, tags)
    _add_pixels(ds, kind.draw(str(tags["SOPInstanceUID"]), size))
    return ds


def stored_accession(tags: Tags) -> str:
    """Return the accession number as the file has it."""
    return str(tags["AccessionNumber"])[:ACCESSION_LENGTH]


def _fitted(keyword: str, value: Any) -> Any:
    return value[: _LENGTHS.get(keyword, 64)] if isinstance(value, str) else value


def _add_common(ds: Dataset, tags: Tags) -> None:
    """Add what every image has: study, equipment and general image attributes."""
    ds.StudyID = "1"
    ds.ReferringPhysicianName = ""
    ds.DeviceSerialNumber = "0001"
    ds.SoftwareVersions = "diana"
    ds.BodyPartExamined = _anatomy(tags)
    ds.ContentDate = tags["InstanceCreationDate"]
    ds.ContentTime = tags["InstanceCreationTime"]
    ds.AcquisitionDate = tags["SeriesDate"]
    ds.AcquisitionTime = tags["SeriesTime"]
    ds.BurnedInAnnotation = "NO"
    if ds.BodyPartExamined == "EXTREMITY":
        ds.Laterality = "L"


def _anatomy(tags: Tags) -> str:
    """Return the third word of a mock study's description."""
    words = str(tags["StudyDescription"]).split()
    return words[2] if len(words) > 2 else ""


def _add_plane(ds: Dataset, tags: Tags) -> None:
    """Add position and orientation of an axial slice (C.7.6.2) and its frame of reference (C.7.4.1)."""
    ds.FrameOfReferenceUID = _mint.wide_uid(tags["PatientID"], tags["StudyInstanceUID"], "frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.PatientPosition = "HFS"
    ds.PixelSpacing = [SPACING_MM, SPACING_MM]
    ds.SliceThickness = SLICE_MM
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-96, -96, SLICE_MM * int(tags["InstanceNumber"])]
    ds.AcquisitionNumber = int(tags["SeriesNumber"])


def _add_contrast(ds: Dataset, tags: Tags) -> None:
    if not str(tags["StudyDescription"]).endswith(" NC"):
        ds.ContrastBolusAgent = "GENERATED"


def _complete_ct(ds: Dataset, tags: Tags) -> None:
    name = str(tags["SeriesDescription"])
    derived = name.startswith("Reformat")
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if derived else ["ORIGINAL", "PRIMARY", "AXIAL"]
    if name.startswith("Localizer"):
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    else:
        ds.RescaleType = "HU"
    _add_plane(ds, tags)
    _add_contrast(ds, tags)
    ds.KVP = 120
    ds.RescaleIntercept = mock_pixels.CT_INTERCEPT
    ds.RescaleSlope = 1
    ds.WindowCenter, ds.WindowWidth = 40, 400


def _complete_mr(ds: Dataset, tags: Tags) -> None:
    is_map = str(tags["SeriesDescription"]).startswith("Diffusion Map")
    ds.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION MAP"] if is_map else ["ORIGINAL", "PRIMARY", "OTHER"]
    _add_plane(ds, tags)
    _add_contrast(ds, tags)
    ds.ScanningSequence = "SE"
    ds.SequenceVariant = "NONE"
    ds.ScanOptions = ""
    ds.MRAcquisitionType = "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = 500, 10, 1
    ds.MagneticFieldStrength = 1.5
    ds.WindowCenter, ds.WindowWidth = 800, 1600


def _complete_cr(ds: Dataset, tags: Tags) -> None:
    lateral = str(tags["SeriesDescription"]) == "Lateral"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.ViewPosition = "LL" if lateral else "PA"
    ds.PatientOrientation = ["P", "F"] if lateral else ["L", "F"]
    ds.KVP = None
    ds.PlateID = ""
    ds.CassetteOrientation = ""
    ds.ImagerPixelSpacing = [SPACING_MM, SPACING_MM]
    ds.WindowCenter, ds.WindowWidth = 1800, 3600


def _complete_us(ds: Dataset, tags: Tags) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.PatientOrientation = None
    ds.LossyImageCompression = "00"


def _complete_cine(ds: Dataset, tags: Tags) -> None:
    parent_first("pydicom")
    from pydicom.tag import Tag

    _complete_us(ds, tags)
    ds.FrameTime = 40
    ds.FrameIncrementPointer = Tag("FrameTime")


def _complete_capture(ds: Dataset, tags: Tags) -> None:
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.ConversionType = "WSD"
    ds.PatientOrientation = None
    ds.DateOfSecondaryCapture = tags["InstanceCreationDate"]
    ds.TimeOfSecondaryCapture = tags["InstanceCreationTime"]


def _draw_colour(seed: str, size: int) -> NDArray[Any]:
    return mock_pixels.ultrasound(seed, size, colour=True)


_SECONDARY_CAPTURE = Kind("1.2.840.10008.5.1.4.1.1.7", _complete_capture, mock_pixels.text_screen)
_US = "1.2.840.10008.5.1.4.1.1.6.1"
_BY_MODALITY = {
    "CT": Kind("1.2.840.10008.5.1.4.1.1.2", _complete_ct, mock_pixels.ct_slice),
    "MR": Kind("1.2.840.10008.5.1.4.1.1.4", _complete_mr, mock_pixels.mr_slice),
    "CR": Kind("1.2.840.10008.5.1.4.1.1.1", _complete_cr, mock_pixels.radiograph),
    "US": Kind(_US, _complete_us, mock_pixels.ultrasound),
}
_BY_SERIES = {
    ("CT", "Dose"): _SECONDARY_CAPTURE,
    ("US", "Cine"): Kind("1.2.840.10008.5.1.4.1.1.3.1", _complete_cine, mock_pixels.cine),
    ("US", "Doppler"): Kind(_US, _complete_us, _draw_colour),
}


def _kind(tags: Tags) -> Kind:
    """Return how an instance is stored; a modality without images of its own makes secondary captures."""
    modality = str(tags.get("Modality", ""))
    name = str(tags.get("SeriesDescription", "")).partition(" ")[0]
    return _BY_SERIES.get((modality, name)) or _BY_MODALITY.get(modality, _SECONDARY_CAPTURE)


def _add_pixels(ds: Dataset, pixels: NDArray[Any]) -> None:
    """Add the image pixel module (C.7.6.3) of (rows, columns), (rows, columns, 3) or (frames, rows, columns, 3)."""
    colour = pixels.ndim > 2
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    if pixels.ndim == 4:
        ds.NumberOfFrames = pixels.shape[0]
    ds.Rows, ds.Columns = pixels.shape[-3:-1] if colour else pixels.shape
    bits = pixels.dtype.itemsize * 8
    signed = pixels.dtype.kind == "i"
    ds.BitsAllocated = bits
    ds.BitsStored = bits if signed or bits == 8 else 12
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(signed)
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OW" if bits > 8 else "OB"
