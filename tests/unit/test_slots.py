"""Places that the processes of a ledger share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from diana.ledger import Claim, Slots, Store, Work


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[Store]]:
    opened = [Store(tmp_path / "ledger.sqlite") for _ in range(2)]
    yield opened
    for one in opened:
        one.close()


def begun(work: Work, count: int, lease_s: float = 60.0) -> list[Claim]:
    job = work.create("k", {}, [(f"a{at}", {}) for at in range(count)])
    return work.claim(job, "w", lease_s, limit=count)


def test_as_many_as_there_are_places_get_one_whichever_process_asks(stores: list[Store]) -> None:
    claims = begun(Work(stores[0]), 4)
    slots = [Slots(one) for one in stores]
    assert [slots[at % 2].take("x", claim, 2) for at, claim in enumerate(claims)] == [True, True, False, False]
    assert slots[1].take("x", claims[0], 2)
    assert slots[1].take("other", claims[3], 2)


def test_a_place_is_free_when_its_item_has_ended_or_was_given_back(stores: list[Store]) -> None:
    work, slots = Work(stores[0]), Slots(stores[1])
    one, two, three = begun(work, 3)
    assert [slots.take("x", claim, 1) for claim in (one, two)] == [True, False]
    work.finish(one, "done")
    assert [slots.take("x", claim, 1) for claim in (two, three)] == [True, False]
    work.release(two)
    assert slots.take("x", three, 1)


def test_a_place_is_free_when_the_lease_of_its_item_is_over(stores: list[Store]) -> None:
    work, slots = Work(stores[0]), Slots(stores[1])
    (dead,) = begun(work, 1, lease_s=0.0)
    (alive,) = begun(work, 1)
    slots.take("x", dead, 1)
    assert slots.take("x", alive, 1)


def test_a_later_start_of_an_item_does_not_hold_the_place_of_an_earlier(stores: list[Store]) -> None:
    work, slots = Work(stores[0]), Slots(stores[1])
    one, other = begun(work, 2)
    slots.take("x", one, 1)
    work.release(one)
    work.claim(one.job, "w", keys=[one.key])
    assert slots.take("x", other, 1)


def test_fewer_places_count_at_once_and_more_later(stores: list[Store]) -> None:
    claims, slots = begun(Work(stores[0]), 4), Slots(stores[1])
    assert slots.take("x", claims[0], 3)
    assert not slots.take("x", claims[1], 1)
    assert [slots.take("x", claim, 3) for claim in claims] == [True, True, True, False]
