"""Clients of the wires and files: plain values in and out, usable alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.utils.dicom.ref import orthanc_id
    from diana.utils.gateways.file_handlers import DcmFileHandler, ImageFileHandler, TextFileHandler, ZipFileHandler
    from diana.utils.gateways.http import HttpClient
    from diana.utils.gateways.montage import Montage
    from diana.utils.gateways.orthanc import Orthanc
    from diana.utils.gateways.redis_kv import RedisKV
    from diana.utils.gateways.vitrea import VitreaAuth, VitreaConnection, create_session

__all__ = [
    "DcmFileHandler",
    "HttpClient",
    "ImageFileHandler",
    "Montage",
    "Orthanc",
    "RedisKV",
    "TextFileHandler",
    "VitreaAuth",
    "VitreaConnection",
    "ZipFileHandler",
    "create_session",
    "orthanc_id",
]

__getattr__ = lazy_names(
    __name__,
    {
        "DcmFileHandler": ".file_handlers",
        "HttpClient": ".http",
        "ImageFileHandler": ".file_handlers",
        "Montage": ".montage",
        "Orthanc": ".orthanc",
        "RedisKV": ".redis_kv",
        "TextFileHandler": ".file_handlers",
        "VitreaAuth": ".vitrea",
        "VitreaConnection": ".vitrea",
        "ZipFileHandler": ".file_handlers",
        "create_session": ".vitrea",
        "orthanc_id": "diana.utils.dicom.ref",
    },
)
