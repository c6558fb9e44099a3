"""What comes of one object, and why it may not be released."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum

from attrs import field, frozen

from diana.exceptions import InvalidItem
from diana.utils.blob import Blob


class Reason(str, Enum):
    """Say in one word why an object was refused or quarantined."""

    BROKEN = "broken"
    CONFLICT = "conflict"
    DEEP = "too-deep"
    DIRECTORY = "dicomdir"
    ENCAPSULATED = "encapsulated-document"
    ENCODING = "encoding"
    LEAK = "leak"
    MARKERS = "markers"
    NOT_DICOM = "not-dicom"
    PATIENT = "unknown-patient"
    PIXELS = "pixels"
    PIXEL_REVIEW = "pixel-review"
    PRIVATE_CLASS = "private-sop-class"
    SYNTAX = "transfer-syntax"
    UNNAMED = "no-uid"
    VIDEO = "video"

    def __str__(self) -> str:
        return self.value


class Refused(InvalidItem):
    """Say that an object cannot be de-identified; ``reason`` is a short code, the message holds no patient data."""

    def __init__(self, reason: str, text: str = "") -> None:
        self.reason = str(reason)
        super().__init__(text or self.reason)


class Quarantined(InvalidItem):
    """Say that an object must be looked at by a person before anything of it is released."""

    def __init__(self, reason: str, text: str = "") -> None:
        self.reason = str(reason)
        super().__init__(text or self.reason)


@frozen
class Step:
    """
    Say what would happen to one element and why, without its value.

    ``path`` is tags in hexadecimal with item numbers, e.g. ``(0008,1140)[0].(0008,1155)``.
    """

    path: str
    name: str
    vr: str
    action: str
    rule: str


@frozen
class Result:
    """
    Hold what became of one object.

    ``state`` is ``done``, ``quarantined`` or ``refused``; only ``done`` has a ``blob``. ``reason`` is a short code
    and ``text`` a sentence, both without patient data. The UIDs are the new ones. ``actions`` counts by path, tags
    joined by dots without item numbers, what was done. ``codes`` are those of CID 7050 that were claimed, ``claim``
    tells whether the Basic Profile holds. ``digest_out`` is the SHA-256 of the output in hex; there is none of the
    input, which would be a keyless hash of what identifies.
    """

    state: str
    blob: Blob | None = field(default=None, repr=False)
    reason: str = ""
    text: str = ""
    sop_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    actions: Mapping[str, Counter[str]] = field(factory=dict, repr=False)
    codes: tuple[str, ...] = ()
    pixels: str = ""
    _digest: str = field(default="", alias="digest_out", repr=False)
    claim: bool = False

    @property
    def digest_out(self) -> str:
        """Return the SHA-256 of the output, told when it is asked for where the output is in memory."""
        return self._digest or ("" if self.blob is None else self.blob.digest("sha256"))

    @property
    def done(self) -> bool:
        """Tell whether there is an output."""
        return self.state == "done"
