"""
Every error that leaves a public verb.

``temporary`` alone decides about retries: True means that the same call may succeed later. No message holds
patient data or secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar


class DianaError(Exception):
    """Base of the tree."""

    temporary: ClassVar[bool] = False


class ConfigError(DianaError):
    """
    Say what is wrong with a configuration, all problems of a file at once.

    ``problems`` lists one line each; the message joins them.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class Unsupported(DianaError):
    """Say that an endpoint cannot do this verb, level, view or key."""


class ItemNotFound(DianaError, LookupError):
    """Say that the server answered and the item is not there."""


class InvalidItem(DianaError, ValueError):
    """Say that an item is not DICOM, lacks an id or has the wrong level."""


class Conflict(InvalidItem):
    """Say that other bytes are already stored under the same SOP Instance UID."""


class IncompleteTransfer(DianaError):
    """
    Say which instances did not arrive.

    ``missing`` and ``received`` are SOP Instance UIDs; ``missing`` is empty when the source could not say what it has.
    """

    temporary = True

    def __init__(self, message: str, missing: Sequence[str] = (), received: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.missing = list(missing)
        self.received = list(received)


class GatewayError(DianaError):
    """
    Report trouble with the far end of a wire.

    ``status`` is the protocol's own code (HTTP or DIMSE) or None; ``retry_after`` is in seconds when the server
    asked for a pause.
    """

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class GatewayConnectionError(GatewayError):
    """Say that the far end cannot be reached, timed out, hung up or asks to come back later."""

    temporary = True


class GatewayRefused(GatewayError):
    """Say that the far end refused for good (credentials, rights, a malformed or unwanted item)."""


class GatewayAnswerError(GatewayError):
    """Say that the answer is not what the protocol promises (HTML for JSON, cut, too large)."""

    temporary = True


class StateError(DianaError):
    """Say that durable state (ledger, cursor, index) is damaged, of another version, or owned by another process."""


class StateUnavailable(StateError):
    """Say that durable state cannot be written just now (disk full, locked by another process)."""

    temporary = True
