"""A MINT archive in memory: the search of Vitrea, and the searches and metadata of the reference server."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import quoteattr

from pydicom.datadict import dictionary_VR, tag_for_keyword

from diana.dixel import Dixel
from diana.utils.dicom import Query
from tests.fakes.archive_server import ArchiveServer

EXPLICIT = "1.2.840.10008.1.2.1"
NS = "http://medical.nema.org/mint"
STUDY = [
    "StudyInstanceUID",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "ModalitiesInStudy",
]
SERIES = ["SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription"]
INSTANCE = ["SOPInstanceUID", "SOPClassUID", "InstanceNumber", "Rows", "Columns"]
LEVELS = ("STUDY", "SERIES", "INSTANCE")
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
REFERENCE = {"studyInstanceUID": "StudyInstanceUID", "accessionNumber": "AccessionNumber", "patientID": "PatientID"}
Page = tuple[int, str, bytes]


def attr(keyword: str, value: Any) -> str:
    """Return an attribute; a list of mappings is a sequence."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    vr = dictionary_VR(tag).split(" or ")[0]
    if vr == "SQ":
        items = "".join("<item>" + "".join(attr(k, v) for k, v in one.items()) + "</item>" for one in value)
        return f'<attr tag="{tag:08x}" vr="SQ">{items}</attr>'
    text = "\\".join(map(str, value)) if isinstance(value, list) else str(value)
    return f'<attr tag="{tag:08x}" vr="{vr}" val={quoteattr(text)}/>'


def attrs(keywords: list[str], tags: dict[str, Any]) -> str:
    """Return the attributes that are there."""
    return "".join(attr(key, tags[key]) for key in keywords if key in tags)


def wire(item: Dixel) -> dict[str, Any]:
    """Return the tags as the archive would send them."""
    from pydicom import dcmread

    assert item.blob is not None
    with item.blob.open() as stream:
        ds = dcmread(stream, stop_before_pixels=True)
    found: dict[str, Any] = {
        one.keyword: str(one.value) for one in ds if one.keyword and one.VR != "SQ" and one.value is not None
    }
    found["ModalitiesInStudy"] = found.get("Modality", "")
    return found


class MintServer(ArchiveServer):
    """
    Answer MINT under ``/mint``.

    ``date_keys`` are the names of the date parameters it knows, all others are ignored; ``ignored`` names more keys
    that it does not honour. ``reference`` makes it the reference server.
    """

    def __init__(
        self, *, reference: bool = False, date_keys: tuple[str, str] = ("minStudyDate", "maxStudyDate")
    ) -> None:
        super().__init__()
        self.reference = reference
        self.date_keys = date_keys
        self.ignored: set[str] = set()

    @property
    def url(self) -> str:
        """Return the address of the service."""
        return f"{self.base}/mint"

    def respond(self, method: str, path: str, kind: str, body: bytes) -> Page:
        """Answer a search, a metadata document or a binary item."""
        parts = urlsplit(path)
        asked = dict(parse_qsl(parts.query, keep_blank_values=True))
        steps = parts.path.strip("/").split("/")
        if steps == ["mint", "studies"]:
            found = self._list(asked) if self.reference else self._search(asked)
            return 200, "text/xml", found.encode()
        if self.reference and steps[:2] == ["mint", "studies"] and steps[3:] == ["DICOM", "metadata"]:
            return self._metadata(steps[2])
        if self.reference and steps[3:5] == ["DICOM", "binaryitems"]:
            return 200, "application/octet-stream", b"pixels" + steps[5].encode()
        return 404, "text/html", b"<html><body>404</body></html>"

    def _matching(self, match: dict[str, str], dates: tuple[str, str]) -> list[dict[str, Any]]:
        rows = [wire(item) for item in list(self.items.values())]
        wanted = {key: value for key, value in match.items() if key not in self.ignored}
        if any(dates):
            wanted["StudyDate"] = "-".join(dates)
        return [row for row in rows if Query(wanted).matches(row)]

    def _search(self, asked: dict[str, str]) -> str:
        level = asked.pop("QueryLevel", "STUDY")
        extra = [one for one in asked.pop("IncludeFields", "").split(",") if one]
        limit = int(asked.pop("limit", "0"))
        first, last = (asked.pop(key, "") for key in self.date_keys)
        match = {key: value for key, value in asked.items() if tag_for_keyword(key)}
        tree: dict[str, Any] = {}
        for row in self._matching(match, (first, last)):
            node: dict[str, Any] = {"below": tree}
            for key in UIDS:
                node = node["below"].setdefault(row[key], {"row": row, "below": {}})
        shown = list(tree.items())[: limit or None]
        return (
            f"<?xml version='1.0' encoding='UTF-8'?><studySearchResults xmlns=\"{NS}\" QueryLevel=\"{level}\">"
            + "".join(self._study(uid, node, LEVELS.index(level), extra) for uid, node in shown)
            + "</studySearchResults>"
        )

    @staticmethod
    def _study(uid: str, node: dict[str, Any], depth: int, extra: list[str]) -> str:
        wanted = [
            list(dict.fromkeys([*keys, *extra])) if depth == at else keys
            for at, keys in enumerate((STUDY, SERIES, INSTANCE))
        ]
        series = "".join(
            "<series>"
            + "".join(
                f"<instance>{attrs(wanted[2], deep['row'])}</instance>" for deep in one["below"].values() if depth > 1
            )
            + f"{attrs(wanted[1], one['row'])}</series>"
            for one in node["below"].values()
            if depth
        )
        name = uuid.uuid5(uuid.NAMESPACE_OID, uid)
        facts = f'studyUUID="{name}" version="1" lastModified="2024-01-01T00:00:00Z"'
        return f"<study {facts}>{series}{attrs(wanted[0], node['row'])}</study>"

    def _list(self, asked: dict[str, str]) -> str:
        match = {name: asked[key] for key, name in REFERENCE.items() if key in asked}
        rows = self._matching(match, (asked.get("minStudyDate", ""), asked.get("maxStudyDate", "")))
        uids = list(dict.fromkeys(row["StudyInstanceUID"] for row in rows))
        start, limit = int(asked.get("offset", "1")) - 1, int(asked.get("limit", "50"))
        shown = "".join(
            f'<study studyInstanceUid="id-{uid}" lastModified="x" version="1"/>' for uid in uids[start : start + limit]
        )
        return f'<studySearchResults xmlns="{NS}">{shown}</studySearchResults>'

    def _metadata(self, name: str) -> Page:
        uid = name.removeprefix("id-")
        rows = [wire(item) for item in self.items.values() if item.tags["StudyInstanceUID"] == uid]
        if not rows:
            return 404, "text/plain", b"not there"
        series = ""
        for one in dict.fromkeys(row["SeriesInstanceUID"] for row in rows):
            mine = [row for row in rows if row["SeriesInstanceUID"] == one]
            instances = "".join(
                f'<instance sopInstanceUID="{row["SOPInstanceUID"]}" transferSyntaxUID="{EXPLICIT}">'
                f'<attributes>{attrs(["InstanceNumber"], row)}<attr tag="7fe00010" vr="OW" bid="{at}" bsize="128"/>'
                "</attributes></instance>"
                for at, row in enumerate(mine)
            )
            series += (
                f'<series seriesInstanceUID="{one}"><attributes>{attrs(SERIES, mine[0])}</attributes>'
                f"<normalizedInstanceAttributes>{attrs(['SOPClassUID', 'Rows', 'Columns'], mine[0])}"
                f"</normalizedInstanceAttributes><instances>{instances}</instances></series>"
            )
        text = (
            f'<study xmlns="{NS}" studyInstanceUID="{uid}"><attributes>{attrs(STUDY, rows[0])}</attributes>'
            f"<seriesList>{series}</seriesList></study>"
        )
        return 200, "text/xml", text.encode()
