"""Studies of persons who do not exist, reproducible down to the pixel."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import md5
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar  # tag values may be of any type

from attrs import define, field

from diana.dixel.dixel import Dixel
from diana.exceptions import InvalidItem
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.strings import dicom_date, dicom_name, dicom_time
from diana.utils.dicom.uid_mint import DicomUIDMint
from diana.utils.endpoint.serializable import SECRET
from diana.utils.guid.mint import GUIDMint

if TYPE_CHECKING:
    from pydicom import Dataset

SEED = "diana-mock"
MATRIX = 128

_ANATOMIES = ("HEAD", "NECK", "EXTREMITY", "PELVIS", "CHEST", "ABDOMEN")
_CONTRASTS = ("NC", "WIVC", "WWOIVC")
# name, fewest and most series of the kind, fewest and most instances in one
_SERIES = {
    "CT": (
        ("Localizer", 2, 2, 1, 1),
        ("Volume", 1, 3, 30, 200),
        ("Fluoro", 0, 1, 10, 50),
        ("Reformat", 0, 2, 100, 200),
        ("Dose Report", 1, 1, 1, 1),
    ),
    "MR": (("Localizer", 1, 3, 1, 1), ("Sequence", 3, 6, 10, 50), ("Diffusion Map", 0, 1, 1, 1)),
    "CR": (("PA", 1, 1, 1, 1), ("Lateral", 1, 1, 1, 1), ("Bx", 0, 1, 1, 2)),
    "US": (
        ("Transverse", 3, 6, 1, 1),
        ("Sagittal", 3, 6, 1, 1),
        ("Cine", 1, 3, 30, 50),
        ("Doppler", 0, 3, 1, 3),
        ("Bx", 0, 2, 3, 5),
    ),
}
MODALITIES = tuple(_SERIES)

_mint = DicomUIDMint(SEED)

T = TypeVar("T", bound=Dixel)


def _own_or_shared(rng: Random | None) -> Random:
    return _shared_random() if rng is None else rng


@lru_cache(maxsize=1)
def _shared_random() -> Random:
    """Return the generator that mock studies draw from, unless they are given their own."""
    return Random()  # noqa: S311  # test data


def reset_mock_seed() -> None:
    """Start the shared generator of mock studies anew, so that the same studies follow."""
    _shared_random().seed(SEED)


@define(eq=False, slots=False, repr=False)
class _MockDixel(Dixel):
    """Hold what study, series and instance share: one generator, one picture size, one set of UIDs."""

    rng: Random = field(default=None, converter=_own_or_shared, kw_only=True, repr=False, metadata=SECRET)
    matrix: int = field(default=MATRIX, kw_only=True)
    uids: set[str] = field(init=False, repr=False, factory=set)

    def _inherit(self) -> None:
        if isinstance(self.parent, _MockDixel):
            self.rng, self.matrix, self.uids = self.parent.rng, self.parent.matrix, self.parent.uids

    def _new_uid(self, *numbers: int) -> str:
        """Return the compatible UID of these numbers, or a wide one when a part of the same study has it already."""
        tags = _parent(self, _MockDixel).tags
        person, accession = tags["PatientID"], tags["AccessionNumber"]
        uid = _mint.uid(person, accession, *numbers)
        attempt = 0
        while uid in self.uids:
            attempt += 1
            uid = _mint.wide_uid(person, accession, ".".join(map(str, numbers)), attempt)
        self.uids.add(uid)
        return uid

    def merged(self, other: Dixel) -> Dixel:
        """Return a plain dixel with the parts of both; the other's parts win."""
        plain = Dixel(meta=self.meta, tags=self.tags, level=self.level)
        plain.children, plain.blob, plain.pixels, plain.report = self.children, self.blob, self.pixels, self.report
        return plain.merged(other)


@define(eq=False, slots=False, repr=False)
class MockInstance(_MockDixel):
    """
    Hold one image of a mock series.

    Tags equal those of diana2. A SOP Instance UID that an image of the same study already has is replaced by a wide
    one, so that no two are the same. Unlike diana2 the file is a valid CT, MR, CR or US image with pixels (the CT dose
    report is a secondary capture, the US cine a multi-frame image), explicit VR little endian; the accession number is
    32 characters in the tags and its first 16, which is what the value representation allows, in the file.
    """

    inst_num: int = 0
    level: DicomLevel = field(init=False, default=DicomLevel.INSTANCES)
    inst_datetime: datetime = field(init=False)
    instuid: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._inherit()
        series = _parent(self, MockSeries)
        self.instuid = self.set_instuid()
        self.inst_datetime = self.set_inst_datetime()
        self.meta = {**series.meta, "InstanceDateTime": self.inst_datetime}
        self.tags = {
            **series.tags,
            "InstanceNumber": self.inst_num,
            "SOPInstanceUID": self.instuid,
            "InstanceCreationDate": dicom_date(self.inst_datetime),
            "InstanceCreationTime": dicom_time(self.inst_datetime),
        }

    def set_instuid(self) -> str:
        """Return a new SOP Instance UID from patient, accession, series and instance number."""
        return self._new_uid(_parent(self, MockSeries).ser_num, self.inst_num)

    def set_inst_datetime(self) -> datetime:
        """Draw a moment one or two seconds after the previous image, or after the begin of the series."""
        series = _parent(self, MockSeries)
        previous = series.children[-1] if series.children else None
        begin = previous.inst_datetime if isinstance(previous, MockInstance) else series.series_datetime
        return begin + timedelta(seconds=self.rng.randint(1, 2))

    def __str__(self) -> str:
        names = f"{self.tags['StudyDescription']:10} / {self.tags['SeriesDescription']:10}"
        number = f"{self.tags['AccessionNumber'][:4]}-{self.tags['SeriesNumber']:02}-{self.inst_num:03}"
        return f"{number}: {self.instuid:64} : {names}"

    def as_pydicom_ds(self) -> Dataset:
        """Return the data set with file meta information and pixels, ready to be written."""
        from diana.dixel import mock_iod

        return mock_iod.build(self.tags, self.matrix)

    def gen_file(self, fn: str | None = None) -> None:
        """Write the DICOM file to ``file``, under the name ``fn`` if given."""
        self.file = self._encoded()
        if fn is not None:
            self.fn = fn

    def as_stored(self) -> Dixel:
        """Return a plain instance with file and the accession number that the file has; this one stays as it is."""
        from diana.dixel import mock_iod

        tags = {**self.tags, "AccessionNumber": mock_iod.stored_accession(self.tags)}
        plain = Dixel(meta=dict(self.meta), tags=tags, level=DicomLevel.INSTANCES)
        plain.file = self.blob if self.blob is not None else self._encoded()
        return plain

    def _encoded(self) -> bytes:
        out = io.BytesIO()
        self.as_pydicom_ds().save_as(out, enforce_file_format=True)
        return out.getvalue()


@define(eq=False, slots=False, repr=False)
class MockSeries(_MockDixel):
    """Hold one series of a mock study, with its instances as children."""

    ser_num: int = 0
    ser_desc: str = "DICOM Series"
    n_instances: int = 1
    level: DicomLevel = field(init=False, default=DicomLevel.SERIES)
    series_datetime: datetime = field(init=False)
    seruid: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._inherit()
        study = _parent(self, MockStudy)
        self.series_datetime = self.set_series_datetime()
        self.seruid = self.set_seruid()
        self.meta = {**study.meta, "SeriesDateTime": self.series_datetime}
        self.tags = {
            **study.tags,
            "SeriesDescription": self.ser_desc,
            "SeriesNumber": self.ser_num,
            "SeriesInstanceUID": self.seruid,
            "SeriesDate": dicom_date(self.series_datetime),
            "SeriesTime": dicom_time(self.series_datetime),
        }
        for number in range(1, self.n_instances + 1):
            self.children.append(MockInstance(parent=self, inst_num=number))

    def set_series_datetime(self) -> datetime:
        """Draw a moment 20 to 100 seconds after the last image so far, or after the begin of the study."""
        study = _parent(self, MockStudy)
        last = next((one for series in reversed(study.children) for one in reversed(series.children)), None)
        begin = last.inst_datetime if isinstance(last, MockInstance) else study.study_datetime
        return begin + timedelta(seconds=self.rng.randint(20, 100))

    def set_seruid(self) -> str:
        """Return a new Series Instance UID from patient, accession and series number."""
        return self._new_uid(self.ser_num)


@define(eq=False, slots=False, repr=False)
class MockStudy(_MockDixel):
    """
    Hold a whole mock study, with its series as children; the same draws give the same study as diana2.

    ``reset_mock_seed`` starts the draws anew; ``rng`` gives a study a generator of its own. Modalities are CT, MR, CR
    and US; any other raises InvalidItem. ``matrix`` is the width and height of an image in pixels.
    """

    study_datetime: datetime = field(factory=datetime.now)
    site_name: str = "Mock Site"
    station_name: str = "Scanner"
    modality: str = "CT"
    level: DicomLevel = field(init=False, default=DicomLevel.STUDIES)
    study_description: str = field(init=False)
    stuid: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.modality not in _SERIES:
            raise InvalidItem(f"no mock studies of this modality; use one of {', '.join(MODALITIES)}")
        self.study_description = self.set_study_description()
        self.meta = {"StudyDateTime": self.study_datetime}
        self.tags = self._draw_tags()
        self.stuid = self.tags["StudyInstanceUID"]
        for number, (name, images) in enumerate(self._draw_series(), 1):
            self.children.append(MockSeries(parent=self, ser_num=number, ser_desc=name, n_instances=images))

    def set_study_description(self) -> str:
        """Draw anatomy and contrast; the code is the sum of the character codes of modality, anatomy and contrast."""
        anatomy, contrast = self.rng.choice(_ANATOMIES), self.rng.choice(_CONTRASTS)
        code = sum(map(ord, self.modality + anatomy + contrast))
        return f"IMG{code} {self.modality} {anatomy} {contrast}"

    def _draw_tags(self) -> dict[str, Any]:
        name = self.rng.random()
        sex = self.rng.choice(["M", "F"])
        age = self.rng.randint(18, 85)
        person = GUIDMint.get_sham_id(name=name, age=age, gender=sex, reference_date=self.study_datetime)
        seed = person["ID"] + self.study_datetime.isoformat()
        accession = md5(seed.encode("utf-8"), usedforsecurity=False).hexdigest()
        return {
            "AccessionNumber": accession,
            "PatientName": dicom_name(person["Name"]),
            "PatientID": person["ID"],
            "PatientSex": sex,
            "PatientBirthDate": dicom_date(person["BirthDate"]),
            "StudyInstanceUID": _mint.uid(person["ID"], accession),
            "StudyDescription": self.study_description,
            "StationName": self.station_name,
            "Manufacturer": "Device Manufacturer",
            "ManufacturerModelName": "Device Model Name",
            "Institution": self.site_name,
            "Modality": self.modality,
            "StudyDate": dicom_date(self.study_datetime),
            "StudyTime": dicom_time(self.study_datetime),
        }

    def _draw_series(self) -> Iterator[tuple[str, int]]:
        """Yield name and number of images of each series; a name that occurs more than once is numbered."""
        for name, fewest, most, fewest_images, most_images in _SERIES[self.modality]:
            count = self.rng.randint(fewest, most)
            for number in range(1, count + 1):
                images = self.rng.randint(fewest_images, most_images)
                yield (f"{name} {number}" if count > 1 else name), images


def _parent(child: Dixel, kind: type[T]) -> T:
    """Return the parent. Raises InvalidItem when it is of another kind."""
    if not isinstance(child.parent, kind):
        raise InvalidItem(f"a {type(child).__name__} needs a {kind.__name__} as parent")
    return child.parent
