"""Pydicom data sets from tags by keyword, for those who ask for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any  # tag values may be of any type

from pydicom import Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement

from diana.dixel import Dixel
from diana.exceptions import InvalidItem
from diana.utils.dicom import matching

WHOLE_NUMBERS = frozenset(("IS", "SL", "SS", "UL", "US", "SV", "UV"))
NUMBERS = frozenset(("DS", "FL", "FD"))
BYTES = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
MAX_DEPTH = 64


def dataset_of(tags: Mapping[str, Any], depth: int = 0) -> Dataset:
    """
    Return a data set with the elements of a mapping.

    What is no keyword, and what a value representation cannot take, is left out; numbers that are none are kept as
    text.
    """
    found = Dataset()
    for keyword, value in tags.items():
        tag = tag_for_keyword(keyword)
        if tag is None or depth > MAX_DEPTH:
            continue
        vr = dictionary_VR(tag).split(" or ")[0]
        if vr == "SQ":
            items = value if isinstance(value, list | tuple) else []
            found.add_new(tag, vr, [dataset_of(one, depth + 1) for one in items if isinstance(one, Mapping)])
        elif vr not in BYTES or isinstance(value, bytes):
            _add(found, tag, vr, value)
    return found


def _add(found: Dataset, tag: int, vr: str, value: Any) -> None:
    try:
        # pydicom would complain with the value in its text
        found.add(DataElement(tag, vr, _converted(vr, value), validation_mode=IGNORE))
    except Exception:  # noqa: BLE001  # pydicom raises any type for a value that it does not like
        return


def _converted(vr: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_converted(vr, one) for one in value]
    if vr in WHOLE_NUMBERS:
        return "" if matching.is_blank(value) else int(value)
    if vr in NUMBERS:
        return "" if matching.is_blank(value) else float(value)
    return value if isinstance(value, bytes) else matching.wire_text(value)


def dataset_of_file(dixel: Dixel) -> Dataset:
    """Return the data set of an instance's file, all of it in memory. Raises InvalidItem without a readable file."""
    if dixel.blob is None:
        raise InvalidItem("the instance has no file")
    try:
        with dixel.blob.open() as stream:
            return dcmread(stream, force=True)
    except Exception as error:  # noqa: BLE001  # pydicom and the operating system fail in many ways, each meaning the same
        raise InvalidItem(f"the file cannot be read as DICOM ({type(error).__name__})") from None
