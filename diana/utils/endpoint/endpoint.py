"""The verbs that every system answers to."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias  # Any: options and data are the backend's own

from attrs import define, evolve, field, frozen

from diana.exceptions import DianaError, InvalidItem, Unsupported
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.query import Query
from diana.utils.dicom.ref import Ref
from diana.utils.dicom.views import DixelView
from diana.utils.endpoint.serializable import Serializable
from diana.utils.pool import bounded_map

if TYPE_CHECKING:
    from diana.dixel import Dixel

    Item: TypeAlias = Dixel | Ref | str

log = logging.getLogger(__name__)

VERBS = ("check", "put", "get", "find", "pull", "exists", "update", "delete", "digest")


@frozen
class Outcome:
    """Say what became of one item of many: its id at the destination, or the error."""

    item: Dixel
    id: str = ""
    error: DianaError | None = None


@define(eq=False, slots=False)
class Endpoint(Serializable):
    """
    One system, by the verbs of the contract.

    A backend writes hooks (``_put``, ``_get``, ...), which get checked arguments: a ``Ref`` whose ``id`` is the
    text the caller gave, if any, and a ``Query`` at the wanted level. A verb whose hook is not written raises
    Unsupported. ``views`` are the parts that ``get`` can return, ``needs`` how deep a Ref ``pull`` wants at least.
    """

    views: ClassVar[DixelView] = DixelView(0)
    needs: ClassVar[DicomLevel] = DicomLevel.STUDIES
    dicom_keys: ClassVar[bool] = True

    name: str = field(default="Endpoint", kw_only=True)
    ctype: str | None = field(default=None, kw_only=True, repr=False)

    @classmethod
    def can(cls, verb: str) -> bool:
        """Tell whether the endpoint has a verb: put, get, find, pull, exists, update, delete, digest or check."""
        hook = f"_{verb}"
        return verb in VERBS and getattr(cls, hook) is not getattr(Endpoint, hook)

    @property
    def local_folder(self) -> Path | None:
        """Return the folder of this machine that it keeps its items in; None for any other place."""
        return None

    def put(self, item: Dixel, **options: Any) -> str:
        """
        Add or replace an item; return its id here. When it returns, the item is durably stored.

        The same item twice is one item. Raises Conflict where other bytes are kept under the same SOP Instance UID,
        InvalidItem for what is no dixel.
        """
        self._check_item(item)
        return self._put(item, **options)

    def put_many(self, items: Iterable[Dixel], *, workers: int = 4) -> Iterator[Outcome]:
        """
        Put items as they come, ``workers`` at a time, and yield an outcome for each in their order.

        One bad item does not stop the others; its outcome holds the error.
        """
        return bounded_map(self._outcome_of, items, workers=workers)

    def _outcome_of(self, item: Dixel) -> Outcome:
        try:
            return Outcome(item, id=self.put(item))
        except DianaError as error:
            return Outcome(item, error=error)
        except Exception as error:  # noqa: BLE001 - whatever one item does, the others go on
            return Outcome(item, error=InvalidItem(f"{self.name}: {type(error).__name__} while putting"))

    def get(
        self,
        item: Item,
        level: DicomLevel | str | None = None,
        view: DixelView | str = DixelView.TAGS,
        **options: Any,
    ) -> Dixel:
        """
        Return the asked parts of an item as a new dixel, together with what a given dixel already holds.

        ``level`` matters only for a plain id (default studies). Raises ItemNotFound, Unsupported for a view that the
        endpoint has not.
        """
        view = DixelView.from_label(view)
        if not view or view not in self.views:
            raise Unsupported(f"{self.name}: no view {view & ~self.views}; it has {self.views or 'none'}")
        found = self._get(self.ref(item, level), view, **options)
        return found if isinstance(item, str | Ref) else item.merged(found)

    def find(
        self,
        query: Query | Mapping[str, Any] | Dixel,
        level: DicomLevel | str | None = None,
        **options: Any,
    ) -> list[Dixel]:
        """Return every item that a query describes, ``[]`` when none; see ``iter_find``."""
        return list(self.iter_find(query, level, **options))

    def iter_find(
        self,
        query: Query | Mapping[str, Any] | Dixel,
        level: DicomLevel | str | None = None,
        **options: Any,
    ) -> Iterator[Dixel]:
        """
        Yield the items that a query describes (DICOM keyword to value, see ``Query``), as they arrive.

        ``level`` defaults to the query's own, or studies. ``limit=`` ends the search early, ``fields=`` asks for more
        keywords. Raises Unsupported for a key that cannot be honoured; an answer known to be cut short raises.
        """
        limit, fields = options.pop("limit", None), options.pop("fields", ())
        asked = self.query(query, level)
        if limit is not None or fields:
            asked = evolve(asked, limit=asked.limit if limit is None else limit, fields=[*asked.fields, *fields])
        if asked.limit is not None and (type(asked.limit) is not int or asked.limit < 1):
            raise InvalidItem(f"{self.name}: a limit is a whole number from 1")
        if self.dicom_keys:
            asked.check_keywords()
        for count, found in enumerate(self._find(asked, **options), 1):
            yield found
            if count == asked.limit:
                return

    def pull(self, item: Item, level: DicomLevel | str | None = None) -> Iterator[Dixel]:
        """
        Yield every instance of an item with its file, one at a time.

        Raises ItemNotFound; IncompleteTransfer or a GatewayError when the wire ends early.
        """
        ref = self.ref(item, level)
        if ref.level < self.needs:
            raise Unsupported(f"{self.name}: pull needs {self.needs}, not {ref.level}")
        return self._pull(ref)

    def exists(self, item: Item | Query | Mapping[str, Any], level: DicomLevel | str | None = None) -> bool:
        """Tell whether an item, or anything that a query describes, is there; raises when nobody can say."""
        if isinstance(item, Mapping | Query):
            return any(True for _ in self.iter_find(item, level, limit=1))
        return self._exists(self.ref(item, level))

    def update(self, item: Item, data: Mapping[str, Any] | Dixel, level: DicomLevel | str | None = None) -> str:
        """Change an item; return its id here. Raises ItemNotFound when it is not there."""
        return self._update(self.ref(item, level), data)

    def delete(self, item: Item, level: DicomLevel | str | None = None) -> bool:
        """Remove an item; False when it was not there."""
        return self._delete(self.ref(item, level))

    def digest(self, item: Item, level: DicomLevel | str | None = None) -> str:
        """Return the MD5 (hex) of an instance's file as the endpoint keeps it. Raises ItemNotFound."""
        return self._digest(self.ref(item, level if level is not None else DicomLevel.INSTANCES))

    def check(self) -> bool:
        """Tell whether the system answers; never raises, and logs the reason when it does not."""
        try:
            self._check()
        except DianaError as error:
            log.warning("%s is not available: %s", self.name, error)
            return False
        except Exception as error:  # noqa: BLE001 - check never raises
            log.warning("%s is not available: %s", self.name, type(error).__name__)
            return False
        return True

    def handle(self, item: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a public method of this class with the item as first argument. Raises Unsupported for others."""
        known = isinstance(method, str) and not method.startswith("_") and callable(getattr(type(self), method, None))
        if not known:
            raise Unsupported(f"{self.name}: no such public method")
        return getattr(self, method)(item, *args, **kwargs)

    def close(self) -> None:
        """Give back connections and files; the endpoint may be used again."""

    def ref(self, item: Item, level: DicomLevel | str | None = None) -> Ref:
        """Return the address of a dixel, a ref or an id; the level of a dixel or ref is its own."""
        if isinstance(item, Ref):
            return item
        if isinstance(item, str):
            return Ref(DicomLevel.STUDIES if level is None else level, id=item)
        self._check_item(item)
        return self._address(item)

    def _check_item(self, item: object) -> None:
        if isinstance(item, type) or not hasattr(item, "ref") or not hasattr(item, "tags"):
            raise InvalidItem(f"{self.name}: an item is a dixel, a Ref or an id, not {type(item).__name__}")

    @staticmethod
    def query(query: Query | Mapping[str, Any] | Dixel, level: DicomLevel | str | None = None) -> Query:
        """Return what is looked for as a Query at the wanted level."""
        if not isinstance(query, Query | Mapping):
            if isinstance(query, type) or not callable(getattr(query, "query", None)):
                raise InvalidItem(f"a query is a Query, a mapping or a dixel, not {type(query).__name__}")
            query = Query(query.query(), query.level)
        elif isinstance(query, Mapping):
            query = Query(query)
        return query if level is None else query.at(DicomLevel.from_label(level))

    def _address(self, dixel: Dixel) -> Ref:
        """Return the ref of a dixel; backends with ids of their own add theirs."""
        return dixel.ref

    def _unsupported(self, verb: str) -> Unsupported:
        return Unsupported(f"{self.name}: {type(self).__name__} cannot {verb}")

    def _put(self, dixel: Dixel) -> str:
        raise self._unsupported("put")

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        raise self._unsupported("get")

    def _find(self, query: Query) -> Iterator[Dixel]:
        raise self._unsupported("find")

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        raise self._unsupported("pull")

    def _exists(self, ref: Ref) -> bool:
        raise self._unsupported("tell what exists")

    def _update(self, ref: Ref, data: Mapping[str, Any] | Dixel) -> str:
        raise self._unsupported("update")

    def _delete(self, ref: Ref) -> bool:
        raise self._unsupported("delete")

    def _digest(self, ref: Ref) -> str:
        raise self._unsupported("tell digests")

    def _check(self) -> None:
        raise self._unsupported("check")
