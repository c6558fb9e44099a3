"""
MINT over HTTP, in plain values.

Two dialects: what Vitrea Connection 8.2 and 9.2 speak (searches that answer attributes), and that of the reference
server of MINT 1.0 (searches that answer ids, metadata and binary items of each study). The formats differ only in
what is wrapped around an ``attr``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final  # Any: tag values
from urllib.parse import quote

from attrs import define, field

from diana.exceptions import GatewayAnswerError, Unsupported
from diana.utils.blob import Blob
from diana.utils.dicom.dictionary import entry_of, vr_of
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways.http import Answer, HttpClient
from diana.utils.gateways.xml_safe import charset_of, children_of, local, parse_xml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["FIELDS", "Mint", "MintNode", "Wanted", "check_fields"]

NAMESPACE: Final = "http://medical.nema.org/mint"
ROOT: Final = "studySearchResults"
DATE_KEYS: Final = ("minStudyDate", "maxStudyDate")
RAW: Final = "*/,"
PAGE: Final = 50
MAX_PAGES: Final = 20_000
MAX_BINARY: Final = 16 << 30

_TAG: Final = re.compile(r"[0-9a-fA-F]{8}\Z")
_UUID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
_NOT_SPLIT: Final = frozenset(("LT", "ST", "UT", "UR"))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STUDY: Final = _words(
    "AccessionNumber ConfidentialityCode CurrentPatientLocation InstanceAvailability InstitutionName "
    "InstitutionalDepartmentName IssuerOfAccessionNumberSequence IssuerOfPatientID IssuerOfPatientIDQualifiersSequence "
    "ModalitiesInStudy NumberOfStudyRelatedInstances NumberOfStudyRelatedSeries OtherPatientIDsSequence "
    "PatientBirthDate PatientBirthTime PatientID PatientName PatientSex ProcedureCodeSequence "
    "ReasonForPerformedProcedureCodeSequence ReferringPhysicianName RequestedProcedureID SOPClassesInStudy "
    "SourceApplicationEntityTitle StudyDate StudyDescription StudyID StudyInstanceUID StudyStatusID StudyTime"
)
_PROMOTABLE: Final = _words(
    "CorrectedImage DateOfLastCalibration DeviceSerialNumber InstitutionAddress Manufacturer ManufacturerModelName "
    "SoftwareVersions StationName TimeOfLastCalibration"
)
_SERIES: Final = _words(
    "AnatomicRegionSequence BodyPartExamined FrameOfReferenceUID Laterality Modality NumberOfSeriesRelatedInstances "
    "OperatorsName PerformedProcedureStepDescription PerformedProcedureStepStartDate PerformedProcedureStepStartTime "
    "PerformedProcedureStepStatus PerformingPhysicianName PresentationIntentType ProtocolName SeriesDate "
    "SeriesDescription SeriesInstanceUID SeriesNumber SeriesTime SeriesType SmallestPixelValueInSeries "
    "SpatialResolution"
)
_INSTANCE: Final = _words(
    "BitsAllocated Columns ConceptNameCodeSequence ContentCreatorName ContentDate ContentDescription ContentLabel "
    "ContentTime InstanceNumber NumberOfFrames ObservationDateTime PixelPaddingValue PresentationCreationDate "
    "PresentationCreationTime RetrieveURI Rows SOPClassUID SOPInstanceUID TransferSyntaxUID"
)
FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "STUDY": _STUDY,
    "SERIES": _STUDY | _SERIES | _PROMOTABLE,
    "INSTANCE": _STUDY | _SERIES | _PROMOTABLE | _INSTANCE,
}
_LEVELS: Final = {"study": DicomLevel.STUDIES, "series": DicomLevel.SERIES, "instance": DicomLevel.INSTANCES}


def check_fields(names: Iterable[str], level: str) -> None:
    """Raise Unsupported for fields that a search at a level (STUDY, SERIES, INSTANCE) cannot return."""
    if wrong := sorted(set(names) - FIELDS[level]):
        raise Unsupported(f"a MINT search at {level} level cannot return {', '.join(wrong)}")


@define(eq=False)
class MintNode:
    """
    Hold a study, series or instance: its tags by keyword (several values as list, sequences as list of mappings).

    ``uuid``, ``version`` and ``last_modified`` are MINT's, of studies only. ``bulk`` maps keywords to the ids of the
    binary items that hold their values.
    """

    level: DicomLevel
    tags: dict[str, Any] = field(factory=dict, repr=False)
    children: list[MintNode] = field(factory=list, repr=False)
    uuid: str = ""
    version: str = ""
    last_modified: str = ""
    bulk: dict[str, int] = field(factory=dict, repr=False)

    @property
    def uid(self) -> str:
        """Return the UID of the node's own level, empty when there is none."""
        return str(self.tags.get(self.level.uid_keyword) or "")


@define
class Wanted:
    """Say what a search looks for: texts by keyword, days (YYYYMMDD) from and to, keywords to return, a limit."""

    match: Mapping[str, str] = field(factory=dict, repr=False)
    level: str = "STUDY"
    dates: tuple[str, str] = ("", "")
    fields: Sequence[str] = ()
    limit: int = 0


@define(eq=False)
class Mint:
    """
    Speak to one MINT server through ``client``, whose base address is that of the service (``.../mint``).

    ``date_keys`` are the names by which the server knows the first and last day: servers ignore names that they do
    not know, so look at what comes back. Raises GatewayError, ItemNotFound.
    """

    client: HttpClient
    name: str = "MINT"
    date_keys: tuple[str, str] = DATE_KEYS

    def search(self, wanted: Wanted) -> Iterator[MintNode]:
        """Yield the studies that a search finds, as they arrive, series and instances below."""
        check_fields(wanted.fields, wanted.level)
        where = f"{self.name}: search"
        with self.client.request("GET", f"studies?{self.parameters(wanted)}") as answer:
            self._is_xml(answer, where)
            pieces = answer.pieces(256 << 10)
            charset = charset_of(answer.headers)
            for study in children_of(_watched(pieces, wanted.level, where), where, root=ROOT, charset=charset):
                if local(study) == "study":
                    yield _found(study, where, _LEVELS[wanted.level.lower()])

    def parameters(self, wanted: Wanted) -> str:
        """Return the query part of the address of a search: only what is not empty, ``* / ,`` as they are."""
        pairs = [(key, text) for key, text in wanted.match.items() if text]
        pairs += [(key, day) for key, day in zip(self.date_keys, wanted.dates, strict=True) if day]
        pairs.append(("QueryLevel", wanted.level))
        if wanted.fields:
            pairs.append(("IncludeFields", ",".join(wanted.fields)))
        if wanted.limit:
            pairs.append(("limit", str(wanted.limit)))
        return "&".join(f"{key}={quote(text, safe=RAW)}" for key, text in pairs)

    def inventory(self, match: Mapping[str, str]) -> Iterator[MintNode]:
        """
        Yield the studies that the reference server finds, without tags: only MINT's ids.

        ``match`` has the server's own keys: studyInstanceUID, accessionNumber, patientID, minStudyDate, maxStudyDate.
        """
        seen: set[str] = set()
        for page in range(MAX_PAGES):
            rows = self._page(match, page * PAGE + 1)
            fresh = [row for row in rows if row.uuid not in seen]
            seen.update(row.uuid for row in fresh)
            yield from fresh
            if len(rows) < PAGE:
                return
            if not fresh:
                raise GatewayAnswerError(f"{self.name}: the server answers the same page again")

    def _page(self, match: Mapping[str, str], offset: int) -> list[MintNode]:
        where = f"{self.name}: search"
        pairs = [*((key, text) for key, text in match.items() if text), ("limit", str(PAGE)), ("offset", str(offset))]
        path = "&".join(f"{key}={quote(text, safe=RAW)}" for key, text in pairs)
        with self.client.request("GET", f"studies?{path}") as answer:
            self._is_xml(answer, where)
            pieces = answer.pieces(256 << 10)
            return [
                _mint_facts(MintNode(DicomLevel.STUDIES), study, where, needed=True)
                for study in children_of(pieces, where, root=ROOT, charset=charset_of(answer.headers))
                if local(study) == "study"
            ]

    def metadata(self, uuid: str) -> MintNode:
        """Return a study of the reference server with everything below. Raises ItemNotFound."""
        where = f"{self.name}: metadata"
        path = f"studies/{self._segment(uuid)}/DICOM/metadata"
        with self.client.request("GET", path, absent=True) as answer:
            self._is_xml(answer, where)
            root = parse_xml(answer.pieces(256 << 10), where, charset=charset_of(answer.headers))
        if local(root) != "study":
            raise GatewayAnswerError(f"{where}: the answer is XML of another kind")
        found = _mint_facts(_metadata_node(root, DicomLevel.STUDIES, where), root, where)
        found.uuid = found.uuid or uuid
        return found

    def binary_item(self, uuid: str, number: int) -> Blob:
        """Return a binary item of a study of the reference server. Raises ItemNotFound."""
        path = f"studies/{self._segment(uuid)}/DICOM/binaryitems/{number:d}"
        with self.client.request("GET", path, absent=True) as answer:
            if answer.content_type == "text/html":
                raise GatewayAnswerError(f"{self.name}: a binary item is a web page")
            return answer.blob(MAX_BINARY)

    def _segment(self, uuid: str) -> str:
        if not _UUID.match(uuid) or uuid.strip(".") == "":
            raise GatewayAnswerError(f"{self.name}: a study id that cannot stand in an address")
        return uuid

    @staticmethod
    def _is_xml(answer: Answer, where: str) -> None:
        if answer.content_type in ("text/html", "application/xhtml+xml", "application/json"):
            raise GatewayAnswerError(f"{where}: the answer is {answer.content_type}, not MINT", answer.status)


def _watched(pieces: Iterable[bytes], level: str, where: str) -> Iterator[bytes]:
    """Yield the pieces; refuse an answer that says in its first bytes that it is of a less deep level."""
    first = True
    for piece in pieces:
        if first:
            said = re.search(rb"<[^>?!]*studySearchResults[^>]*?\bQueryLevel\s*=\s*[\"']([A-Za-z]{1,12})", piece[:8192])
            if said and said[1].decode().upper() not in (level, "IMAGE" if level == "INSTANCE" else level):
                raise GatewayAnswerError(f"{where}: the server answered at another level than it was asked")
            first = False
        yield piece


def _found(study: Element, where: str, deepest: DicomLevel) -> MintNode:
    node = _node(study, DicomLevel.STUDIES, where, deepest)
    return _mint_facts(node, study, where)


def _mint_facts(node: MintNode, study: Element, where: str, *, needed: bool = False) -> MintNode:
    node.uuid = study.get("studyUUID") or study.get("studyInstanceUid") or ""
    node.version = study.get("version") or ""
    node.last_modified = study.get("lastModified") or ""
    if needed and not node.uuid:
        raise GatewayAnswerError(f"{where}: a study without an id")
    return node


def _node(element: Element, level: DicomLevel, where: str, deepest: DicomLevel) -> MintNode:
    """Return a node of a search; what is inside it comes in any order. Raises GatewayAnswerError without its UID."""
    node = MintNode(level)
    for child in element:
        name = local(child)
        if name == "attr":
            _take(node, child, where)
        elif _LEVELS.get(name) == level + 1 and level < deepest:
            node.children.append(_node(child, DicomLevel(level + 1), where, deepest))
    _check_uid(node, where)
    return node


def _check_uid(node: MintNode, where: str) -> None:
    if not is_uid(node.uid):
        kind = node.level.singular.lower()
        hint = "; the server may speak the reference dialect" if not node.tags and kind == "study" else ""
        raise GatewayAnswerError(f"{where}: a {kind} without a usable {node.level.uid_keyword}{hint}")
    node.children = _merged(node.children)


def _merged(nodes: list[MintNode]) -> list[MintNode]:
    """Return nodes with each UID once; what came twice is put together."""
    found: dict[str, MintNode] = {}
    for node in nodes:
        kept = found.setdefault(node.uid, node)
        if kept is not node:
            kept.tags.update(node.tags)
            kept.children = _merged([*kept.children, *node.children])
    return list(found.values())


def _metadata_node(element: Element, level: DicomLevel, where: str) -> MintNode:
    """Return a node of the reference server's metadata, what is common to the instances of a series in each."""
    node = MintNode(level)
    for name in ("studyInstanceUID", "seriesInstanceUID", "sopInstanceUID"):
        if text := element.get(name):
            node.tags["SOPInstanceUID" if name == "sopInstanceUID" else name[0].upper() + name[1:]] = text
    if syntax := element.get("transferSyntaxUID"):
        node.tags["TransferSyntaxUID"] = syntax
    common = MintNode(level)
    for child in element:
        name = local(child)
        if name == "attributes":
            _take_all(node, child, where)
        elif name == "normalizedInstanceAttributes":
            _take_all(common, child, where)
        elif name in ("seriesList", "instances"):
            below = DicomLevel(level + 1)
            kind = below.singular.lower()
            node.children += [_metadata_node(one, below, where) for one in child if local(one) == kind]
    for child_node in node.children:
        child_node.tags = {**common.tags, **child_node.tags}
        child_node.bulk = {**common.bulk, **child_node.bulk}
    _check_uid(node, where)
    return node


def _take_all(node: MintNode, element: Element, where: str) -> None:
    for child in element:
        if local(child) == "attr":
            _take(node, child, where)


def _take(node: MintNode, attr: Element, where: str) -> None:
    """Add an ``attr`` to a node. Raises GatewayAnswerError for a tag that is none; private ones are left out."""
    tag = attr.get("tag") or ""
    if not _TAG.match(tag):
        raise GatewayAnswerError(f"{where}: an attribute without a usable tag")
    keyword, known_vr, multiple = _entry(int(tag, 16))
    if not keyword:
        return
    vr = (attr.get("vr") or known_vr).upper()
    if vr == "SQ":
        node.tags[keyword] = [_item(item, where) for item in attr if local(item) == "item"]
        return
    bid = attr.get("bid")
    if bid is not None:
        if not (bid.isascii() and bid.isdigit() and len(bid) < 19):
            raise GatewayAnswerError(f"{where}: a binary item whose number is none")
        node.bulk[keyword] = int(bid)
        return
    value = attr.get("val") or ""
    node.tags[keyword] = value.split("\\") if multiple and "\\" in value and vr not in _NOT_SPLIT else value


def _item(item: Element, where: str) -> dict[str, Any]:
    node = MintNode(DicomLevel.INSTANCES)
    _take_all(node, item, where)
    for child in item:
        if local(child) == "attributes":
            _take_all(node, child, where)
    return node.tags


@lru_cache(maxsize=8192)
def _entry(tag: int) -> tuple[str, str, bool]:
    """Return keyword, value representation and whether several values are allowed; empty for what is not known."""
    found = entry_of(tag)
    if found is None or not found.keyword:
        return "", "", False
    return found.keyword, vr_of(tag), found.vm != "1"
