"""Run contenders in turns and print how they compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import median
from time import perf_counter
from typing import NamedTuple


class Row(NamedTuple):
    """Hold one line: how many times the speed of the bench's base a contender has, and what is aimed at."""

    bench: str
    contender: str
    ratio: float
    target: str


def interleave(contenders: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """
    Return the median seconds of each contender over rounds in which all take turns, so that noise hits all alike.

    One round before the first is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            start = perf_counter()
            run()
            if turn:
                times[name].append(perf_counter() - start)
    return {name: median(seconds) for name, seconds in times.items()}


def print_table(rows: Iterable[Row]) -> None:
    """Print the rows as one table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("bench", "contender", "ratio", "target")
    table.columns[2].justify = "right"
    for row in rows:
        table.add_row(row.bench, row.contender, f"{row.ratio:.2f}", row.target)
    Console().print(table)
