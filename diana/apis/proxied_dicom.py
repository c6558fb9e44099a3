"""A DICOM archive that is reached through an Orthanc."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar  # Any: options of the proxy, tag values

from attrs import define, evolve, field, fields

from diana.apis.orthanc import Orthanc
from diana.apis.proxied_search import ArchiveSearch, is_exact
from diana.apis.proxied_windows import steps, wall_time
from diana.dixel import Dixel, DixelView
from diana.exceptions import (
    ConfigError,
    GatewayAnswerError,
    GatewayError,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.dicom.ref import OID_PATTERN, is_uid
from diana.utils.endpoint import Endpoint
from diana.utils.endpoint.registry import constructor_arguments

if TYPE_CHECKING:
    from diana.utils.endpoint.endpoint import Item

log = logging.getLogger(__name__)

PATIENCE = 3600.0


@define(eq=False)
class ProxiedDicom(Endpoint):
    """
    Search the archive that an Orthanc knows as the modality ``proxy_domain``, and read from it through the Orthanc.

    ``proxy_desc`` describes the Orthanc (the arguments of ``Orthanc``). What is read is first moved into the Orthanc,
    at exactly the asked level, unless it is there; the archive's own list of instances says whether everything came.
    Ids are DICOM UIDs, or Orthanc ids of what the Orthanc already holds. ``delete`` removes from the Orthanc, never
    from the archive. ``patience`` is how long one move may take without progress, in seconds.
    """

    views: ClassVar[DixelView] = DixelView.META | DixelView.METAKV | DixelView.TAGS | DixelView.FILE | DixelView.PIXELS

    proxy_desc: dict[str, Any] = field(factory=dict, converter=dict, repr=False)
    proxy_domain: str = "remote"
    patience: float = field(default=PATIENCE, kw_only=True)
    name: str = field(default="ProxiedDicom", kw_only=True)

    proxy: Orthanc = field(init=False, repr=False)
    archive: ArchiveSearch = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        desc = {key: value for key, value in self.proxy_desc.items() if key != "ctype"}
        if self.proxy_desc.get("ctype", "Orthanc") not in ("Orthanc", "ObservableOrthanc"):
            raise ConfigError(f"{self.name}: the proxy must be an Orthanc")
        unknown = sorted(set(desc) - set(constructor_arguments(Orthanc)))
        if unknown:
            raise ConfigError([f"{self.name}: unknown key {key!r} in proxy_desc" for key in unknown])
        self.proxy = Orthanc(**{"name": f"{self.name}-proxy", **desc})
        self.archive = ArchiveSearch(self.proxy.gateway, self.proxy_domain)

    @classmethod
    def through(cls, proxy: Any, domain: str, **more: Any) -> ProxiedDicom:
        """Return the archive that an Orthanc knows as the modality ``domain``. Raises ConfigError for another proxy."""
        if not isinstance(proxy, Orthanc):
            raise ConfigError(f"{getattr(proxy, 'name', 'the source')}: only an Orthanc knows archives by a name")
        desc = {key: value for key, value in proxy.asdict().items() if key not in ("ctype", "name")}
        known = constructor_arguments(Orthanc)
        desc = {key: value for key, value in desc.items() if key in known}
        for one in fields(Orthanc):
            if one.metadata.get("secret") and getattr(proxy, one.name):
                desc[one.alias or one.name] = getattr(proxy, one.name)
        return cls(desc, domain, name=f"{proxy.name}-{domain}", **more)

    def asdict(self) -> dict[str, Any]:
        """Return the constructor's arguments; the secrets of the proxy stay out."""
        found = super().asdict()
        secret = {one.alias or one.name for one in fields(Orthanc) if one.metadata.get("secret")}
        found["proxy_desc"] = {key: value for key, value in self.proxy_desc.items() if key not in secret}
        return found

    def close(self) -> None:
        """Give back the connections to the proxy."""
        self.proxy.close()

    def anonymize(self, item: Item, level: DicomLevel | str | None = None, **options: Any) -> Any:
        """
        Bring an item into the proxy and anonymize it there; see ``Orthanc.anonymize`` for options and result.

        Raises ItemNotFound, IncompleteTransfer.
        """
        ref = self.ref(item, level)
        return self.proxy.anonymize(self._brought(ref), level=ref.level, **options)

    def iter_query_by_date(
        self,
        q: Query | Mapping[str, Any],
        start: dt.datetime | str,
        stop: dt.datetime | str,
        step: dt.timedelta | float,
        *,
        level: DicomLevel | str | None = None,
    ) -> Iterator[Dixel]:
        """
        Yield what matches ``q`` and lies between two moments, one question for each ``step`` (duration or seconds).

        Each item comes once, even when two steps tell it. Moments are local time of the archive (datetime or ISO 8601
        text). Items whose answer tells no time are taken to lie in the step that found them.
        """
        query = self.query(q, level)
        query.check_keywords()
        length = step if isinstance(step, dt.timedelta) else dt.timedelta(seconds=step)
        before: set[str] = set()
        for windows in steps(wall_time(start), wall_time(stop), length):
            told: set[str] = set()
            for window in windows:
                match = {**query.wire(), **window.keys()}
                for row in self.archive.rows(match, query.level, lenient=True):
                    uid = str(row.get(query.level.uid_keyword) or "")
                    if window.holds(row) and uid not in told:
                        told.add(uid)
                        if uid not in before:
                            yield Dixel(tags=row, level=query.level)
            before = told

    def _find(self, query: Query, *, retrieve: bool = False) -> Iterator[Dixel]:
        if query.limit is not None and query.limit < 1:
            return
        for row in self.archive.rows(query.wire(), query.level):
            found = Dixel(tags=row, level=query.level)
            if retrieve:
                found.meta["ID"] = self._brought(found.ref)
            yield found

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        return self.proxy.get(self._brought(ref), level=ref.level, view=view)

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        oid = self._brought(ref)
        yield from self.proxy.pull(oid, level=ref.level)

    def _exists(self, ref: Ref) -> bool:
        if self._cached(ref):
            return True
        if not _uids(ref):
            return False
        return any(True for _ in self.archive.rows(_uids(ref), ref.level))

    def _delete(self, ref: Ref) -> bool:
        return sum(self.proxy.delete(oid, level=ref.level) for oid in self._cached(ref)) > 0

    def _digest(self, ref: Ref) -> str:
        if ref.level != DicomLevel.INSTANCES:
            raise InvalidItem(f"{self.name}: digests are those of instances")
        return self.proxy.digest(self._brought(ref), level=ref.level)

    def _check(self) -> None:
        self.archive.echo()

    def _cached(self, ref: Ref) -> list[str]:
        """Return the ids under which the proxy holds an item, wholly or in part."""
        if OID_PATTERN.match(ref.id) and self.proxy.exists(ref.id, level=ref.level):
            return [ref.id]
        uids = _uids(ref)
        if not is_exact(uids.get(ref.level.uid_keyword)):
            return []
        found = self.proxy.gateway.find({"Level": ref.level.singular, "Query": uids})
        return [str(oid) for oid in found]

    def _brought(self, ref: Ref) -> str:
        """Return the id of an item in the proxy, after everything of it that the archive has was brought there."""
        if OID_PATTERN.match(ref.id) and not ref.uid and self._cached(ref):
            return ref.id
        if ref.level == DicomLevel.PATIENTS:
            raise Unsupported(f"{self.name}: a patient is too much to move at once")
        if ref.level == DicomLevel.INSTANCES and (here := self._cached(ref)):
            return here[0]
        ref = self._deepened(ref)
        expected = self.archive.members(_uids(ref))
        missing = self._missing(ref, expected)
        if missing or not self._cached(ref):
            self._move(ref, expected, missing)
        here = self._cached(ref)
        if not here:
            raise IncompleteTransfer(f"{self.name}: nothing arrived", list(expected), [])
        return here[0]

    def _deepened(self, ref: Ref) -> Ref:
        """Return a ref with all UIDs down to its level; one question to the archive when some are unknown."""
        uids = _uids(ref)
        if not is_exact(uids.get(ref.level.uid_keyword)):
            raise ItemNotFound(f"{self.name}: no such {ref.level.singular.lower()}")
        keys = [level.uid_keyword for level in DicomLevel if DicomLevel.STUDIES <= level <= ref.level]
        if all(uids.get(key) for key in keys):
            return Ref.from_tags(uids, ref.level)
        rows = list(self.archive.rows(uids, ref.level))
        if not rows:
            raise ItemNotFound(f"{self.name}: no such {ref.level.singular.lower()}")
        found = [{key: str(row.get(key) or uids.get(key) or "") for key in keys} for row in rows]
        if any(one != found[0] for one in found):
            raise InvalidItem(f"{self.name}: the UID is that of several items")
        if not all(found[0].values()):
            raise GatewayAnswerError(f"{self.name}: the archive does not tell where the item belongs")
        return Ref.from_tags(found[0], ref.level)

    def _missing(self, ref: Ref, expected: Mapping[str, Any]) -> list[str]:
        """Return the SOP Instance UIDs that the archive has and the proxy has not."""
        rows = self.proxy.gateway.find({"Level": "Instance", "Query": _uids(ref), "Expand": True})
        here = {str(row.get("MainDicomTags", {}).get("SOPInstanceUID")) for row in rows if isinstance(row, dict)}
        return [uid for uid in expected if uid not in here]

    def _move(self, ref: Ref, expected: Mapping[str, Mapping[str, str]], missing: list[str]) -> None:
        """
        Move an item, or of a study that is there in part the series that lack something; then count.

        Raises IncompleteTransfer with what is missing when something came or was there, else the reason.
        """
        parts = [(ref.level, _uids(ref))]
        if 0 < len(missing) < len(expected) and ref.level == DicomLevel.STUDIES:
            series = {expected[uid]["SeriesInstanceUID"] for uid in missing}
            parts = [
                (DicomLevel.SERIES, {"StudyInstanceUID": ref.study, "SeriesInstanceUID": one}) for one in sorted(series)
            ]
        trouble: GatewayError | None = None
        for level, uids in parts:
            try:
                self.archive.move(level, uids, self._target(), self.patience)
            except GatewayError as error:
                trouble = error
        missing = self._missing(ref, expected)
        log.info("moved from=%s level=%s instances=%d missing=%d", self.name, ref.level, len(expected), len(missing))
        if trouble is not None and len(missing) == len(expected):
            raise trouble
        if missing:
            received = [uid for uid in expected if uid not in set(missing)]
            why = f"; {trouble}" if trouble is not None else ""
            raise IncompleteTransfer(
                f"{self.name}: {len(missing)} of {len(expected)} instances did not arrive{why}", missing, received
            )

    def _target(self) -> str:
        """Return the AE title of the proxy: as described, else as it says itself."""
        aet = self.proxy_desc.get("aet") or self.proxy.gateway.system().get("DicomAet")
        return str(aet or self.proxy.aet)


def _uids(ref: Ref) -> dict[str, str]:
    """Return the UIDs of a ref; an id that is a UID stands for the item's own."""
    found = evolve(ref, id="", patient=None).tags()
    if ref.id and not ref.uid and is_uid(ref.id) and ref.level > DicomLevel.PATIENTS:
        found[ref.level.uid_keyword] = ref.id
    return found
