"""Searching by QIDO-RS so that the answers agree with the query language."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final  # Any: tag values
from urllib.parse import quote

from attrs import define, field

from diana.dixel import Dixel
from diana.exceptions import GatewayAnswerError, InvalidItem, Unsupported
from diana.utils.dicom import DicomLevel, Query, matching
from diana.utils.dicom.dictionary import vr_of
from diana.utils.dicom.jsonmodel import JsonTags
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways.qido_rs import RAW, QidoRS

MOST_REQUESTS: Final = 1000
TEXT_VRS: Final = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_ENCODED: Final = re.compile(r"(?:%[0-9A-F]{2}|,)+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# keys that belong to a level below; a server that is asked for them above it answers anything
DEEPER: Final = {
    DicomLevel.SERIES: _words(
        "SeriesInstanceUID SeriesNumber SeriesDescription SeriesDate SeriesTime BodyPartExamined ProtocolName "
        "Laterality PerformedProcedureStepStartDate StationName OperatorsName"
    ),
    DicomLevel.INSTANCES: _words(
        "SOPInstanceUID SOPClassUID InstanceNumber NumberOfFrames Rows Columns BitsAllocated TransferSyntaxUID "
        "InstanceCreationDate InstanceCreationTime AcquisitionNumber ImageType ContentDate ContentTime"
    ),
}


@define(eq=False)
class Search:
    """
    Run one query.

    Each combination of several wanted values is a request of its own, which every server understands. Nothing is
    yielded that does not match here. Raises Unsupported for a key that the server or the protocol cannot honour.
    """

    gateway: QidoRS
    asked: Query
    _wanted: dict[str, Any] = field(init=False)
    _fields: list[str] = field(init=False)
    _lacking: set[str] = field(init=False, factory=set)
    _known: set[str] = field(init=False, factory=set)

    def __attrs_post_init__(self) -> None:
        level, match = self.asked.level, dict(self.asked.match)
        self.asked.wire()
        if level == DicomLevel.PATIENTS:
            raise Unsupported(f"{self.gateway.name}: QIDO-RS has no patient level; ask for studies")
        if level == DicomLevel.STUDIES and "Modality" in match and "ModalitiesInStudy" not in match:
            match["ModalitiesInStudy"] = match.pop("Modality")
        self._wanted = {key: one for key, one in match.items() if not matching.is_blank(one) and one != "*"}
        self._fields = [key for key in (*match, *self.asked.fields) if key not in self._wanted]
        for below, words in DEEPER.items():
            wrong = sorted(words & self._wanted.keys()) if below > level else []
            if wrong:
                text = f"{self.gateway.name}: {', '.join(wrong)} cannot be matched at the level of {level}"
                raise Unsupported(f"{text}; ask for {below}")

    def run(self) -> Iterator[Dixel]:
        """Yield what is found."""
        combinations = list(itertools.islice(self._combinations(), MOST_REQUESTS + 1))
        if len(combinations) > MOST_REQUESTS:
            raise Unsupported(f"{self.gateway.name}: more than {MOST_REQUESTS} combinations of values")
        seen: set[str] = set()
        for one in combinations:
            for found in self._found(one):
                uid = str(found.tags.get(self.asked.level.uid_keyword))
                if len(combinations) == 1 or uid not in seen:
                    seen.add(uid)
                    yield found
        unheard = self._lacking - self._known
        if unheard:
            raise Unsupported(f"{self.gateway.name}: the server does not match {', '.join(sorted(unheard))}")

    def _combinations(self) -> Iterator[dict[str, str]]:
        choices = [[(key, text) for text in _sent(key, one)] for key, one in self._wanted.items()]
        return (dict(pairs) for pairs in itertools.product(*choices))

    def _found(self, sent: Mapping[str, str]) -> Iterator[Dixel]:
        """Yield what one request finds; when there is nothing, ask again without what some servers cannot decode."""
        empty = True
        for found in self._rows(sent):
            empty = False
            if found is not None:
                yield found
        loose = {key: _loose(key, text) for key, text in sent.items()} if empty else sent
        if loose != sent:
            yield from (found for found in self._rows(loose) if found is not None)

    def _rows(self, sent: Mapping[str, str]) -> Iterator[Dixel | None]:
        """Yield what the server gives, None for what does not match."""
        level, wish = self.asked.level, Query(self._wanted)
        above = {
            one.uid_keyword: sent[one.uid_keyword]
            for one in (DicomLevel.STUDIES, DicomLevel.SERIES)
            if one < level and is_uid(sent.get(one.uid_keyword, ""))
        }
        for row in self.gateway.search(level, sent, fields=self._fields, limit=self.asked.limit):
            tags = {**above, **self._tags(row)}
            if wish.matches(tags):
                self._known.update(self._wanted)
                yield Dixel(tags=tags, level=level)
            else:
                self._lacking.update(key for key in self._wanted if key not in tags)
                self._known.update(key for key in self._wanted if key in tags)
                yield None

    def _tags(self, row: JsonTags) -> dict[str, Any]:
        try:
            return row.as_dict()
        except InvalidItem as error:
            raise GatewayAnswerError(f"{self.gateway.name}: {error}") from None


def _sent(keyword: str, wanted: Any) -> list[str]:
    """Return the texts to ask for, one request each."""
    if isinstance(wanted, str) and "\\" in wanted:
        wanted = wanted.split("\\")
    if isinstance(wanted, list | tuple | set | frozenset):
        return list(dict.fromkeys(text for one in wanted for text in _sent(keyword, one)))
    text, vr = matching.wire_text(wanted).strip(" "), vr_of(keyword)
    if vr == "DA" and re.match(r"\d{4}-\d{2}-\d{2}\Z", text):
        return [text.replace("-", "")]
    if vr == "TM":
        return [_time_range(text)]
    return [text]


def _time_range(text: str) -> str:
    """Return a range that covers every way to write a time: 1015 is 101500 and 101500.000000."""
    plain = text.replace(":", "")
    if "*" in plain or "?" in plain:
        return plain
    first, dash, last = plain.partition("-")
    last = last if dash else first
    whole, _, fraction = last.partition(".")
    return f"{first}-{whole.ljust(6, '9')}.{fraction.ljust(6, '9')}" if last else f"{first}-"


def _loose(keyword: str, text: str) -> str:
    """Return a text with wildcards for what must be encoded in an address, or separates values for some servers."""
    return _ENCODED.sub("*", quote(text, safe=RAW)) if vr_of(keyword) in TEXT_VRS else text
