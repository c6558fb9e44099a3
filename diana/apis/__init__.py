"""One endpoint for each kind of system."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.apis.csvfile import CsvFile
    from diana.apis.dcmdir import DcmDir
    from diana.apis.dicom_node import DicomNode
    from diana.apis.dicom_qr import DicomQR
    from diana.apis.dicomweb import DicomWeb
    from diana.apis.image_dir import ImageDir
    from diana.apis.memory import Memory
    from diana.apis.mint import Mint
    from diana.apis.montage import Montage
    from diana.apis.observables.dcmdir import ObservableDcmDir
    from diana.apis.observables.listener import DicomListener
    from diana.apis.observables.orthanc import ObservableOrthanc
    from diana.apis.observables.proxied_dicom import ObservableProxiedDicom
    from diana.apis.orthanc import Orthanc
    from diana.apis.proxied_dicom import ProxiedDicom
    from diana.apis.qido_rs import QidoRS
    from diana.apis.rad69 import Rad69
    from diana.apis.redis import Redis
    from diana.apis.report_dir import ReportDir
    from diana.apis.stow_rs import StowRS
    from diana.apis.trolley import Trolley
    from diana.apis.wado_rs import WadoRS, WadoRSMetadata
    from diana.apis.wado_uri import WadoURI

_PLACES = {
    "CsvFile": ".csvfile",
    "DcmDir": ".dcmdir",
    "DicomListener": ".observables.listener",
    "DicomNode": ".dicom_node",
    "DicomQR": ".dicom_qr",
    "DicomWeb": ".dicomweb",
    "ImageDir": ".image_dir",
    "Memory": ".memory",
    "Mint": ".mint",
    "Montage": ".montage",
    "ObservableDcmDir": ".observables.dcmdir",
    "ObservableOrthanc": ".observables.orthanc",
    "ObservableProxiedDicom": ".observables.proxied_dicom",
    "Orthanc": ".orthanc",
    "ProxiedDicom": ".proxied_dicom",
    "QidoRS": ".qido_rs",
    "Rad69": ".rad69",
    "Redis": ".redis",
    "ReportDir": ".report_dir",
    "StowRS": ".stow_rs",
    "Trolley": ".trolley",
    "WadoRS": ".wado_rs",
    "WadoRSMetadata": ".wado_rs",
    "WadoURI": ".wado_uri",
}

CTYPES = tuple(_PLACES)

__all__ = [
    "CsvFile",
    "DcmDir",
    "DicomListener",
    "DicomNode",
    "DicomQR",
    "DicomWeb",
    "ImageDir",
    "Memory",
    "Mint",
    "Montage",
    "ObservableDcmDir",
    "ObservableOrthanc",
    "ObservableProxiedDicom",
    "Orthanc",
    "ProxiedDicom",
    "QidoRS",
    "Rad69",
    "Redis",
    "ReportDir",
    "StowRS",
    "Trolley",
    "WadoRS",
    "WadoRSMetadata",
    "WadoURI",
]

__getattr__ = lazy_names(__name__, _PLACES)
