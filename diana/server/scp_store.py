"""Instances that come by C-STORE, on their way into an endpoint (PS3.4 B.2.3)."""

from __future__ import annotations

import errno
import logging
from typing import Final

from diana.apis._web_pull import checked
from diana.dixel import Dixel
from diana.exceptions import Conflict, DianaError, GatewayAnswerError, InvalidItem
from diana.utils.blob import Blob
from diana.utils.dicom.header import DEFAULT_TAGS
from diana.utils.dicom.ref import is_uid
from diana.utils.endpoint import Endpoint
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dimse_service import (
    CANNOT_UNDERSTAND,
    DOES_NOT_MATCH,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SUCCESS,
    StoreRequest,
)
from diana.utils.gateways.multipart_sink import Sink

log = logging.getLogger(__name__)

DUPLICATE: Final = 0x0111


class EndpointReception:
    """
    Gather one data set, look at it, and put it into an endpoint; success is answered when the endpoint has it for good.

    Larger ones than ``Sink`` keeps in memory wait in a temporary file in ``folder``. More than ``most`` bytes are
    refused.
    """

    def __init__(self, endpoint: Endpoint, request: StoreRequest, most: int, folder: str | None) -> None:
        self._endpoint, self._request, self._most = endpoint, request, most
        self._sink = Sink(folder=folder)
        self._sink.write(p.file_head(request.sop_class, request.sop_instance, request.transfer_syntax))

    def write(self, piece: memoryview) -> None:
        """Append encoded bytes. Raises OSError."""
        if len(self._sink) + len(piece) > self._most:
            raise OSError(errno.EFBIG, "the instance is too large")
        try:
            self._sink.write(piece)
        except DianaError:
            raise OSError(errno.ENOSPC, "the spool cannot be written") from None

    def finish(self) -> int:
        """Return the status to answer."""
        content = self._sink.finish()
        blob = content if isinstance(content, Blob) else Blob(content)
        try:
            return self._put(blob)
        finally:
            blob.close()

    def _put(self, blob: Blob) -> int:
        try:
            found = self._read(blob)
            if found is None:
                return DOES_NOT_MATCH
            self._endpoint.put(found)
        except Conflict:
            log.warning("refused an instance of which other bytes are stored")
            return DUPLICATE
        except InvalidItem as error:
            log.warning("refused an instance (%s)", type(error).__name__)
            return CANNOT_UNDERSTAND
        except DianaError as error:
            log.warning("an instance was not stored (%s)", type(error).__name__)
            return OUT_OF_RESOURCES if error.temporary else PROCESSING_FAILURE
        return SUCCESS

    def _read(self, blob: Blob) -> Dixel | None:
        """Return the instance, None when it is another than was announced. Raises InvalidItem."""
        try:
            found = checked(self._endpoint.name, ("", "", ""), blob)
        except GatewayAnswerError:
            raise InvalidItem("the data set cannot be read") from None
        tags, asked = found.tags, self._request
        sop_class = str(tags.get("SOPClassUID") or asked.sop_class)
        if tags["SOPInstanceUID"] != asked.sop_instance or sop_class != asked.sop_class:
            return None
        if not is_uid(str(tags.get("StudyInstanceUID"))) or not is_uid(str(tags.get("SeriesInstanceUID"))):
            raise InvalidItem("the instance has no usable UIDs")
        found.tags = {key: value for key, value in tags.items() if key in DEFAULT_TAGS}
        found.meta["SOPClass"] = sop_class
        return found

    def abandon(self) -> None:
        """Remove what was written; twice does no harm."""
        self._sink.discard()
