"""What C-FIND, C-MOVE and C-GET ask for, and what C-FIND answers (PS3.4 C.4.1 and C.6)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import product
from typing import Any, Final  # Any: tag values

from attrs import define, field

from diana.dixel import Dixel
from diana.exceptions import DianaError, InvalidItem
from diana.server import attributes as a
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.dicom.dictionary import vr_of
from diana.utils.dicom.matching import is_blank, wire_text
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dicom_qr import encode_identifier
from diana.utils.gateways.key_levels import EVERYWHERE, level_of
from diana.utils.lazy import parent_first

PATIENT_ROOT: Final = "1.2.840.10008.5.1.4.1.2.1."
STUDY_ROOT: Final = "1.2.840.10008.5.1.4.1.2.2."
OPERATIONS: Final = {"1": p.C_FIND, "2": p.C_MOVE, "3": p.C_GET}
LEVELS: Final = {
    "PATIENT": DicomLevel.PATIENTS,
    "STUDY": DicomLevel.STUDIES,
    "SERIES": DicomLevel.SERIES,
    "IMAGE": DicomLevel.INSTANCES,
}
MAX_REFS: Final = 10_000


def operation_of(abstract: str) -> int | None:
    """Return the operation of a query or retrieve class, None for any other class."""
    head, tail = abstract[:-1], abstract[-1:]
    return OPERATIONS.get(tail) if head in (PATIENT_ROOT, STUDY_ROOT) else None


@define
class Identifier:
    """
    Hold what a request names: what to match, and the keywords to answer.

    ``ignored`` tells that there were keys that cannot be matched (PS3.4 C.4.1.1.3.2).
    """

    level: DicomLevel
    match: dict[str, Any] = field(factory=dict, repr=False)
    keys: list[str] = field(factory=list)
    ignored: bool = False

    def refs(self) -> list[Ref]:
        """Return what a retrieval asks for. Raises InvalidItem when it names nothing."""
        names = {}
        for level in DicomLevel:
            if level <= self.level:
                names[level] = _texts(self.match.get(level.uid_keyword))
        if not names[self.level]:
            raise InvalidItem("the identifier lacks the unique key of its level")
        uids = [uid for level, some in names.items() if level > DicomLevel.PATIENTS for uid in some]
        if not all(map(is_uid, uids)):
            raise InvalidItem("the identifier names what is no UID")
        count = 1
        for some in names.values():
            count *= max(1, len(some))
        if count > MAX_REFS:
            raise InvalidItem("the identifier names too much")
        found = []
        for choice in product(*(some or [""] for some in names.values())):
            patient, study, series, instance = (*choice, "", "", "")[:4]
            found.append(Ref(self.level, patient=patient or None, study=study, series=series, instance=instance))
        return found


def _texts(value: Any) -> list[str]:
    found = value if isinstance(value, list) else str(value or "").split("\\")
    return list(dict.fromkeys(str(one).strip(" \0") for one in found if str(one).strip(" \0")))


def read_identifier(data: bytes, syntax: str, root: str) -> Identifier:
    """Return what an identifier says. Raises InvalidItem for one that does not fit its class."""
    parent_first("pydicom")
    from pydicom.filereader import read_dataset

    try:
        ds = read_dataset(io.BytesIO(data), syntax == p.IMPLICIT_LITTLE, syntax != p.EXPLICIT_BIG)
        ds.decode()
        level = LEVELS.get(str(ds.get("QueryRetrieveLevel", "")).strip().upper())
        if level is None or (level == DicomLevel.PATIENTS and root != PATIENT_ROOT):
            raise InvalidItem("the identifier names no level of its class")
        found = Identifier(level)
        for element in ds:
            _take(found, element)
    except InvalidItem:
        raise
    except Exception:  # noqa: BLE001  # pydicom fails in many ways on hostile bytes, each meaning the same here
        raise InvalidItem("the identifier cannot be read") from None
    return found


def _take(found: Identifier, element: Any) -> None:
    keyword = element.keyword
    if keyword in EVERYWHERE:
        return
    empty = is_blank(element.value) or str(element.value) == "" or not len(str(element.value))
    if not keyword or element.tag.is_private:
        found.ignored |= not empty
        return
    found.keys.append(keyword)
    if empty or vr_of(keyword) in a.BULKY:
        found.ignored |= not (empty or _all_empty(element))
        return
    value = element.value
    many = isinstance(value, list | tuple) or type(value).__name__ == "MultiValue"
    text = "\\".join(map(str, value)) if many else str(value)
    if text != "*":
        found.match[keyword] = _matched(keyword, text)


def _matched(keyword: str, text: str) -> str | list[str]:
    if "\\" in text:
        return [str(a.match_value(keyword, one)) for one in text.split("\\") if one]
    return a.match_value(keyword, text)


def _all_empty(element: Any) -> bool:
    """Tell whether a sequence asks for its items without matching any."""
    return element.VR == "SQ" and all(is_blank(one.value) or _all_empty(one) for item in element.value for one in item)


def answer_of(one: Dixel, asked: Identifier, aet: str, syntax: str) -> bytes:
    """Return the identifier of one match: every key that was asked for, empty where nothing is known."""
    texts = {key: _text(key, one.tags) for key in asked.keys if level_of(key) <= asked.level}
    texts |= dict.fromkeys((key for key in asked.keys if key not in texts), "")
    texts[asked.level.uid_keyword] = _text(asked.level.uid_keyword, one.tags)
    level = next(word for word, level in LEVELS.items() if level == asked.level)
    texts |= {"QueryRetrieveLevel": level, "RetrieveAETitle": aet}
    for key in list(texts):
        try:
            encode_identifier({key: texts[key]}, syntax)
        except DianaError:
            texts[key] = ""
    return encode_identifier(texts, syntax)


def _text(key: str, tags: Mapping[str, Any]) -> str:
    value = tags.get(key)
    if is_blank(value) or vr_of(key) in a.BULKY:
        return ""
    return wire_text(value)


def failed_list(uids: list[str], syntax: str) -> bytes:
    """Return the data set that names failed sub-operations (0008,0058), as many as fit."""
    kept = "\\".join(uids[:900])
    return encode_identifier({"FailedSOPInstanceUIDList": kept}, syntax) if kept else b""
