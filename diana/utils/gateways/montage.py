"""A Montage report archive: its search, its exam codes and their body parts."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, Final, TypeVar  # JSON values
from urllib.parse import quote, urlencode

from attrs import define, field

from diana.exceptions import GatewayAnswerError, InvalidItem, ItemNotFound
from diana.utils.endpoint.serializable import SECRET, whole_number
from diana.utils.gateways.http import HttpClient
from diana.utils.report_text import clean_text

PAGE: Final = 200
MAX_RESULTS: Final = 1_000_000
MAX_PAGE: Final = 64 << 20
CACHED: Final = 4096
DEEPEST: Final = 32
_CODE: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")

Out = TypeVar("Out")


@define(eq=False)
class Montage:
    """
    Speak to a Montage server; nothing here knows endpoints or dixels.

    ``path`` is what all addresses begin with, ``index`` the archive of reports (``rad``). ``timeout`` is (connect,
    silence) in seconds. What is looked up about codes is kept, up to 4096 entries for each kind.
    """

    protocol: str = "http"
    host: str = "localhost"
    port: int = field(default=80, converter=whole_number)
    password: str = field(default="passw0rd!", repr=False, metadata=SECRET)
    name: str = "MontageGateway"
    user: str = field(default="montage", repr=False)
    path: str = "api/v1"
    index: str = "rad"
    timeout: tuple[float, float] = field(default=(5.0, 60.0), kw_only=True)
    verify: bool | str = field(default=True, kw_only=True)
    http: HttpClient = field(init=False, repr=False)
    _codes: _Cache = field(init=False, factory=lambda: _Cache(CACHED), repr=False)
    _parts: _Cache = field(init=False, factory=lambda: _Cache(CACHED), repr=False)

    @http.default
    def _connect(self) -> HttpClient:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return HttpClient(
            f"{self.protocol}://{host}:{self.port}/{quote(self.path.strip('/'))}",
            name=self.name,
            user=self.user,
            password=self.password,
            timeout=self.timeout,
            verify=self.verify,
        )

    @classmethod
    def clean_text(cls, text: str | None) -> str:
        """Return the text of a report with its lines broken where sections begin; see ``report_text.clean_text``."""
        return clean_text(text)

    def find(self, query: Mapping[str, Any], index: str | None = None) -> list[dict[str, Any]]:
        """Return every result of a search, all pages; see ``iter_find``."""
        return list(self.iter_find(query, index))

    def iter_find(self, query: Mapping[str, Any], index: str | None = None) -> Iterator[dict[str, Any]]:
        """
        Yield the results of a search in Montage's own words: ``q``, ``start_date``, ``end_date`` (ISO days) and others.

        Raises GatewayAnswerError when fewer come than were announced, or other things than results.
        """
        offset, total = 0, 1
        while offset < total:
            asked = {**query, "offset": offset, "limit": PAGE, "format": "json"}
            page = self._json(f"index/{_name(index or self.index)}/search/?{urlencode(asked, doseq=True)}", MAX_PAGE)
            total = min(_total(page), MAX_RESULTS)
            rows = page.get("objects")
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or len(rows) > PAGE:
                raise GatewayAnswerError(f"{self.name}: the result is not a list of objects")
            if not rows and offset < total:
                raise GatewayAnswerError(f"{self.name}: {total} results were announced and {offset} came")
            yield from rows
            offset += len(rows)

    def lookup_cpts(self, montage_cpts: Sequence[str]) -> list[str]:
        """Return the CPT code of each exam code of Montage, without those it does not know."""
        found = [self._codes.get(code, partial(self._cpt, code)) for code in montage_cpts]
        return [code for code in found if code]

    def lookup_body_part(self, montage_cpts: Sequence[str]) -> list[str]:
        """Return the body parts of some exam codes, each with those it belongs to, without repetition."""
        found: dict[str, None] = {}
        for code in montage_cpts:
            found.update(dict.fromkeys(self._parts.get(code, partial(self._anatomy, code))))
        return list(found)

    def check(self, within: float | None = None) -> None:
        """Raise a GatewayError when the server does not answer as Montage does."""
        with self.http.request("GET", "index/", within=within) as answer:
            answer.read(MAX_PAGE)

    def close(self) -> None:
        """Close kept connections; the gateway may be used again."""
        self.http.close()

    def _json(self, path: str, limit: int = 1 << 20) -> dict[str, Any]:
        found = self.http.json("GET", path, limit=limit, absent=True)
        if not isinstance(found, dict):
            raise GatewayAnswerError(f"{self.name}: the answer is not a JSON object")
        return found

    def _cpt(self, code: str) -> str:
        try:
            found = self._json(f"cptcode/{_name(code)}/?format=json").get("code")
        except ItemNotFound:
            return ""
        return str(found) if isinstance(found, str | int) else ""

    def _anatomy(self, code: str) -> list[str]:
        try:
            parts = self._json(f"cptcode/{_name(code)}/?format=json").get("anatomies")
        except ItemNotFound:
            return []
        labels: dict[str, None] = {}
        for one in parts if isinstance(parts, list) else ():
            labels.update(dict.fromkeys(self._line(one)))
        return list(labels)

    def _line(self, address: Any) -> Iterator[str]:
        """Yield the labels of a body part and of those above it; a circle ends."""
        seen: set[str] = set()
        while address and len(seen) < DEEPEST:
            number = _last(address)
            if number in seen:
                return
            seen.add(number)
            part = self._parts.get(f"anatomy {number}", partial(self._part, number))
            if part and part[0]:
                yield part[0]
            address = part[1] if part else ""

    def _part(self, number: str) -> list[str]:
        try:
            found = self._json(f"anatomy/{_name(number)}/?format=json")
        except ItemNotFound:
            return []
        label, parent = found.get("label"), found.get("parent")
        return [label if isinstance(label, str) else "", _last(parent) if parent else ""]


class _Cache:
    """Keep the last answers; what failed is asked again."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str, ask: Callable[[], Out]) -> Out:
        """Return what is kept under a key, or what ``ask`` returns."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                kept: Out = self._kept[key]
                return kept
        found = ask()
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return found


def _total(page: Mapping[str, Any]) -> int:
    meta = page.get("meta")
    total = meta.get("total_count") if isinstance(meta, Mapping) else None
    if type(total) is not int or total < 0:
        raise GatewayAnswerError("the Montage result does not say how many there are")
    return total


def _last(address: Any) -> str:
    """Return the number at the end of an address, or of a mapping that holds one."""
    if isinstance(address, Mapping):
        address = address.get("resource_uri") or address.get("id")
    return str(address or "").rstrip("/").rpartition("/")[2]


def _name(text: str) -> str:
    """Return a word that may stand in an address. Raises InvalidItem for anything else."""
    if not _CODE.fullmatch(str(text)) or set(str(text)) == {"."}:
        raise InvalidItem("what is looked up is no code of Montage")
    return str(text)
