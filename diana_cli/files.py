"""DICOM files on disk, as commands take and leave them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from diana.exceptions import InvalidItem
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import is_uid
from diana_cli.items import Item, read_items

if TYPE_CHECKING:
    from diana.dixel import Dixel
    from diana_cli.batch import Batch


def paths_of(given: Iterable[str], batch: Batch) -> Iterator[Item]:
    """Yield the files that names, folders and lines of standard input lead to; the id of each is its path."""
    for item in read_items(given):
        path = _path_of(item)
        if item.problem or not path:
            batch.failed(item.label, item.problem or "the line names no file")
        elif os.path.isdir(path):
            yield from _below(path, item.label)
        else:
            yield evolve(item, plain=path)


def _path_of(item: Item) -> str:
    named = item.row.get("file")
    if isinstance(named, str):
        return named
    return item.plain


def _below(folder: str, label: str) -> Iterator[Item]:
    """Yield the regular files below a folder in order of name, hidden and unfinished ones left out."""
    number = 0
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(base, name)
            if name.startswith(".") or name.endswith((".part", ".tmp", "~")) or os.path.islink(path):
                continue
            number += 1
            yield Item(f"{label}, file {number}", plain=path)


def load(item: Item) -> Dixel:
    """Return a file as an instance, its header read and its bytes left on disk. Raises InvalidItem."""
    from diana.dixel import Dixel
    from diana.utils.blob import Blob
    from diana.utils.dicom import read_header

    path = Path(item.plain)
    if not path.is_file():
        raise InvalidItem("no such file")
    return Dixel.from_header(read_header(path), fn=path.name, file=Blob(path))


def save(dixel: Dixel, folder: Path) -> Path:
    """
    Write the file of a dixel below a folder and return the path: ``study/series/instance.dcm``.

    A UID that could be anything but a file name is replaced by a hash. Raises InvalidItem without a file.
    """
    from diana.utils.files import whole_file

    if dixel.blob is None:
        raise InvalidItem("the item came without a file")
    ref = dixel.ref
    names = [_safe(one) for one in (ref.study, ref.series, ref.instance) if one] or [_safe(ref.id)]
    suffix = ".dcm" if dixel.level == DicomLevel.INSTANCES else ".zip"
    path = folder.joinpath(*names[:-1], names[-1] + suffix)
    with whole_file(path, durable=False) as out:
        dixel.blob.copy_to(out)
    return path


def _safe(uid: str) -> str:
    return uid if is_uid(uid) else sha256(uid.encode("utf-8", "replace")).hexdigest()[:32]
