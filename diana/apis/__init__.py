"""One endpoint for each kind of system."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.apis.csvfile import CsvFile
    from diana.apis.dcmdir import DcmDir
    from diana.apis.image_dir import ImageDir
    from diana.apis.memory import Memory
    from diana.apis.observables.dcmdir import ObservableDcmDir
    from diana.apis.observables.listener import DicomListener
    from diana.apis.observables.orthanc import ObservableOrthanc
    from diana.apis.observables.proxied_dicom import ObservableProxiedDicom
    from diana.apis.orthanc import Orthanc
    from diana.apis.proxied_dicom import ProxiedDicom
    from diana.apis.redis import Redis
    from diana.apis.report_dir import ReportDir

_PLACES = {
    "CsvFile": ".csvfile",
    "DcmDir": ".dcmdir",
    "DicomListener": ".observables.listener",
    "ImageDir": ".image_dir",
    "Memory": ".memory",
    "ObservableDcmDir": ".observables.dcmdir",
    "ObservableOrthanc": ".observables.orthanc",
    "ObservableProxiedDicom": ".observables.proxied_dicom",
    "Orthanc": ".orthanc",
    "ProxiedDicom": ".proxied_dicom",
    "Redis": ".redis",
    "ReportDir": ".report_dir",
}

CTYPES = tuple(_PLACES)

__all__ = [
    "CsvFile",
    "DcmDir",
    "DicomListener",
    "ImageDir",
    "Memory",
    "ObservableDcmDir",
    "ObservableOrthanc",
    "ObservableProxiedDicom",
    "Orthanc",
    "ProxiedDicom",
    "Redis",
    "ReportDir",
]

__getattr__ = lazy_names(__name__, _PLACES)
