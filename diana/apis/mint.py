"""A MINT server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, ClassVar  # Any: sessions of the caller, tag values

from attrs import define, field

from diana.apis._web import WebEndpoint
from diana.apis.trolley_parts import queries
from diana.apis.trolley_parts.objects import Instance, Series, Study
from diana.apis.trolley_parts.search import Asked, Searcher, question_of, uids_of_id
from diana.dixel import Dixel, DixelView
from diana.exceptions import ConfigError, InvalidItem, ItemNotFound, Unsupported
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Query, Ref, matching
from diana.utils.dicom.ref import is_uid
from diana.utils.endpoint.serializable import encode
from diana.utils.gateways.mint import DATE_KEYS, FIELDS, MintNode, Wanted
from diana.utils.gateways.mint import Mint as Gateway

DIALECTS = ("vitrea", "reference")
MOST_SEARCHES = 200
NOBODY = "1.2.826.0.1.3680043.10.43.0.404"
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
# Asked for in every search of ``find``, so that what is found can be told apart and addressed.
USUAL = {
    DicomLevel.STUDIES: (
        "StudyInstanceUID PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyDate StudyTime "
        "StudyDescription ModalitiesInStudy"
    ),
    DicomLevel.SERIES: "SeriesInstanceUID Modality SeriesNumber SeriesDescription",
    DicomLevel.INSTANCES: "SOPInstanceUID SOPClassUID InstanceNumber",
}
# The reference server's own keys; everything else is matched here.
REFERENCE_KEYS = {
    "StudyInstanceUID": "studyInstanceUID",
    "AccessionNumber": "accessionNumber",
    "PatientID": "patientID",
}


@define(eq=False)
class MintStudy(Study):
    """A study with MINT's own id and the time of its last change."""

    mint_uuid: str = field(default="", kw_only=True)
    last_modified: str = field(default="", kw_only=True)

    def dump_content(self) -> str:
        """Return everything known about the study as JSON text; it is patient data."""
        below = [{**one.tags, "instances": [deep.tags for deep in one.instances]} for one in self.series]
        return json.dumps({**self.tags, "series": below}, default=encode, indent=1)


@define(eq=False)
class MintSeries(Series):
    """A series of a MINT study."""


@define(eq=False)
class MintInstance(Instance):
    """An instance of a MINT study."""


@define(eq=False)
class Mint(Searcher, WebEndpoint):
    """
    Search a MINT server at ``url`` (``https://server/mint``); ids are DICOM UIDs.

    ``dialect`` is ``vitrea`` (Vitrea Connection) or
    ``reference`` (the server of MINT 1.0, whose searches cost one request per study). ``date_keys`` are the names by
    which the server takes the first and the last day; servers ignore names they do not know, so dates and UIDs are
    checked here once more. There are no files: pair it with a downloader in a ``Trolley``.
    """

    views: ClassVar[DixelView] = DixelView.META | DixelView.TAGS

    dialect: str = field(default="vitrea", kw_only=True)
    date_keys: tuple[str, str] = field(default=DATE_KEYS, kw_only=True, converter=tuple)
    name: str = field(default="Mint", kw_only=True)
    gateway: Gateway = field(init=False, repr=False)

    def _connect(self) -> None:
        if self.dialect not in DIALECTS:
            raise ConfigError(f"{self.name}: no dialect {self.dialect!r}; use {' or '.join(DIALECTS)}")
        if len(self.date_keys) != 2:
            raise ConfigError(f"{self.name}: date_keys are two names")
        self.gateway = Gateway(self.client(), self.name, self.date_keys)

    def find_studies(self, query: Asked) -> list[Study]:
        """Return the studies that a query finds, with series and instances as deep as it goes; ``limit`` in studies."""
        if isinstance(query, queries.Query):
            query = queries.MintQuery.init_from_query(query)
        question = question_of(query)
        nodes = list(self._nodes(question, list(question.fields)))
        return [_study(node) for node in nodes[: question.limit]]

    def metadata(self, mint_uuid: str) -> MintStudy:
        """Return a study of a reference server with everything below. Raises ItemNotFound."""
        return _study(self.gateway.metadata(mint_uuid))

    def binary_item(self, mint_uuid: str, number: int) -> Blob:
        """Return a binary item of a study of a reference server. Raises ItemNotFound."""
        return self.gateway.binary_item(mint_uuid, number)

    def close(self) -> None:
        """Give back the connections; the endpoint may be used again."""
        self.gateway.client.close()

    def _find(self, query: Query) -> Iterator[Dixel]:
        seen: set[str] = set()
        fields = self._fields(query)
        for study in self._nodes(query, fields):
            for dixel in _flat(study, query.level):
                uid = str(dixel.meta["ID"])
                if uid not in seen and self._meant(query, dixel.tags):
                    seen.add(uid)
                    yield dixel

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        found = next(self._find(self._by_ref(ref)), None)
        if found is None:
            raise ItemNotFound(f"{self.name}: no such {ref.level.singular.lower()}")
        if DixelView.TAGS not in view:
            found.tags = {key: found.tags[key] for key in UIDS if key in found.tags}
        return found

    def _exists(self, ref: Ref) -> bool:
        try:
            return next(self._find(self._by_ref(ref)), None) is not None
        except ItemNotFound:
            return False

    def _check(self) -> None:
        wanted = Wanted({"StudyInstanceUID": NOBODY}, limit=1)
        if self.dialect == "vitrea":
            any(True for _ in self.gateway.search(wanted))
        else:
            any(True for _ in self.gateway.inventory({"studyInstanceUID": NOBODY}))

    def _by_ref(self, ref: Ref) -> Query:
        uids = {key: uid for key, uid in ref.tags().items() if key in UIDS}
        if ref.id and ref.level.uid_keyword not in uids:
            uids |= uids_of_id(ref.id, ref.level)
        if not uids.get(ref.level.uid_keyword):
            raise InvalidItem(f"{self.name}: the ref does not name a {ref.level.singular.lower()}")
        if not all(map(is_uid, uids.values())):
            raise ItemNotFound(f"{self.name}: what is asked for is not named by UIDs")
        return Query(uids, ref.level)

    def _fields(self, query: Query) -> list[str]:
        """Return what to ask the server for. Raises Unsupported for what it cannot return."""
        asked = [*query.fields, *(key for key, value in query.match.items() if matching.is_blank(value))]
        usual = [key for level, keys in USUAL.items() if level <= query.level for key in keys.split()]
        return list(dict.fromkeys([*usual, *asked]))

    def _nodes(self, query: Query, fields: list[str]) -> Iterator[MintNode]:
        """Yield the studies of a search, each once, without those that the server should not have found."""
        if query.level == DicomLevel.PATIENTS:
            raise Unsupported(f"{self.name}: MINT has no patient level; ask for studies")
        if self.dialect == "reference":
            yield from self._by_reference(query)
            return
        seen: set[str] = set()
        for wanted in self._searches(query, fields):
            again = True
            while again:
                again = False
                for node in self.gateway.search(wanted):
                    if node.uid in seen:
                        continue
                    if self._meant(query, node.tags) and _narrowed(node, query):
                        seen.add(node.uid)
                        yield node
                    else:
                        # the server did not honour a key, so its limit has cut another list than ours
                        again = bool(wanted.limit)
                wanted.limit = 0

    def _searches(self, query: Query, fields: list[str]) -> list[Wanted]:
        """Return one search for each combination of alternatives. Raises Unsupported for keys that MINT has not."""
        texts = {key: text for key, text in query.wire().items() if text and text != "*"}
        dates = _dates(texts.pop("StudyDate", ""), self.name)
        known = FIELDS["INSTANCE"]
        for key in texts:
            if key not in known or key.endswith("Sequence"):
                raise Unsupported(f"{self.name}: MINT cannot search by {key}")
        choices = [[(key, one) for one in dict.fromkeys(text.split("\\"))] for key, text in texts.items()]
        count = 1
        for choice in choices:
            count *= len(choice)
        if count > MOST_SEARCHES:
            raise Unsupported(f"{self.name}: the lists of the query make {count} searches, more than {MOST_SEARCHES}")
        level = query.level.singular.upper()
        if dates != ("", "") and fields and "StudyDate" not in fields:
            fields = [*fields, "StudyDate"]
        return [Wanted(dict(pairs), level, dates, fields, query.limit or 0) for pairs in product(*choices)]

    def _by_reference(self, query: Query) -> Iterator[MintNode]:
        match = {
            name: text
            for key, name in REFERENCE_KEYS.items()
            if (text := matching.wire_text(query.match.get(key))) and not set(text) & set("*?\\")
        }
        day = query.match.get("StudyDate")
        if isinstance(day, str) and day:
            match |= dict(zip(self.date_keys, _dates(day, self.name), strict=True))
        for row in self.gateway.inventory(match):
            try:
                study = self.gateway.metadata(row.uuid)
            except ItemNotFound:
                continue  # deleted since
            if any(query.matches(one.tags) for one in _flat(study, query.level)):
                yield study

    def _meant(self, query: Query, tags: Mapping[str, Any]) -> bool:
        """Tell whether UIDs and dates, as far as they came back, are those that were asked for."""
        keys = query.match if self.dialect == "reference" else (*UIDS, "StudyDate")
        asked = {key: query.match[key] for key in keys if key in query.match}
        if self.dialect != "reference":
            asked = {key: value for key, value in asked.items() if not matching.is_blank(tags.get(key))}
        return Query(asked).matches(tags)


def _narrowed(study: MintNode, query: Query) -> bool:
    """Leave only the series and instances whose UIDs were asked for; False when nothing is left of them."""
    for key, depth in (("SeriesInstanceUID", DicomLevel.SERIES), ("SOPInstanceUID", DicomLevel.INSTANCES)):
        wanted = query.match.get(key)
        if matching.is_blank(wanted) or depth > query.level:
            continue
        parents = [study] if depth == DicomLevel.SERIES else study.children
        for parent in parents:
            parent.children = [one for one in parent.children if matching.met(key, wanted, one.uid)]
        if depth == DicomLevel.INSTANCES:
            study.children = [one for one in study.children if one.children]
        if not study.children:
            return False
    return True


def _dates(text: str, name: str) -> tuple[str, str]:
    """Return first and last day of a range. Raises Unsupported for what MINT cannot ask."""
    first, dash, last = text.replace("-", "", text.count("-") - 1 if text.count("-") == 4 else 0).partition("-")
    ends = (first.strip(), last.strip() if dash else first.strip())
    if any(day and not (len(day) == 8 and day.isdigit()) for day in ends):
        raise Unsupported(f"{name}: MINT searches days and ranges of days (YYYYMMDD), nothing else")
    return ends


def _flat(study: MintNode, level: DicomLevel) -> Iterator[Dixel]:
    """Yield the objects of a level as dixels that carry the tags of what is above them."""
    meta = {"MintUUID": study.uuid, "LastModified": study.last_modified, "Version": study.version}
    meta = {key: value for key, value in meta.items() if value}
    rows = [(study, dict(study.tags))]
    for _ in range(DicomLevel.STUDIES, level):
        rows = [(child, {**tags, **child.tags}) for node, tags in rows for child in node.children]
    for node, tags in rows:
        yield Dixel(meta={"ID": node.uid, **meta}, tags=tags, level=level)


def _study(node: MintNode) -> MintStudy:
    series = tuple(
        MintSeries(
            one.uid,
            tags=one.tags,
            study_uid=node.uid,
            instances=tuple(
                MintInstance(deep.uid, tags=deep.tags, study_uid=node.uid, series_uid=one.uid) for deep in one.children
            ),
        )
        for one in node.children
    )
    return MintStudy(node.uid, tags=node.tags, series=series, mint_uuid=node.uuid, last_modified=node.last_modified)
