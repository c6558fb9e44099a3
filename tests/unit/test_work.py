"""The ledger's jobs: items are claimed once, counted at their start, and ended behind a fence."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from diana.daemons.task import TASKS, make_task
from diana.exceptions import ConfigError, ItemNotFound
from diana.ledger import Claim, Store, Work, clock
from diana.ledger.dispatch import Dispatch
from diana.ledger.schema import work_items
from diana.utils.endpoint import ServiceManager


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.live)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    store = Store(where)
    yield store
    store.close()


@pytest.fixture
def work(store: Store) -> Work:
    return Work(store, max_kills=3)


@pytest.fixture
def job(work: Work) -> str:
    return work.create("count", {"level": "studies"}, [(f"item {at}", {"n": at}) for at in range(5)])


def lapse(work: Work, claim: Claim) -> None:
    """End the lease of a claim, as time does."""
    with work.store.begin() as connection:
        connection.execute(update(work_items).where(work_items.c.id == claim.id).values(until=1.0))


def one(work: Work, job: str) -> Claim:
    (claim,) = work.claim(job, "w")
    return claim


def test_items_come_back_as_they_were_stored_in_their_order(work: Work, job: str) -> None:
    assert [(item.key, item.payload, item.state, item.attempts) for item in work.items(job)] == [
        (f"item {at}", {"n": at}, "waiting", 0) for at in range(5)
    ]
    assert work.counts(job) == {"waiting": 5}
    assert work.job(job).kind == "count"
    assert work.job(job).spec == {"level": "studies"}
    assert [found.name for found in work.jobs()] == [job]


def test_create_again_adds_only_unknown_keys_and_replaces_the_spec(work: Work, job: str) -> None:
    work.finish(one(work, job), "done")
    assert work.create("count", {"level": "series"}, [("item 0", {"n": 99}), ("new", {})], job) == job
    assert work.counts(job) == {"waiting": 5, "done": 1}
    assert work.item(job, "item 0").payload == {"n": 0}
    assert work.job(job).spec == {"level": "series"}


def test_a_known_job_does_not_change_its_kind(work: Work, job: str) -> None:
    with pytest.raises(ConfigError, match="'count'"):
        work.create("other", {}, [], job)


def test_many_items_are_stored_and_listed(work: Work) -> None:
    job = work.create("count", {}, ((str(at), {}) for at in range(1201)))
    assert [item.key for item in work.items(job)] == [str(at) for at in range(1201)]


def test_absent_job_and_item_are_not_found(work: Work, job: str) -> None:
    for call in (
        lambda: work.job("none"),
        lambda: work.job(99),
        lambda: work.item(job, "none"),
        lambda: work.by_id(99),
    ):
        with pytest.raises(ItemNotFound):
            call()


def test_a_claim_counts_the_attempt_at_its_start(work: Work, job: str) -> None:
    claim = one(work, job)
    assert (claim.job, claim.key, claim.payload, claim.attempt) == (job, "item 0", {"n": 0}, 1)
    item = work.item(job, "item 0")
    assert (item.state, item.attempts) == ("running", 1)


def test_what_is_claimed_cannot_be_claimed_again(work: Work, job: str) -> None:
    claims = work.claim(job, "a", limit=3)
    assert [claim.key for claim in claims] == ["item 0", "item 1", "item 2"]
    assert [claim.key for claim in work.claim(job, "b", limit=9)] == ["item 3", "item 4"]
    assert work.claim(job, "c", limit=9) == []


def test_claims_by_key_and_by_id(work: Work, job: str) -> None:
    (claim,) = work.claim(job, "w", keys=["item 3", "unknown"], limit=5)
    assert claim.key == "item 3"
    assert work.claim(job, "w", ids=[claim.id]) == []
    (other,) = work.claim(work.job(job).number, "w", ids=[claim.id - 1])
    assert (other.key, other.job) == ("item 2", job)


def test_an_item_ends_in_the_state_that_is_given_with_its_outcome(work: Work, job: str) -> None:
    assert work.finish(one(work, job), "incomplete", {"missing": ["1.2"], "reason": "two images"})
    item = work.item(job, "item 0")
    assert (item.state, item.outcome["missing"], item.reason) == ("incomplete", ["1.2"], "two images")


@pytest.mark.parametrize("state", ["", "waiting", "running"])
def test_an_end_needs_the_name_of_a_final_state(work: Work, job: str, state: str) -> None:
    with pytest.raises(ValueError, match="final"):
        work.finish(one(work, job), state)


def test_a_worker_that_returns_after_its_lease_is_refused(work: Work, job: str) -> None:
    late = one(work, job)
    lapse(work, late)
    (fresh,) = work.claim(job, "other", keys=[late.key])
    assert (fresh.key, fresh.attempt) == (late.key, 2)
    assert not work.renew(late)
    assert not work.release(late)
    assert not work.finish(late, "done", {"by": "late"})
    assert work.renew(fresh)
    assert work.finish(fresh, "done", {"by": "fresh"})
    assert not work.finish(fresh, "failed")
    assert work.item(job, late.key).outcome == {"by": "fresh"}


def test_a_late_end_counts_while_nobody_else_has_the_item(work: Work, job: str) -> None:
    late = one(work, job)
    lapse(work, late)
    assert work.finish(late, "done")


def test_a_lease_is_kept_by_renewing(work: Work, job: str) -> None:
    claim = one(work, job)
    lapse(work, claim)
    assert work.renew(claim, 60)
    assert work.claim(job, "other", keys=[claim.key]) == []


def test_a_released_item_waits_for_its_delay(work: Work, job: str) -> None:
    claim = one(work, job)
    assert work.release(claim, 3600, "busy")
    item = work.item(job, claim.key)
    assert (item.state, item.reason, item.attempts) == ("waiting", "busy", 1)
    assert work.claim(job, "w", keys=[claim.key]) == []
    for other in work.claim(job, "w", limit=9):
        work.finish(other, "done")
    left = work.next_start(job)
    assert left is not None
    assert 3000 < left <= 3600


def test_a_start_that_was_not_spent_does_not_count(work: Work, job: str) -> None:
    claim = one(work, job)
    work.release(claim, 0, spent=False)
    assert work.item(job, claim.key).attempts == 0
    (again,) = work.claim(job, "w", keys=[claim.key])
    assert again.attempt == 1
    assert again.token > claim.token


def test_next_start_is_none_when_all_has_ended(work: Work, job: str) -> None:
    assert work.next_start(job) == 0
    for claim in work.claim(job, "w", limit=9):
        work.finish(claim, "done")
    assert work.next_start(job) is None


def test_an_item_that_kills_every_time_ends_failed_and_named(work: Work, job: str) -> None:
    claim = one(work, job)
    for _ in range(2):
        lapse(work, claim)
        (claim,) = work.claim(job, "w", keys=[claim.key])
    assert claim.kills == 2
    lapse(work, claim)
    assert work.claim(job, "w", keys=[claim.key]) == []
    item = work.item(job, claim.key)
    assert (item.state, item.reason, item.attempts) == ("failed", "killed 3 times", 3)
    assert item.outcome["reason"] == "killed 3 times"
    assert not work.finish(claim, "done")


def test_what_lies_under_no_lease_waits_again_or_ends_failed(work: Work, job: str) -> None:
    kept, lapsed, killer = work.claim(job, "w", limit=3)
    for _ in range(2):
        lapse(work, killer)
        (killer,) = work.claim(job, "w", keys=[killer.key])
    lapse(work, killer)
    lapse(work, lapsed)
    assert work.recover(job) == 2
    assert work.recover() == 0
    assert work.counts(job) == {"running": 1, "waiting": 3, "failed": 1}
    assert work.item(job, lapsed.key).attempts == 1
    assert work.finish(kept, "done")


def test_a_worker_that_returns_before_anybody_started_its_item_goes_on(work: Work, job: str) -> None:
    renewed, ended, released = work.claim(job, "w", limit=3)
    for claim in (renewed, ended, released):
        lapse(work, claim)
    assert work.recover() == 3
    assert work.renew(renewed)
    assert work.item(job, renewed.key).state == "running"
    assert work.finish(ended, "done")
    assert work.release(released)
    assert work.counts(job) == {"running": 1, "done": 1, "waiting": 3}


def test_what_was_given_back_is_not_ended_any_more(work: Work, job: str) -> None:
    claim, other = work.claim(job, "w", limit=2)
    work.release(claim)
    assert not work.finish(claim, "done")
    assert not work.renew(claim)
    work.finish(other, "failed")
    work.again(job)
    assert not work.finish(other, "done")


def test_kills_in_a_row_count_and_others_do_not(work: Work, job: str) -> None:
    for _ in range(5):
        (claim,) = work.claim(job, "w", keys=["item 0"])
        lapse(work, claim)
        (claim,) = work.claim(job, "w", keys=["item 0"])
        work.release(claim)
    assert work.item(job, "item 0").attempts == 10


def test_suspects_come_last_and_are_told_apart(work: Work, job: str) -> None:
    claim = one(work, job)
    lapse(work, claim)
    (claim,) = work.claim(job, "w", keys=[claim.key])
    lapse(work, claim)
    assert work.has_suspects(job)
    assert not work.has_suspects(job, [claim.id + 1])
    keys = [found.key for found in work.claim(job, "w", limit=9, suspects=False)]
    assert keys == ["item 1", "item 2", "item 3", "item 4"]
    assert [found.key for found in work.claim(job, "w", limit=9, suspects=True)] == ["item 0"]


def test_a_closed_job_starts_nothing_until_it_is_opened(work: Work, job: str) -> None:
    claim = one(work, job)
    work.open(job, False)
    assert work.claim(job, "w", limit=9) == []
    assert work.finish(claim, "done")
    work.open(job)
    assert len(work.claim(job, "w", limit=9)) == 4


def test_failed_items_are_put_back_with_fresh_attempts(work: Work, job: str) -> None:
    failed, done, _running = work.claim(job, "w", limit=3)
    work.finish(failed, "failed", {"reason": "refused"})
    work.finish(done, "done")
    assert work.again(job, keys=[done.key]) == 0
    assert work.again(job) == 1
    item = work.item(job, failed.key)
    assert (item.state, item.attempts, item.reason, item.outcome) == ("waiting", 0, "", {})
    assert work.again(job, ["running", "waiting"]) == 0


def test_a_forgotten_job_leaves_nothing(work: Work, job: str) -> None:
    other = work.create("count", {}, [("a", {})])
    work.forget(job)
    assert [found.name for found in work.jobs()] == [other]
    assert work.counts(job) == {}
    assert work.counts(other) == {"waiting": 1}


def test_a_key_may_hold_any_text(work: Work) -> None:
    keys = ["ä/..", "a\0b", "\ud800", "'; DROP TABLE jobs; --", "", "x" * 5000]
    job = work.create("count", {}, [(key, {}) for key in keys])
    assert len(list(work.items(job))) == len(keys)
    assert len(work.claim(job, "w", limit=9)) == len(keys)


def test_claims_do_not_show_the_key(work: Work, job: str) -> None:
    claim = one(work, job)
    assert "item 0" not in repr(claim)
    assert "item 0" not in repr(work.item(job, "item 0"))


def test_many_connections_claim_each_item_once(where: str, work: Work) -> None:
    job = work.create("count", {}, [(str(at), {}) for at in range(120)])
    got: list[str] = []

    def crew() -> None:
        store = Store(where)
        mine = Work(store)
        while claims := mine.claim(job, clock.worker_name(), limit=2):
            got.extend(claim.key for claim in claims)
            for claim in claims:
                mine.finish(claim, "done")
        store.close()

    threads = [threading.Thread(target=crew) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(got, key=int) == [str(at) for at in range(120)]
    assert work.counts(job) == {"done": 120}


def test_many_connections_begin_one_ledger(where: str) -> None:
    stores: list[Store] = []
    threads = [threading.Thread(target=lambda: stores.append(Store(where))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(stores) == 6
    for store in stores:
        store.close()


CLAIM_AND_DIE = """
import os, sys
from diana.ledger import Store, Work, clock
print(len(Work(Store(sys.argv[1])).claim(sys.argv[2], clock.worker_name(), 3600, limit=2)), flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_a_dead_process_of_this_machine_had_is_free_at_once(work: Work, job: str, where: str) -> None:
    done = subprocess.run([sys.executable, "-c", CLAIM_AND_DIE, where, job], capture_output=True, timeout=60, text=True)
    assert (done.stdout.strip(), done.returncode) == ("2", -9)
    mine = one(work, job)
    work.claim(job, "a name that tells nothing", keys=[f"item {mine.payload['n'] + 1}"])
    assert work.recover(job) == 2
    assert work.recover() == 0
    assert {claim.key for claim in work.claim(job, "w", limit=9)} == {"item 0", "item 1", "item 4"}
    assert work.finish(mine, "done")


def test_a_process_is_dead_only_when_that_can_be_told() -> None:
    assert not clock.is_dead(clock.worker_name())
    room, process, _ = clock.worker_name().split("/")
    assert clock.is_dead(f"{room}/{process.partition('.')[0]}.1/x")
    for name in ("", "w", f"other/{process}/x", f"{room}/x.1/x", f"{room}/1/x"):
        assert not clock.is_dead(name)


def test_a_time_of_another_start_of_the_machine_is_over(work: Work, job: str) -> None:
    claim = one(work, job)
    with work.store.begin() as connection:
        connection.execute(update(work_items).where(work_items.c.id == claim.id).values(clock="before the restart"))
    assert len(work.claim(job, "w", keys=[claim.key])) == 1


class TestDispatch:
    """Messages are hints: none too few, none over and over."""

    def test_each_item_is_picked_once_as_two_numbers(self, work: Work, job: str) -> None:
        dispatch = Dispatch(work)
        first = dispatch.pick(3)
        assert len(first) == 3
        assert dispatch.under_way() == 3
        assert len(dispatch.pick(9)) == 2
        assert dispatch.pick(9) == []
        assert {number for number, _ in first} == {work.job(job).number}

    def test_what_was_not_taken_is_picked_again(self, work: Work, job: str) -> None:
        dispatch = Dispatch(work, again_s=0.0)
        assert len(dispatch.pick(9)) == len(dispatch.pick(9)) == 5

    def test_what_could_not_be_sent_is_picked_again(self, work: Work, job: str) -> None:
        dispatch = Dispatch(work)
        picked = dispatch.pick(9)
        dispatch.take_back([item for _, item in picked[1:]])
        assert dispatch.pick(9) == picked[1:]

    def test_what_runs_or_is_not_due_or_closed_is_not_picked(self, work: Work, job: str) -> None:
        dispatch = Dispatch(work)
        running, delayed = work.claim(job, "w", limit=2)
        work.release(delayed, 3600)
        assert len(dispatch.pick(9, job)) == 3
        lapse(work, running)
        work.recover()
        assert dispatch.pick(9) == [(work.job(job).number, running.id)]
        work.open(job, False)
        assert dispatch.pick(9) == []
        work.open(job)
        assert len(dispatch.pick(9)) == 4

    def test_open_jobs_share(self, work: Work, job: str) -> None:
        other = work.create("count", {}, [(str(at), {}) for at in range(50)])
        picked = Dispatch(work).pick(8)
        numbers = [number for number, _ in picked]
        assert numbers.count(work.job(job).number) == numbers.count(work.job(other).number) == 4

    def test_a_ledger_has_one_name(self, work: Work) -> None:
        assert Dispatch(work).ledger() == Dispatch(Work(work.store)).ledger() != ""


def test_a_job_cannot_name_a_module(work: Work) -> None:
    job = work.create("os:system", {})
    with pytest.raises(ConfigError, match="'os:system'"):
        make_task(work.job(job), ServiceManager(), work.store, TASKS)
