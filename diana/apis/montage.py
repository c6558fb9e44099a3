"""An archive of radiology reports."""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final  # queries and JSON

from attrs import define, field

from diana.dixel import Dixel, DixelView
from diana.exceptions import Conflict, InvalidItem, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.dicom.matching import is_blank, is_comparison
from diana.utils.dicom.query import GROUPS
from diana.utils.endpoint import Endpoint
from diana.utils.endpoint.serializable import SECRET, whole_number
from diana.utils.gateways.montage import Montage as Gateway

log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 10.0
DAY: Final = dt.timedelta(days=1)
WEEK: Final = dt.timedelta(days=7)
KNOWN: Final = frozenset(
    (
        "AccessionNumber",
        "InstitutionName",
        "Modality",
        "PatientAge",
        "PatientID",
        "PatientName",
        "PatientSex",
        "ReferringPhysicianName",
        "StudyDate",
        "StudyDescription",
    )
)
_SPECIAL: Final = re.compile(r'[*?\\"]')
_OWN: Final = re.compile(r"[a-z][a-z0-9_]*")
_DAYS: Final = re.compile(r"(\d{8})?(?:(-)(\d{8})?)?")
_ISO: Final = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b")


def _as_pair(value: Any) -> tuple[float, float]:
    connect, silence = (value, value) if isinstance(value, int | float) else value
    return float(connect), float(silence)


@define(eq=False)
class Montage(Endpoint):
    """
    Search a Montage archive; each result is a study with its report, known by its accession number.

    A query holds DICOM keywords that a report tells (AccessionNumber, PatientID, PatientName, PatientSex, PatientAge,
    StudyDate, StudyDescription, Modality, ReferringPhysicianName, InstitutionName), Montage's own words (``q`` is the
    full text, ``start_date`` and ``end_date`` are ISO days, others as the server knows them), or both. What Montage
    finds is checked here against the keywords. Words, accession numbers and dates narrow the search there; without any
    the whole archive is read. ``get`` returns the same whatever the view, the report included. ``index`` is the archive
    of reports.
    """

    views: ClassVar[DixelView] = DixelView.META | DixelView.TAGS
    dicom_keys: ClassVar[bool] = False

    protocol: str = "http"
    host: str = "localhost"
    port: int = field(default=80, converter=whole_number)
    path: str = "api/v1"
    user: str | None = field(default="montage", repr=False)
    password: str | None = field(default="montage", repr=False, metadata=SECRET)
    name: str = field(default="Montage", kw_only=True)
    index: str = field(default="rad", kw_only=True)
    timeout: tuple[float, float] = field(default=(5.0, 60.0), kw_only=True, converter=_as_pair)
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
        index: str = "",
        ignore_errs: bool = True,
        get_meta: bool = False,
    ) -> Iterator[Dixel]:
        """
        Yield the studies that a query in Montage's own words finds, in its order.

        A result that is no study is left out and counted in a warning, or with ``ignore_errs=False`` raises
        InvalidItem. ``get_meta`` looks up CPT codes and body parts too.
        """
        skipped = 0
        for row in self.gateway.iter_find(query, index or self.index):
            try:
                found = Dixel.from_montage_json(row)
            except InvalidItem as error:
                if not ignore_errs:
                    raise
                skipped += 1
                log.debug("%s: a result is left out: %s", self.name, error)
                continue
            found.meta["ID"] = found.tags["AccessionNumber"]
            yield self.get_meta(found) if get_meta else found
        if skipped:
            log.warning("%s: %d results are no studies and are left out", self.name, skipped)

    def iter_query_by_date(
        self,
        query: Query | Mapping[str, Any],
        start: dt.date,
        stop: dt.date,
        step: dt.timedelta = WEEK,
        **options: Any,
    ) -> Iterator[Dixel]:
        """
        Yield what a query finds from day ``start`` to before day ``stop``, asked for in windows of ``step``.

        ``options`` are those of ``find``. Raises InvalidItem for a window of less than a day.
        """
        if step < DAY:
            raise InvalidItem(f"{self.name}: a window is at least one day")
        asked = self.query(query)
        day, end = _day(start), _day(stop)
        while day < end:
            last = min(day + step, end) - DAY
            window = {"start_date": day.isoformat(), "end_date": last.isoformat()}
            yield from self.iter_find({**asked.match, **window}, asked.level, **options)
            day = last + DAY

    def get_meta(self, dixel: Dixel) -> Dixel:
        """Look up ``CPTCodes`` and ``BodyParts`` of a study that this endpoint found, put them in meta, return it."""
        self._check_item(dixel)
        codes = dixel.meta.get("MontageCPTCodes") or []
        dixel.meta["CPTCodes"] = self.gateway.lookup_cpts(codes)
        dixel.meta["BodyParts"] = self.gateway.lookup_body_part(codes)
        return dixel

    def _address(self, dixel: Dixel) -> Ref:
        number = dixel.tags.get("AccessionNumber")
        return Ref(DicomLevel.STUDIES, id=str(number)) if number else dixel.ref

    def _find(
        self, query: Query, *, index: str = "", ignore_errs: bool = True, get_meta: bool = False
    ) -> Iterator[Dixel]:
        if query.level != DicomLevel.STUDIES:
            raise Unsupported(f"{self.name}: reports are of studies, not of {query.level}")
        own, told = self._parted(query)
        for number, asked in _searches(told.match):
            for found in self.reports({**asked, **own}, index=index, ignore_errs=ignore_errs, get_meta=False):
                if number in ("", found.tags["AccessionNumber"]) and told.matches(_told(found)):
                    yield self.get_meta(found) if get_meta else found

    def _parted(self, query: Query) -> tuple[dict[str, Any], Query]:
        """Return Montage's own words, and the rest as a query. Raises ConfigError, Unsupported."""
        own = {key: value for key, value in query.match.items() if _OWN.fullmatch(str(key)) and key not in GROUPS}
        match = {key: value for key, value in query.match.items() if key not in own and not is_blank(value)}
        told = Query(_renamed(match))
        told.check_keywords()
        Query(fields=[one for one in query.fields if one != "Organization"]).check_keywords()
        unknown = sorted(told.keywords() - KNOWN)
        if unknown:
            raise Unsupported(f"{self.name}: a report does not tell {unknown[0]}")
        return own, told

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        if ref.level != DicomLevel.STUDIES:
            raise Unsupported(f"{self.name}: reports are of studies, not of {ref.level}")
        if not ref.id:
            raise InvalidItem(f"{self.name}: a report is known by the accession number of its study")
        reports = self.reports({"q": _quoted(ref.id)})
        found = [one for one in reports if one.tags["AccessionNumber"] == ref.id]
        if not found:
            raise ItemNotFound(f"{self.name}: no report of this accession number")
        if len({one.tags["PatientID"] for one in found}) > 1:
            raise Conflict(f"{self.name}: several patients have reports of this accession number")
        return found[0]

    def _exists(self, ref: Ref) -> bool:
        try:
            self._get(ref, DixelView.TAGS)
        except ItemNotFound:
            return False
        except Conflict:
            return True
        return True

    def _check(self) -> None:
        self.gateway.check(within=CHECK_SECONDS)

    def close(self) -> None:
        """Close kept connections; the endpoint may be used again."""
        self.gateway.close()


def _day(moment: dt.date) -> dt.date:
    return moment.date() if isinstance(moment, dt.datetime) else moment


def _renamed(match: Mapping[str, Any]) -> dict[str, Any]:
    """Return a predicate in which Organization, the archive's word, is the InstitutionName of DICOM."""
    found: dict[str, Any] = {}
    for key, value in match.items():
        if key == "not" and isinstance(value, Mapping):
            value = _renamed(value)
        elif key in ("any", "all") and isinstance(value, list | tuple):
            value = [_renamed(one) if isinstance(one, Mapping) else one for one in value]
        found["InstitutionName" if key == "Organization" else key] = value
    return found


def _told(found: Dixel) -> dict[str, Any]:
    """Return what a report tells, under DICOM keywords."""
    held = {**found.tags, "InstitutionName": found.tags.get("Organization")}
    held.update({key: found.meta.get(key) for key in ("PatientName", "PatientAge")})
    moment = found.meta.get("StudyDateTime")
    held["StudyDate"] = moment.strftime("%Y%m%d") if moment is not None else None
    return held


def _searches(match: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what to send for some keywords, one search for each accession number; the rest is checked afterwards."""
    dates = _dates(match.get("StudyDate"))
    numbers = _numbers(match.get("AccessionNumber"))
    for number in numbers:
        yield number, {**dates, "q": _quoted(number)}
    if not numbers:
        yield "", dates


def _numbers(wanted: Any) -> list[str]:
    """Return the accession numbers that are looked for, none when there are wildcards."""
    if isinstance(wanted, str):
        wanted = wanted.split("\\")
    elif isinstance(wanted, int):
        wanted = [wanted]
    found = [str(one).strip() for one in wanted or ()]
    plain = all(one and not _SPECIAL.search(one) and not is_comparison(one) for one in found)
    return list(dict.fromkeys(found)) if plain else []


def _quoted(text: str) -> str:
    return '"' + text.replace('"', " ") + '"'


def _dates(wanted: Any) -> dict[str, str]:
    """
    Return the days that Montage shall look at for a date or range, one more at each end.

    Montage goes by a date of its own choice, which may be the day after the study. Lists and wildcards are checked
    afterwards only. Raises InvalidItem for a text that is no date.
    """
    text = wanted.strftime("%Y%m%d") if isinstance(wanted, dt.date) else wanted
    if not isinstance(text, str) or not text or _SPECIAL.search(text):
        return {}
    match = _DAYS.fullmatch(_ISO.sub(r"\1\2\3", text.replace(" ", "")))
    if match is None or not (match[1] or match[3]):
        raise InvalidItem("a StudyDate is YYYYMMDD, or two of them joined by a hyphen")
    first, last = match[1], match[3] if match[2] else match[1]
    found: dict[str, str] = {}
    try:
        if first:
            found["start_date"] = (dt.datetime.strptime(first, "%Y%m%d") - DAY).date().isoformat()
        if last:
            found["end_date"] = (dt.datetime.strptime(last, "%Y%m%d") + DAY).date().isoformat()
    except (ValueError, OverflowError):
        raise InvalidItem("a StudyDate is no day of the calendar") from None
    return found
