"""DICOM words: levels, events, views, addresses, queries, and what reads and mints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.utils.dicom.events import DicomEventType
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.query import Query
from diana.utils.dicom.ref import Ref, orthanc_id
from diana.utils.dicom.views import DixelView
from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.utils.dicom.header import Header, is_dicom, read_header
    from diana.utils.dicom.simplify import dicom_simplify
    from diana.utils.dicom.strings import dicom_date, dicom_name, dicom_time, parse_dicom_datetime
    from diana.utils.dicom.uid_mint import DicomUIDMint

__all__ = [
    "DicomEventType",
    "DicomLevel",
    "DicomUIDMint",
    "DixelView",
    "Header",
    "Query",
    "Ref",
    "dicom_date",
    "dicom_name",
    "dicom_simplify",
    "dicom_time",
    "is_dicom",
    "orthanc_id",
    "parse_dicom_datetime",
    "read_header",
]

__getattr__ = lazy_names(
    __name__,
    {
        "DicomUIDMint": ".uid_mint",
        "Header": ".header",
        "dicom_date": ".strings",
        "dicom_name": ".strings",
        "dicom_simplify": ".simplify",
        "dicom_time": ".strings",
        "is_dicom": ".header",
        "parse_dicom_datetime": ".strings",
        "read_header": ".header",
    },
)
