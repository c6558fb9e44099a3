"""Keyed UIDs and pseudonyms: the same key gives the same result in any process, in any order, without a table."""

from __future__ import annotations

import unicodedata
from base64 import b32encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from attrs import field, frozen

if TYPE_CHECKING:
    from diana.deid.key import Key

ROOT = "2.25."
STANDARD = "1.2.840.10008"
WEEKS = (52, 520)
MODES: Final = ("mint", "refuse", "quarantine")


@frozen
class Subject:
    """
    Hold what stands for a patient: the new id, the new name, and how many weeks dates move back (52 to 520).
    """

    pseudonym: str
    name: str
    weeks: int = field(repr=False)


class Subjects(Protocol):
    """Say who stands for a patient."""

    def subject(self, issuer: str, patient_id: str, others: Sequence[tuple[str, str]] = ()) -> Subject:
        """
        Return the subject; ``others`` are (issuer, id) pairs that the same patient is said to have.

        Raises Quarantined when there shall be none.
        """


def new_uid(key: Key, uid: str) -> str:
    """
    Return the UID that stands for another: ``2.25.`` and 128 bits of HMAC-SHA256 (PS3.5 B.2).

    UIDs of the standard (1.2.840.10008) and empty ones are returned unchanged.
    """
    if not uid or is_standard(uid):
        return uid
    return ROOT + str(int.from_bytes(key.mac("uid", uid)[:16], "big"))


def is_standard(uid: str) -> bool:
    """Tell whether a UID is one that the DICOM standard registers."""
    return uid == STANDARD or uid.startswith(STANDARD + ".")


def normal_id(value: str) -> str:
    """Return a patient id or issuer as it is compared: NFKC, upper case, runs of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", value).upper().replace("\0", " ").split())


def subject_of(key: Key, issuer: str, patient_id: str) -> Subject:
    """Return who stands for a patient when no registry decides; the id counts in its normal form."""
    mark = key.mac("patient", normal_id(issuer), normal_id(patient_id))
    pseudonym = "PSN-" + b32encode(mark[:7]).decode("ascii")[:10]
    low, high = WEEKS
    shift = key.mac("dates", normal_id(issuer), normal_id(patient_id))
    return Subject(pseudonym, pseudonym, low + int.from_bytes(shift[:8], "big") % (high - low + 1))
