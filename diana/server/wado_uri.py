"""WADO-URI (PS3.18 9)."""

from __future__ import annotations

from typing import Final

from attrs import define, field

from diana.exceptions import InvalidItem, ItemNotFound, Unsupported
from diana.server import pictures
from diana.server.accept import DICOM, Wish
from diana.server.archive import Archive
from diana.server.asked import Ask, Refusal, Reply
from diana.server.dicomweb_retrieve import RetrieveFace, blob_of
from diana.server.limits import Limits
from diana.server.pixels import Pixels
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.dicom.ref import is_uid

UIDS: Final = ("studyUID", "seriesUID", "objectUID")


@define(eq=False)
class UriFace:
    """Answer requests for one instance, named by parameters."""

    archive: Archive
    limits: Limits
    _retrieve: RetrieveFace = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._retrieve = RetrieveFace(self.archive, self.limits)

    def instance(self, ask: Ask) -> Reply:
        """Answer with a file, or with a picture when no contentType asks for the file."""
        asked = dict(ask.pairs())
        if asked.get("requestType", "").upper() != "WADO":
            raise InvalidItem("requestType is WADO")
        study, series, instance = (asked.get(key, "") for key in UIDS)
        if not is_uid(instance) or not all(is_uid(uid) for uid in (study, series) if uid):
            raise InvalidItem("studyUID, seriesUID and objectUID are UIDs, the last one is needed")
        if asked.get("anonymize", "no").lower() not in ("", "no"):
            raise Unsupported("instances are not de-identified on the way")
        ref = Ref(DicomLevel.INSTANCES, study=study, series=series, instance=instance)
        kind = _kind(asked.get("contentType", ""))
        if kind == DICOM:
            return self._file(ref, asked.get("transferSyntax", ""))
        return self._picture(ref, kind, asked)

    def _file(self, ref: Ref, syntax: str) -> Reply:
        if syntax and syntax != "*" and not is_uid(syntax):
            raise InvalidItem("transferSyntax is a UID")
        syntaxes = (syntax,) if syntax not in ("", "*") else None
        return self._retrieve.single(self.archive.one(ref), Wish(False, syntaxes))

    def _picture(self, ref: Ref, kind: str, asked: dict[str, str]) -> Reply:
        look = _look(asked)
        frame = pictures.whole(asked.get("frameNumber") or "1", 1, 10**8)
        blob = blob_of(self.archive.one(ref))
        try:
            pixels = Pixels(blob)
            if frame > pixels.count:
                raise ItemNotFound("the instance has no such frame")
            return Reply(pictures.picture(pixels, frame, kind, look, self.limits.pixels), kind)
        finally:
            blob.close()


def _kind(text: str) -> str:
    """Return the first media type of a list that can be given. Raises Refusal (406)."""
    for one in text.lower().split(","):
        kind = one.partition(";")[0].strip()
        if kind in ("", *pictures.KINDS, DICOM):
            return kind or pictures.JPEG
    raise Refusal(406, f"available are: {', '.join((DICOM, *pictures.KINDS))}")


def _look(asked: dict[str, str]) -> pictures.Look:
    parameters = {}
    if asked.get("windowCenter") and asked.get("windowWidth"):
        parameters["window"] = f"{asked['windowCenter']},{asked['windowWidth']}"
    if asked.get("columns") or asked.get("rows"):
        largest = str(pictures.LARGEST)
        parameters["viewport"] = f"{asked.get('columns') or largest},{asked.get('rows') or largest}"
    if asked.get("imageQuality"):
        parameters["quality"] = asked["imageQuality"]
    return pictures.look_of(parameters)
