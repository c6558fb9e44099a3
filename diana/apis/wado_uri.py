"""A server from which single instances can be fetched by WADO-URI."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from attrs import define, field

from diana.apis._web import CHECK_SECONDS, Uids, WebEndpoint
from diana.apis._web_pull import Damaged, Retrieval, Unit, checked, with_view
from diana.apis.trolley_parts.downloader import Downloader
from diana.dixel import Dixel, DixelView
from diana.exceptions import GatewayAnswerError, InvalidItem, ItemNotFound
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.gateways.wado_uri import WadoURI as Gateway
from diana.utils.gateways.web_auth import split_last

if TYPE_CHECKING:
    from diana.utils.endpoint.endpoint import Item

WORKERS = 4


@define(eq=False)
class WadoURI(Downloader, WebEndpoint):
    """
    Fetch single instances by WADO-URI; ``url`` is the address before the question mark.

    Study, series and SOP Instance UID must be known. With ``use_async`` several are fetched at a time by ``pull_many``,
    ``max_workers`` of them (4 when None), in the order asked for. ``transfer_syntax`` is a UID, ``*`` for the stored
    one, or empty: the server's choice.
    """

    views: ClassVar[DixelView] = DixelView.TAGS | DixelView.FILE | DixelView.PIXELS
    needs: ClassVar[DicomLevel] = DicomLevel.INSTANCES

    use_async: bool = False
    max_workers: int | None = None
    transfer_syntax: str = field(default="", kw_only=True)
    name: str = field(default="WadoURI", kw_only=True)
    gateway: Gateway = field(init=False, repr=False)

    def _connect(self) -> None:
        base, last = split_last(self.url)
        self.gateway = Gateway(self.client(base), last, transfer_syntax=self.transfer_syntax)

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        return with_view(self._fetched(self._all_uids(ref)), view)

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        yield self._fetched(self._all_uids(ref))

    def pull_many(self, items: Iterable[Item]) -> Iterator[Dixel]:
        """
        Yield several instances with their files.

        One that cannot be had does not stop the others: IncompleteTransfer at the end says what is missing.
        """
        wanted = [self._all_uids(self.ref(item)) for item in items]
        job = Retrieval(self.name, [uids[2] for uids in wanted])
        job.workers = (self.max_workers or WORKERS) if self.use_async else 1
        return job.run([Unit(uids, partial(self._one, uids)) for uids in wanted])

    def _one(self, uids: Uids) -> Generator[Blob, None, None]:
        yield self.gateway.instance(*uids)

    def _fetched(self, uids: Uids) -> Dixel:
        try:
            return checked(self.name, uids, self.gateway.instance(*uids))
        except Damaged as error:
            raise GatewayAnswerError(str(error)) from None

    def _all_uids(self, ref: Ref) -> Uids:
        uids = self.uids(ref)
        if not uids[2]:
            raise InvalidItem(f"{self.name}: WADO-URI fetches instances; name one")
        return uids

    def _exists(self, ref: Ref) -> bool:
        try:
            self.gateway.instance(*self._all_uids(ref)).close()
        except ItemNotFound:
            return False
        return True

    def _digest(self, ref: Ref) -> str:
        blob = self._fetched(self._all_uids(ref)).blob
        try:
            return blob.digest() if blob is not None else ""
        finally:
            if blob is not None:
                blob.close()

    def _check(self) -> None:
        self.gateway.check(within=CHECK_SECONDS)

    def close(self) -> None:
        """Close kept connections; the endpoint may be used again."""
        self.gateway.close()
