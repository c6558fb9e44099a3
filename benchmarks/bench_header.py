"""
Compare readers of headers on CT files: ``python -m benchmarks.bench_header``.

Ratios are speeds with ``pydicom.dcmread(stop_before_pixels=True)`` as 1. "and decode" turns every default tag into
text, which pydicom and fastdicom were not asked to do either in their plain rows.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks._table import Row, interleave, print_table

FILES = 300
BENCH = "CT header"


def make_ct(number: int, *, implicit: bool = False) -> bytes:
    """Return a CT image of 512x512 pixels of 16 bits with about 85 elements, as scanners write them."""
    from io import BytesIO

    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    rng = random.Random(number // 100)  # a hundred to a study
    uid = f"1.2.826.0.1.3680043.8.498.{rng.getrandbits(60)}"
    dataset = Dataset()
    for words in _VALUES.strip().splitlines():
        keyword, _, value = words.strip().partition(" ")
        setattr(dataset, keyword, value.split("\\") if "\\" in value else value)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{uid}.{number}"
    dataset.StudyInstanceUID = f"{uid}.1"
    dataset.SeriesInstanceUID = f"{uid}.2"
    dataset.FrameOfReferenceUID = f"{uid}.3"
    dataset.InstanceNumber = str(number)
    dataset.Rows = dataset.Columns = 512
    dataset.SamplesPerPixel = 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.SmallestImagePixelValue, dataset.LargestImagePixelValue = 0, 4095
    dataset.PixelData = make_pixels(number)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True, implicit_vr=implicit, little_endian=True)
    return out.getvalue()


def make_pixels(number: int) -> bytes:
    """Return 512x512 pixels as a scanner makes them: a body with soft edges and the noise of a few bits."""
    import numpy as np

    noise = np.random.default_rng(number)
    across = np.linspace(-1, 1, 512)
    body = 1000 / (1 + np.exp(40 * (across[:, None] ** 2 + 1.6 * across[None, :] ** 2 - 0.6)))
    return (body + noise.normal(40, 12, (512, 512))).clip(0, 4095).astype("<u2").tobytes()


def run(rounds: int = 7) -> list[Row]:
    """Time all readers over files in a temporary folder that fit in the page cache."""
    import pydicom

    from diana.utils.dicom.header import read_header

    with tempfile.TemporaryDirectory() as folder:
        names = [str(Path(folder, f"{number:04}.dcm")) for number in range(FILES)]
        for number, name in enumerate(names):
            Path(name).write_bytes(make_ct(number))

        def each(read: Callable[[str], object]) -> Callable[[], None]:
            def all_files() -> None:
                for name in names:
                    read(name)

            return all_files

        contenders = {
            "pydicom": each(lambda name: pydicom.dcmread(name, stop_before_pixels=True)),
            "diana": each(read_header),
            "diana and decode": each(lambda name: read_header(name).as_dict()),
        }
        if find_spec("fastdicom"):
            fast = import_module("fastdicom").dcmread
            contenders["fastdicom"] = each(lambda name: fast(name, stop_before_pixels=True))
        seconds = interleave(contenders, rounds)
    base = seconds["pydicom"]
    rows = [Row(BENCH, name, base / taken, "12" if name == "diana" else "") for name, taken in seconds.items()]
    if "fastdicom" in seconds:
        rows.append(Row(f"{BENCH}, fastdicom = 1", "diana", seconds["fastdicom"] / seconds["diana"], "1"))
    return rows


_VALUES = r"""
SpecificCharacterSet ISO_IR 100
ImageType ORIGINAL\PRIMARY\AXIAL\CT_SOM5 SPI
InstanceCreationDate 20240101
InstanceCreationTime 101112.123000
StudyDate 20240101
SeriesDate 20240101
AcquisitionDate 20240101
ContentDate 20240101
StudyTime 101112.123000
SeriesTime 101212.453000
AcquisitionTime 101213.100000
ContentTime 101213.200000
AccessionNumber SHAM12345
Modality CT
Manufacturer Example Systems
InstitutionName Example Hospital
InstitutionAddress Street 1, Town
ReferringPhysicianName Sham^Refers
StationName CT01
StudyDescription Thorax^Routine
SeriesDescription Thorax 1.0 B31f
InstitutionalDepartmentName Radiology
PhysiciansOfRecord Sham^Records
PerformingPhysicianName Sham^Performs
OperatorsName Sham^Operates
ManufacturerModelName Example 64
PatientName Sham^Anna
PatientID SHAM0001
PatientBirthDate 19700101
PatientSex F
PatientAge 054Y
PatientWeight 70
BodyPartExamined CHEST
SliceThickness 1.0
KVP 120
DataCollectionDiameter 500
DeviceSerialNumber 12345
SoftwareVersions example CT 2007A
ProtocolName ThoraxRoutine
ReconstructionDiameter 340
DistanceSourceToDetector 1040
DistanceSourceToPatient 570
GantryDetectorTilt 0
TableHeight 150
RotationDirection CW
ExposureTime 500
XRayTubeCurrent 300
Exposure 150
FilterType 0
GeneratorPower 36
FocalSpots 1.2
DateOfLastCalibration 20231231
TimeOfLastCalibration 080000.000000
ConvolutionKernel B31f
PatientPosition HFS
StudyID 1
SeriesNumber 3
AcquisitionNumber 1
ImagePositionPatient -170.66\-170.66\100.5
ImageOrientationPatient 1\0\0\0\1\0
PositionReferenceIndicator
SliceLocation 100.5
PhotometricInterpretation MONOCHROME2
PixelSpacing 0.6640625\0.6640625
WindowCenter 40\-600
WindowWidth 400\1200
RescaleIntercept -1024
RescaleSlope 1
RescaleType HU
"""

if __name__ == "__main__":
    print_table(run())
