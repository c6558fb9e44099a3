"""Audit: a chain that names the record that was edited."""

from __future__ import annotations

import json
from multiprocessing import get_context
from pathlib import Path

import pytest

from diana.deid.audit import Audit
from diana.deid.key import Key
from diana.exceptions import StateError


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """An audit of six records, sealed in two batches."""
    found = Audit(tmp_path / "custody" / "audit.jsonl", Key.make())
    found.add(*({"event": "instance", "item": f"i{at}"} for at in range(3)))
    found.add(*({"event": "instance", "item": f"i{at}"} for at in range(3, 6)))
    return found


def lines(audit: Audit) -> list[str]:
    return audit.path.read_text().splitlines(keepends=True)


def test_an_untouched_audit_is_well(audit: Audit) -> None:
    assert audit.verify().ok
    assert audit.verify().records == 6
    assert Audit(audit.path).verify().ok
    assert [one["item"] for one in audit.records()] == [f"i{at}" for at in range(6)]
    assert audit.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", range(1, 7))
def test_verify_names_the_edited_record(audit: Audit, number: int) -> None:
    changed = lines(audit)
    changed[number - 1] = changed[number - 1].replace(f"i{number - 1}", "xx")
    audit.path.write_text("".join(changed))
    verdict = Audit(audit.path).verify()
    assert verdict.problem == f"record {number} was edited"
    assert verdict.records == number - 1


def test_removed_added_and_moved_records_are_noticed(audit: Audit) -> None:
    whole = lines(audit)
    for changed in (whole[:2] + whole[3:], whole[:3] + whole[2:], [whole[0], whole[2], whole[1], *whole[3:]]):
        audit.path.write_text("".join(changed))
        assert "before record" in Audit(audit.path).verify().problem


def test_a_chain_made_anew_after_an_edit_fails_its_seal(audit: Audit, tmp_path: Path) -> None:
    forged = Audit(tmp_path / "forged.jsonl")
    for one in audit.records():
        del one["n"], one["at"], one["prev"], one["hash"]
        forged.add({**one, "item": "forged"})
    assert forged.verify().ok
    assert Audit(forged.path, audit.key).verify().problem == "record 3 was edited: its seal is of no known key"


def test_an_end_that_was_cut_off_is_noticed_by_the_head(audit: Audit) -> None:
    head = audit.verify().head
    whole = lines(audit)
    audit.path.write_text("".join(whole[:3]))
    assert audit.verify().ok
    assert "cut off" in audit.verify(head).problem
    audit.path.write_text("".join(whole[:5]))
    assert audit.verify().problem == "record 5 has no seal"


def test_a_rotated_key_knows_the_older_seals(audit: Audit) -> None:
    assert audit.key is not None
    newer = Audit(audit.path, audit.key.rotate())
    newer.add({"event": "end"})
    assert newer.verify().ok
    assert "no known key" in audit.verify().problem


def test_a_line_that_a_killed_writer_left_is_removed_by_the_next(audit: Audit) -> None:
    with audit.path.open("a") as stream:
        stream.write('{"n":7,"at":1,"ev')
    assert audit.verify().problem == "record 7 is cut"
    audit.add({"event": "end"})
    assert audit.verify().ok
    assert audit.verify().records == 7


def test_damage_at_the_end_stops_the_writer(audit: Audit) -> None:
    with audit.path.open("a") as stream:
        stream.write("not json\n")
    with pytest.raises(StateError):
        audit.add({"event": "end"})
    assert audit.verify().problem == "record 7 was edited: it is no record"


def test_long_records_do_not_hide_the_last_one(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "a.jsonl")
    audit.add({"long": "x" * 200_000})
    audit.add({"long": "y" * 200_000}, {"event": "end"})
    assert audit.verify().records == 3
    assert audit.verify().ok


def test_absent_is_an_error_to_verify(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        Audit(tmp_path / "a.jsonl").verify()


def write(path: Path, mark: str, key: Key) -> None:
    for at in range(40):
        Audit(path, key).add({"item": f"{mark}{at}"}, {"item": f"{mark}{at}b"})


def test_many_processes_write_one_chain(tmp_path: Path) -> None:
    key = Key.make()
    context = get_context("spawn")
    writers = [context.Process(target=write, args=(tmp_path / "a.jsonl", mark, key)) for mark in "abc"]
    for one in writers:
        one.start()
    for one in writers:
        one.join(60)
    verdict = Audit(tmp_path / "a.jsonl", key).verify()
    assert verdict.ok
    assert verdict.records == 240
    assert len({json.loads(one)["item"] for one in (tmp_path / "a.jsonl").read_text().splitlines()}) == 240
