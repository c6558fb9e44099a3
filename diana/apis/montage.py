"""An archive of radiology reports."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final  # queries and JSON

from attrs import define, field

from diana.dixel import Dixel, DixelView
from diana.exceptions import InvalidItem, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.endpoint import Endpoint
from diana.utils.endpoint.serializable import SECRET, whole_number
from diana.utils.gateways.montage import Montage as Gateway

if TYPE_CHECKING:
    from diana.utils.endpoint.endpoint import Item

log = logging.getLogger(__name__)

FIRST_DAY: Final = dt.date(2003, 1, 1)
CHECK_SECONDS: Final = 10.0
TAGS: Final = frozenset(
    (
        "AccessionNumber",
        "Modality",
        "Organization",
        "PatientID",
        "PatientName",
        "PatientSex",
        "ReferringPhysicianName",
        "StudyDate",
        "StudyDescription",
    )
)
_ORDINARY: Final = str.maketrans(dict.fromkeys("*?\\-", ""))


@define(eq=False)
class Montage(Endpoint):
    """
    Search a Montage archive; each result is a study with its report, known by its accession number.

    A query holds DICOM keywords (of those that a report tells: accession number, patient, sex, date, description,
    modality, physician), or Montage's own words: ``q`` (full text), ``start_date``, ``end_date``, ``modality`` ... What
    Montage finds is checked here against the keywords.
    """

    views: ClassVar[DixelView] = DixelView.META | DixelView.TAGS
    dicom_keys: ClassVar[bool] = False

    protocol: str = "http"
    host: str = "localhost"
    port: int = field(default=80, converter=whole_number)
    path: str = "api/v1"
    user: str = field(default="montage", repr=False)
    password: str = field(default="montage", repr=False, metadata=SECRET)
    name: str = field(default="Montage", kw_only=True)
    index: str = field(default="rad", kw_only=True)
    timeout: tuple[float, float] = field(default=(5.0, 60.0), kw_only=True, converter=tuple)
    verify: bool | str = field(default=True, kw_only=True)
    gateway: Gateway = field(init=False, repr=False)

    @gateway.default
    def _connect(self) -> Gateway:
        return Gateway(
            self.protocol,
            self.host,
            self.port,
            self.password,
            self.name,
            self.user,
            self.path,
            self.index,
            timeout=self.timeout,
            verify=self.verify,
        )

    def reports(
        self,
        query: Mapping[str, Any],
        *,
        index: str | None = None,
        ignore_errs: bool = True,
        get_meta: bool = False,
    ) -> Iterator[Dixel]:
        """
        Yield the studies that a query in Montage's own words finds, in its order.

        A result that is no study is logged and left out, or with ``ignore_errs=False`` raises InvalidItem. ``get_meta``
        looks up CPT codes and body parts too.
        """
        skipped = 0
        for row in self.gateway.iter_find(query, index):
            try:
                found = Dixel.from_montage_json(row)
            except InvalidItem as error:
                if not ignore_errs:
                    raise
                skipped += 1
                log.debug("%s: a result is left out: %s", self.name, error)
                continue
            yield self.get_meta(found) if get_meta else found
        if skipped:
            log.warning("%s: %d results were no studies and are left out", self.name, skipped)

    def iter_query_by_date(
        self, query: Mapping[str, Any], start: dt.date, stop: dt.date, step: dt.timedelta = dt.timedelta(days=7)
    ) -> Iterator[Dixel]:
        """Yield the studies of a time, day ``start`` to before day ``stop``, asked for in windows of ``step``."""
        if step < dt.timedelta(days=1):
            raise InvalidItem("a window is at least one day")
        while start < stop:
            end = min(start + step, stop)
            window = {"start_date": start.isoformat(), "end_date": (end - dt.timedelta(days=1)).isoformat()}
            yield from self.reports({**query, **window})
            start = end

    def get_meta(self, dixel: Dixel) -> Dixel:
        """Fill in the CPT codes and body parts of a study that this endpoint found; return it."""
        codes = dixel.meta.get("MontageCPTCodes") or []
        dixel.meta["CPTCodes"] = self.gateway.lookup_cpts(codes)
        dixel.meta["BodyParts"] = self.gateway.lookup_body_part(codes)
        return dixel

    def ref(self, item: Item, level: DicomLevel | str | None = None) -> Ref:
        """Return the address of a study: its accession number is its id."""
        if isinstance(item, Dixel) and item.tags.get("AccessionNumber"):
            return Ref(DicomLevel.STUDIES, id=str(item.tags["AccessionNumber"]))
        return super().ref(item, level)

    def _find(
        self, query: Query, *, index: str = "", ignore_errs: bool = True, get_meta: bool = False
    ) -> Iterator[Dixel]:
        if query.level != DicomLevel.STUDIES:
            raise Unsupported(f"{self.name}: reports are of studies")
        own = {key: value for key, value in query.match.items() if key.islower()}
        told = {key: value for key, value in query.match.items() if not key.islower()}
        asking = Query(told, fields=query.fields)
        asking.check_keywords()
        # a key without a value is only asked for, and a report that does not tell it answers without
        told = {key: value for key, value in told.items() if key in TAGS or value not in (None, "")}
        unknown = sorted(Query(told).keywords() - TAGS)
        if unknown:
            raise Unsupported(f"{self.name}: a report does not tell {unknown[0]}")
        asked = {**_as_montage(told), **own}
        predicate = Query(told)
        for found in self.reports(asked, index=index or None, ignore_errs=ignore_errs, get_meta=get_meta):
            if predicate.matches(_tags(found)):
                yield found

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        for found in self.reports({"q": _quoted(self._number(ref))}):
            if found.tags["AccessionNumber"] == ref.id:
                return found
        raise ItemNotFound(f"{self.name}: no report of this accession number")

    def _exists(self, ref: Ref) -> bool:
        try:
            self._get(ref, DixelView.TAGS)
        except ItemNotFound:
            return False
        return True

    def _number(self, ref: Ref) -> str:
        if ref.level != DicomLevel.STUDIES or not ref.id:
            raise InvalidItem(f"{self.name}: reports are known by the accession number of a study")
        return ref.id

    def _check(self) -> None:
        self.gateway.check(within=CHECK_SECONDS)

    def close(self) -> None:
        """Close kept connections; the endpoint may be used again."""
        self.gateway.close()


def _as_montage(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Montage itself can look for of some keywords; the rest is checked afterwards."""
    asked: dict[str, Any] = {}
    number = told.get("AccessionNumber")
    if isinstance(number, str) and number and number.translate(_ORDINARY) == number:
        asked["q"] = _quoted(number)
    if date := told.get("StudyDate"):
        start, end = _days(date)
        asked.update(start_date=start.isoformat(), end_date=end.isoformat())
    return asked


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "") + '"'


def _days(value: Any) -> tuple[dt.date, dt.date]:
    """Return the first and last day of a date or range. Raises InvalidItem."""
    text = value.strftime("%Y%m%d") if isinstance(value, dt.date) else str(value)
    start, dash, end = text.partition("-")
    try:
        first = dt.datetime.strptime(start, "%Y%m%d").date() if start else FIRST_DAY  # days
        if not dash:
            return first, first
        return first, dt.datetime.strptime(end, "%Y%m%d").date() if end else dt.date.today()
    except ValueError:
        raise InvalidItem("a StudyDate is YYYYMMDD, or two of them joined by a hyphen") from None


def _tags(found: Dixel) -> dict[str, Any]:
    """Return what a report tells, under DICOM keywords."""
    held = {**found.tags, "PatientName": found.meta.get("PatientName")}
    moment = found.meta.get("StudyDateTime")
    if moment is not None:
        held["StudyDate"] = moment.strftime("%Y%m%d")
    return held
