"""Answers of another HTTP library (``requests``), read as our own."""

from __future__ import annotations

from typing import Any  # the response is the caller's

from diana.exceptions import GatewayConnectionError
from diana.utils.gateways.multipart import PieceSource

PIECE = 1 << 20


class ForeignAnswer:
    """
    Read a ``requests.Response``, streamed or not.

    What its library raises while it is read becomes GatewayConnectionError.
    """

    def __init__(self, response: Any, where: str) -> None:
        self.where = where
        self.status = int(response.status_code)
        self.headers = {str(name).lower(): str(value) for name, value in response.headers.items()}
        # the library takes care of length, transfer coding and compression
        self.length: int | None = None
        self.headers.pop("transfer-encoding", None)
        self._response = response
        self._source = PieceSource(response.iter_content(PIECE))

    def read_into(self, target: memoryview) -> int:
        """Fill the start of a buffer; return how many bytes came, 0 at the end."""
        try:
            return self._source.read_into(target)
        except Exception as error:  # noqa: BLE001  # the library and the caller's adapters may raise anything
            raise GatewayConnectionError(f"{self.where}: the answer broke off ({type(error).__name__})") from None

    def close(self) -> None:
        """Give the connection back."""
        self._response.close()
