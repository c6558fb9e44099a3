"""Fetch single objects: WADO-URI (PS3.18 9), in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import define, field

from diana.exceptions import GatewayAnswerError, GatewayRefused, InvalidItem, ItemNotFound
from diana.utils.blob import Blob
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways.http import HttpClient
from diana.utils.gateways.qido_rs import query_text
from diana.utils.gateways.wado_rs import LARGEST

__all__ = ["WadoURI"]

DICOM: Final = "application/dicom"
AS_DICOM: Final = (DICOM, "application/octet-stream", "")


@define(eq=False)
class WadoURI:
    """
    Fetch over a client whose base address is that of the service without its last part, which is ``last``.

    ``transfer_syntax`` is a UID, or ``*`` for the stored one where the server knows that; empty leaves the choice to
    the server.
    """

    http: HttpClient
    last: str = "wado"
    transfer_syntax: str = field(default="", kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.transfer_syntax not in ("", "*") and not is_uid(self.transfer_syntax):
            raise InvalidItem("a transfer syntax is a UID, or * for the stored one")

    @property
    def name(self) -> str:
        """Return the name of the service."""
        return self.http.name

    def close(self) -> None:
        """Close kept connections; the gateway may be used again."""
        self.http.close()

    def instance(self, study: str, series: str, instance: str) -> Blob:
        """Return the file of an instance, unchecked. Raises ItemNotFound, GatewayError."""
        more = {"transferSyntax": self.transfer_syntax} if self.transfer_syntax else {}
        return self._fetch(study, series, instance, DICOM, more)

    def rendered(
        self,
        study: str,
        series: str,
        instance: str,
        *,
        content_type: str = "image/jpeg",
        parameters: Mapping[str, str] | None = None,
    ) -> Blob:
        """Return a picture of an instance; ``parameters`` are those of the standard (rows, windowCenter, ...)."""
        return self._fetch(study, series, instance, content_type, parameters or {})

    def _fetch(self, study: str, series: str, instance: str, kind: str, more: Mapping[str, str]) -> Blob:
        if not (is_uid(study) and is_uid(series) and is_uid(instance)):
            raise ItemNotFound(f"{self.name}: what is asked for is not named by study, series and instance UID")
        asked = {"requestType": "WADO", "studyUID": study, "seriesUID": series, "objectUID": instance}
        text = query_text({**asked, "contentType": kind, **more}.items())
        with self.http.request("GET", f"{self.last}?{text}", headers={"Accept": kind}, absent=True) as answer:
            if answer.status == 204:
                raise ItemNotFound(f"{answer.where}: the server has no content for it (204)")
            if answer.content_type not in (AS_DICOM if kind == DICOM else (kind,)) or answer.status == 206:
                raise GatewayAnswerError(f"{answer.where}: the answer is not {kind}", answer.status)
            return answer.blob(LARGEST)

    def check(self, *, within: float | None = None) -> None:
        """Ask for an instance that nobody has. Raises GatewayError when the server does not answer that it has none."""
        uid = "1.2.826.0.1.3680043.10.43.0.404"
        asked = {"requestType": "WADO", "studyUID": uid, "seriesUID": uid, "objectUID": uid, "contentType": DICOM}
        path = f"{self.last}?{query_text(asked.items())}"
        try:
            self.http.request("GET", path, headers={"Accept": DICOM}, absent=True, within=within).close()
        except ItemNotFound:
            return
        except GatewayRefused as error:
            if error.status not in (400, 406):
                raise
