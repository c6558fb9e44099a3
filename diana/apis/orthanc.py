"""An Orthanc server."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar  # Any: JSON and DICOM values
from urllib.parse import unquote, urlsplit, urlunsplit

from attrs import define, field

from diana.dixel import Dixel, DixelView
from diana.exceptions import (
    ConfigError,
    Conflict,
    GatewayAnswerError,
    GatewayRefused,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Query, Ref, orthanc_id
from diana.utils.dicom.ref import OID_PATTERN
from diana.utils.endpoint import Endpoint
from diana.utils.endpoint.serializable import SECRET, whole_number
from diana.utils.gateways.orthanc import Orthanc as Gateway

if TYPE_CHECKING:
    from diana.utils.endpoint.endpoint import Item

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0


@define(eq=False)
class Orthanc(Endpoint):
    """
    Hold studies in an Orthanc server, by way of its REST interface.

    Ids are Orthanc's; a plain id needs the level it belongs to. ``url`` replaces protocol, host, port and path.
    ``peername`` is how other Orthancs know this one, ``meta_keys`` the metadata that the view METAKV asks for (all
    when empty), ``workers`` how many connections read ahead in ``pull``. FILE above the instances is a ZIP.
    """

    views: ClassVar[DixelView] = DixelView.META | DixelView.METAKV | DixelView.TAGS | DixelView.FILE | DixelView.PIXELS
    needs: ClassVar[DicomLevel] = DicomLevel.PATIENTS

    protocol: str = "http"
    host: str = "localhost"
    port: int = field(default=8042, converter=whole_number)
    path: str | None = None
    aet: str = "ORTHANC"
    peername: str = "orthanc"
    user: str | None = field(default="orthanc", repr=False)
    password: str | None = field(default="passw0rd!", repr=False, metadata=SECRET)
    meta_keys: Sequence[str] = field(factory=list, converter=list)
    url: str | None = field(default=None, kw_only=True)
    timeout: tuple[float, float] = field(default=(5.0, 60.0), kw_only=True, converter=tuple)
    verify: bool | str = field(default=True, kw_only=True)
    cert: str | tuple[str, str] | None = field(default=None, kw_only=True, repr=False)
    workers: int = field(default=4, kw_only=True)
    name: str = field(default="Orthanc", kw_only=True)
    gateway: Gateway = field(init=False, repr=False)
    _proven: dict[bool, int] = field(init=False, factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        self._hide_credentials()
        self.gateway = Gateway(
            self.protocol,
            self.host,
            self.path,
            self.name,
            self.port,
            self.user,
            self.password,
            self.aet,
            url=self.url,
            timeout=self.timeout,
            verify=self.verify,
            cert=self.cert,
        )

    def _hide_credentials(self) -> None:
        """Move user and password out of the address, which is shown."""
        if "@" in self.host:
            raise ConfigError("a host is a name or a number; user and password have fields of their own")
        parts = urlsplit(self.url or "")
        if parts.username is not None:
            self.user, self.password = unquote(parts.username), unquote(parts.password or "")
            self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    def _put(self, dixel: Dixel) -> str:
        if not isinstance(dixel, Dixel) or dixel.level != DicomLevel.INSTANCES:
            raise InvalidItem(f"{self.name}: takes instances, one at a time")
        if dixel.blob is None:
            raise InvalidItem(f"{self.name}: the instance has no file")
        answer = self.gateway.put(dixel.blob)
        oid, status = answer.get("ID"), answer.get("Status")
        if status == "FilteredOut":
            raise GatewayRefused(f"{self.name}: the server's own filter refused the instance")
        if not isinstance(oid, str) or status not in ("Success", "AlreadyStored"):
            raise GatewayAnswerError(f"{self.name}: the server did not say that it stored the instance")
        if (status == "AlreadyStored" or not self._expected(dixel, oid)) and self._md5(oid) != dixel.blob.digest():
            raise Conflict(f"{self.name}: other bytes are stored under the same SOP Instance UID")
        return oid

    @staticmethod
    def _expected(dixel: Dixel, oid: str) -> bool:
        """Tell whether the answered id is that of the tags; unknown tags expect anything."""
        ref = dixel.ref
        if not (ref.study and ref.series and ref.instance) or ref.patient is None:
            return True
        return orthanc_id(ref.patient, ref.study, ref.series, ref.instance) == oid

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        from diana.apis.orthanc_views import read_views

        return read_views(self.gateway, self._resolve(ref), ref.level, view, self.meta_keys)

    def _find(self, query: Query) -> Iterator[Dixel]:
        from diana.apis.orthanc_search import Plan, Search

        plan = Plan.of(query, self.name)
        if query.limit is None or query.limit > 0:
            yield from Search(self.gateway, plan, self._proven).run()

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        from diana.apis.orthanc_views import pull_instances

        yield from pull_instances(self.gateway, self._resolve(ref), ref.level, self.workers)

    def _exists(self, ref: Ref) -> bool:
        try:
            return self.gateway.exists(self._resolve(ref), ref.level)
        except ItemNotFound:
            return False

    def _update(self, ref: Ref, data: Mapping[str, Any] | Dixel) -> str:
        """Set user metadata; of a dixel those of its ``meta`` that ``meta_keys`` names."""
        values: Mapping[str, Any] = data if isinstance(data, Mapping) else data.meta
        if isinstance(data, Dixel):
            values = {key: values[key] for key in self.meta_keys if key in values}
        oid = self._resolve(ref)
        self.gateway.resource(oid, ref.level)
        for key, value in values.items():
            try:
                self.gateway.put_metadata(oid, ref.level, key, str(value))
            except GatewayRefused as error:
                if error.status not in (400, 403, 404):
                    raise
                raise Unsupported(f"{self.name}: {key!r} is no UserMetadata of the server") from None
        return oid

    def _delete(self, ref: Ref) -> bool:
        try:
            self.gateway.delete(self._resolve(ref), ref.level)
        except ItemNotFound:
            return False
        return True

    def _digest(self, ref: Ref) -> str:
        if ref.level != DicomLevel.INSTANCES:
            raise InvalidItem(f"{self.name}: digests are of instances")
        return self._md5(self._resolve(ref))

    def _check(self) -> None:
        if not isinstance(self.gateway.system(within=CHECK_SECONDS).get("Version"), str):
            raise GatewayAnswerError(f"{self.name}: what answers is no Orthanc")

    def close(self) -> None:
        """Close kept connections; the endpoint may be used again."""
        self.gateway.close()

    def _md5(self, oid: str) -> str:
        """Return the MD5 of a stored file, worked out here when the server keeps none."""
        try:
            found = self.gateway.md5(oid)
        except ItemNotFound:
            found = ""
        if len(found) == 32:
            return found
        blob = self.gateway.file(oid)
        try:
            return blob.digest()
        finally:
            blob.close()

    def _resolve(self, ref: Ref) -> str:
        """Return the server's id of a ref: its own, the one that follows from its UIDs, or the one that is found."""
        if OID_PATTERN.match(ref.id):
            return ref.id
        uids = (ref.study, ref.series, ref.instance)[: ref.level - 1]
        if all(uids) and ref.patient is not None and (uids or ref.patient):
            return ref.oid
        if not ref.uid:
            if ref.id:
                raise ItemNotFound(f"{self.name}: what is asked for is no id of Orthanc's form")
            raise InvalidItem(f"{self.name}: the ref does not name a {ref.level.singular.lower()}")
        from diana.apis.orthanc_search import by_uids

        found = by_uids(self.gateway, ref.level, ref.tags())
        if not found:
            raise ItemNotFound(f"{self.name}: no such {ref.level.singular.lower()}")
        if len(found) > 1:
            raise InvalidItem(
                f"{self.name}: several patients have this {ref.level.singular.lower()}; give the PatientID"
            )
        return found[0]

    def anonymize(
        self,
        item: Item,
        level: DicomLevel | str | None = None,
        replacement_map: Mapping[str, Any] | None = None,
        use_default_map: bool = False,
    ) -> str | Dixel:
        """
        Make an anonymized copy; return its id.

        ``replacement_map`` is the body of Orthanc's ``/anonymize``; with ``use_default_map`` it is the ShamDixel's, for
        which the tags are fetched when the item has none. Of an instance the copy is returned as a dixel with its
        file, and is not stored. Raises ItemNotFound, InvalidItem without a map.
        """
        if replacement_map is None:
            if not use_default_map:
                raise InvalidItem(f"{self.name}: anonymize needs a replacement map, or use_default_map=True")
            replacement_map = self._sham_map(item, level)
        return self._derived(self.gateway.anonymize(*self._oid_and_level(item, level), replacement_map))

    def modify(
        self, item: Item, level: DicomLevel | str | None = None, replacement_map: Mapping[str, Any] | None = None
    ) -> str | Dixel:
        """Make a modified copy, as ``anonymize`` does; ``replacement_map`` is the body of Orthanc's ``/modify``."""
        if not replacement_map:
            raise InvalidItem(f"{self.name}: modify needs a replacement map")
        return self._derived(self.gateway.modify(*self._oid_and_level(item, level), replacement_map))

    def _sham_map(self, item: Item, level: DicomLevel | str | None) -> dict[str, Any]:
        from diana.dixel import ShamDixel

        known = item if isinstance(item, Dixel) and item.tags else self.get(item, level, DixelView.TAGS)
        sham = known if isinstance(known, ShamDixel) else ShamDixel.from_dixel(known)
        return sham.orthanc_sham_map()

    @staticmethod
    def _derived(found: str | Blob) -> str | Dixel:
        if isinstance(found, str):
            return found
        from diana.utils.dicom.header import read_header

        return Dixel.from_header(read_header(found.read() if found.path is None else found.path), file=found)

    def _oid_and_level(self, item: Item, level: DicomLevel | str | None) -> tuple[str, DicomLevel]:
        ref = self.ref(item, level)
        return self._resolve(ref), ref.level

    def psend(
        self, item: Item, dest: str | Orthanc, level: DicomLevel | str | None = None, *, dest_type: str = "peers"
    ) -> None:
        """
        Let the server send an item to one of its peers (or ``dest_type="modalities"``); return when it has done so.

        That it did so does not prove that all of it arrived. Raises ItemNotFound, also for an unknown destination.
        """
        oid, level = self._oid_and_level(item, level)
        self.gateway.resource(oid, level)
        self.gateway.send(oid, dest if isinstance(dest, str) else dest.peername, dest_type)

    def getm(self, item: Item, level: DicomLevel | str | None = None, key: str = "") -> str:
        """Return the value of one metadata. Raises ItemNotFound for the item and for the key."""
        return self.gateway.get_metadata(*self._oid_and_level(item, level), key)

    def putm(self, item: Item, level: DicomLevel | str | None = None, key: str = "", value: str = "") -> None:
        """Set one user metadata. Raises ItemNotFound, Unsupported when the server does not know the key."""
        self.update(item, {key: value}, level)

    def statistics(self) -> dict[str, Any]:
        """Return the numbers of patients, studies, series and instances, and the use of the disk."""
        return self.gateway.statistics()

    def info(self) -> dict[str, Any]:
        """Return name, version, settings and statistics of the server."""
        return {**self.gateway.system(), **self.gateway.statistics()}

    def patients(self) -> list[str]:
        """Return the id of every patient."""
        return self.gateway.inventory(DicomLevel.PATIENTS)

    def studies(self) -> list[str]:
        """Return the id of every study."""
        return self.gateway.inventory(DicomLevel.STUDIES)

    def series(self) -> list[str]:
        """Return the id of every series."""
        return self.gateway.inventory(DicomLevel.SERIES)

    def instances(self) -> list[str]:
        """Return the id of every instance."""
        return self.gateway.inventory(DicomLevel.INSTANCES)

    def changes(self, since: int = 0, limit: int = 1000) -> Any:
        """Return a page of the server's log of changes after a number: ``Changes``, ``Last``, ``Done``."""
        return self.gateway.changes(since, limit)

    def clear(self, *, confirm: bool = False) -> int:
        """Delete every patient; return how many. Raises InvalidItem without ``confirm=True``."""
        if not confirm:
            raise InvalidItem(f"{self.name}: clear deletes everything; say confirm=True")
        return self.gateway.reset()

    def rfind(
        self,
        query: Query | Mapping[str, Any] | Dixel,
        domain: str,
        level: DicomLevel | str | None = None,
        retrieve: bool = False,
    ) -> list[Dixel]:
        """
        Return what the modality ``domain`` of the server answers to a C-FIND, ``[]`` for nothing.

        With ``retrieve`` it is also fetched into the server. Raises ItemNotFound for an unknown modality.
        """
        asked = self.query(query, level)
        asked.check_keywords()
        rows = self.gateway.rfind({"Level": asked.level.singular, "Query": asked.wire()}, domain, retrieve)
        return [Dixel(tags=row, level=asked.level) for row in rows]

    def get_annotation(self, item: Item) -> dict[str, Any] | None:
        """Return the Osimis viewer's annotations of a study; see ``diana.apis.osimis_extras``."""
        from diana.apis.osimis_extras import get_annotation

        return get_annotation(self, item)
