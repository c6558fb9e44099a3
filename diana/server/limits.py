"""How much the server lets others ask of it."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import gt

from diana.utils.dicom.levels import DicomLevel


@frozen
class Limits:
    """
    Bound what clients can make the server do; sizes are in bytes, times in seconds.

    ``requests`` are worked on at the same time, of which ``uploads`` may be uploads; ``workers`` threads call the
    endpoint. ``connections`` may be open. ``instance`` is the largest instance that is stored, ``body`` the largest
    upload of several, ``message`` the largest RAD-69 request. ``headers`` bounds the head of a request, which must
    come within ``head_time``; ``idle`` is how long a peer may neither send nor take anything. ``results`` is how many
    matches one search answers, ``parts`` how many instances one upload may hold.
    """

    requests: int = field(default=64, validator=gt(0))
    uploads: int = field(default=8, validator=gt(0))
    workers: int = field(default=16, validator=gt(0))
    connections: int = field(default=512, validator=gt(0))
    instance: int = field(default=8 << 30, validator=gt(0))
    body: int = field(default=256 << 30, validator=gt(0))
    message: int = field(default=16 << 20, validator=gt(0))
    headers: int = field(default=64 << 10, validator=gt(0))
    head_time: float = field(default=20.0, validator=gt(0))
    idle: float = field(default=60.0, validator=gt(0))
    results: int = field(default=25_000, validator=gt(0))
    parts: int = field(default=100_000, validator=gt(0))
    pixels: int = field(default=256 << 20, validator=gt(0))


LEVELS = (DicomLevel.STUDIES, DicomLevel.SERIES, DicomLevel.INSTANCES)
