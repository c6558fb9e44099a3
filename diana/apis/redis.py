"""Objects and collections of file names in a Redis database."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import md5, sha1
from typing import Any, ClassVar  # any JSON value may be stored

from attrs import define, field

from diana.dixel import Dixel, DixelView
from diana.exceptions import ConfigError, DianaError, InvalidItem, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.endpoint import Endpoint, Factory, Serializable
from diana.utils.endpoint.serializable import SECRET, encode, whole_number
from diana.utils.gateways.redis_files import RedisFiles
from diana.utils.gateways.redis_kv import RedisKV

FILE_PATH = "FilePath"


@define(eq=False)
class Redis(Endpoint):
    """
    Keep dixels, other serializable objects and JSON values by the hash of what they hold, without files.

    The key of an object is its ``epid`` (SHA-1 of its JSON text), of another value the MD5 of its JSON text; a changed
    dixel is another one. Collections are sets of texts, such as the file paths of one accession number. What is put is
    as durable as the server is configured (``appendonly yes``).
    """

    views: ClassVar[DixelView] = DixelView.META | DixelView.TAGS

    host: str = "localhost"
    port: int = field(default=6379, converter=whole_number)
    db: int = field(default=0, converter=whole_number)
    password: str | None = field(default=None, repr=False, metadata=SECRET)
    name: str = field(default="Redis", kw_only=True)
    user: str | None = field(default=None, kw_only=True)
    tls: bool = field(default=False, kw_only=True)
    timeout: float = field(default=10.0, kw_only=True)
    gateway: RedisKV = field(init=False, repr=False)

    @gateway.default
    def _make_gateway(self) -> RedisKV:
        return RedisKV(self.host, self.port, self.db, self.password, user=self.user, tls=self.tls, timeout=self.timeout)

    def put(self, item: Any, **options: Any) -> str:
        """Store a dixel, a serializable object or a JSON value; return its key."""
        return self._put(item, **options)

    def get(self, item: Any, level: Any = None, view: Any = DixelView.TAGS, **options: Any) -> Any:
        """
        Return what is stored, whole: an object when its JSON has a ``ctype`` that is registered, else the JSON value.

        Raises ItemNotFound, InvalidItem when what is stored cannot be read.
        """
        return super().get(self.ref(item, level) if not isinstance(item, Dixel) else item, level, view, **options)

    def ref(self, item: Any, level: DicomLevel | str | None = None) -> Ref:
        """Return the address of a dixel, another serializable object, a ref or a key."""
        if isinstance(item, Serializable) and not isinstance(item, Dixel):
            item = _entry(item)[0]
        found = super().ref(item, level)
        if not found.id:
            raise InvalidItem(f"{self.name}: items are known by their key alone")
        return found

    def add_to_collection(
        self,
        item: Dixel,
        prefix: str = "",
        collection_key: str = "AccessionNumber",
        item_key: str = FILE_PATH,
        path: str | os.PathLike[str] | None = None,
    ) -> str:
        """
        Add a text about an item to the set of its collection; return the key of the set.

        The key is ``prefix`` and the value of ``collection_key``, the text the value of ``item_key``, each from tags or
        meta. ``FilePath`` with a ``path`` means that path joined with the file name. Raises InvalidItem when a value is
        missing.
        """
        key, member = self._membership(item, prefix, collection_key, item_key, path)
        with self._named():
            self.gateway.add_members([(key, member)])
        return key

    def add_many(
        self,
        items: Iterable[Dixel],
        prefix: str = "",
        collection_key: str = "AccessionNumber",
        item_key: str = FILE_PATH,
        path: str | os.PathLike[str] | None = None,
    ) -> int:
        """Add many items to their collections in few requests; return how many entries are new."""
        with self._named():
            return self.gateway.add_members(
                self._membership(item, prefix, collection_key, item_key, path) for item in items
            )

    def collections(self, prefix: str = "") -> list[str]:
        """Return the names of the collections under a prefix, sorted, without the prefix."""
        with self._named():
            return sorted(key[len(prefix) :] for key in self.gateway.keys(prefix, "set"))

    def collected_items(self, prefix: str, key: str) -> set[str]:
        """Return the entries of a collection, empty when there is none."""
        with self._named():
            return self.gateway.members(prefix + key)

    def count_collected(self, prefix: str = "") -> int:
        """Return the number of entries of all collections under a prefix."""
        with self._named():
            return self.gateway.count_members(prefix)

    @property
    def files(self) -> RedisFiles:
        """Return the registry of files that this database holds."""
        return RedisFiles(self.gateway)

    def clear(self, *, confirm: bool = False) -> None:
        """Remove everything in the database, also what others put there; only with ``confirm=True``."""
        if confirm is not True:
            raise Unsupported(f"{self.name}: clear removes everything in the database; say confirm=True")
        with self._named():
            self.gateway.flush()

    def close(self) -> None:
        """Close the connections; the endpoint may be used again."""
        self.gateway.close()

    def _address(self, dixel: Dixel) -> Ref:
        return Ref(dixel.level, id=_entry(dixel)[0])

    def _put(self, item: Any) -> str:
        key, text = _entry(item)
        with self._named():
            self.gateway.put(key, text)
        return key

    def _get(self, ref: Ref, view: DixelView) -> Any:
        with self._named():
            text = self.gateway.get(ref.id)
        if text is None:
            raise ItemNotFound(f"{self.name}: no such key")
        try:
            return _revived(_parsed(text))
        except InvalidItem as error:
            raise InvalidItem(f"{self.name}: {error}") from None

    def _find(self, query: Query) -> Iterator[Dixel]:
        with self._named():
            for _, text in self.gateway.values(self.gateway.keys()):
                found = _dixel(text)
                if found is not None and found.level == query.level and query.matches(found.tags):
                    yield found

    def _exists(self, ref: Ref) -> bool:
        with self._named():
            return self.gateway.exists(ref.id)

    def _update(self, ref: Ref, data: Any) -> str:
        text = _entry(data)[1]
        with self._named():
            if not self.gateway.replace(ref.id, text):
                raise ItemNotFound("no such key")
        return ref.id

    def _delete(self, ref: Ref) -> bool:
        with self._named():
            return self.gateway.delete(ref.id)

    def _check(self) -> None:
        self.gateway.ping()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Put the endpoint's name before the messages of the gateway."""
        try:
            yield
        except DianaError as error:
            if error.args and not str(error).startswith(self.name):
                error.args = (f"{self.name}: {error.args[0]}", *error.args[1:])
            raise

    def _membership(
        self, item: Dixel, prefix: str, collection_key: str, item_key: str, path: str | os.PathLike[str] | None
    ) -> tuple[str, str]:
        known = {**item.meta, **item.tags}
        collection = known.get(collection_key)
        if item_key == FILE_PATH and path is not None:
            name = item.meta.get("FileName")
            member = os.path.join(path, str(name)) if name else None
        else:
            member = known.get(item_key)
        if collection in (None, "") or member in (None, ""):
            missing = collection_key if collection in (None, "") else item_key
            raise InvalidItem(f"{self.name}: the item has no {missing}")
        return prefix + str(collection), str(member)


def _entry(item: Any) -> tuple[str, str]:
    """Return key and JSON text of an object or value. Raises InvalidItem for what has no JSON form."""
    try:
        if isinstance(item, Serializable):
            text = item.json()
            return sha1(text.encode(), usedforsecurity=False).hexdigest(), text
        text = json.dumps(item, default=_refused)
    except (TypeError, ValueError, RecursionError):
        raise InvalidItem(f"a {type(item).__name__} that holds what has no JSON form cannot be stored") from None
    return md5(text.encode(), usedforsecurity=False).hexdigest(), text


def _refused(value: object) -> Any:
    """Return the JSON form of values inside a plain one; bytes are refused, because they would not come back."""
    if isinstance(value, bytes | bytearray):
        raise TypeError("bytes")
    return encode(value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidItem("the stored value is not JSON") from None


def _revived(value: Any) -> Any:
    if not isinstance(value, Mapping) or "ctype" not in value:
        return value
    try:
        return Factory.create(**value)
    except (ConfigError, TypeError, ValueError, AttributeError):
        raise InvalidItem("the stored object is of a class that is not registered, or has wrong fields") from None


def _dixel(text: str) -> Dixel | None:
    """Return the dixel of a stored text, None for anything else that a shared database may hold."""
    try:
        found = _revived(_parsed(text))
    except InvalidItem:
        return None
    return found if isinstance(found, Dixel) else None
