"""Searching an Orthanc so that its answers agree with the query language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final  # Any: tag values and JSON

from attrs import define, field, frozen

from diana.dixel import Dixel
from diana.exceptions import GatewayAnswerError, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, Query, dictionary, matching
from diana.utils.gateways.orthanc import Orthanc as Gateway
from diana.utils.pool import bounded_map

PAGE: Final = 1000
KEPT_PARENTS: Final = 2048


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What every Orthanc keeps in its index; other tags are read from the files.
MAIN: Final = {
    DicomLevel.PATIENTS: _words("PatientID PatientName PatientBirthDate PatientSex OtherPatientIDs"),
    DicomLevel.STUDIES: _words(
        "AccessionNumber InstitutionName ReferringPhysicianName RequestedProcedureDescription RequestingPhysician "
        "StudyDate StudyDescription StudyID StudyInstanceUID StudyTime"
    ),
    DicomLevel.SERIES: _words(
        "AcquisitionDeviceProcessingDescription BodyPartExamined CardiacNumberOfImages ContrastBolusAgent "
        "ImageOrientationPatient ImagesInAcquisition Manufacturer Modality NumberOfSlices NumberOfTemporalPositions "
        "NumberOfTimeSlices OperatorsName PerformedProcedureStepDescription ProtocolName SequenceName SeriesDate "
        "SeriesDescription SeriesInstanceUID SeriesNumber SeriesTime SeriesType StationName"
    ),
    DicomLevel.INSTANCES: _words(
        "AcquisitionNumber ImageComments ImageIndex ImagePositionPatient InstanceCreationDate InstanceCreationTime "
        "InstanceNumber NumberOfFrames SOPInstanceUID TemporalPositionIdentifier"
    ),
}
IDENTIFIERS: Final = _words(
    "PatientID PatientName PatientBirthDate StudyInstanceUID AccessionNumber StudyDescription StudyDate "
    "SeriesInstanceUID SOPInstanceUID"
)
COMPUTED: Final = re.compile(
    r"NumberOf(Patient|Study|Series)Related\w+|InstanceAvailability|QueryRetrieveLevel|Retrieve\w+|SOPClassesInStudy"
)
TEXT_VRS: Final = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
FACTS: Final[tuple[str, ...]] = (
    "ID",
    "ParentPatient",
    "ParentStudy",
    "ParentSeries",
    "IsStable",
    "LastUpdate",
    "FileSize",
)
LISTED: Final = ("MainDicomTags", "PatientMainDicomTags")


def _level_of(keyword: str) -> DicomLevel | None:
    return next((level for level, words in MAIN.items() if keyword in words), None)


@frozen
class Plan:
    """Say what is asked of the server: ``sent`` at ``level``; ``rest`` is checked here, on tags or on whole headers."""

    asked: Query
    level: DicomLevel
    sent: dict[str, str]
    rest: Query
    missing: frozenset[str]
    whole: bool

    @classmethod
    def of(cls, query: Query, name: str) -> Plan:
        """Work out the plan. Raises Unsupported for keys that an Orthanc cannot honour."""
        query.wire()
        match = dict(query.match)
        if "ModalitiesInStudy" in match and "Modality" not in match:
            match["Modality"] = match.pop("ModalitiesInStudy")
        for keyword in (*match, *query.fields):
            if COMPUTED.fullmatch(keyword) or keyword == "ModalitiesInStudy" or dictionary.vr_of(keyword) == "SQ":
                raise Unsupported(f"{name}: cannot search or answer {keyword}")
        wanted = {key: one for key, one in match.items() if not matching.is_blank(one) and one != "*"}
        places = {key: _level_of(key) for key in wanted}
        deepest = max((place or DicomLevel.INSTANCES for place in places.values()), default=query.level)
        sent = {key: text for key, one in wanted.items() if (text := _sent(key, one)) is not None}
        asked_for = {*query.fields, *match} - wanted.keys()
        return cls(
            query,
            max(query.level, deepest),
            sent,
            Query(wanted),
            frozenset(key for key in asked_for if (_level_of(key) or DicomLevel.INSTANCES) > query.level),
            whole=None in places.values(),
        )

    @property
    def pinned(self) -> bool:
        """Tell whether the items are named by their UIDs, so that no answer can be cut short unnoticed."""
        text = self.sent.get(self.level.uid_keyword, "*")
        return "*" not in text and "?" not in text


def _sent(keyword: str, wanted: Any) -> str | None:
    """Return a text for which the server finds at least what is wanted; None: look at everything here."""
    if isinstance(wanted, str) and "\\" in wanted:
        wanted = wanted.split("\\")
    if isinstance(wanted, list | tuple | set | frozenset):
        texts = [_sent(keyword, one) for one in wanted]
        if len(texts) == 1:
            return texts[0]
        open_ended = "*?-" if dictionary.vr_of(keyword) in ("DA", "TM") else "*?"
        plain = [text for text in texts if text and not any(sign in text for sign in open_ended)]
        return "\\".join(plain) if len(plain) == len(texts) else None
    text, vr = matching.wire_text(wanted).strip(" "), dictionary.vr_of(keyword)
    wild = "*" in text or "?" in text
    if vr == "DA":
        return _sent_date(text)
    if vr == "TM":
        return None if wild else _sent_time(text)
    if vr == "UI":
        return None if wild else text
    if vr not in TEXT_VRS:
        return None
    if vr == "PN":
        return text.rstrip("^*") + "*"
    return text if _single(keyword) else f"*{text.strip('*')}*"


def _wire_key(keyword: str) -> str:
    """Return the name of a key for the server, which knows retired ones only by number."""
    tag = dictionary.tag_of(keyword)
    if tag is None or dictionary.entries()[tag].retired != "Retired":
        return keyword
    return f"{tag >> 16:04x},{tag & 0xFFFF:04x}"


def _single(keyword: str) -> bool:
    tag = dictionary.tag_of(keyword)
    return tag is not None and dictionary.entries()[tag].vm == "1"


def _sent_date(text: str) -> str | None:
    if "-" in text and not re.match(r"\d{4}-\d{2}-\d{2}\Z", text):
        first, _, last = (re.sub(r"\D", "", part) for part in text.partition("-"))
        return f"{first}-{last}" if first or last else None
    digits = re.sub(r"\D", "", text)
    return digits if len(digits) == 8 and "*" not in text and "?" not in text else None


def _sent_time(text: str) -> str | None:
    """Return a range that covers every way to write the time: 1015 is 101500 and 101500.000000."""
    plain = text.replace(":", "")
    if "-" in plain:
        low, _, high = (part.strip() for part in plain.partition("-"))
        return f"{low}-{_latest(high)}" if low or high else None
    short = plain.rstrip("0").rstrip(".") if "." in plain else plain
    while len(short) > 2 and "." not in short and short.endswith("00"):
        short = short[:-2]
    return f"{short}-{_latest(short)}" if short else None


def _latest(text: str) -> str:
    if not text:
        return ""
    whole, _, fraction = text.partition(".")
    return f"{whole.ljust(6, '9')}.{fraction.ljust(6, '9')}"


@define(eq=False)
class Search:
    """
    Run one query; the gateway's requests are as few as the index allows.

    One request finds patients and studies by their own keys; deeper keys and levels also need the parents, once
    each, and keys that are not in the index the tags of every candidate. ``proven`` remembers, for series and above
    and for instances, how many results the server is known to give (its LimitFindResults says nothing about itself).
    """

    gateway: Gateway
    plan: Plan
    proven: dict[bool, int]
    _parents: dict[str, dict[str, Any]] = field(init=False, factory=dict, repr=False)

    def run(self) -> Iterator[Dixel]:
        """Yield what is found. Raises GatewayAnswerError when the server cuts its answer short."""
        plan, seen = self.plan, set[str]()
        for row, tags in self._matching():
            try:
                found, tags = self._climbed(row, tags)
                oid = str(found.get("ID") or "")
                if oid in seen or not oid:
                    continue
                if plan.level != plan.asked.level:
                    seen.add(oid)
                tags = {**tags, **self._more_tags(oid)}
            except ItemNotFound:
                continue
            meta = {key: found[key] for key in FACTS if key in found}
            yield Dixel(meta=meta, tags=tags, level=plan.asked.level)

    def _matching(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield rows of the search level, with tags, that truly match."""
        if not self.plan.whole:
            for row in self._rows():
                tags = self._tags(row, self.plan.level)
                if tags is not None and self.plan.rest.matches(tags):
                    yield row, tags
            return
        for row, tags in bounded_map(self._with_all_tags, self._rows()):
            if tags is not None and self.plan.rest.matches(tags):
                yield row, self._tags(row, self.plan.level) or {}

    def _with_all_tags(self, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
        try:
            return row, self.gateway.tags(str(row.get("ID")), self.plan.level)
        except ItemNotFound:
            return row, None

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield what the server finds at the search level, page by page."""
        limit, count, before = self.plan.asked.limit, 0, set[str]()
        exact = limit is not None and self.plan.level == self.plan.asked.level and not self.plan.rest.match
        size = min(PAGE, max(limit or 1, 1)) if exact else PAGE
        while True:
            page = self._page(count, size)
            ids = {str(row.get("ID")) for row in page}
            fresh = [row for row in page if str(row.get("ID")) not in before]
            yield from fresh
            count += len(page)
            if len(page) != size or not fresh:
                break
            before = ids
        self._prove(count)

    def _page(self, since: int, size: int) -> list[dict[str, Any]]:
        found = self.gateway.find(
            {
                "Level": self.plan.level.singular,
                "Query": {_wire_key(key): text for key, text in self.plan.sent.items()},
                "Expand": True,
                "CaseSensitive": False,
                "Since": since,
                "Limit": size,
            }
        )
        if not all(isinstance(row, dict) for row in found):
            raise GatewayAnswerError(f"{self.gateway.name}: the answer of a search is not a list of objects")
        return found

    def _prove(self, count: int) -> None:
        """
        Make sure that the answer is complete.

        LimitFindResults ends an answer one beyond the limit without a word, and keys outside the database's own
        identifiers are looked at only within that many candidates. One small request tells whether the server goes
        further; only when it does not, its statistics decide.
        """
        plan = self.plan
        level, kind = plan.level, plan.level == DicomLevel.INSTANCES
        filtered = bool(plan.sent.keys() - IDENTIFIERS)
        if plan.pinned or (not filtered and count <= max(1, self.proven.get(kind, 0))):
            return
        total = self._total()
        needed = max(count, total) if filtered else count
        if total <= count or needed <= self.proven.get(kind, 0):
            return
        probe = self.gateway.find({"Level": level.singular, "Query": {}, "Since": needed - 1, "Limit": 2})
        if len(probe) < (2 if needed < total else 1) and self._total() >= total:
            raise GatewayAnswerError(
                f"{self.gateway.name}: the server cuts its answers short; raise LimitFindResults or ask for less"
            )
        self.proven[kind] = max(self.proven.get(kind, 0), needed)

    def _total(self) -> int:
        """Return how many resources of the search level there are; 0 when the server does not tell."""
        word = {1: "CountPatients", 2: "CountStudies", 3: "CountSeries", 4: "CountInstances"}[self.plan.level.value]
        total = self.gateway.statistics().get(word)
        return total if isinstance(total, int) else 0

    def _tags(self, row: Mapping[str, Any], level: DicomLevel) -> dict[str, Any] | None:
        """Return the indexed tags of a row and of all above it; None when those are gone."""
        tags: dict[str, Any] = {}
        for word in LISTED:
            part = row.get(word)
            tags.update(part if isinstance(part, dict) else {})
        if level >= DicomLevel.SERIES:
            try:
                above = self._tags(self._parent(row, level), DicomLevel(level - 1))
            except ItemNotFound:
                return None
            return None if above is None else {**above, **tags}
        return tags

    def _parent(self, row: Mapping[str, Any], level: DicomLevel) -> dict[str, Any]:
        above = DicomLevel(level - 1)
        oid = str(row.get(f"Parent{above.singular}") or "")
        found = self._parents.get(oid)
        if found is None:
            found = self.gateway.resource(oid, above)
            if len(self._parents) >= KEPT_PARENTS:
                self._parents.clear()
            self._parents[oid] = found
        return found

    def _climbed(self, row: dict[str, Any], tags: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the row's ancestor at the asked level, with the tags of that level and above."""
        level = self.plan.level
        if level == self.plan.asked.level:
            return row, tags
        while level > self.plan.asked.level:
            row = self._parent(row, level)
            level = DicomLevel(level - 1)
        return row, self._tags(row, level) or {}

    def _more_tags(self, oid: str) -> dict[str, Any]:
        """Return the tags asked for that are not in the index."""
        if not self.plan.missing:
            return {}
        found = self.gateway.tags(oid, self.plan.asked.level)
        return {key: found[key] for key in self.plan.missing if key in found}


def by_uids(gateway: Gateway, level: DicomLevel, uids: Mapping[str, str]) -> list[str]:
    """Return the ids of the resources of a level that some UIDs name; more than one when patients share a UID."""
    asked = {"Level": level.singular, "Query": dict(uids), "CaseSensitive": True, "Expand": False}
    return [str(oid) for oid in gateway.find(asked)]
