"""What the Osimis web viewer adds to an Orthanc: annotations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final  # Any: JSON of the viewer

from diana.exceptions import GatewayAnswerError, ItemNotFound
from diana.utils.dicom import DicomLevel, DixelView

if TYPE_CHECKING:
    from diana.apis.orthanc import Orthanc
    from diana.utils.endpoint.endpoint import Item

ATTACHMENT: Final = 9999
MAX_ANNOTATIONS: Final = 10_000
FROM_INSTANCE: Final = ("ImagePositionPatient", "SOPInstanceUID", "SeriesInstanceUID")


def get_annotation(source: Orthanc, item: Item) -> dict[str, Any] | None:
    """
    Return the elliptical regions drawn on a study: AccessionNumber, StudyInstanceUID and a list of Annotations.

    Each annotation has start and end (``x``, ``y`` in pixels), the image's resolution, and the position and UIDs of its
    instance. None when nothing was drawn. Raises ItemNotFound when the study is not there, GatewayAnswerError when the
    viewer's data cannot be read. ``Orthanc.get_annotation`` does the same.
    """
    study = source.get(item, DicomLevel.STUDIES, DixelView.TAGS)
    try:
        text = source.gateway.attachment(study.oid(), DicomLevel.STUDIES, ATTACHMENT)
    except ItemNotFound:
        return None
    found = [_described(source, *one) for one in _ellipses(source.name, text)]
    return {
        "AccessionNumber": study.tags.get("AccessionNumber"),
        "StudyInstanceUID": study.tags.get("StudyInstanceUID"),
        "Annotations": found,
    }


def _ellipses(name: str, text: bytes) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the id of the instance and the data of each ellipse; the keys of the file are ``id:frame``."""
    try:
        images = json.loads(text)
        found = [
            (str(key).partition(":")[0], data)
            for key, tools in images.items()
            for data in tools.get("ellipticalRoi", {}).get("data", ())
        ]
        good = all(isinstance(data, dict) for _, data in found) and len(found) <= MAX_ANNOTATIONS
    except (ValueError, AttributeError, TypeError, RecursionError):
        good = False
    if not good:
        raise GatewayAnswerError(f"{name}: the viewer's annotations cannot be read")
    return found


def _described(source: Orthanc, oid: str, data: Mapping[str, Any]) -> dict[str, Any]:
    tags = source.gateway.tags(oid, DicomLevel.INSTANCES)
    handles = data.get("handles")
    handles = handles if isinstance(handles, dict) else {}
    return {
        "start": _point(handles.get("start")),
        "end": _point(handles.get("end")),
        "imageResolution": data.get("imageResolution"),
        **{keyword: tags.get(keyword) for keyword in FROM_INSTANCE},
    }


def _point(handle: Any) -> dict[str, Any] | None:
    return {"x": handle.get("x"), "y": handle.get("y")} if isinstance(handle, dict) else None
