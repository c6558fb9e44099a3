"""A DICOMweb server, all of it: searched by QIDO-RS, fetched from by WADO-RS, stored on by STOW-RS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import define, field

from diana.apis._web import CHECK_SECONDS
from diana.apis._web_find import Search
from diana.apis.qido_rs import found_row
from diana.apis.stow_rs import addressed, new_gateway, put_one, put_together
from diana.apis.wado_rs import WadoRS, digest_of
from diana.dixel import Dixel, DixelView
from diana.exceptions import Conflict, ItemNotFound
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.endpoint.endpoint import Outcome
from diana.utils.gateways.stow_rs import StowRS as StoreGateway


@define(eq=False)
class DicomWeb(WadoRS):
    """
    Hold studies in a DICOMweb server; ``url`` is the root that has ``/studies`` below it.

    It fetches as ``WadoRS`` does. The protocol has no delete.
    """

    name: str = field(default="DicomWeb", kw_only=True)
    _store: StoreGateway = field(init=False, repr=False)

    def _connect(self) -> None:
        WadoRS._connect(self)
        self._store = new_gateway(self)

    def _put(self, dixel: Dixel) -> str:
        uids, blob = addressed(self.name, dixel)
        ref = Ref(DicomLevel.INSTANCES, study=uids[0], series=uids[1], instance=uids[2])
        if self._exists(ref):
            if digest_of(self.name, uids, self.gateway.instances) != blob.digest():
                raise Conflict(f"{self.name}: other bytes are stored under the same SOP Instance UID")
            return "/".join(uids)
        return put_one(self._store, dixel)

    def put_batch(self, items: Sequence[Dixel]) -> Iterator[Outcome]:
        """
        Store several instances in one request and yield an outcome for each, in their order.

        What is stored under the same UIDs already is not compared. Raises when the request as a whole fails.
        """
        return put_together(self._store, items)

    def _find(self, query: Query) -> Iterator[Dixel]:
        return Search(self._searcher, query).run()

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        if view == DixelView.TAGS and ref.level != DicomLevel.INSTANCES:
            return found_row(self._searcher, self.uids(ref), ref.level)
        return WadoRS._get(self, ref, view)

    def _exists(self, ref: Ref) -> bool:
        try:
            found_row(self._searcher, self.uids(ref), ref.level)
        except ItemNotFound:
            return False
        return True

    def _check(self) -> None:
        self._searcher.check(within=CHECK_SECONDS)

    def close(self) -> None:
        """Close kept connections; the endpoint may be used again."""
        WadoRS.close(self)
        self._store.close()
