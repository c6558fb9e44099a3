"""
What each endpoint is expected to do.

Written by hand: a verb that is lost by accident fails ``test_matrix.py``. The capability table of the README is made
from it by ``tools/capability_table.py``.
"""

from __future__ import annotations

from attrs import field, frozen

VERBS = ("put", "get", "find", "pull", "exists", "update", "delete", "digest", "check")
VIEWS = ("meta", "metakv", "tags", "file", "pixels")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@frozen
class Row:
    """Name the verbs and views of one endpoint, in words; ``contract`` is the class whose suite stands for it."""

    about: str
    verbs: frozenset[str] = field(converter=_words)
    views: frozenset[str] = field(converter=_words)
    contract: str = ""


ALL = " ".join(VERBS)

MATRIX = {
    "Memory": Row("instances in memory", ALL, "meta tags file pixels"),
    "Orthanc": Row("an Orthanc server", ALL, "meta metakv tags file pixels"),
    "ProxiedDicom": Row(
        "a DICOM archive, through an Orthanc",
        "get find pull exists delete digest check",
        "meta metakv tags file pixels",
    ),
    "DcmDir": Row("a folder of DICOM files", ALL, "meta tags file pixels"),
    "ImageDir": Row("a folder of pictures", "put get exists delete check", "meta file pixels"),
    "ReportDir": Row("a folder of report texts", "put get exists delete check", "meta"),
    "CsvFile": Row("a table of studies, series or instances", "put get find exists delete check", "meta tags"),
    "Redis": Row("a Redis server: any object by key", "put get find exists update delete check", "meta tags"),
    "ObservableOrthanc": Row("Orthanc that tells what is new", ALL, "meta metakv tags file pixels", "Orthanc"),
    "ObservableProxiedDicom": Row(
        "ProxiedDicom that tells what is new",
        "get find pull exists delete digest check",
        "meta metakv tags file pixels",
        "ProxiedDicom",
    ),
    "ObservableDcmDir": Row("DcmDir that tells what is new", ALL, "meta tags file pixels", "DcmDir"),
    "DicomListener": Row(
        "a DICOM storage port with a spool", "get pull exists delete digest check", "meta tags file", "DicomListener"
    ),
    "DicomWeb": Row("a DICOMweb server", "put get find pull exists digest check", "tags file pixels"),
    "QidoRS": Row("a DICOMweb server, searched by QIDO-RS", "get find exists check", "tags"),
    "WadoRS": Row("a DICOMweb server, fetched from by WADO-RS", "get pull exists digest check", "tags file pixels"),
    "WadoRSMetadata": Row("a DICOMweb server, tags alone by WADO-RS", "get exists check", "tags"),
    "WadoURI": Row("a server of single instances by WADO-URI", "get pull exists digest check", "tags file pixels"),
    "StowRS": Row("a DICOMweb server, stored on by STOW-RS", "put check", ""),
    "Mint": Row("a MINT archive, searched", "get find exists check", "meta tags"),
    "Montage": Row("an archive of radiology reports", "get find exists check", "meta tags"),
    "DicomNode": Row("a DICOM node, over DIMSE", "put get find pull exists check", "tags file pixels"),
    "DicomQR": Row("a DICOM node, searched by C-FIND", "get find exists check", "tags"),
    "Rad69": Row("an imaging document source, fetched from by RAD-69", "get pull check", "tags file pixels"),
    "Trolley": Row("a searcher and a downloader as one", "get find pull exists check", "tags file pixels"),
}
