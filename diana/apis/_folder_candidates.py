"""Which heads of a folder's index have values that match."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final  # Any: values to match

from diana.apis._folder_facts import DATES, HEAD, SOUGHT, Span, spans_of
from diana.apis._folder_tables import HEADS
from diana.utils.dicom.matching import met

FEW: Final = 5000
TOP: Final = "\U0010ffff"


def candidates(connection: sqlite3.Connection, sought: Mapping[str, Any], uids: str | None) -> set[int]:
    """
    Return the heads that meet what is wanted of values in HEAD, and that have a file with one of the UIDs (JSON).

    The keys that are looked up come first, those for which all heads have to be asked last.
    """
    found: set[int] | None = None
    if uids is not None:
        asked = "SELECT head FROM files WHERE o0 IN (SELECT value FROM json_each(?)) AND head IS NOT NULL"
        found = {head for (head,) in connection.execute(asked, (uids,))}
    steps = [(key, wanted, _spans(key, wanted)) for key, wanted in sought.items()]
    for key, wanted, spans in sorted(steps, key=lambda step: _cost(step[2])):
        if found is not None and not found:
            break
        if spans and all(one.exact for one in spans):
            some = _looked_up(connection, key, spans)
        else:
            some = _asked(connection, key, wanted, spans, found)
        found = some if found is None else found & some
    return found or set()


def _spans(key: str, wanted: object) -> list[Span] | None:
    """Return where words that can match lie; None for keys without words."""
    if key not in SOUGHT:
        return None
    return spans_of(key, wanted) or [Span("", "")]


def _cost(spans: list[Span] | None) -> int:
    if spans is None:
        return 2
    return 0 if all(one.exact for one in spans) else 1


def _looked_up(connection: sqlite3.Connection, key: str, spans: list[Span]) -> set[int]:
    asked = "SELECT head FROM words WHERE tag = ? AND text IN (SELECT value FROM json_each(?))"
    bound = [SOUGHT.index(key), json.dumps([one.low for one in spans if one.low == one.high])]
    found = {head for (head,) in connection.execute(asked, bound)}
    for one in spans:
        if one.low != one.high:
            between = "SELECT head FROM words WHERE tag = ? AND text BETWEEN ? AND ?"
            found.update(head for (head,) in connection.execute(between, (bound[0], one.low, one.high or TOP)))
    return found


def _asked(
    connection: sqlite3.Connection, key: str, wanted: object, spans: list[Span] | None, among: set[int] | None
) -> set[int]:
    """Return the heads whose value meets what is wanted, by asking for each value once."""
    verdicts: dict[str | None, bool] = {}
    found = set()
    for head, text in _values(connection, key, spans, among):
        verdict = verdicts.get(text)
        if verdict is None:
            verdict = verdicts[text] = met(key, wanted, text)
        if verdict:
            found.add(head)
    return found


def _values(
    connection: sqlite3.Connection, key: str, spans: list[Span] | None, among: set[int] | None
) -> Iterable[tuple[int, str | None]]:
    """Return the values of a key in the heads that come into question."""
    column = HEADS[HEAD.index(key)]
    if among is not None and len(among) < FEW:
        asked = f"""SELECT heads.id, {column} FROM json_each(?) AS asked
            CROSS JOIN heads ON heads.id = asked.value"""  # noqa: S608  # the names of columns are ours
        return connection.execute(asked, (json.dumps([*among]),))
    if spans is None:
        return connection.execute(f"SELECT id, {column} FROM heads WHERE odd = 0")  # noqa: S608
    low = min(one.low for one in spans)
    high = "" if any(not one.high for one in spans) else max(one.high for one in spans)
    where, bound = "words.tag = ? AND words.text >= ?", [SOUGHT.index(key), low]
    if high:
        where += " AND words.text <= ?"
        bound.append(high)
    if key in DATES:  # their words are not what is matched
        asked = f"""SELECT heads.id, {column} FROM words CROSS JOIN heads ON heads.id = words.head
            WHERE {where}"""  # noqa: S608
        return connection.execute(asked, bound)
    # a blank is what a word was that is empty
    rows = connection.execute(f"SELECT head, text FROM words WHERE {where}", bound)  # noqa: S608
    return ((head, text or " ") for head, text in rows)
