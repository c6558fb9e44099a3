"""MINT: searches as Vitrea answers them, metadata and binary items as the reference server does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final, cast  # Any: tag values

from attrs import define, field

from diana.exceptions import InvalidItem, ItemNotFound, Unsupported
from diana.server import attributes as a
from diana.server.archive import LISTED, MODALITIES, Archive, listed
from diana.server.asked import Ask, Refusal, Reply, gathered
from diana.server.dicomweb_retrieve import blob_of
from diana.server.limits import LEVELS, Limits
from diana.server.metadata import PIXELS, bulk_elements, bulk_value, model_of
from diana.server.mint_xml import (
    ORDINAL_BITS,
    Node,
    bulk_attrs,
    item_number,
    metadata_pieces,
    of_model,
    search_pieces,
)
from diana.server.pixels import Pixels
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.dicom.dictionary import keyword_of
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways.key_levels import level_of

KIND: Final = "text/xml; charset=UTF-8"
SYNTAX: Final = "TransferSyntaxUID"
DAYS: Final = (("minStudyDate", "min_study_date"), ("maxStudyDate", "max_study_date"))
# the names that the reference server has for three of the keys
NAMES: Final = {
    "studyInstanceUID": "StudyInstanceUID",
    "accessionNumber": "AccessionNumber",
    "patientID": "PatientID",
}


@define
class Wanted:
    """Hold what the parameters of a search say."""

    match: dict[str, Any] = field(factory=dict, repr=False)
    level: DicomLevel = DicomLevel.STUDIES
    fields: list[str] = field(factory=list)
    limit: int = 0
    offset: int = 0


def wanted_of(ask: Ask) -> Wanted:
    """Read the parameters. Raises InvalidItem, Unsupported."""
    found = Wanted()
    days = ["", ""]
    for key, value in ask.pairs():
        place = next((at for at, names in enumerate(DAYS) if key in names), -1)
        if place >= 0:
            days[place] = _day(value)
        elif key.lower() == "querylevel":
            found.level = _level(value)
        elif key.lower() == "includefields":
            found.fields += [a.keyword_of(one.strip()) for one in value.split(",") if one.strip()]
        elif key == "limit":
            found.limit = _number(value)
        elif key == "offset":
            found.offset = max(0, _number(value) - 1)
        else:
            keyword = a.keyword_of(NAMES.get(key, key))
            if not keyword:
                raise Unsupported("private attributes cannot be matched")
            a.add_match(found.match, keyword, value)
    if any(days):
        a.add_match(found.match, "StudyDate", days[0] if days[0] == days[1] else "-".join(days))
    if any(not one or level_of(one) > found.level for one in found.fields):
        raise Unsupported("a search cannot return fields of a deeper level, or private ones")
    return found


def _day(text: str) -> str:
    if text and not (len(text) == 8 and text.isascii() and text.isdigit()):
        raise InvalidItem("a day is YYYYMMDD")
    return text


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidItem("limit and offset are whole numbers")
    return int(text)


def _level(text: str) -> DicomLevel:
    for level in LEVELS:
        if text.upper() == level.singular.upper():
            return level
    raise InvalidItem("QueryLevel is STUDY, SERIES or INSTANCE")


@define(eq=False)
class MintFace:
    """Answer searches, metadata and binary items; the id of a study is its Study Instance UID."""

    archive: Archive
    limits: Limits

    def search(self, ask: Ask) -> Reply:
        """Answer a search; the limit counts studies."""
        wanted = wanted_of(ask)
        most = self.limits.results
        limit = min(wanted.limit or most, most)
        rows = self._rows(DicomLevel.STUDIES, wanted, wanted.match, wanted.offset, limit + 1)
        if len(rows) > limit and not 0 < wanted.limit <= most:
            raise Refusal(400, "there are more matches than one answer holds; ask more precisely, or with limit")
        studies = {one.uid: one for one in rows[:limit]}
        if wanted.level > DicomLevel.STUDIES and studies:
            self._deepen(wanted, studies)
        return Reply(gathered(search_pieces(studies.values(), wanted.level, wanted.fields)), KIND)

    def _rows(self, level: DicomLevel, wanted: Wanted, match: dict[str, Any], offset: int, limit: int) -> list[Node]:
        above = [one for one in LEVELS if one < level]
        fields = [key for key in a.asked_of(level, wanted.fields) if key != SYNTAX]
        found = self.archive.search(
            level, match, wanted=fields, usual=a.asked_of(level, a.upto(level)), offset=offset, limit=limit
        )
        a.count(self.archive, found, level)
        if level == DicomLevel.INSTANCES and SYNTAX in wanted.fields:
            for one in found:
                one.tags[SYNTAX] = one.meta.get(SYNTAX)
        parents = [one.uid_keyword for one in above]
        return [
            Node(
                str(one.tags.get(level.uid_keyword) or ""),
                a.tags_of(one, level, (*a.USUAL[level], *wanted.fields, *parents)),
            )
            for one in found
            if is_uid(str(one.tags.get(level.uid_keyword) or ""))
        ]

    def _deepen(self, wanted: Wanted, studies: dict[str, Node]) -> None:
        """Put series, and instances when they are wanted, below some studies."""
        rest = {key: value for key, value in wanted.match.items() if key not in ("StudyInstanceUID", MODALITIES)}
        uids = list(studies)
        left = self.limits.results
        for at in range(0, len(uids), LISTED):
            match = {**rest, "StudyInstanceUID": listed(uids[at : at + LISTED])}
            for level in LEVELS[1 : LEVELS.index(wanted.level) + 1]:
                rows = self._rows(level, wanted, match, 0, left + 1)
                left -= len(rows)
                if left < 0:
                    raise Refusal(
                        400, "there are more matches than one answer holds; ask more precisely, or with limit"
                    )
                for row in rows:
                    self._place(row, level, studies)
        self._trim(studies, wanted)

    @staticmethod
    def _place(row: Node, level: DicomLevel, studies: dict[str, Node]) -> None:
        study = studies.get(str(row.tags.get("StudyInstanceUID") or ""))
        parent = study
        if study is not None and level == DicomLevel.INSTANCES:
            uid = str(row.tags.get("SeriesInstanceUID") or "")
            parent = study.below.get(uid)
        if parent is not None:
            parent.below[row.uid] = row

    @staticmethod
    def _trim(studies: dict[str, Node], wanted: Wanted) -> None:
        """Leave at each level only its own attributes; drop what got nothing below it."""
        shown = {level: (*a.USUAL[level], *wanted.fields) for level in LEVELS}

        def kept(node: Node, level: DicomLevel) -> None:
            node.tags = {
                key: value
                for key, value in node.tags.items()
                if key in shown[level] and (level_of(key) == level or level == LEVELS[0])
            }
            for one in node.below.values():
                kept(one, DicomLevel(level + 1))

        for study in studies.values():
            kept(study, DicomLevel.STUDIES)

    def metadata(self, ask: Ask) -> Reply:
        """Answer with the metadata of a study."""
        ref = ask.ref()
        series: dict[str, tuple[str, list[str]]] = {}
        common, count = "", 0
        with closing(cast(Any, self.archive.instances(ref))) as found:
            for one in found:
                count += 1
                if count > self.limits.results:
                    raise Refusal(400, "the study has more instances than one answer holds")
                blob = blob_of(one)
                try:
                    model = model_of(blob, "")
                    sizes = _sizes(blob, model)
                finally:
                    blob.close()
                parts = _by_level(model)
                common = common or of_model(parts[DicomLevel.STUDIES], 0)
                own = of_model(parts[DicomLevel.SERIES], 0)
                uid = one.ref.instance
                syntax = str(one.meta.get("TransferSyntaxUID") or "")
                text = (
                    f'<instance sopInstanceUID="{uid}" transferSyntaxUID="{syntax if is_uid(syntax) else ""}">'
                    f"<attributes>{of_model(parts[DicomLevel.INSTANCES], 0)}{bulk_attrs(model, uid, sizes)}"
                    "</attributes></instance>\n"
                )
                series.setdefault(one.ref.series, (own, []))[1].append(text)
        return Reply(gathered(metadata_pieces(ref.study, common, series)), KIND)

    def binary_item(self, ask: Ask) -> Reply:
        """Answer with the bytes of a binary item."""
        ref = ask.ref()
        text = ask.path.get("item", "")
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise InvalidItem("a binary item is a number")
        number = int(text)
        head, ordinal = number >> ORDINAL_BITS, number & ((1 << ORDINAL_BITS) - 1)
        for one in self._candidates(ref, head):
            blob = blob_of(one)
            try:
                elements = list(bulk_elements(model_of(blob, "")))
                if ordinal < len(elements):
                    return self._item(blob, elements[ordinal][0])
            except BaseException:
                blob.close()
                raise
            blob.close()
        raise ItemNotFound("no such binary item")

    def _candidates(self, ref: Ref, head: int) -> Iterator[Any]:
        """Yield the instances of a study whose binary items begin with a number."""
        known = self.archive.listing(ref)
        if known is not None:
            for uid, one in known.items():
                if is_uid(uid) and item_number(uid, 0) >> ORDINAL_BITS == head:
                    yield self.archive.one(one.ref)
            return
        for one in self.archive.instances(ref):
            if item_number(one.ref.instance, 0) >> ORDINAL_BITS == head:
                yield one
            else:
                blob_of(one).close()

    @staticmethod
    def _item(blob: Blob, key: str) -> Reply:
        kind = "application/octet-stream"
        if key not in (PIXELS, "7FE00008", "7FE00009"):
            value = bulk_value(blob, key)
            blob.close()
            return Reply(value, kind)
        pixels = Pixels(blob)
        size = len(blob) - pixels.start if pixels.encapsulated else pixels.length
        return Reply(_closing(pixels.range(0, size), blob), kind, headers={"Content-Length": str(size)})


def _closing(pieces: Iterator[bytes], blob: Blob) -> Iterator[bytes]:
    try:
        yield from pieces
    finally:
        blob.close()


def _sizes(blob: Blob, model: dict[str, Any]) -> dict[str, int]:
    """Return how long the pixels are, when that can be told."""
    if PIXELS not in model:
        return {}
    try:
        pixels = Pixels(blob)
    except InvalidItem:
        return {}
    return {PIXELS: len(blob) - pixels.start if pixels.encapsulated else pixels.length}


def _by_level(model: dict[str, Any]) -> dict[DicomLevel, dict[str, Any]]:
    """Share out the attributes of an instance by the level at which they are kept."""
    found: dict[DicomLevel, dict[str, Any]] = {level: {} for level in LEVELS}
    for key, element in model.items():
        keyword = keyword_of(int(key, 16))
        level = level_of(keyword) if keyword else DicomLevel.INSTANCES
        found[max(level, DicomLevel.STUDIES)][key] = element
    return found
