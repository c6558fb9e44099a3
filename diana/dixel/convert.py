"""Dixels from pydicom data sets and from headers."""

from __future__ import annotations

import io
import logging
from hashlib import md5
from typing import TYPE_CHECKING, Any  # element values may be of any type

from diana.dixel.dixel import Dixel
from diana.exceptions import InvalidItem
from diana.utils.blob import Blob
from diana.utils.dicom.levels import DicomLevel
from diana.utils.lazy import parent_first

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import DataElement

    from diana.utils.dicom.header import Header

log = logging.getLogger(__name__)

MAX_DEPTH = 64
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def from_pydicom(ds: Dataset, fn: str | None = None, file: bytes | Blob | None = None) -> Dixel:
    """
    Return an instance with the elements of a data set by keyword, simplified.

    Private elements, bulk binary values and empty values are left out; zero is a value. When PatientID is missing and
    PatientName is not, PatientID becomes the MD5 (hex) of the name, and a given ``file`` is written anew with it, so
    that the Orthanc id holds. Raises InvalidItem without study, series and SOP Instance UID.
    """
    tags = element_values(ds)
    blob = file if file is None or isinstance(file, Blob) else Blob(file)
    if not tags.get("PatientID") and tags.get("PatientName"):
        tags["PatientID"] = md5(str(tags["PatientName"]).encode(), usedforsecurity=False).hexdigest()
        blob = None if blob is None else _with_patient_id(blob, tags["PatientID"])
    missing = [keyword for keyword in NEEDED if not tags.get(keyword)]
    if missing or not tags.get("PatientID"):
        raise InvalidItem(f"the data set lacks {', '.join(missing or ['PatientID'])}")
    found = Dixel(meta=_file_facts(ds, fn), tags=tags, level=DicomLevel.INSTANCES)
    found.simplify_tags()
    found.blob = blob
    return found


def from_header(header: Header, fn: str | None = None, file: bytes | Blob | None = None) -> Dixel:
    """Return an instance whose tags are the texts of a header. Raises InvalidItem without a SOP Instance UID."""
    tags: dict[str, Any] = dict(header.items())
    if not tags.get("SOPInstanceUID"):
        raise InvalidItem("the file has no SOP Instance UID")
    meta = {"TransferSyntaxUID": header.transfer_syntax}
    if fn is not None:
        meta["FileName"] = fn
    found = Dixel(meta=meta, tags=tags, level=DicomLevel.INSTANCES)
    found.file = file
    return found


def element_values(ds: Dataset, depth: int = 0) -> dict[str, Any]:
    """Return elements by keyword: names as text, several values as list, sequences as list of dicts."""
    found: dict[str, Any] = {}
    for tag in list(ds.keys()):
        try:
            element = ds[tag]
            if (
                element.keyword
                and not element.tag.is_private
                and element.VR not in ("OB", "OW", "OF", "OD", "OL", "OV", "UN")
            ):
                value = _value(element, depth)
                if value not in (None, "", []):
                    found[element.keyword] = value
        except InvalidItem:
            raise
        except RecursionError:
            raise InvalidItem("the data set is nested too deeply") from None
        except Exception as error:  # noqa: BLE001  # pydicom raises any type for a damaged value; the others still count
            log.warning("left out an element that cannot be read: %s (%s)", tag, type(error).__name__)
    return found


def _value(element: DataElement, depth: int) -> Any:
    parent_first("pydicom")
    from pydicom.multival import MultiValue
    from pydicom.valuerep import PersonName

    if element.VR == "SQ":
        if depth >= MAX_DEPTH:
            raise InvalidItem("the data set is nested too deeply")
        return [element_values(item, depth + 1) for item in element.value or ()]
    value = element.value
    if isinstance(value, MultiValue | list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, PersonName) else _plain(value)


def _plain(value: Any) -> Any:
    """Return a value as a plain Python type; DS and IS keep their numbers, UIDs and names are text."""
    parent_first("pydicom")
    from pydicom.valuerep import PersonName

    if isinstance(value, str | PersonName):
        return str(value)
    if isinstance(value, bool | bytes) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    return float(value) if hasattr(value, "__float__") else value


def _file_facts(ds: Dataset, fn: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {} if fn is None else {"FileName": str(fn)}
    file_meta = getattr(ds, "file_meta", None)
    syntax = getattr(file_meta, "TransferSyntaxUID", None)
    if syntax is not None:
        facts.update(TransferSyntaxUID=str(syntax), TransferSyntax=syntax.name)
    storage = getattr(file_meta, "MediaStorageSOPClassUID", None)
    if storage is not None:
        facts["MediaStorage"] = storage.name
    return facts


def _with_patient_id(blob: Blob, patient_id: str) -> Blob:
    from pydicom import dcmread

    with blob.open() as stream:
        ds = dcmread(stream, force=True)
        ds.PatientID = patient_id
        out = io.BytesIO()
        ds.save_as(out)
    return Blob(out.getvalue())
