"""The ledger keeps what was said, through crashes, and says so when it cannot."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diana.exceptions import ConfigError, StateError
from diana.ledger import EventRow, Journal, Proof, Receipt, Result, Store

TRIGGERS = {1: ["r:a", "r:b"]}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(Store(tmp_path))


def rows(count: int, *, study: str = "", start: int = 0) -> list[EventRow]:
    return [EventRow("s", f"k{at}", 1, {"oid": str(at)}, study) for at in range(start, start + count)]


def start(journal: Journal, count: int = 10, trigger: str = "r:a", **options: object) -> list:
    return journal.turn([], {trigger: count}, owner="me", **options).started


def finish(journal: Journal, *results: Result) -> None:
    journal.turn(results, {}, owner="me")


def proof_of(uid: str, study: str = "1.2", **changes: object) -> Receipt:
    proof = Proof(uid, str(changes.pop("proof", "verified")), uid, "m", 10)
    return Receipt("verified", "s", "a", level=4, study=study, route="r", expected=1, proofs=(proof,), **changes)


def test_events_and_cursor_are_stored_together_and_once(journal: Journal) -> None:
    assert journal.take("s", rows(3), TRIGGERS, {"last": 3}) == 3
    assert journal.take("s", rows(5), TRIGGERS, {"last": 5}) == 2
    assert journal.cursor("s") == {"last": 5}
    assert journal.counts() == {"r:a": {"new": 5}, "r:b": {"new": 5}}
    assert journal.seen("s", ["k1", "k9"]) == {"k1"}
    assert journal.seen("other", ["k1"]) == set()


def test_the_same_event_twice_in_a_page_is_one(journal: Journal) -> None:
    assert journal.take("s", rows(1) + rows(1), TRIGGERS, None) == 1


def test_a_start_counts_as_an_attempt_before_the_work(journal: Journal) -> None:
    journal.take("s", rows(1), TRIGGERS, None)
    assert start(journal)[0].attempt == 1
    assert journal.counts()["r:a"] == {"busy": 1}
    journal.recover()
    assert start(journal)[0].attempt == 2


def test_what_kills_its_process_is_dead_after_five_starts_and_alone_before(journal: Journal) -> None:
    journal.take("s", rows(1), TRIGGERS, None)
    alone = []
    for _ in range(5):
        alone.append(start(journal)[0].alone)
        journal.recover()
    assert alone == [False, False, True, True, True]
    assert journal.counts()["r:a"] == {"dead": 1}
    assert start(journal) == []


def test_a_finished_start_clears_the_crashes(journal: Journal) -> None:
    journal.take("s", rows(1), TRIGGERS, None)
    for _ in range(4):
        start(journal)
        journal.recover()
    found = start(journal)[0]
    finish(journal, Result(found.id, "waiting", "busy"))
    assert not start(journal)[0].alone


def test_waiting_work_starts_when_due_and_a_clock_set_back_does_not_hold_it(journal: Journal) -> None:
    journal.take("s", rows(2), TRIGGERS, None)
    first, second = start(journal)
    finish(
        journal, Result(first.id, "waiting", due=time.time() + 60), Result(second.id, "waiting", due=time.time() + 9e6)
    )
    assert [one.id for one in start(journal)] == [second.id]


def test_a_failure_that_does_not_count_gives_the_attempt_back(journal: Journal) -> None:
    journal.take("s", rows(1), TRIGGERS, None)
    found = start(journal)[0]
    finish(journal, Result(found.id, "waiting", spent=False))
    assert start(journal)[0].attempt == 1


def test_a_study_is_worked_in_order_and_others_beside_it(journal: Journal) -> None:
    journal.take("s", rows(2, study="1.1") + rows(2, study="1.2", start=5), TRIGGERS, None)
    ordered = frozenset(["r:a"])
    found = start(journal, ordered=ordered)
    assert [one.event.key for one in found] == ["k0", "k5"]
    assert start(journal, ordered=ordered) == []
    finish(journal, Result(found[0].id, "done"))
    assert [one.event.key for one in start(journal, ordered=ordered)] == ["k1"]


def test_a_result_of_a_lost_owner_is_refused(journal: Journal) -> None:
    journal.take("s", rows(1), TRIGGERS, None)
    found = start(journal)[0]
    journal.recover()
    finish(journal, Result(found.id, "done"))
    assert journal.counts()["r:a"] == {"waiting": 1}


def test_dead_work_is_listed_replayed_and_dropped(journal: Journal) -> None:
    journal.take("s", rows(2), TRIGGERS, None)
    for one in start(journal):
        finish(journal, Result(one.id, "dead", "refused"))
    dead = journal.dead()
    assert [one["note"] for one in dead] == ["refused", "refused"]
    assert journal.replay([dead[0]["id"]]) == 1
    assert journal.drop([dead[1]["id"]]) == 1
    assert start(journal)[0].attempt == 1


def test_receipts_of_instances_join_their_study(journal: Journal) -> None:
    for number in range(3):
        journal.receipts.save(proof_of(f"1.2.{number}"))
    journal.receipts.save(proof_of("9.9.1", study="9.9"))
    found = {one["study"]: one for one in journal.receipts.list()}
    assert len(found) == 2
    assert (found["1.2"]["verified"], found["1.2"]["expected"], found["1.2"]["state"]) == (3, 3, "verified")


def test_one_rejected_instance_makes_the_study_incomplete_until_it_is_delivered(journal: Journal) -> None:
    journal.receipts.save(proof_of("1.2.1"))
    journal.receipts.save(proof_of("1.2.2", proof="rejected"))
    assert journal.receipts.list()[0]["state"] == "incomplete"
    assert list(journal.receipts.list()[0]["rejected"]) == ["1.2.2"]
    journal.receipts.save(proof_of("1.2.2"))
    assert journal.receipts.list()[0]["state"] == "verified"


def test_a_late_instance_makes_a_receipt_that_follows_the_first(journal: Journal) -> None:
    first = journal.receipts.save(proof_of("1.2.1"))
    journal.receipts.save(proof_of("1.2.2", started=time.time() + 3600))
    late = journal.receipts.list()[0]
    assert late["follows"] == first
    assert late["verified"] == 1
    assert journal.receipts.previous("r", "a", "1.2") == (first, {"1.2.1": "m", "1.2.2": "m"})


def test_finished_events_wait_for_every_delivery_to_be_done(journal: Journal) -> None:
    journal.take("s", rows(1), TRIGGERS, None, wants_done=True)
    one = start(journal)[0]
    finish(journal, Result(one.id, "done"))
    assert journal.finished_events("s") == []
    other = start(journal, trigger="r:b")[0]
    finish(journal, Result(other.id, "dead"))
    assert journal.finished_events("s") == []
    journal.drop([other.id])
    event = journal.finished_events("s", [one.event.id])[0]
    journal.close_events([event.id])
    assert journal.finished_events("s") == []


def test_prune_forgets_only_what_ended_and_is_old(journal: Journal) -> None:
    journal.take("s", rows(3), {1: ["r:a"]}, None)
    one, two = start(journal, 2)
    finish(journal, Result(one.id, "done"), Result(two.id, "dead"))
    later = time.time() + 1
    assert journal.prune(later, keep_keys_of=["s"]) == 0
    assert journal.prune(later) == 1
    assert journal.counts() == {"r:a": {"new": 1, "dead": 1}}


def test_a_second_process_cannot_own_the_ledger(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.own()
    code = "import sys; from diana.ledger import Store; from diana.exceptions import StateError\n"
    code += "try:\n    Store(sys.argv[1]).own()\nexcept StateError:\n    sys.exit(7)\n"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 7
    store.close()
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


@pytest.mark.parametrize("damage", ["garbage", "cut", "version", "foreign"])
def test_a_damaged_ledger_is_an_error_and_stays_as_it_is(tmp_path: Path, damage: str) -> None:
    journal = Journal(Store(tmp_path))
    journal.take("s", rows(500), TRIGGERS, {"last": 3})
    path = journal.store.path
    assert path is not None
    journal.store.close()
    if damage == "garbage":
        path.write_bytes(os.urandom(20_000))
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:9000])
    elif damage == "version":
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE about SET value = '99'")
    else:
        path.write_text("certainly no database, but some text that is longer than a header of one" * 20)
    before = path.read_bytes()
    with pytest.raises(StateError, match="ledger"):
        Store(tmp_path)
    assert path.read_bytes() == before


def test_a_damaged_cursor_is_an_error(journal: Journal) -> None:
    journal.take("s", [], {}, {"last": 1})
    with journal.store.begin() as connection:
        connection.exec_driver_sql("UPDATE cursors SET cursor = '{cut'")
    with pytest.raises(StateError):
        journal.cursor("s")


def test_a_folder_that_cannot_be_written_is_an_error() -> None:
    with pytest.raises(StateError):
        Store("/proc/nowhere/ledger.sqlite")


def test_an_url_of_an_unknown_database_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError):
        Store("nonsense://user:secret@host/db")


def test_the_ledger_is_private(journal: Journal) -> None:
    assert journal.store.path is not None
    assert journal.store.path.stat().st_mode & 0o077 == 0


@pytest.mark.live
def test_postgresql_takes_the_same_schema(postgres_url: str) -> None:
    journal = Journal(Store(postgres_url))
    assert journal.take("s", rows(3, study="1.2"), TRIGGERS, {"last": 1}) == 3
    assert journal.take("s", rows(4, study="1.2"), TRIGGERS, {"last": 2}) == 1
    found = start(journal, 2)
    finish(journal, Result(found[0].id, "done", receipt=proof_of("1.2.1")), Result(found[1].id, "dead", "no"))
    assert journal.receipts.list()[0]["verified"] == 1
    assert journal.counts()["r:a"] == {"done": 1, "dead": 1, "new": 2}
    assert len(start(journal, 5, ordered=frozenset(["r:a"]))) == 1
    journal.store.close()
