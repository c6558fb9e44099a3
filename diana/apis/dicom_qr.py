"""A DICOM node that is searched by C-FIND."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from itertools import product
from typing import Any, ClassVar  # Any: tag values

from attrs import define, field, frozen

from diana.apis.trolley_parts.search import Searcher, uids_of_id
from diana.dixel import Dixel, DixelView
from diana.exceptions import (
    GatewayAnswerError,
    GatewayRefused,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.utils.dicom import DicomLevel, Query, Ref, matching
from diana.utils.dicom.dictionary import vr_of
from diana.utils.dicom.ref import is_uid
from diana.utils.endpoint import Endpoint
from diana.utils.endpoint.serializable import whole_number
from diana.utils.gateways.dicom_qr import FindAssociation, tls_context
from diana.utils.gateways.dimse_pdu import check_ae_title
from diana.utils.gateways.key_levels import EVERYWHERE, level_of

log = logging.getLogger(__name__)

__all__ = ["DICOMQR", "DicomQR"]

CHECK_SECONDS = 10.0
MOST_SEARCHES = 200
Rows = Generator[dict[str, Any], None, None]
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
NOT_SPLIT = frozenset(("LT", "ST", "UT", "UR"))
USUAL = {
    DicomLevel.PATIENTS: "PatientID PatientName PatientBirthDate PatientSex",
    DicomLevel.STUDIES: (
        "StudyInstanceUID PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyDate StudyTime "
        "StudyDescription StudyID ModalitiesInStudy"
    ),
    DicomLevel.SERIES: "SeriesInstanceUID Modality SeriesNumber SeriesDescription",
    DicomLevel.INSTANCES: "SOPInstanceUID SOPClassUID InstanceNumber",
}


def _as_titles(title: str) -> str:
    return check_ae_title(title)


@frozen
class _Plan:
    """
    Say what is asked at each level, in texts, empty for what is only to be returned.

    ``level`` is that of the answers, ``deepest`` how far down the conditions reach.
    """

    level: DicomLevel
    deepest: DicomLevel
    keys: Mapping[DicomLevel, Mapping[str, str]] = field(repr=False)


@define(eq=False)
class DicomQR(Searcher, Endpoint):
    """
    Search a DICOM node by C-FIND; ids are DICOM UIDs (the PatientID for patients).

    Each key is sent at the level it belongs to, from the studies down, as the standard's hierarchical search wants it
    (PS3.4 C.4.1.3.1); nodes ignore keys at other levels. ``relational=True`` sends everything in one request, for nodes
    that understand it. ``aec`` is the AE title of the node. ``timeout`` is (connect, silence) in seconds. With ``tls``
    the node's certificate is checked against ``verify`` (True, False, or the file of a private CA), ``cert`` is ours.
    ``debug`` logs each request with its level and number of answers. There are no files: pair it with a downloader in a
    ``Trolley``.
    """

    views: ClassVar[DixelView] = DixelView.TAGS

    host: str = "localhost"
    port: int = field(default=104, converter=whole_number)
    aet: str = field(default="DIANA", converter=_as_titles)
    aec: str = field(default="ANY-SCP", converter=_as_titles)
    debug: bool = False
    relational: bool = field(default=False, kw_only=True)
    timeout: tuple[float, float] = field(default=(5.0, 60.0), kw_only=True, converter=tuple)
    tls: bool = field(default=False, kw_only=True)
    verify: bool | str = field(default=True, kw_only=True)
    cert: str | tuple[str, str] | None = field(default=None, kw_only=True, repr=False)
    name: str = field(default="DicomQR", kw_only=True)

    def _find(self, query: Query) -> Iterator[Dixel]:
        plans = self._plans(query)
        seen: set[str] = set()
        search = self._relational if self.relational else self._walk
        with self._association(*self.timeout) as association:
            for plan in plans:
                # closing cancels a search that is left early
                with closing(search(association, plan)) as rows:
                    for row in rows:
                        uid = str(row[query.level.uid_keyword])
                        if uid not in seen:
                            seen.add(uid)
                            yield Dixel(meta={"ID": uid}, tags=_tags(row), level=query.level)

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        found = next(self._find(self._by_ref(ref)), None)
        if found is None:
            raise ItemNotFound(f"{self.name}: no such {ref.level.singular.lower()}")
        return found

    def _exists(self, ref: Ref) -> bool:
        try:
            return next(self._find(self._by_ref(ref)), None) is not None
        except ItemNotFound:
            return False

    def _check(self) -> None:
        with self._association(CHECK_SECONDS / 2, CHECK_SECONDS) as association:
            status = association.echo()
        if status:
            raise GatewayRefused(f"{self.name}: the echo was answered with status {status:#06x}", status=status)

    def _association(self, connect: float, silence: float) -> FindAssociation:
        return FindAssociation(
            self.host,
            self.port,
            aet=self.aet,
            called_aet=self.aec,
            timeout=silence,
            connect_timeout=connect,
            tls=tls_context(verify=self.verify, cert=self.cert) if self.tls else None,
        )

    def _by_ref(self, ref: Ref) -> Query:
        keys = {key: uid for key, uid in ref.tags().items() if key in UIDS or ref.level == DicomLevel.PATIENTS}
        if ref.id and ref.level.uid_keyword not in keys:
            keys |= uids_of_id(ref.id, ref.level)
        if not keys.get(ref.level.uid_keyword):
            raise InvalidItem(f"{self.name}: the ref does not name a {ref.level.singular.lower()}")
        if not all(is_uid(uid) for key, uid in keys.items() if key in UIDS):
            raise ItemNotFound(f"{self.name}: what is asked for is not named by UIDs")
        return Query(keys, ref.level)

    def _plans(self, query: Query) -> list[_Plan]:
        """Return one plan for each combination of alternatives: C-FIND knows lists of UIDs only."""
        texts = {key: "" if text == "*" else text for key, text in query.wire().items()}
        if query.level == DicomLevel.PATIENTS and any(level_of(key) > DicomLevel.PATIENTS for key in texts):
            raise Unsupported(f"{self.name}: a search for patients takes keys of patients only")
        choices = [
            [(key, one) for one in ([text] if key in UIDS else dict.fromkeys(text.split("\\")))]
            for key, text in texts.items()
        ]
        count = 1
        for choice in choices:
            count *= len(choice)
        if count > MOST_SEARCHES:
            raise Unsupported(f"{self.name}: the lists of the query make {count} searches, more than {MOST_SEARCHES}")
        return [self._plan(dict(pairs), query.level) for pairs in product(*choices)]

    @staticmethod
    def _plan(texts: dict[str, str], level: DicomLevel) -> _Plan:
        first = min(level, DicomLevel.STUDIES)
        places = {
            key: max(first, level_of(key)) if key not in EVERYWHERE else level
            for key in texts
            if key != "QueryRetrieveLevel"
        }
        deepest = max((places[key] for key in places if texts[key]), default=level)
        keys: dict[DicomLevel, dict[str, str]] = {}
        for number in range(first, max(level, deepest) + 1):
            here = DicomLevel(number)
            usual = dict.fromkeys(USUAL[here].split(), "") if here <= level else {here.uid_keyword: ""}
            mine = {key: texts[key] for key, place in places.items() if place == here and (here <= level or texts[key])}
            keys[here] = {**usual, **mine}
        return _Plan(level, max(level, deepest), keys)

    def _relational(self, association: FindAssociation, plan: _Plan) -> Rows:
        if plan.deepest > plan.level:
            raise Unsupported(f"{self.name}: a relational search cannot look below the level of its answers")
        keys = {key: text for one in plan.keys.values() for key, text in one.items()}
        yield from self._answers(association, plan.level, keys, {})

    def _walk(self, association: FindAssociation, plan: _Plan) -> Rows:
        """Yield the rows of a level, parents first; a parent's answer is complete before its children are asked for."""
        stack: list[tuple[DicomLevel, dict[str, Any]]] = [(min(plan.keys), {})]
        while stack:
            level, parent = stack.pop()
            rows = self._answers(association, level, plan.keys[level], parent)
            if level == plan.level == plan.deepest:
                yield from rows
            elif level == plan.level:
                for row in list(rows):
                    if self._holds(association, plan, DicomLevel(level + 1), row):
                        yield row
            else:
                stack += [(DicomLevel(level + 1), row) for row in reversed(list(rows))]

    def _holds(self, association: FindAssociation, plan: _Plan, level: DicomLevel, parent: dict[str, Any]) -> bool:
        """Tell whether something below an answer meets the conditions of the deeper levels."""
        rows = self._answers(association, level, plan.keys[level], parent)
        if level == plan.deepest:
            found = next(rows, None) is not None
            rows.close()
            return found
        return any(self._holds(association, plan, DicomLevel(level + 1), row) for row in list(rows))

    def _answers(
        self, association: FindAssociation, level: DicomLevel, keys: Mapping[str, str], parent: Mapping[str, Any]
    ) -> Rows:
        """Yield the rows of one request, with what is known of their parent."""
        above = {key: str(parent[key]) for key in UIDS[: max(0, level - DicomLevel.STUDIES)] if key in parent}
        count = 0
        for row in association.find(level, {**keys, **above}):
            self._check_row(level, keys, row)
            whole = {**parent, **row, **above}
            if self._meant({**keys, **above}, row):
                count += 1
                yield whole
        if self.debug:
            log.info("%s: %d answers at level %s", self.name, count, level)

    def _check_row(self, level: DicomLevel, keys: Mapping[str, str], row: Mapping[str, Any]) -> None:
        uid = row.get(level.uid_keyword)
        if not uid or (level > DicomLevel.PATIENTS and not is_uid(str(uid))):
            raise GatewayAnswerError(f"{self.name}: an answer without a usable {level.uid_keyword}")
        for key, text in keys.items():
            if text and key not in row and key not in EVERYWHERE:
                raise Unsupported(f"{self.name}: the node does not search by {key}")

    @staticmethod
    def _meant(keys: Mapping[str, str], row: Mapping[str, Any]) -> bool:
        """Tell whether UIDs and dates are those that were asked for: some nodes ignore keys."""
        for key in (*UIDS, "StudyDate"):
            wanted, value = keys.get(key, ""), row.get(key)
            if wanted and not matching.is_blank(value) and not matching.met(key, wanted, value):
                return False
        return True


DICOMQR = DicomQR


def _tags(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.split("\\") if isinstance(value, str) and "\\" in value and vr_of(key) not in NOT_SPLIT else value
        for key, value in row.items()
    }
