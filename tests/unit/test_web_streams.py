"""Streams read side by side: bounded, complete, and ended when nobody reads on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from diana.apis._streams import side_by_side


def numbers(first: int, count: int) -> Iterator[int]:
    yield from range(first, first + count)


def streams(*sizes: int) -> list[Callable[[], Iterator[int]]]:
    return [partial(numbers, 1000 * number, size) for number, size in enumerate(sizes)]


def refuse(item: int) -> None:
    raise AssertionError(f"{item} was dropped")


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_every_item_comes_once_and_in_the_order_of_its_stream(workers: int) -> None:
    found = list(side_by_side(streams(50, 0, 3, 40), workers=workers, room=2, drop=refuse))
    assert sorted(found) == [*range(50), *range(2000, 2003), *range(3000, 3040)]
    assert [one for one in found if one >= 3000] == list(range(3000, 3040))


def test_no_streams_are_no_items() -> None:
    assert list(side_by_side(streams(), workers=4, room=2, drop=refuse)) == []


def test_an_error_comes_after_what_came_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("x")

    found: list[int] = []
    with pytest.raises(KeyError):
        found.extend(side_by_side([broken], workers=2, room=2, drop=refuse))
    assert found == [1]


def test_leaving_early_drops_what_waits_and_ends_the_threads() -> None:
    dropped: list[int] = []
    closed: list[int] = []

    def endless(first: int) -> Iterator[int]:
        try:
            while True:
                yield first
                first += 1
        finally:
            closed.append(first)

    before = threading.active_count()
    reading = side_by_side([partial(endless, 0), partial(endless, 10**6)], workers=2, room=4, drop=dropped.append)
    taken = [next(reading) for _ in range(10)]
    reading.close()  # type: ignore[attr-defined]
    assert len(taken) == 10
    assert 0 < len(dropped) <= 6
    assert len(closed) == 2
    assert threading.active_count() == before
