"""QIDO-RS (PS3.18 10.6)."""

from __future__ import annotations

from typing import Any, Final  # Any: values of queries

from attrs import define, field

from diana.exceptions import InvalidItem, Unsupported
from diana.server import attributes as a
from diana.server.accept import JSON, chosen
from diana.server.archive import Archive
from diana.server.asked import Ask, Reply, json_bytes
from diana.server.limits import Limits
from diana.utils.dicom import DicomLevel
from diana.utils.dicom.jsonmodel import to_model

NOT_FUZZY: Final = '299 diana "The fuzzymatching parameter is not supported. Only literal matching has been performed."'
MORE: Final = '299 diana "There are more matches than one answer holds; ask for the next with offset."'
PRIVATE: Final = '299 diana "Some attributes that were asked for are not known here."'
KINDS: Final = (JSON, "application/json")
URL: Final = "00081190"


@define
class Search:
    """Hold what the parameters of a search say."""

    match: dict[str, Any] = field(factory=dict, repr=False)
    fields: list[str] = field(factory=list)
    everything: bool = False
    limit: int | None = None
    offset: int = 0
    warnings: list[str] = field(factory=list)


def search_of(ask: Ask) -> Search:
    """Read the parameters. Raises InvalidItem, Unsupported."""
    found = Search()
    for key, value in ask.pairs():
        if key in ("limit", "offset"):
            setattr(found, key, _number(value))
        elif key == "fuzzymatching":
            if value.lower() not in ("true", "false"):
                raise InvalidItem("fuzzymatching is true or false")
            if value.lower() == "true":
                found.warnings.append(NOT_FUZZY)
        elif key == "includefield":
            _include(found, value)
        elif key not in ("accept", "charset"):
            if "." in key:
                raise Unsupported("attributes inside sequences cannot be matched")
            keyword = a.keyword_of(key)
            if not keyword:
                raise Unsupported("private attributes cannot be matched")
            if not value:
                found.fields.append(keyword)
            a.add_match(found.match, keyword, value)
    for name, keyword in (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID")):
        if name in ask.path:
            a.add_match(found.match, keyword, ask.path[name])
    return found


def _number(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise InvalidItem("limit and offset are whole numbers")
    return int(value)


def _include(found: Search, value: str) -> None:
    for one in value.split(","):
        if one == "all":
            found.everything = True
        elif "." in one:
            found.warnings.append(PRIVATE)
        elif one:
            keyword = a.keyword_of(one)
            if keyword:
                found.fields.append(keyword)
            else:
                found.warnings.append(PRIVATE)


@define(eq=False)
class QueryFace:
    """Answer searches for studies, series and instances."""

    archive: Archive
    limits: Limits

    def studies(self, ask: Ask) -> Reply:
        """Answer a search for studies."""
        return self._answer(ask, DicomLevel.STUDIES)

    def series(self, ask: Ask) -> Reply:
        """Answer a search for series, of one study or of all."""
        return self._answer(ask, DicomLevel.SERIES)

    def instances(self, ask: Ask) -> Reply:
        """Answer a search for instances, of one study or series or of all."""
        return self._answer(ask, DicomLevel.INSTANCES)

    def _answer(self, ask: Ask, level: DicomLevel) -> Reply:
        kind = chosen(ask.accept(), KINDS)
        ask.ref()
        search = search_of(ask)
        most = self.limits.results
        limit = most if search.limit is None else min(search.limit, most)
        found = self._search(level, search, limit + 1) if limit else []
        if len(found) > limit:
            found = found[:limit]
            if search.limit is None or search.limit > most:
                search.warnings.append(MORE)
        a.count(self.archive, found, level)
        keys = None if search.everything else (*a.upto(level), *search.fields, *search.match)
        rows = []
        for one in found:
            row: dict[str, Any] = to_model(a.tags_of(one, level, keys), empty=False)
            row[URL] = {"vr": "UR", "Value": [self._url(ask, one.tags, level)]}
            rows.append(dict(sorted(row.items())))
        headers = {"Warning": ", ".join(dict.fromkeys(search.warnings))} if search.warnings else {}
        return Reply(json_bytes(rows), kind, headers=headers)

    def _search(self, level: DicomLevel, search: Search, limit: int) -> list[Any]:
        usual = a.asked_of(level, a.upto(level))
        wanted = a.asked_of(level, search.fields)
        return self.archive.search(level, search.match, wanted=wanted, usual=usual, offset=search.offset, limit=limit)

    @staticmethod
    def _url(ask: Ask, tags: dict[str, Any], level: DicomLevel) -> str:
        url = f"{ask.base}/dicom-web/studies/{tags.get('StudyInstanceUID') or ''}"
        if level >= DicomLevel.SERIES:
            url += f"/series/{tags.get('SeriesInstanceUID') or ''}"
        if level >= DicomLevel.INSTANCES:
            url += f"/instances/{tags.get('SOPInstanceUID') or ''}"
        return url
