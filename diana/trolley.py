"""
The trolley's names in one place: ``from diana.trolley import Trolley, Query, Mint, WadoURI``.

``Query`` here takes keywords; the query language of the endpoints is ``diana.utils.dicom.Query``. The errors are those
of ``diana.exceptions`` under the names that users of the reference client know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.exceptions import DianaError as DICOMTrolleyError
from diana.exceptions import GatewayAnswerError as MultipartContentError
from diana.exceptions import GatewayRefused as DICOMTrolleyAuthError
from diana.exceptions import ItemNotFound as DICOMObjectNotFound
from diana.exceptions import ItemNotFound as NoQueryResults
from diana.exceptions import ItemNotFound as NoQueryResultsError
from diana.exceptions import Unsupported as UnSupportedParameterError
from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.apis.dicom_qr import DICOMQR
    from diana.apis.mint import Mint, MintInstance, MintSeries, MintStudy
    from diana.apis.qido_rs import HierarchicalQuery, QidoRS, QidoRSQueryBase, RelationalQuery
    from diana.apis.rad69 import Rad69, Rad69ServerError, XDSMissingDocumentError
    from diana.apis.trolley import Trolley
    from diana.apis.trolley_parts.caching import CachedSearcher, DICOMObjectCache
    from diana.apis.trolley_parts.download import IncompleteDownload
    from diana.apis.trolley_parts.downloader import Downloader
    from diana.apis.trolley_parts.objects import (
        DICOMDownloadable,
        DICOMObject,
        DICOMObjectReference,
        Instance,
        InstanceReference,
        NonInstanceParameterError,
        NonSeriesParameterError,
        Series,
        SeriesReference,
        Study,
        StudyReference,
    )
    from diana.apis.trolley_parts.queries import DICOMQuery, ExtendedQuery, MintQuery, Query, QueryLevels
    from diana.apis.trolley_parts.search import Searcher
    from diana.apis.trolley_parts.storage import DICOMDiskStorage, FlatStorageDir, StorageDir, StorageError
    from diana.apis.wado_rs import WadoRS, WadoRSMetaData
    from diana.apis.wado_uri import WadoURI
    from diana.utils.gateways.vitrea import VitreaAuth, VitreaConnection, create_session

__all__ = [
    "DICOMQR",
    "CachedSearcher",
    "DICOMDiskStorage",
    "DICOMDownloadable",
    "DICOMObject",
    "DICOMObjectCache",
    "DICOMObjectNotFound",
    "DICOMObjectReference",
    "DICOMQuery",
    "DICOMTrolleyAuthError",
    "DICOMTrolleyError",
    "Downloader",
    "ExtendedQuery",
    "FlatStorageDir",
    "HierarchicalQuery",
    "IncompleteDownload",
    "Instance",
    "InstanceReference",
    "Mint",
    "MintInstance",
    "MintQuery",
    "MintSeries",
    "MintStudy",
    "MultipartContentError",
    "NoQueryResults",
    "NoQueryResultsError",
    "NonInstanceParameterError",
    "NonSeriesParameterError",
    "QidoRS",
    "QidoRSQueryBase",
    "Query",
    "QueryLevels",
    "Rad69",
    "Rad69ServerError",
    "RelationalQuery",
    "Searcher",
    "Series",
    "SeriesReference",
    "StorageDir",
    "StorageError",
    "Study",
    "StudyReference",
    "Trolley",
    "UnSupportedParameterError",
    "VitreaAuth",
    "VitreaConnection",
    "WadoRS",
    "WadoRSMetaData",
    "WadoURI",
    "XDSMissingDocumentError",
    "create_session",
]

_PLACES = {
    "diana.apis.dicom_qr": "DICOMQR",
    "diana.apis.mint": "Mint MintInstance MintSeries MintStudy",
    "diana.apis.qido_rs": "HierarchicalQuery QidoRS QidoRSQueryBase RelationalQuery",
    "diana.apis.rad69": "Rad69 Rad69ServerError XDSMissingDocumentError",
    "diana.apis.trolley": "Trolley",
    "diana.apis.trolley_parts.caching": "CachedSearcher DICOMObjectCache",
    "diana.apis.trolley_parts.download": "IncompleteDownload",
    "diana.apis.trolley_parts.downloader": "Downloader",
    "diana.apis.trolley_parts.objects": (
        "DICOMDownloadable DICOMObject DICOMObjectReference Instance InstanceReference NonInstanceParameterError "
        "NonSeriesParameterError Series SeriesReference Study StudyReference"
    ),
    "diana.apis.trolley_parts.queries": "DICOMQuery ExtendedQuery MintQuery Query QueryLevels",
    "diana.apis.trolley_parts.search": "Searcher",
    "diana.apis.trolley_parts.storage": "DICOMDiskStorage FlatStorageDir StorageDir StorageError",
    "diana.apis.wado_rs": "WadoRS WadoRSMetaData",
    "diana.apis.wado_uri": "WadoURI",
    "diana.utils.gateways.vitrea": "VitreaAuth VitreaConnection create_session",
}

__getattr__ = lazy_names(__name__, {name: module for module, names in _PLACES.items() for name in names.split()})
