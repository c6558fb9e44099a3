"""Whether a file in a watched folder is complete, and what it is."""

from __future__ import annotations

import os
from enum import Enum
from typing import Any, Final

from attrs import field, frozen

from diana.exceptions import InvalidItem
from diana.utils.dicom.structure import check_whole
from diana.utils.gateways.file_handlers import paths, zip_file

ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")


class State(Enum):
    """Say what became of a file."""

    WHOLE = "whole"
    DOUBTFUL = "doubtful"  # whole, unless it is cut exactly between two elements
    UNFINISHED = "unfinished"
    BROKEN = "broken"
    FOREIGN = "foreign"
    CHANGED = "changed"


@frozen
class Judgement:
    """Hold the state, the data of the event for a whole file, and the reason for a broken one."""

    state: State
    data: dict[str, Any] = field(factory=dict, repr=False)
    reason: str = ""


def judge(root: str, relative: str, known: bytes) -> Judgement:
    """
    Open a file, read its structure to the end from that one descriptor, and say what it is.

    CHANGED when it is not, or no longer, the one with the known signature. Raises OSError when it cannot be read.
    """
    try:
        handle = paths.open_inside(root, relative)
    except (InvalidItem, FileNotFoundError):
        return Judgement(State.CHANGED)
    try:
        if paths.signature(os.fstat(handle)) != known:
            return Judgement(State.CHANGED)
        found = _content(handle, relative)
        if paths.signature(os.fstat(handle)) != known:
            return Judgement(State.CHANGED)
    finally:
        os.close(handle)
    _, inode, size, changed = paths.SIGNATURE.unpack(known)
    found.data.update(fn=relative, size=size, mtime_ns=changed, inode=inode)
    return found


def _content(handle: int, relative: str) -> Judgement:
    start = os.pread(handle, 132, 0)
    if start.startswith(ZIP) and start[128:] != b"DICM":
        if not relative.lower().endswith(".zip"):
            return Judgement(State.FOREIGN)
        with os.fdopen(os.dup(handle), "rb") as stream:
            stream.seek(0)
            return Judgement(State.WHOLE if zip_file.is_whole(stream) else State.UNFINISHED)
    try:
        whole = check_whole(handle)
    except InvalidItem:
        return Judgement(State.FOREIGN)
    if not whole.ok or whole.header is None:
        return Judgement(State.BROKEN if whole.state == "broken" else State.UNFINISHED, reason=whole.reason)
    if not whole.header.instance:
        return Judgement(State.FOREIGN)
    keys = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    data = {key: whole.header.get(key, "") for key in keys}
    return Judgement(State.DOUBTFUL if whole.doubt else State.WHOLE, data)
