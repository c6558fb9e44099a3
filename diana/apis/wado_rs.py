"""A DICOMweb server from which studies, series and instances can be fetched."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar  # Any: DICOM values

from attrs import define, field

from diana.apis._web import CHECK_SECONDS, Uids, WebEndpoint, keys_of
from diana.apis._web_pull import Retrieval, Unit, checked, with_view
from diana.apis.trolley_parts.downloader import Downloader
from diana.dixel import Dixel, DixelView
from diana.exceptions import DianaError, GatewayAnswerError, GatewayError, InvalidItem, ItemNotFound
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.dicom.jsonmodel import JsonTags
from diana.utils.gateways.multipart import Part
from diana.utils.gateways.qido_rs import QidoRS as SearchGateway
from diana.utils.gateways.wado_rs import WadoRS as Gateway

if TYPE_CHECKING:
    from diana.utils.endpoint.endpoint import Item

log = logging.getLogger(__name__)

__all__ = ["WadoRS", "WadoRSMetaData", "WadoRSMetadata"]

SINGLES = 4


@define(eq=False)
class WadoRS(Downloader, WebEndpoint):
    """
    Fetch from a server by WADO-RS; ``url`` is the DICOMweb root.

    With ``request_per_series`` a study is fetched series by series, ``workers`` at a time, when the server tells what
    series it has; otherwise in one request.
    ``transfer_syntax`` is ``*`` for files as they are stored, empty for the server's default, or one or several UIDs.
    ``http_chunk_size`` is the size in bytes of the buffer of an answer.
    ``list_first`` asks for the instances before anything is fetched, so that a server that dies cannot hide what is
    missing; without it, which is quicker and for callers who know the instances, they are asked for when something
    went wrong.
    """

    views: ClassVar[DixelView] = DixelView.TAGS | DixelView.FILE | DixelView.PIXELS

    http_chunk_size: int = 1 << 20
    request_per_series: bool = True
    workers: int = field(default=2, kw_only=True)
    transfer_syntax: str | Sequence[str] = field(default="*", kw_only=True)
    list_first: bool = field(default=True, kw_only=True)
    name: str = field(default="WadoRS", kw_only=True)
    gateway: Gateway = field(init=False, repr=False)
    _searcher: SearchGateway = field(init=False, repr=False)

    def _connect(self) -> None:
        client = self.client()
        self.gateway = Gateway(client, transfer_syntax=self.transfer_syntax, chunk=self.http_chunk_size)
        self._searcher = SearchGateway(client)

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        uids = self.uids(ref)
        if DixelView.FILE in view or DixelView.PIXELS in view:
            if ref.level != DicomLevel.INSTANCES:
                raise InvalidItem(f"{self.name}: files and pixels belong to instances; pull a {ref.level.singular}")
            (found,) = self._retrieved(uids, {uids[2]})
            return with_view(found, view)
        return Dixel(tags={**keys_of(uids), **shared_tags(self.name, self.gateway.metadata(*uids))}, level=ref.level)

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        return self._retrieved(self.uids(ref))

    def pull_many(self, items: Iterable[Item]) -> Iterator[Dixel]:
        """
        Yield the instances of several items, ``workers`` requests at a time, single instances at least four.

        An item is fetched by one request of its own, so a series asked for is a series fetched. Raises
        IncompleteTransfer at the end when something did not come.
        """
        uids = [self.uids(self.ref(item)) for item in items]
        single = all(one[2] for one in uids)
        job = Retrieval(self.name, [one[2] for one in uids] if single else None)
        job.workers = max(self.workers, SINGLES) if single else self.workers
        return job.run([self._unit(one) for one in uids])

    def pull_rest(self, item: Item, have: Collection[str]) -> Iterator[Dixel]:
        """
        Yield the instances of an item that are not among ``have`` (SOP Instance UIDs), and ask for no others.

        The server must be searchable. A series of which nothing is there is fetched in one request. Raises as
        ``pull`` does.
        """
        uids, known = self.uids(self.ref(item)), set(have)
        rows: dict[str, list[str]] = {}
        for row in self._searcher.search(DicomLevel.INSTANCES, keys_of(uids), fields=("SeriesInstanceUID",)):
            rows.setdefault(str(row.get("SeriesInstanceUID") or uids[1]), []).append(str(row["SOPInstanceUID"]))
        wanted: list[Uids] = []
        for series, members in rows.items():
            missing = [uid for uid in members if uid not in known]
            whole = len(missing) == len(members) and not uids[2]
            wanted += [(uids[0], series, "")] if whole else [(uids[0], series, uid) for uid in missing]
        expected = [uid for members in rows.values() for uid in members if uid not in known]
        if not rows:
            raise ItemNotFound(f"{self.name}: the server has no instances of it")
        if wanted:
            job = Retrieval(self.name, expected, workers=max(self.workers, SINGLES))
            yield from job.run([self._unit(one) for one in wanted])

    def pull_listed(self, item: Item, expected: Collection[str]) -> Iterator[Dixel]:
        """Yield the instances of an item of which the caller knows all SOP Instance UIDs; raises as ``pull`` does."""
        return self._retrieved(self.uids(self.ref(item)), expected)

    def _retrieved(self, uids: Uids, expected: Collection[str] | None = None) -> Iterator[Dixel]:
        job = Retrieval(self.name, expected, workers=self.workers, ask=partial(self._listed, uids))
        units = [self._unit(uids)]
        if uids[2]:
            job.expected = None
        else:
            split = self.request_per_series and not uids[1]
            series = self._series(uids[0]) if split else {}
            if expected is None:
                job.expected = self._expected(uids, series)
            if series:
                units, job.count = [self._unit((uids[0], one, "")) for one in series], sum(series.values())
        yield from job.run(units)

    def _unit(self, uids: Uids) -> Unit:
        def fetch() -> Generator[Blob, None, None]:
            with closing(self.gateway.instances(*uids)) as parts:
                for part in parts:
                    yield part.blob

        return Unit(uids, fetch)

    def _expected(self, uids: Uids, sizes: Mapping[str, int]) -> list[str] | None:
        """Return the instances of an item when they are to be known before; None when the server does not tell."""
        if not self.list_first:
            return None
        try:
            return self._listed(uids, sizes)
        except ItemNotFound:
            # the request for the files decides: not every server can be searched
            return None
        except GatewayError as error:
            if error.status is None:
                raise
            log.warning("%s: the server does not list instances: %s", self.name, error)
            return None

    def _listed(self, uids: Uids, sizes: Mapping[str, int] | None = None) -> list[str]:
        """Return the SOP Instance UIDs of an item. Raises ItemNotFound, GatewayError."""
        if uids[2]:
            return [uids[2]]
        found = [str(row["SOPInstanceUID"]) for row in self._searcher.listing(*uids[:2], sizes=sizes)]
        if not found:
            raise ItemNotFound(f"{self.name}: the server has no instances of it")
        return found

    def _series(self, study: str) -> dict[str, int]:
        """Return the series of a study and how many instances each has, 0 if unknown; nothing when nobody tells."""
        try:
            return self._searcher.sizes_of(study)
        except DianaError as error:
            log.debug("%s: no list of series: %s", self.name, error)
            return {}

    def _exists(self, ref: Ref) -> bool:
        try:
            return self.gateway.exists(*self.uids(ref))
        except ItemNotFound:
            return False

    def _digest(self, ref: Ref) -> str:
        if ref.level != DicomLevel.INSTANCES:
            raise InvalidItem(f"{self.name}: digests are of instances")
        return digest_of(self.name, self.uids(ref), self.gateway.instances)

    def _check(self) -> None:
        self.gateway.check(within=CHECK_SECONDS)

    def close(self) -> None:
        """Close kept connections; the endpoint may be used again."""
        self.gateway.close()

    def metadata(self, item: Item, level: DicomLevel | str | None = None) -> list[JsonTags]:
        """Return the tags of every instance of an item, converted when they are asked for."""
        return self.gateway.metadata(*self.uids(self.ref(item, level)))

    def rendered(self, item: Item, *, frame: int | None = None, accept: str = "image/jpeg", **parameters: str) -> Blob:
        """Return a picture of an item as the server renders it; see the gateway."""
        return self.gateway.rendered(*self.uids(self.ref(item)), frame=frame, accept=accept, parameters=parameters)

    def frames(self, item: Item, numbers: Sequence[int]) -> Iterator[Blob]:
        """Yield the stored pixels of some frames of an instance, counted from 1."""
        return (part.blob for part in self.gateway.frames(*self.uids(self.ref(item)), numbers))

    def bulkdata(self, uri: str) -> Blob:
        """Return what stands behind a BulkDataURI of this server. Raises GatewayAnswerError for another."""
        return self.gateway.bulkdata(uri)


@define(eq=False)
class WadoRSMetadata(WebEndpoint):
    """Fetch tags without files from a server by WADO-RS; ``url`` is the DICOMweb root."""

    views: ClassVar[DixelView] = DixelView.TAGS

    name: str = field(default="WadoRSMetadata", kw_only=True)
    gateway: Gateway = field(init=False, repr=False)

    def _connect(self) -> None:
        self.gateway = Gateway(self.client())

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        uids = self.uids(ref)
        return Dixel(tags={**keys_of(uids), **shared_tags(self.name, self.gateway.metadata(*uids))}, level=ref.level)

    def _exists(self, ref: Ref) -> bool:
        try:
            return bool(self.gateway.metadata(*self.uids(ref)))
        except ItemNotFound:
            return False

    def _check(self) -> None:
        self.gateway.check(within=CHECK_SECONDS)

    def instances(self, item: Item, level: DicomLevel | str | None = None) -> Iterator[Dixel]:
        """Yield every instance of an item with its tags, without its file."""
        uids = self.uids(self.ref(item, level))
        for row in self.gateway.metadata(*uids):
            yield Dixel(tags={**keys_of(uids), **shared_tags(self.name, [row])}, level=DicomLevel.INSTANCES)

    def close(self) -> None:
        """Close kept connections; the endpoint may be used again."""
        self.gateway.close()


WadoRSMetaData = WadoRSMetadata


def shared_tags(name: str, rows: Sequence[JsonTags]) -> dict[str, Any]:
    """Return the tags that all instances share. Raises GatewayAnswerError for values that are not of their form."""
    try:
        shared = rows[0].as_dict()
        for row in rows[1:]:
            shared = {key: value for key, value in shared.items() if key in row and row[key] == value}
    except InvalidItem as error:
        raise GatewayAnswerError(f"{name}: {error}") from None
    return shared


def digest_of(name: str, uids: Uids, fetch: Callable[..., Generator[Part, None, None]]) -> str:
    """Return the MD5 (hex) of an instance as the server gives it."""
    with closing(fetch(*uids)) as parts:
        for part in parts:
            found = checked(name, uids, part.blob)
            if found.blob is not None:
                try:
                    return found.blob.digest()
                finally:
                    found.blob.close()
    raise ItemNotFound(f"{name}: no such instance")
