"""Mint UIDs that follow from what they name."""

from __future__ import annotations

import json
import uuid
from hashlib import sha1
from hmac import digest as hmac_digest
from typing import ClassVar

from attrs import field, frozen

_WIDE_NAMESPACE = uuid.UUID("5d2c9f0e-0b1f-4d53-9c55-3e0a1c6f7a43")


def hash_component(value: object, digits: int = 2) -> str:
    """Return a UID component of at most that many digits from the SHA-1 of ``str(value)``; None counts as "None"."""
    number = int.from_bytes(sha1(str(value).encode("utf-8"), usedforsecurity=False).digest(), "big")
    return str(number % 10**digits)


@frozen
class DicomUIDMint:
    """
    Mint reproducible UIDs, so that the ids of anonymized studies are known beforehand.

    ``app_id`` is any word; it is kept as its two-digit component ("62" for "dicom"), which different words can share.

    ``uid`` equals diana2 bit for bit. It has no key, so whoever guesses the ids that went in can confirm the guess. It
    leaves four digits each for series and instance: of n instances in one series about n*n/20000 get a UID that another
    one has, 2 of 300 and 41 of 1000. ``wide_uid`` has neither fault; use it wherever UIDs of many instances are made.
    """

    prefix: ClassVar[str] = "1.2.826.0.1.3680043.10.43"

    app_id: str = field(default="dicom", converter=hash_component)

    def hierarchical_suffix(
        self,
        PatientID: object,
        StudyInstanceUID: object,
        SeriesInstanceUID: object = None,
        SOPInstanceUID: object = None,
    ) -> str:
        """
        Return ``patient.study[.series[.instance]]`` of 12, 12, 4 and 4 digits at most.

        A series that is false in Python (None, 0, "") ends the suffix, and so does such an instance.
        """
        parts = [hash_component(PatientID, 12), hash_component(StudyInstanceUID, 12)]
        if SeriesInstanceUID:
            parts.append(hash_component(SeriesInstanceUID, 4))
            if SOPInstanceUID:
                parts.append(hash_component(SOPInstanceUID, 4))
        return ".".join(parts)

    def uid(
        self,
        PatientID: object = None,
        StudyInstanceUID: object = None,
        SeriesInstanceUID: object = None,
        SOPInstanceUID: object = None,
    ) -> str:
        """
        Return ``prefix.app.patient.study[.series[.instance]]``, at most 64 characters (PS3.5 9.1).

        Guessable, and not unique below the study: see the class.
        """
        suffix = self.hierarchical_suffix(PatientID, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID)
        return f"{self.prefix}.{self.app_id}.{suffix}"

    def wide_uid(
        self,
        PatientID: object = None,
        StudyInstanceUID: object = None,
        SeriesInstanceUID: object = None,
        SOPInstanceUID: object = None,
        *,
        key: bytes = b"",
    ) -> str:
        """
        Return a UID of 122 bits, as unique as a random one, under ``2.25`` (PS3.5 B.2), at most 44 characters.

        With a key of 16 bytes or more nobody without it can confirm a guess. Absent parts differ from the text "None".
        """
        names = (PatientID, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID)
        text = json.dumps([self.app_id, *(None if name is None else str(name) for name in names)])
        if not key:
            return f"2.25.{uuid.uuid5(_WIDE_NAMESPACE, text).int}"
        keyed = bytearray(hmac_digest(key, text.encode("utf-8"), "sha256")[:16])
        keyed[6] = (keyed[6] & 0x0F) | 0x80  # version 8, RFC 9562
        keyed[8] = (keyed[8] & 0x3F) | 0x80
        return f"2.25.{int.from_bytes(keyed, 'big')}"
