"""What the index of a folder keeps of each file."""

from __future__ import annotations

import re
from enum import IntEnum
from hashlib import blake2b
from typing import Final, NamedTuple

from diana.exceptions import InvalidItem
from diana.utils.dicom import matching
from diana.utils.dicom.header import DEFAULT_TAGS, read_header
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import orthanc_id
from diana.utils.gateways.key_levels import level_of

IDS: Final = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
MORE: Final = (
    "AcquisitionDate", "AcquisitionNumber", "AcquisitionTime", "AdmittingDiagnosesDescription", "BitsAllocated",
    "ContentDate", "ContentTime", "FrameOfReferenceUID", "ImageComments", "InstitutionalDepartmentName",
    "IssuerOfPatientID", "Laterality", "NameOfPhysiciansReadingStudy", "OperatorsName", "PatientAge",
    "PatientBirthTime", "PatientComments", "PatientSize", "PatientWeight", "PerformedProcedureStepDescription",
    "PerformedProcedureStepID", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime",
    "PerformingPhysicianName", "PhotometricInterpretation", "RequestedProcedureDescription", "RequestingPhysician",
    "SamplesPerPixel", "SliceLocation", "TimezoneOffsetFromUTC",
)  # fmt: skip
INDEXED: Final = (*DEFAULT_TAGS, *MORE)
HEAD: Final = tuple(
    key
    for key in INDEXED
    if level_of(key) < DicomLevel.INSTANCES or key in ("SpecificCharacterSet", "TimezoneOffsetFromUTC")
)
OWN: Final = ("SOPInstanceUID", *(key for key in INDEXED if key not in HEAD and key != "SOPInstanceUID"))
BITS: Final = {key: 1 << at for at, key in enumerate(OWN)}
SOUGHT: Final = (
    "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "PatientName", "AccessionNumber", "StudyDate", "Modality",
    "PatientBirthDate", "StudyID",
)  # fmt: skip
NAMES: Final = ("PatientName",)
DATES: Final = ("StudyDate", "PatientBirthDate")
NO_DAY: Final = "00000000"  # the word of a date without digits, which no range holds
NO_DIGIT: Final = re.compile(r"[^0-9]")
DAY: Final = re.compile(r"[0-9]{8}\Z")
ISO_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}\Z")


class Kind(IntEnum):
    """Say what a file is: nothing to find, an instance, or one of which only the ids could be read in advance."""

    NOTHING = 0
    INSTANCE = 1
    ODD = 2


class Facts(NamedTuple):
    """
    Hold what was read of one file, as plain values.

    ``head`` are the values of HEAD, which the files of a series have in common as a rule, ``own`` those of OWN; absent
    values are None. ``oids`` are the Orthanc ids from patient to instance, empty where a UID above is missing.
    """

    kind: Kind
    head: tuple[str | None, ...] = ()
    own: tuple[str | None, ...] = ()
    oids: tuple[str, ...] = ()
    syntax: str = ""
    problem: bool = False

    def digest(self) -> bytes:
        """Return what tells one head from another."""
        return blake2b(repr((int(self.kind), self.head)).encode("utf-8", "backslashreplace"), digest_size=16).digest()


def facts_of(handle: int) -> Facts:
    """Read what is kept of an open file. Raises OSError."""
    try:
        header = read_header(handle, INDEXED)
        texts = header.as_dict()
    except InvalidItem:
        return _odd(handle)
    uid = texts.get("SOPInstanceUID")
    if not uid:
        return Facts(Kind.NOTHING)
    if "\\" in uid or uid != uid.strip(" \0") or not _storable(texts):
        return _odd(handle)
    head, own = tuple(map(texts.get, HEAD)), tuple(map(texts.get, OWN))
    return Facts(Kind.INSTANCE, head, own, _oids(texts), header.transfer_syntax)


def _odd(handle: int) -> Facts:
    """Read only the ids."""
    try:
        texts = read_header(handle, IDS).as_dict()
    except InvalidItem:
        return Facts(Kind.NOTHING, problem=True)
    if not texts.get("SOPInstanceUID"):
        return Facts(Kind.NOTHING)
    oids = _oids(texts)
    texts = {key: text.encode("utf-8", "replace").decode() for key, text in texts.items()}
    return Facts(Kind.ODD, tuple(map(texts.get, HEAD)), (texts["SOPInstanceUID"],), oids)


def _storable(texts: dict[str, str]) -> bool:
    try:
        "".join(texts.values()).encode()
    except UnicodeEncodeError:
        return False
    return True


def _oids(texts: dict[str, str]) -> tuple[str, ...]:
    uids = [texts.get(key, "") for key in IDS]
    return tuple(orthanc_id(*uids[:level]) if all(uids[1:level]) else "" for level in range(1, 5))


def words_of(key: str, text: str | None) -> set[str]:
    """Return the values of a sought key in the form in which they are compared."""
    parts = [] if not text else text.split("\\") if "\\" in text else [text]
    return {_word(key, part) for part in parts}


def _word(key: str, text: str) -> str:
    text = text.strip(" \0")
    if key in NAMES:
        return text.casefold().rstrip("^")
    return NO_DIGIT.sub("", text)[:8].ljust(8, "0") if key in DATES else text


class Span(NamedTuple):
    """
    Hold words from ``low`` to ``high``, both included; an empty ``high`` is no bound.

    ``exact`` tells that all of them match.
    """

    low: str
    high: str
    exact: bool = False


def spans_of(key: str, wanted: object) -> list[Span] | None:
    """
    Return where the words of everything that meets a wanted value lie, and perhaps others'; None: anywhere.

    Follows ``diana.utils.dicom.matching.met``, which decides in the end.
    """
    if isinstance(wanted, str) and "\\" in wanted:
        wanted = wanted.split("\\")
    if isinstance(wanted, list | tuple | set | frozenset):
        found: list[Span] = []
        for one in wanted:
            spans = spans_of(key, one)
            if spans is None:
                return None
            found += spans
        return found or None
    number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
    if matching.is_blank(wanted) or number or matching.is_comparison(wanted):
        return None
    text = matching.wire_text(wanted).strip(" ").encode("utf-8", "replace").decode()
    if key in DATES:
        return _days(key, text)
    if key in NAMES:
        text = text.casefold().rstrip("^")
    cut = min((text.index(sign) for sign in "*?" if sign in text), default=len(text))
    if cut == len(text):
        return [Span(text, text, exact=bool(text))]
    return [Span(text[:cut], text[:cut] + "\U0010ffff" * 64)] if cut else None


def _days(key: str, text: str) -> list[Span] | None:
    if "*" in text or "?" in text:
        return None
    first, dash, last = text.partition("-")
    if not dash or ISO_DAY.match(text):
        return [Span(_word(key, text), _word(key, text))]
    low, high = (part if DAY.match(part) else "" for part in (first.strip(), last.strip()))
    whole = low > NO_DAY and (bool(high) or not last.strip())
    return [Span(low, high, exact=whole)] if low or high else None
