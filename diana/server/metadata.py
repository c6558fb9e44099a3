"""An instance as DICOM JSON with references to its bulk data (PS3.18 F), and what they refer to."""

from __future__ import annotations

import logging
import math
import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Final  # Any: pydicom's data sets and JSON

from diana.exceptions import InvalidItem, ItemNotFound
from diana.utils.blob import Blob
from diana.utils.dicom.header import read_header
from diana.utils.dicom.jsonmodel import BINARY, MAX_DEPTH
from diana.utils.gateways.file_handlers.dcm_file import parse

log = logging.getLogger(__name__)

INLINE: Final = 1024
PATH: Final = re.compile(r"[0-9A-Fa-f]{8}(?:/[1-9][0-9]{0,5}/[0-9A-Fa-f]{8}){0,32}\Z")
PIXELS: Final = "7FE00010"


def model_of(blob: Blob, base: str) -> dict[str, Any]:
    """Return the attributes of a file; ``base`` is the address below which its bulk data are. Raises InvalidItem."""
    with blob.open() as stream:
        ds = parse(stream)
        stream.seek(0)
        place = read_header(stream, ("BitsAllocated",)).pixel_offset
        tag = ""
        if place is not None:
            stream.seek(place)
            head = stream.read(4)
            tag = f"{int.from_bytes(head[:2], 'little'):04X}{int.from_bytes(head[2:], 'little'):04X}"
    found = _dataset(ds, base, "", 0)
    if tag in (PIXELS, "7FE00008", "7FE00009"):
        vr = {"7FE00008": "OF", "7FE00009": "OD"}.get(tag, "OW")
        found[tag] = {"vr": vr, "BulkDataURI": f"{base}/{tag}"}
    return found


def _dataset(ds: Any, base: str, path: str, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise InvalidItem("the data set is nested too deeply")
    found: dict[str, Any] = {}
    for tag in sorted(ds.keys()):
        if tag.group in (0, 2):
            continue
        key = f"{int(tag):08X}"
        try:
            found[key] = _element(ds[tag], base, f"{path}{key}", depth)
        except InvalidItem:
            raise
        except Exception as error:  # noqa: BLE001  # pydicom raises any type for a damaged value; the others count
            log.debug("left out an element that cannot be read (%s)", type(error).__name__)
    return found


def _element(element: Any, base: str, path: str, depth: int) -> dict[str, Any]:
    vr = str(element.VR)
    if vr == "SQ":
        items = [_dataset(item, base, f"{path}/{at}/", depth + 1) for at, item in enumerate(element.value or (), 1)]
        return {"vr": vr, **({"Value": items} if items else {})}
    if vr in BINARY:
        data = element.value or b""
        if len(data) > INLINE:
            return {"vr": vr, "BulkDataURI": f"{base}/{path}"}
        return {"vr": vr, **({"InlineBinary": b64encode(bytes(data)).decode("ascii")} if data else {})}
    model: dict[str, Any] = element.to_json_dict(None, 1 << 40)
    if "Value" in model:
        model["Value"] = [_finite(one) for one in model["Value"]]
    return model


def _finite(value: Any) -> Any:
    """Return a value that JSON can hold: no infinities."""
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def bulk_value(blob: Blob, path: str) -> bytes:
    """Return the bytes of an element that is no pixel data. Raises ItemNotFound, InvalidItem."""
    if not PATH.match(path):
        raise InvalidItem("the path of bulk data is not of its form")
    with blob.open() as stream:
        ds = parse(stream)
    steps = path.split("/")
    try:
        for at in range(0, len(steps) - 1, 2):
            ds = ds[int(steps[at], 16)].value[int(steps[at + 1]) - 1]
        value = ds[int(steps[-1], 16)].value
    except Exception:  # noqa: BLE001  # whatever the path meets, there are no such bytes
        value = None
    if not isinstance(value, bytes):
        raise ItemNotFound("no such bulk data")
    return value


def bulk_elements(model: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the elements of the top level that are references, in the order of their tags."""
    for key in sorted(model):
        if "BulkDataURI" in model[key]:
            yield key, model[key]
