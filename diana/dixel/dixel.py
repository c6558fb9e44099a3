"""The dixel: one DICOM thing with whatever parts of it are at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any  # Any: tag values may be of any type

import attrs
from attrs import define, field

from diana.exceptions import InvalidItem
from diana.utils.blob import Blob
from diana.utils.dicom.levels import DicomLevel, as_level
from diana.utils.dicom.ref import Ref
from diana.utils.endpoint.serializable import Serializable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

    from diana.dixel.report import RadiologyReport
    from diana.utils.dicom.header import Header

QUERY_TEMPLATE = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDescription",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
)


def _as_dict(value: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(value or {})


@define(eq=False, slots=False, repr=False)
class Dixel(Serializable):
    """
    Hold a study, series or instance: metadata, tags, file, pixels and report, as far as they are known.

    ``meta`` is what endpoints and tools say about the item, ``tags`` its DICOM elements by keyword. ``file`` takes
    bytes, a path or a ``Blob`` and gives bytes; ``blob`` gives the same without reading a file on disk. Two dixels
    are equal when class, level, tags and meta are.
    """

    meta: dict[str, Any] = field(factory=dict, converter=_as_dict)
    tags: dict[str, Any] = field(factory=dict, converter=_as_dict)
    level: DicomLevel = field(default=DicomLevel.STUDIES, converter=as_level)
    parent: Dixel | None = field(default=None)

    children: list[Dixel] = field(init=False, factory=list)
    pixels: NDArray[Any] | None = field(init=False, default=None)
    report: RadiologyReport | None = field(init=False, default=None)
    blob: Blob | None = field(init=False, default=None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.level.singular.lower()}, {len(self.tags)} tags)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Dixel):
            return NotImplemented
        return type(self) is type(other) and (self.level, self.tags, self.meta) == (other.level, other.tags, other.meta)

    def __hash__(self) -> int:
        return hash((type(self), self.level, self.tags.get(self.level.uid_keyword)))

    @property
    def file(self) -> bytes | None:
        """Return the bytes of the file, or None; reads them when they are on disk."""
        return None if self.blob is None else self.blob.read()

    @file.setter
    def file(self, value: bytes | Blob | str | None) -> None:
        self.blob = value if value is None or isinstance(value, Blob) else Blob(value)

    @property
    def ref(self) -> Ref:
        """Return the address that the tags spell, with ``meta["ID"]`` as its id."""
        return Ref.from_tags(self.tags, self.level, id=str(self.meta.get("ID") or ""))

    def oid(self) -> str:
        """
        Return the Orthanc id: ``meta["ID"]`` when known, else computed from the tags.

        An absent PatientID counts as empty, as the server does. Nothing is cached, so that later changes of tags
        count. Raises InvalidItem when a UID is missing.
        """
        return str(self.meta.get("ID") or "") or self.parent_oid(self.level)

    def parent_oid(self, level: DicomLevel) -> str:
        """Return the Orthanc id of the dixel's own patient, study or series. Raises InvalidItem without its UIDs."""
        ref = Ref.from_tags({"PatientID": "", **self.tags}, self.level).at(level)
        return ref.oid

    def sid(self) -> str | None:
        """Return the accession number, or None."""
        return self.tags.get("AccessionNumber")

    @property
    def accession_number(self) -> str | None:
        """Return the accession number, or None."""
        return self.sid()

    @property
    def fn(self) -> str:
        """Return ``meta["FileName"]``, or the accession number when no name was given. Raises InvalidItem."""
        name = self.meta.get("FileName") or self.tags.get("AccessionNumber")
        if not name:
            raise InvalidItem("the dixel has neither a file name nor an accession number")
        return str(name)

    @fn.setter
    def fn(self, value: str) -> None:
        self.meta["FileName"] = str(value)

    @property
    def image_base_fn(self) -> str:
        """
        Return ``accession-series-instance`` with four-digit numbers, the name of an image file of this instance.

        An empty or absent accession number is replaced by the StudyInstanceUID. Raises InvalidItem when a number is
        missing.
        """
        first = self.tags.get("AccessionNumber") or self.tags.get("StudyInstanceUID")
        if not first:
            raise InvalidItem("an image name needs AccessionNumber or StudyInstanceUID")
        try:
            return f"{first}-{int(self.tags['SeriesNumber']):04}-{int(self.tags['InstanceNumber']):04}"
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InvalidItem("an image name needs SeriesNumber and InstanceNumber") from None

    def instances(self) -> Iterator[Dixel]:
        """Yield the instances below this dixel, or itself."""
        if self.level == DicomLevel.INSTANCES:
            yield self
        for child in self.children:
            yield from child.instances()

    def query(self) -> dict[str, str]:
        """Return a C-FIND template that finds this study by its accession number, else by its UID."""
        template = dict.fromkeys(QUERY_TEMPLATE, "")
        accession = self.tags.get("AccessionNumber")
        if not accession:
            template.update(self.ref.tags())
        return {**template, "AccessionNumber": str(accession or "")}

    def simplify_tags(self) -> None:
        """Simplify the tags in place (see ``dicom_simplify``) and copy every ``...DateTime`` to meta."""
        from diana.utils.dicom.simplify import dicom_simplify

        self.tags = dicom_simplify(self.tags)
        self.meta.update({key: value for key, value in self.tags.items() if key.endswith("DateTime")})

    def merged(self, other: Dixel) -> Dixel:
        """Return a new dixel of this class with the parts of both; the other's parts win."""
        both = attrs.evolve(self, meta={**self.meta, **other.meta}, tags={**self.tags, **other.tags})
        both.children = other.children or self.children
        both.blob = other.blob if other.blob is not None else self.blob
        both.pixels = other.pixels if other.pixels is not None else self.pixels
        both.report = other.report or self.report
        return both

    def get_pixels(self) -> NDArray[Any]:
        """
        Return the pixel values with Rescale Slope and Intercept applied (PS3.3 C.11.1), in a new array.

        Shape: (rows, columns), with a last axis of 3 for colour and a first axis for several frames. Whole slope and
        intercept give int32, others float64; without them the stored values and type stay. Raises InvalidItem
        without pixels.
        """
        from diana.dixel.pixels import rescaled, shaped

        if self.pixels is None:
            raise InvalidItem("the dixel has no pixels; get it with DixelView.PIXELS")
        return rescaled(shaped(self.pixels, self.tags), self.tags)

    @property
    def pixel_spacing(self) -> list[float]:
        """Return row and column spacing in mm (0028,0030). Raises InvalidItem."""
        return self._numbers("PixelSpacing", 2)

    @property
    def image_orientation_patient(self) -> list[float]:
        """Return the six direction cosines (0020,0037). Raises InvalidItem."""
        return self._numbers("ImageOrientationPatient", 6)

    def _numbers(self, keyword: str, count: int) -> list[float]:
        value = self.tags.get(keyword)
        parts = value.split("\\") if isinstance(value, str) else value
        try:
            found = [float(one) for one in parts or ()]
        except (TypeError, ValueError):
            found = []
        if len(found) != count:
            raise InvalidItem(f"{keyword} does not hold {count} numbers")
        return found

    @staticmethod
    def from_pydicom(ds: Dataset, fn: str | None = None, file: bytes | Blob | None = None) -> Dixel:
        """Return an instance from a pydicom data set; see ``diana.dixel.convert.from_pydicom``."""
        from diana.dixel import convert

        return convert.from_pydicom(ds, fn, file)

    @staticmethod
    def from_header(header: Header, fn: str | None = None, file: bytes | Blob | None = None) -> Dixel:
        """Return an instance from what the header reader found; no value is simplified or invented."""
        from diana.dixel import convert

        return convert.from_header(header, fn, file)

    @staticmethod
    def from_orthanc(
        meta: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        level: DicomLevel = DicomLevel.STUDIES,
        file: bytes | Blob | None = None,
    ) -> Dixel:
        """Return a dixel from Orthanc's JSON, tags simplified."""
        found = Dixel(meta=meta, tags=tags, level=level)
        found.simplify_tags()
        found.file = file
        return found

    @staticmethod
    def from_montage_json(data: Mapping[str, Any]) -> Dixel:
        """Return a study from one result of a Montage search; see ``diana.dixel.montage_rows``."""
        from diana.dixel import montage_rows

        return montage_rows.from_json(data)

    @staticmethod
    def from_montage_csv(data: Mapping[str, Any]) -> Dixel:
        """Return a study from one row of a Montage CSV download; see ``diana.dixel.montage_rows``."""
        from diana.dixel import montage_rows

        return montage_rows.from_csv(data)
