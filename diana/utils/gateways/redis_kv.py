"""A Redis server: texts by key, and sets of texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar  # Any: redis-py answers are typed loosely

from attrs import define, field

from diana.exceptions import GatewayAnswerError, GatewayConnectionError, GatewayRefused, InvalidItem
from diana.utils.endpoint.serializable import whole_number

if TYPE_CHECKING:
    import redis

BATCH = 1000
MAX_KEY = 4096
MAX_VALUE = 16 << 20
TEMPORARY = frozenset({"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "OOM", "READONLY", "TRYAGAIN"})
KNOWN = TEMPORARY | {"NOAUTH", "NOPERM", "WRONGTYPE"}

T = TypeVar("T")


@define(eq=False)
class RedisKV:
    """
    Speak to one database of a Redis server.

    Requests are few: keys are walked by SCAN, many values travel in pipelines. ``timeout`` (seconds) bounds each
    answer. Nothing is repeated after an error. May be used from many threads. Never open a Redis port to a network that
    is not trusted; use ``user``, ``password`` and ``tls``.
    """

    host: str = "localhost"
    port: int = field(default=6379, converter=whole_number)
    db: int = field(default=0, converter=whole_number)
    password: str | None = field(default=None, repr=False)
    user: str | None = field(default=None, kw_only=True, repr=False)
    tls: bool = field(default=False, kw_only=True)
    timeout: float = field(default=10.0, kw_only=True)
    _client: redis.Redis | None = field(init=False, default=None, repr=False)
    _lock: Lock = field(init=False, factory=Lock, repr=False)

    def ping(self) -> None:
        """Raise a GatewayError when the server does not answer or does not let us in."""
        with self._wire() as client:
            client.ping()

    def get(self, key: str) -> str | None:
        """Return the text of a key, None when it is absent. Raises InvalidItem when it is too large or a set."""
        with self._wire() as client:
            size = client.strlen(_key(key))
            if size > MAX_VALUE:
                raise InvalidItem(f"the stored value is larger than {MAX_VALUE} bytes")
            found: str | None = client.get(_key(key))
        return found

    def put(self, key: str, text: str) -> None:
        """Store a text under a key."""
        with self._wire() as client:
            client.set(_key(key), _raw(text))

    def replace(self, key: str, text: str) -> bool:
        """Store a text under a key that is there; False when it is not."""
        with self._wire() as client:
            return bool(client.set(_key(key), _raw(text), xx=True))

    def exists(self, key: str) -> bool:
        """Tell whether a key is there."""
        with self._wire() as client:
            return bool(client.exists(_key(key)))

    def delete(self, key: str) -> bool:
        """Remove a key; False when it was not there."""
        with self._wire() as client:
            return bool(client.delete(_key(key)))

    def keys(self, prefix: str = "", kind: str = "string") -> Iterator[str]:
        """Yield each key that starts with a prefix and holds a ``string`` or a ``set``, once, in no order."""
        with self._wire() as client:
            walk = client.scan_iter(match=_raw(glob_escape(prefix) + "*"), count=BATCH, _type=kind)
        seen: set[str] = set()
        for batch in self._batches(walk):
            for key in batch:
                if key not in seen:
                    seen.add(key)
                    yield key

    def values(self, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield key and text for those of some keys that are there; too large ones are left out."""
        for batch in _batched(keys, BATCH):
            sizes = self._pipelined("strlen", batch)
            small = [key for key, size in zip(batch, sizes, strict=True) if 0 < size <= MAX_VALUE]
            for part in _by_size(small, dict(zip(batch, sizes, strict=True))):
                for key, text in zip(part, self._pipelined("get", part), strict=True):
                    if text is not None:
                        yield key, text

    def add_members(self, pairs: Iterable[tuple[str, str]]) -> int:
        """Add members to sets, given as (key, member), in pipelines; return how many are new."""
        count = 0
        for batch in _batched(pairs, BATCH):
            groups: dict[bytes, list[bytes]] = {}
            with self._wire() as client, client.pipeline(transaction=False) as pipeline:
                for key, member in batch:
                    groups.setdefault(_key(key), []).append(_raw(member))
                for name, members in groups.items():
                    pipeline.sadd(name, *members)
                count += sum(pipeline.execute())
        return count

    def fields(self, key: str) -> dict[str, str]:
        """Return the fields of a hash, empty when it is absent."""
        with self._wire() as client:
            found: dict[str, str] = client.hgetall(_key(key))
            return found

    def change(
        self,
        *,
        remove: Iterable[tuple[str, str]] = (),
        add: Iterable[tuple[str, str]] = (),
        fields: Mapping[str, Mapping[str, str]] | None = None,
        drop: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """
        Change sets and hashes in one transaction.

        ``remove`` and ``add`` are (key, member) of sets; ``fields`` maps keys of hashes to fields to be set, ``drop``
        to fields to be removed.
        """
        with self._wire() as client, client.pipeline(transaction=True) as pipeline:
            for command, pairs in (("srem", remove), ("sadd", add)):
                groups: dict[bytes, list[bytes]] = {}
                for key, member in pairs:
                    groups.setdefault(_key(key), []).append(_raw(member))
                for name, members in groups.items():
                    getattr(pipeline, command)(name, *members)
            for key, names in (drop or {}).items():
                if names:
                    pipeline.hdel(_key(key), *map(_raw, names))
            for key, values in (fields or {}).items():
                if values:
                    pipeline.hset(_key(key), mapping={_raw(name): _raw(text) for name, text in values.items()})
            pipeline.execute()

    def members(self, key: str) -> set[str]:
        """Return the members of a set, empty when it is absent."""
        found: set[str] = set()
        with self._wire() as client:
            for batch in self._batches(client.sscan_iter(_key(key), count=BATCH)):
                found.update(batch)
        return found

    def count_members(self, prefix: str = "") -> int:
        """Return how many members all sets together have whose keys start with a prefix."""
        return sum(sum(self._pipelined("scard", batch)) for batch in _batched(self.keys(prefix, "set"), BATCH))

    def info(self) -> dict[str, Any]:
        """Return what the server says of its version, its persistence and its memory."""
        with self._wire() as client:
            return {**client.info("server"), **client.info("persistence"), **client.info("memory")}

    def flush(self) -> None:
        """Remove everything in the database."""
        with self._wire() as client:
            client.flushdb()

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _pipelined(self, command: str, keys: list[str]) -> list[Any]:
        with self._wire() as client, client.pipeline(transaction=False) as pipeline:
            for key in keys:
                getattr(pipeline, command)(_raw(key))
            return list(pipeline.execute())

    def _batches(self, walk: Iterator[str]) -> Iterator[list[str]]:
        """Take from a walk, which asks the server as it goes, with its errors translated."""
        while True:
            with self._wire():
                batch = list(islice(walk, BATCH))
            if not batch:
                return
            yield batch

    def _connection(self) -> redis.Redis:
        with self._lock:
            if self._client is None:
                import redis
                from redis.backoff import NoBackoff
                from redis.retry import Retry

                self._client = redis.Redis(
                    host=self.host,
                    port=self.port,
                    db=self.db,
                    username=self.user,
                    password=self.password,
                    ssl=self.tls,
                    socket_timeout=self.timeout,
                    socket_connect_timeout=min(self.timeout, 5.0),
                    retry=Retry(NoBackoff(), 0),
                    decode_responses=True,
                    encoding_errors="surrogateescape",
                )
            return self._client

    @contextmanager
    def _wire(self) -> Iterator[Any]:
        """Give the client, translate its errors; a server's words may hold values, so only its code word is told."""
        import redis.exceptions as errors

        try:
            yield self._connection()
        except errors.AuthenticationError:
            raise GatewayRefused("Redis refused the user or password") from None
        except errors.TimeoutError:
            raise GatewayConnectionError("Redis did not answer in time") from None
        except (errors.ConnectionError, OSError) as error:
            raise GatewayConnectionError(f"Redis cannot be reached ({type(error).__name__})") from None
        except errors.DataError:
            raise InvalidItem("Redis takes texts and numbers only") from None
        except errors.ResponseError as error:
            raise _refusal(error) from None
        except errors.RedisError as error:
            raise GatewayAnswerError(f"Redis answered out of protocol ({type(error).__name__})") from None
        except UnicodeError:
            raise InvalidItem("a key or value is not valid text") from None


def glob_escape(text: str) -> str:
    """Return a text that matches itself in a Redis pattern."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)


def _refusal(error: Exception) -> GatewayConnectionError | GatewayRefused | InvalidItem:
    kind = type(error).__name__
    named = {"BusyLoadingError": "LOADING", "ReadOnlyError": "READONLY", "OutOfMemoryError": "OOM"}.get(kind)
    told = str(error).rpartition("caused error: ")[2].partition(" ")[0]
    word = named or (told if told in KNOWN else "ERR")
    if word == "WRONGTYPE":
        return InvalidItem("the key holds another type of value")
    if word in TEMPORARY:
        return GatewayConnectionError(f"Redis cannot do it now ({word})")
    return GatewayRefused(f"Redis refused ({word})")


def _key(key: str) -> bytes:
    if not key or len(key) > MAX_KEY:
        raise InvalidItem(f"a key has 1 to {MAX_KEY} characters")
    return _raw(key)


def _raw(text: str) -> bytes:
    """Return a text in UTF-8; a file name that is not keeps its bytes (PEP 383)."""
    return text.encode("utf-8", "surrogateescape")


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _by_size(keys: list[str], sizes: dict[str, int]) -> Iterator[list[str]]:
    """Cut a list of keys so that the values of each part are not larger together than one value may be."""
    part: list[str] = []
    total = 0
    for key in keys:
        if part and total + sizes[key] > MAX_VALUE:
            yield part
            part, total = [], 0
        part.append(key)
        total += sizes[key]
    if part:
        yield part
