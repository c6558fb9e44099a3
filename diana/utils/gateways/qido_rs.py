"""
Search a DICOMweb server: QIDO-RS (PS3.18 10.6), in plain values.

Servers cut their answers short, some without a word, so every search goes on until the server has no more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final  # Any: JSON, and responses of other libraries
from urllib.parse import quote

from attrs import define

from diana.exceptions import GatewayAnswerError, InvalidItem, ItemNotFound, Unsupported
from diana.utils.dicom.jsonmodel import JsonTags
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways.http import JSON_LIMIT, Answer, HttpClient
from diana.utils.gateways.http_errors import error_of_status
from diana.utils.gateways.qido_query import (
    HierarchicalQuery,
    QidoRSQueryBase,
    RelationalQuery,
    UnsupportedParameter,
    ensure_query_type,
)
from diana.utils.pool import bounded_map

__all__ = [
    "HierarchicalQuery",
    "QidoRS",
    "QidoRSQueryBase",
    "RelationalQuery",
    "UnsupportedParameter",
    "json_items",
    "query_text",
]

log = logging.getLogger(__name__)

ACCEPT: Final = {"Accept": "application/dicom+json"}
MOST_ROWS: Final = 2_000_000
COUNT: Final = "NumberOfSeriesRelatedInstances"
# a listing: the rows of a page, and how many pages at a time
PAGE: Final = 200
LISTERS: Final = 2
# Orthanc 1.10 does not decode the values of a search: what may stand as it is must not be encoded
RAW: Final = "*/,?:@!$'()~-._"
NOT_JSON: Final = ("text/html", "application/xml", "text/xml", "application/dicom+xml", "application/dicom")


def query_text(parameters: Iterable[tuple[str, str]]) -> str:
    """Return parameters as the part of an address after the question mark, in UTF-8."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe=RAW)}" for name, value in parameters)


def json_items(answer: Answer, limit: int = JSON_LIMIT) -> list[JsonTags]:
    """Return the objects of an answer in DICOM JSON, which is UTF-8. Raises GatewayAnswerError."""
    kind = answer.content_type
    if kind in NOT_JSON or kind.startswith(("multipart/", "image/")):
        raise GatewayAnswerError(f"{answer.where}: the answer is not DICOM JSON", answer.status)
    text = answer.read(limit)
    try:
        found = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise GatewayAnswerError(f"{answer.where}: the answer is damaged JSON", answer.status) from None
    try:
        return _items(found)
    except InvalidItem as error:
        raise GatewayAnswerError(f"{answer.where}: {error}", answer.status) from None


def _items(found: Any) -> list[JsonTags]:
    if not isinstance(found, list):
        raise InvalidItem("the answer is no list of DICOM JSON objects")
    return [JsonTags(one) for one in found]


@define(eq=False)
class QidoRS:
    """Search over a client whose base address is the DICOMweb root, or any that has ``/studies`` below it."""

    http: HttpClient

    @property
    def name(self) -> str:
        """Return the name of the service."""
        return self.http.name

    def close(self) -> None:
        """Close kept connections; the gateway may be used again."""
        self.http.close()

    def search(
        self,
        level: DicomLevel,
        match: Mapping[str, str],
        *,
        fields: Sequence[str] = (),
        limit: int | None = None,
    ) -> Iterator[JsonTags]:
        """
        Yield what matches, each item once; ``limit`` is only the size of a page, the caller stops reading.

        ``match`` maps keywords to single values, which may hold wildcards. UIDs above the level go into the path.
        Raises GatewayError, also when the server cuts its answer short and does not give the rest; Unsupported
        for patients.
        """
        if level == DicomLevel.PATIENTS:
            raise Unsupported(f"{self.name}: QIDO-RS has no patient level; ask for studies")
        path, rest = _path(level, match)
        wanted = [(key, value) for key, value in rest.items() if value]
        wanted += [("includefield", keyword) for keyword in dict.fromkeys([*match, *fields])]
        pinned = is_uid(match.get(level.uid_keyword, ""))
        return self.pages(path, wanted, level, limit=limit, pinned=pinned)

    def listing(self, study: str, series: str = "", *, sizes: Mapping[str, int] | None = None) -> list[JsonTags]:
        """
        Return every instance of a study or series, pages side by side as far as the number of instances is known.

        ``sizes`` is what ``sizes_of`` says. Where the pages do not add up the server is asked as in ``search``.
        """
        known = sizes or {}
        asked = {**known} if not series else {series: known[series]} if series in known else {}
        if asked and all(asked.values()) and all(map(is_uid, asked)) and sum(asked.values()) <= MOST_ROWS:
            # one row more than the step of a page shows what was not announced
            places = [(one, at) for one, size in asked.items() for at in range(0, size, PAGE)]
            pages = bounded_map(lambda place: self._instances(study, *place), places, workers=LISTERS)
            seen: set[str] = set()
            found = [row for page in pages for row in page if not self._known(row, DicomLevel.INSTANCES, seen)]
            if len(found) == sum(asked.values()):
                return found
        keys = {"StudyInstanceUID": study, **({"SeriesInstanceUID": series} if series else {})}
        return list(self.search(DicomLevel.INSTANCES, keys))

    def _instances(self, study: str, series: str, offset: int) -> list[JsonTags]:
        page, warning = self._page(f"/studies/{study}/series/{series}/instances", (), PAGE + 1, offset)
        return [] if warning else page

    def sizes_of(self, study: str) -> dict[str, int]:
        """Return the series of a study with the number of their instances, 0 where the server does not tell it."""
        rows = self.search(DicomLevel.SERIES, {"StudyInstanceUID": study}, fields=(COUNT,))
        found = {}
        for row in rows:
            number = row.get(COUNT, 0)
            found[str(row["SeriesInstanceUID"])] = number if type(number) is int and number > 0 else 0
        return found

    def run(self, query: Any) -> Iterator[JsonTags]:
        """Yield what a query of the trolley finds, see ``ensure_query_type``; its limit and offset are honoured."""
        asked = ensure_query_type(query)
        wanted: list[tuple[str, str]] = []
        for name, value in asked.uri_search_params().items():
            if name not in ("limit", "offset"):
                wanted += [(name, one) for one in (value if isinstance(value, list) else [value])]
        rows = self.pages(asked.uri_base(), wanted, asked.level, limit=asked.limit or None, offset=asked.offset)
        for count, row in enumerate(rows, 1):
            yield row
            if count == asked.limit:
                return

    def pages(
        self,
        path: str,
        parameters: Sequence[tuple[str, str]],
        level: DicomLevel,
        *,
        limit: int | None = None,
        offset: int = 0,
        pinned: bool = False,
    ) -> Iterator[JsonTags]:
        """
        Yield the items of a search, page after page, until the server has no more.

        The first request leaves the size of the page to the server unless ``limit`` is given. An answer that may have
        been cut is followed by a small request for what comes next. ``pinned``: there is at most one item.
        """
        seen: set[str] = set()
        capped = probe = warned = False
        while True:
            page, warning = self._page(path, parameters, 1 if probe else limit, offset)
            warned = self._warn(warning, warned)
            fresh = [row for row in page if not self._known(row, level, seen)]
            yield from fresh
            if not page or (pinned and not warned):
                return
            if not fresh:
                # the server does not know offset: it gave all it has, unless it said otherwise
                if warned:
                    text = f"{self.name}: the server cut its answer short and does not give the rest; ask for less"
                    raise GatewayAnswerError(text)
                return
            if len(seen) > MOST_ROWS:
                raise GatewayAnswerError(f"{self.name}: the server's answer has no end")
            offset += len(page)
            capped = capped or probe
            probe = not capped and not warned and (limit is None or len(page) < limit)

    def _known(self, row: JsonTags, level: DicomLevel, seen: set[str]) -> bool:
        """Tell whether a row has come before, and remember it."""
        try:
            uid = row.get(level.uid_keyword)
        except InvalidItem:
            uid = None
        if not isinstance(uid, str):
            raise GatewayAnswerError(f"{self.name}: an item of the answer lacks its {level.uid_keyword}")
        known = uid in seen
        seen.add(uid)
        return known

    def _warn(self, warning: str, before: bool) -> bool:
        if "299" in warning and not before:
            log.warning("%s: the server warns that its answer is not all there is (299)", self.name)
        return before or "299" in warning

    def _page(
        self, path: str, parameters: Sequence[tuple[str, str]], limit: int | None, offset: int
    ) -> tuple[list[JsonTags], str]:
        wanted = list(parameters)
        if limit is not None:
            wanted.append(("limit", str(limit)))
        if offset:
            wanted.append(("offset", str(offset)))
        target = f"{path}?{query_text(wanted)}" if wanted else path
        below = path.count("/") > 1
        try:
            with self.http.request("GET", target, headers=ACCEPT, absent=below) as answer:
                if answer.status == 204:
                    return [], ""
                warning = answer.headers.get("warning", "")
                return json_items(answer), warning or ("299" if answer.status == 206 else "")
        except ItemNotFound:
            # some servers say 404 for the series of a study that is not there
            return [], ""

    def check(self, *, within: float | None = None) -> None:
        """Ask for one study. Raises GatewayError when the server does not answer as QIDO-RS."""
        with self.http.request("GET", "studies?limit=1", headers=ACCEPT, within=within) as answer:
            if answer.status != 204:
                json_items(answer)

    @staticmethod
    def ensure_query_type(query: Any) -> HierarchicalQuery | RelationalQuery:
        """Return a query as one of the two kinds; see ``diana.utils.gateways.qido_query``."""
        return ensure_query_type(query)

    @staticmethod
    def parse_qido_response(response: Any) -> list[JsonTags]:
        """Return the items of a decoded answer: instances, series or studies. Raises GatewayAnswerError."""
        try:
            return _items(response)
        except InvalidItem as error:
            raise GatewayAnswerError(str(error)) from None

    @staticmethod
    def check_for_response_errors(response: Any) -> None:
        """
        Raise for an answer that is no result: ItemNotFound for 204, a GatewayError for others but 200.

        ``response`` has ``status`` or ``status_code``.
        """
        status = int(response.status_code if hasattr(response, "status_code") else response.status)
        if status == 204:
            raise ItemNotFound("QIDO-RS: nothing found (HTTP 204)")
        if status != 200:
            raise error_of_status("QIDO-RS", status)


def _path(level: DicomLevel, match: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the path of a search and the keys that are not in it."""
    rest, path = dict(match), ""
    for above in (DicomLevel.STUDIES, DicomLevel.SERIES):
        uid = rest.get(above.uid_keyword, "")
        if above >= level or not is_uid(uid):
            break
        path += f"/{above}/{uid}"
        del rest[above.uid_keyword]
    return f"{path}/{level}", rest
