"""Endpoints that also tell what is new."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.apis.observables.dcmdir import ObservableDcmDir
    from diana.apis.observables.listener import DicomListener
    from diana.apis.observables.orthanc import ObservableOrthanc
    from diana.apis.observables.proxied_dicom import ObservableProxiedDicom

__all__ = ["DicomListener", "ObservableDcmDir", "ObservableOrthanc", "ObservableProxiedDicom"]

__getattr__ = lazy_names(
    __name__,
    {
        "DicomListener": ".listener",
        "ObservableDcmDir": ".dcmdir",
        "ObservableOrthanc": ".orthanc",
        "ObservableProxiedDicom": ".proxied_dicom",
    },
)
