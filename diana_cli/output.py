"""Results on standard output: JSON lines for programs, tables for people."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any  # rows hold anything that has a JSON form

from diana.utils.endpoint.serializable import encode

Row = Mapping[str, Any]

HIDDEN = ("tags", "meta")
SHORT = 24
WIDE = 160


class Output:
    """
    Print rows as JSON lines or as one table.

    Without a wish it is a table on a terminal and JSON lines elsewhere.
    """

    def __init__(self, form: str | None = None) -> None:
        self.is_table = form == "table" or (form is None and sys.stdout.isatty())

    def rows(self, rows: Iterable[Row], columns: Sequence[str] = (), title: str = "") -> int:
        """Print rows as they come (a table when all are there); return how many."""
        if self.is_table:
            kept = list(rows)
            print_table(kept, columns, title)
            return len(kept)
        count = 0
        for row in rows:
            sys.stdout.write(json.dumps(row, default=_json_form) + "\n")
            sys.stdout.flush()
            count += 1
        return count

    def value(self, value: Any) -> None:
        """Print one result of any kind."""
        if isinstance(value, bytes | bytearray | memoryview):
            self._bytes(bytes(value))
        elif isinstance(value, Mapping):
            self._mapping(value)
        elif isinstance(value, Iterable) and not isinstance(value, str):
            self._series(value)
        else:
            self.rows([{"result": value}])

    def _bytes(self, data: bytes) -> None:
        if self.is_table:
            self.rows([{"bytes": len(data)}])
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        if self.is_table:
            self.rows([{"key": key, "value": one} for key, one in value.items()])
        else:
            self.rows([{str(key): one for key, one in value.items()}])

    def _series(self, values: Iterable[Any]) -> None:
        from diana_cli.items import is_dixel, row_of

        def shown() -> Iterator[Row]:
            for one in values:
                yield row_of(one) if is_dixel(one) else one if isinstance(one, Mapping) else {"result": one}

        self.rows(shown())


def _json_form(value: Any) -> Any:
    try:
        return encode(value)
    except TypeError:
        return str(type(value).__name__)


def print_table(rows: Sequence[Row], columns: Sequence[str] = (), title: str = "") -> None:
    """Print rows as a table; without ``columns`` those of the rows, tags last; empty columns are left out."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    flat = [_flat(row) for row in rows]
    chosen = list(columns) or list(dict.fromkeys(key for row in flat for key in row))
    if not chosen:
        return
    table = Table(title=title or None, title_justify="left", header_style="bold")
    cells = {name: [cell(row.get(name)) for row in flat] for name in chosen}
    shown = [name for name in chosen if any(cells[name])] or chosen[:1]
    for name in shown:
        table.add_column(name, overflow="fold", no_wrap=max(map(len, [name, *cells[name]])) <= SHORT)
    for at, row in enumerate(flat):
        table.add_row(*(Text(cells[name][at], style=_style(row.get(name))) for name in shown))
    is_wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    Console(file=sys.stdout, width=WIDE if is_wide else None).print(table)


def _flat(row: Row) -> dict[str, Any]:
    found = {key: value for key, value in row.items() if key not in HIDDEN}
    for group in HIDDEN:
        for key, value in (row.get(group) or {}).items():
            found.setdefault(str(key), value)
    return found


def cell(value: Any) -> str:
    """Return a value as one line of printable text, so that no value can steer a terminal."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping | list | tuple):
        value = json.dumps(value, default=_json_form, ensure_ascii=False) if value else ""
    text = " ".join(str(value).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _style(value: Any) -> str:
    return {"verified": "green", "ok": "green", "failed": "red", "incomplete": "red", "wrong": "red"}.get(
        value if isinstance(value, str) else "", "yellow" if value in ("unverifiable", "note") else ""
    )


def local_time(seconds: float) -> str:
    """Return a Unix time as local date and time, without the date when it is today's."""
    moment = time.localtime(seconds)
    is_today = moment[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", moment)


def human_size(count: int) -> str:
    """Return a number of bytes in a unit that fits."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


@contextmanager
def progress(what: str) -> Iterator[Callable[[], None]]:
    """Count on standard error: gives a function to call after each one, which does nothing where nobody looks."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda: bar.advance(task)


@contextmanager
def share(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how much is done: gives a function of done and total, which does nothing where nobody looks."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
