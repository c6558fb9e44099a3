"""Searches that answer trees of studies, over any endpoint that can find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any  # Any: tag values, and queries of other kinds

from diana.apis.trolley_parts import queries
from diana.apis.trolley_parts.objects import Study, studies_of
from diana.exceptions import InvalidItem, ItemNotFound
from diana.utils.dicom import DicomLevel, Query

if TYPE_CHECKING:
    from diana.utils.endpoint import Endpoint

Asked = Any  # a query of the trolley or of the house, a mapping, or an object with the fields of a trolley's query


def question_of(query: Asked) -> Query:
    """Return a query of any kind as one of the house. Raises InvalidItem for what is none."""
    if isinstance(query, queries.Query):
        return query.question()
    if isinstance(query, Query):
        return query
    if isinstance(query, Mapping):
        return Query(query)
    given = getattr(query, "uri_search_params", None)
    if callable(given):
        return _of_qido(query)
    raise InvalidItem(f"a query is a Query or a mapping, not {type(query).__name__}")


def _of_qido(query: Any) -> Query:
    """Return a query of QIDO-RS, whose parameters leave out the UIDs of its path."""
    match = {
        key: value
        for key, value in query.uri_search_params().items()
        if isinstance(value, str) and key not in ("limit", "offset", "includefield")
    }
    match |= {key: uid for key in ("StudyInstanceUID", "SeriesInstanceUID") if (uid := getattr(query, key, ""))}
    return Query(match, query.level, limit=query.limit or None, fields=tuple(query.include_fields))


def find_studies(searcher: Endpoint, query: Asked) -> list[Study]:
    """Return what a searcher finds as studies, with series and instances as deep as the query goes."""
    question = question_of(query)
    found = searcher.iter_find(question)
    return list(studies_of(_rows(found, question)))


def _rows(found: Iterator[Any], question: Query) -> Iterator[tuple[Mapping[str, Any], DicomLevel]]:
    """Yield tags with their level, and before them what they say about the study and the series above."""
    from diana.utils.gateways.key_levels import level_of

    known: dict[str, DicomLevel] = {}
    pinned = {key: question.match[key] for key in ("StudyInstanceUID", "SeriesInstanceUID") if key in question.match}
    for dixel in found:
        # servers need not repeat the UIDs that were asked for
        tags = {**{key: uid for key, uid in pinned.items() if isinstance(uid, str)}, **dixel.tags}
        for keyword in tags:
            if keyword not in known:
                known[keyword] = level_of(keyword)
        for level in range(DicomLevel.STUDIES, dixel.level):
            above = {key: value for key, value in tags.items() if _belongs(key, known[key], level)}
            yield above, DicomLevel(level)
        yield tags, dixel.level


def _belongs(keyword: str, at: DicomLevel, level: int) -> bool:
    if keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        return level >= at
    return at == level or (at == DicomLevel.PATIENTS and level == DicomLevel.STUDIES)


def uids_of_id(text: str, level: DicomLevel) -> dict[str, str]:
    """
    Return by keyword what an id of an item says: its UID, or the UIDs down to it, joined by slashes.

    Of a patient it is the PatientID, whatever it holds.
    """
    if level == DicomLevel.PATIENTS:
        return {"PatientID": text}
    keys = [one.uid_keyword for one in DicomLevel if DicomLevel.STUDIES <= one <= level]
    uids = text.split("/")
    return dict(zip(keys, uids, strict=True)) if len(uids) == len(keys) else {level.uid_keyword: text}


class Searcher:
    """Give an endpoint that finds the trolley's three searches."""

    def find_studies(self, query: Asked) -> list[Study]:
        """Return the studies that a query finds, ``[]`` when none."""
        return find_studies(self, query)  # type: ignore[arg-type]  # mixed into endpoints only

    def find_study(self, query: Asked) -> Study:
        """Return the one study that a query finds. Raises ItemNotFound for none, InvalidItem for several."""
        return only(self.find_studies(query))

    def find_study_by_id(
        self, study_uid: str, query_level: queries.QueryLevels | str = queries.QueryLevels.STUDY
    ) -> Study:
        """Return the study of a UID, as deep as asked. Raises ItemNotFound."""
        return self.find_study(queries.Query(StudyInstanceUID=study_uid, query_level=query_level))


def only(studies: list[Study]) -> Study:
    """Return the one study of a list. Raises ItemNotFound, InvalidItem."""
    if not studies:
        raise ItemNotFound("the search found no study")
    if len(studies) > 1:
        raise InvalidItem(f"the search found {len(studies)} studies, not one")
    return studies[0]
