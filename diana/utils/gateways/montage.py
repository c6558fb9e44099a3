"""A Montage report archive: its search, its exam codes and their body parts."""

from __future__ import annotations

import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from threading import Lock
from typing import Any, Final, Generic, TypeVar  # JSON values
from urllib.parse import quote, urlencode

from attrs import define, field

from diana.exceptions import GatewayAnswerError, InvalidItem, ItemNotFound, Unsupported
from diana.utils.endpoint.serializable import SECRET, whole_number
from diana.utils.gateways.http import HttpClient
from diana.utils.report_text import clean_text

__all__ = ["Montage"]

PAGE: Final = 200
MAX_RESULTS: Final = 1_000_000
PAGE_BYTES: Final = 64 << 20
CODE_BYTES: Final = 1 << 20
CACHED: Final = 4096
KEPT_SECONDS: Final = 24 * 3600.0
HIGHEST: Final = 32
RESERVED: Final = frozenset(("offset", "limit", "format"))
_WORD: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}")

Kept = TypeVar("Kept")
Code = tuple[str, tuple[str, ...]]
Anatomy = tuple[str, str]


@define(eq=False)
class Montage:
    """
    Speak to a Montage server; nothing here knows endpoints or dixels.

    ``path`` is what all addresses begin with, ``index`` the archive of reports (``rad``). ``timeout`` is (connect,
    silence) in seconds. What is looked up about codes is kept for a day, up to 4096 entries of each kind.
    """

    protocol: str = "http"
    host: str = "localhost"
    port: int = field(default=80, converter=whole_number)
    password: str | None = field(default="passw0rd!", repr=False, metadata=SECRET)
    name: str = "MontageGateway"
    user: str | None = field(default="montage", repr=False)
    path: str = "api/v1"
    index: str = "rad"
    timeout: tuple[float, float] = field(default=(5.0, 60.0), kw_only=True)
    verify: bool | str = field(default=True, kw_only=True)
    http: HttpClient = field(init=False, repr=False)
    _codes: Cache[Code | None] = field(init=False, factory=lambda: Cache(CACHED, KEPT_SECONDS), repr=False)
    _anatomies: Cache[Anatomy | None] = field(init=False, factory=lambda: Cache(CACHED, KEPT_SECONDS), repr=False)

    @http.default
    def _connect(self) -> HttpClient:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return HttpClient(
            f"{self.protocol}://{host}:{self.port}/{quote((self.path or '').strip('/'))}",
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

        Pages are asked for as they are needed. What comes to the archive meanwhile is yielded too, and what moves to a
        later page by it is yielded once. Raises GatewayAnswerError when fewer come than are announced, when results go
        away meanwhile, or for what is no result; Unsupported beyond a million results.
        """
        where = f"index/{_word(index or self.index)}/search/"
        asked = _checked(query)
        tally = _Tally(self.name)
        while tally.asked_for_more:
            words = {**asked, "offset": tally.offset, "limit": PAGE, "format": "json"}
            page = self._mapping(where, words, PAGE_BYTES)
            yield from tally.fresh(page)

    def lookup_cpts(self, montage_cpts: Sequence[str]) -> list[str]:
        """Return the CPT code of each exam code of Montage, without those it does not know."""
        found = [self._code(code) for code in montage_cpts]
        return [code[0] for code in found if code is not None]

    def lookup_body_part(self, montage_cpts: Sequence[str]) -> list[str]:
        """Return the body parts of some exam codes, each with those it belongs to, without repetition."""
        found: dict[str, None] = {}
        for one in montage_cpts:
            code = self._code(one)
            for number in code[1] if code is not None else ():
                found.update(dict.fromkeys(self._line(number)))
        return list(found)

    def check(self, within: float | None = None) -> None:
        """Raise a GatewayError when the server does not answer as Montage does."""
        self.http.text("GET", "index/?format=json", within=within)

    def close(self) -> None:
        """Close kept connections; the gateway may be used again."""
        self.http.close()

    def _mapping(self, path: str, words: Mapping[str, Any], limit: int, *, absent: bool = False) -> dict[str, Any]:
        found = self.http.json("GET", f"{path}?{urlencode(words, doseq=True)}", limit=limit, absent=absent)
        if not isinstance(found, dict):
            raise GatewayAnswerError(f"{self.name}: the answer is not a JSON object")
        return found

    def _thing(self, kind: str, number: str) -> dict[str, Any] | None:
        """Return what the server says about a code or body part, None when it knows none such."""
        try:
            return self._mapping(f"{kind}/{_word(number)}/", {"format": "json"}, CODE_BYTES, absent=True)
        except ItemNotFound:
            return None

    def _code(self, number: str) -> Code | None:
        return self._codes.get(str(number), partial(self._ask_code, str(number)))

    def _ask_code(self, number: str) -> Code | None:
        found = self._thing("cptcode", number)
        if found is None:
            return None
        code, parts = found.get("code"), found.get("anatomies")
        if type(code) not in (str, int) or not isinstance(parts, list):
            raise GatewayAnswerError(f"{self.name}: an exam code lacks its CPT code or its body parts")
        return str(code), tuple(self._number(one) for one in parts)

    def _line(self, number: str) -> Iterator[str]:
        """Yield the labels of a body part and of those above it; a circle ends."""
        seen: set[str] = set()
        while number and number not in seen and len(seen) < HIGHEST:
            seen.add(number)
            label, number = self._anatomies.get(number, partial(self._ask_anatomy, number)) or ("", "")
            if label:
                yield label

    def _ask_anatomy(self, number: str) -> Anatomy | None:
        found = self._thing("anatomy", number)
        if found is None:
            return None
        label, parent = found.get("label"), found.get("parent")
        if not isinstance(label, str):
            raise GatewayAnswerError(f"{self.name}: a body part lacks its label")
        return label, self._number(parent) if parent else ""

    def _number(self, address: object) -> str:
        """Return the last part of an address, such as 12 of ``/api/v1/anatomy/12/``."""
        last = address.rstrip("/").rpartition("/")[2] if isinstance(address, str) else ""
        if not _WORD.fullmatch(last):
            raise GatewayAnswerError(f"{self.name}: what leads to a body part is no address")
        return last


class _Tally:
    """Follow the pages of one search: what was announced, what came, and what came before."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.offset = 0
        self.total: int | None = None
        self.grown = 0
        self._seen: set[bytes] = set()

    @property
    def asked_for_more(self) -> bool:
        """Tell whether another page is due. Raises Unsupported for more results than anybody should page through."""
        if self.total is None or self.offset < min(self.total, MAX_RESULTS):
            return True
        if self.offset < self.total:
            raise Unsupported(f"{self.name}: more than {MAX_RESULTS} results; ask for shorter times")
        return False

    def fresh(self, page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the results of a page that did not come with an earlier one. Raises GatewayAnswerError."""
        self._announced(page)
        rows = page.get("objects")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or len(rows) > PAGE:
            raise GatewayAnswerError(f"{self.name}: the result is not a list of at most {PAGE} objects")
        came, total = self.offset + len(rows), self.total or 0
        if came > total or (not rows and came < total):
            raise GatewayAnswerError(f"{self.name}: {total} results were announced and {came} came")
        marks = [blake2b(json.dumps(row, sort_keys=True).encode(), digest_size=16).digest() for row in rows]
        again = [mark in self._seen for mark in marks]
        if sum(again) > self.grown:
            raise GatewayAnswerError(f"{self.name}: a page holds results of an earlier page; some may be missing")
        self.grown -= sum(again)
        self._seen.update(marks)
        self.offset = came
        yield from (row for row, is_known in zip(rows, again, strict=True) if not is_known)

    def _announced(self, page: Mapping[str, Any]) -> None:
        meta = page.get("meta")
        total = meta.get("total_count") if isinstance(meta, Mapping) else None
        if type(total) is not int or total < 0:
            raise GatewayAnswerError(f"{self.name}: the result does not say how many there are")
        if self.total is not None and total < self.total:
            raise GatewayAnswerError(f"{self.name}: the archive lost results during the search; some may be missing")
        self.grown += total - (total if self.total is None else self.total)
        self.total = total


class Cache(Generic[Kept]):
    """Keep the newest ``size`` answers, each for ``seconds``; what failed is asked again. For any number of threads."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._kept: OrderedDict[str, tuple[float, Kept]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str, ask: Callable[[], Kept]) -> Kept:
        """Return what is kept under a key, or what ``ask`` returns."""
        now = time.monotonic()
        with self._lock:
            since, kept = self._kept.get(key, (None, None))
            if since is not None and now - since < self._seconds:
                self._kept.move_to_end(key)
                return kept  # type: ignore[return-value]  # what stands beside a time was kept
        found = ask()
        with self._lock:
            self._kept[key] = (now, found)
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return found


def _checked(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return a search as it is sent. Raises InvalidItem, Unsupported."""
    if not isinstance(query, Mapping):
        raise InvalidItem("a search is a mapping of words to values")
    for word, value in query.items():
        if not isinstance(word, str) or not word or word in RESERVED:
            raise Unsupported("a search sets its own offset, limit and format, and its words are texts")
        for one in value if isinstance(value, list | tuple) else (value,):
            if one is not None and not isinstance(one, str | int | float):
                raise InvalidItem(f"the value of {word[:40]!r} is no text or number")
    try:
        urlencode(query, doseq=True)
    except ValueError:
        raise InvalidItem("a search holds characters that cannot be sent") from None
    return {word: value for word, value in query.items() if value is not None}


def _word(text: str) -> str:
    """Return a word that may stand in an address. Raises InvalidItem for anything else."""
    if not _WORD.fullmatch(str(text)):
        raise InvalidItem("what is looked up is no code or index of Montage")
    return str(text)
