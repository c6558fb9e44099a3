"""A DICOMweb server that can be searched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar  # Any: queries and responses of other libraries

from attrs import define, field

from diana.apis._web import CHECK_SECONDS, WebEndpoint, keys_of
from diana.apis._web_find import Search
from diana.dixel import Dixel, DixelView
from diana.exceptions import ItemNotFound
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.dicom.jsonmodel import JsonTags
from diana.utils.gateways.qido_rs import HierarchicalQuery, QidoRSQueryBase, RelationalQuery
from diana.utils.gateways.qido_rs import QidoRS as Gateway

__all__ = ["HierarchicalQuery", "QidoRS", "QidoRSQueryBase", "RelationalQuery"]


@define(eq=False)
class QidoRS(WebEndpoint):
    """
    Search a server by QIDO-RS; ``url`` is the address that has ``/studies`` below it.

    What the server finds is checked here against the query, because some servers pass over keys that they do not
    know. ``get`` returns the tags that a search gives.
    """

    views: ClassVar[DixelView] = DixelView.TAGS

    name: str = field(default="QidoRS", kw_only=True)
    gateway: Gateway = field(init=False, repr=False)

    def _connect(self) -> None:
        self.gateway = Gateway(self.client())

    def _find(self, query: Query) -> Iterator[Dixel]:
        return Search(self.gateway, query).run()

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        return found_row(self.gateway, self.uids(ref), ref.level)

    def _exists(self, ref: Ref) -> bool:
        try:
            found_row(self.gateway, self.uids(ref), ref.level)
        except ItemNotFound:
            return False
        return True

    def _check(self) -> None:
        self.gateway.check(within=CHECK_SECONDS)

    def close(self) -> None:
        """Close kept connections; the endpoint may be used again."""
        self.gateway.close()

    def rows(self, query: Any) -> Iterator[JsonTags]:
        """Yield what a query of the trolley finds, as the server gives it: mappings of keyword to value."""
        return self.gateway.run(query)

    @staticmethod
    def ensure_query_type(query: Any) -> HierarchicalQuery | RelationalQuery:
        """Return a query as one of the two kinds of QIDO-RS; see ``diana.utils.gateways.qido_query``."""
        return Gateway.ensure_query_type(query)

    @staticmethod
    def parse_qido_response(response: Any) -> list[JsonTags]:
        """Return the items of a decoded answer. Raises GatewayAnswerError."""
        return Gateway.parse_qido_response(response)

    @staticmethod
    def check_for_response_errors(response: Any) -> None:
        """Raise for an answer that is no result: ItemNotFound for 204, a GatewayError for others but 200."""
        Gateway.check_for_response_errors(response)


def found_row(gateway: Gateway, uids: tuple[str, str, str], level: DicomLevel) -> Dixel:
    """Return what a search for one item gives. Raises ItemNotFound."""
    keys = keys_of(uids)
    for found in Search(gateway, Query(keys, level)).run():
        found.tags = {**keys, **found.tags}
        return found
    raise ItemNotFound(f"{gateway.name}: no such {level.singular.lower()}")
