"""Registry: one pseudonym for each patient, whoever asks, however often, whoever dies meanwhile."""

from __future__ import annotations

import os
import pickle
import random
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from diana.deid.audit import Audit
from diana.deid.key import Key
from diana.deid.pseudonyms import subject_of
from diana.deid.registry import Entry, Registry
from diana.deid.registry_files import read_csv, read_ctp, read_table, write_csv
from diana.deid.result import Quarantined, Refused
from diana.exceptions import ConfigError
from diana.ledger import Store
from tests.helpers import wait_for

KEY = Key(bytes(range(32)))


@pytest.fixture
def registry() -> Registry:
    """An empty registry in memory."""
    return Registry(None, KEY)


class TestSubjects:
    """What a patient gets."""

    def test_a_patient_keeps_the_subject(self, registry: Registry) -> None:
        first = registry.subject("HOSP", "A1")
        assert registry.subject("HOSP", "A1") == first == subject_of(KEY, "HOSP", "A1")
        assert registry.subject("HOSP", " a1 ") == first
        assert registry.subject("OTHER", "A1") != first
        assert registry.subject("HOSP", "A2").pseudonym != first.pseudonym

    def test_projects_do_not_know_each_other(self) -> None:
        store = Store()
        one, two = Registry(store, KEY, "one"), Registry(store, Key.make(), "two")
        assert one.subject("", "A") != two.subject("", "A")
        assert [entry.patient_id for entry in two.entries()] == ["A"]

    @pytest.mark.parametrize(("mode", "error"), [("refuse", Refused), ("quarantine", Quarantined)])
    def test_unknown_patients_stop_in_the_other_modes(self, mode: str, error: type[Refused]) -> None:
        store = Store()
        Registry(store, KEY).subject("", "KNOWN")
        strict = Registry(store, KEY, mode=mode)
        assert strict.subject("", "KNOWN") == subject_of(KEY, "", "KNOWN")
        with pytest.raises(error) as caught:
            strict.subject("", "STRANGER")
        assert caught.value.reason == "unknown-patient"
        assert "STRANGER" not in str(caught.value)

    def test_unknown_modes_and_projects_are_refused(self) -> None:
        with pytest.raises(ConfigError):
            Registry(None, KEY, mode="guess")
        with pytest.raises(ConfigError):
            Registry(None, KEY, "")

    def test_a_registry_is_bound_to_its_key(self, tmp_path: Path) -> None:
        Registry(tmp_path / "r.sqlite", KEY).close()
        with pytest.raises(ConfigError, match="another key"):
            Registry(tmp_path / "r.sqlite", Key.make())
        Registry(tmp_path / "r.sqlite", KEY, "other").close()

    def test_after_rotation_known_patients_keep_their_subject(self, tmp_path: Path) -> None:
        with Registry(tmp_path / "r.sqlite", KEY) as before:
            first = before.subject("", "A")
        newer = KEY.rotate()
        with Registry(tmp_path / "r.sqlite", newer) as after:
            assert after.subject("", "A") == first
            assert after.subject("", "B") == subject_of(newer, "", "B")
            assert [one.key for one in after.entries()] == [KEY.id, newer.id]
        with pytest.raises(ConfigError, match="another key"):
            Registry(tmp_path / "r.sqlite", KEY)

    def test_a_taken_pseudonym_is_resolved_and_stays_so(self, registry: Registry) -> None:
        wanted = subject_of(KEY, "", "B").pseudonym
        registry.add([Entry("A", wanted)])
        found = registry.subject("", "B")
        assert found.pseudonym != wanted
        again = Registry(None, KEY)
        again.add([Entry("A", wanted)])
        assert again.subject("", "B") == found == registry.subject("", "B")

    def test_a_pseudonym_that_cannot_be_resolved_is_quarantined(self, registry: Registry) -> None:
        issuers = ["", *(f"\\{at}" for at in range(1, 8))]
        registry.add([Entry(f"A{at}", subject_of(KEY, one, "B").pseudonym) for at, one in enumerate(issuers)])
        with pytest.raises(Quarantined) as caught:
            registry.subject("", "B")
        assert caught.value.reason == "pseudonym-collision"

    def test_a_pseudonym_fed_in_again_is_a_conflict(self, registry: Registry) -> None:
        made = registry.subject("", "A").pseudonym
        with pytest.raises(Quarantined) as caught:
            registry.subject("", made)
        assert caught.value.reason == "conflict"
        assert len(list(registry.entries())) == 1

    def test_a_registry_goes_to_another_process_by_its_address(self, tmp_path: Path) -> None:
        with Registry(tmp_path / "r.sqlite", KEY, "p") as one:
            first = one.subject("", "A")
            with pickle.loads(pickle.dumps(one)) as two:
                assert two.project == "p"
                assert two.lookup("", "A") == first
        with pytest.raises(TypeError):
            pickle.dumps(Registry(None, KEY))

    def test_odd_ids_are_kept_apart(self, registry: Registry) -> None:
        ids = ["", "a\\b", "ä", "x" * 3000, "日本", "\ud800", "'; DROP TABLE deid_subjects; --", "%"]
        assert len({registry.subject("", one).pseudonym for one in ids}) == len(ids)
        assert [registry.subject("", one) for one in ids] == [registry.lookup("", one) for one in ids]


class TestAliases:
    """Several ids of one patient."""

    def test_an_alias_means_the_same_patient(self, registry: Registry) -> None:
        first = registry.subject("", "A")
        registry.alias(("LAB", "77"), ("", "A"))
        registry.alias(("LAB", "77"), ("", "A"))
        assert registry.subject("LAB", "77") == first

    def test_an_alias_of_another_patient_is_a_conflict(self, registry: Registry) -> None:
        registry.subject("", "A")
        registry.subject("", "B")
        with pytest.raises(Quarantined) as caught:
            registry.alias(("", "B"), ("", "A"))
        assert caught.value.reason == "conflict"
        with pytest.raises(Quarantined):
            registry.alias(("", "C"), ("", "NOBODY"))

    def test_other_ids_of_a_file_lead_to_the_known_patient(self, registry: Registry) -> None:
        first = registry.subject("", "OLD")
        assert registry.subject("", "NEW", [("", "OLD"), ("", "")]) == first
        assert registry.lookup("", "NEW") == first

    def test_other_ids_of_somebody_else_are_a_conflict(self, registry: Registry) -> None:
        registry.subject("", "A")
        registry.subject("", "B")
        with pytest.raises(Quarantined) as caught:
            registry.subject("", "A", [("", "B")])
        assert caught.value.reason == "conflict"


class TestFiles:
    """Import and export."""

    @pytest.mark.parametrize(
        "text",
        [
            "Patient ID,Pseudonym\nA,X1\nB,X2\n",
            "\ufeffEXTERNAL PSEUDONYM;PATIENT ID;ISSUER OF PATIENT ID\r\nX1;A;\r\nX2;B;\r\n",
            'patient_id\tpseudonym\tweeks\n"A"\tX1\t\n\nB\tX2\t99\n',
        ],
    )
    def test_csv_with_a_header_is_read(self, tmp_path: Path, registry: Registry, text: str) -> None:
        (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
        assert registry.add(read_csv(tmp_path / "t.csv")) == 2
        assert registry.add(read_csv(tmp_path / "t.csv")) == 0
        assert registry.subject("", "A").pseudonym == "X1"
        assert registry.subject("ANY", "B").pseudonym == "X2"
        assert registry.subject("", "B").weeks in (99, subject_of(KEY, "", "B").weeks)

    @pytest.mark.parametrize(
        ("text", "lines"),
        [
            ("Patient ID,Pseudonym\nSECRET,X1\nSECRET,X2\n", ["line 3"]),
            ("Patient ID,Pseudonym\nSECRET,X1\nB,X1\n", ["line 3"]),
            ("Patient ID,Pseudonym\nSECRET,SECRET\n", ["line 2"]),
            ("Patient ID,Pseudonym\nSECRET,B\nB,X1\n", ["line"]),
            ("Patient ID,Pseudonym\nSECRET,\n,X1\nSECRET,a\\b\n", ["line 2", "line 3", "line 4"]),
            ("Patient ID,Pseudonym\nSECRET,X1,more\n", ["line 2"]),
            ("SECRET,X1\nB,X2\n", ["line 1"]),
            ("", ["empty"]),
        ],
    )
    def test_contradictions_are_named_by_line_and_nothing_is_stored(
        self, tmp_path: Path, registry: Registry, text: str, lines: list[str]
    ) -> None:
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(ConfigError) as caught:
            registry.add(read_csv(tmp_path / "t.csv"))
        assert all(any(one in problem for problem in caught.value.problems) for one in lines)
        assert "SECRET" not in str(caught.value)
        assert list(registry.entries()) == []

    def test_contradictions_to_the_registry_are_named_by_line(self, registry: Registry) -> None:
        registry.add([Entry("A", "X1", line=2)])
        with pytest.raises(ConfigError) as caught:
            registry.add([Entry("A", "X9", line=2), Entry("B", "X1", line=3), Entry("X1", "Y", line=4)])
        assert [one.partition(":")[0] for one in caught.value.problems] == ["line 2", "line 3", "line 4"]
        assert len(list(registry.entries())) == 1

    def test_with_aliases_ids_may_share_a_pseudonym(self, registry: Registry) -> None:
        registry.add([Entry("A", "X1", line=2), Entry("B", "X1", line=3)], aliases=True)
        assert registry.subject("", "A") == registry.subject("", "B")

    def test_ctp_tables_are_read(self, tmp_path: Path, registry: Registry) -> None:
        (tmp_path / "t.properties").write_text(
            "# made by hand\n! so is this\nptid/A-1=X1\nptid/B\\ 2 : X2\nptid/C\\=3=\\\n   X3\ndateinc/A-1=5\n"
        )
        registry.add(read_table(tmp_path / "t.properties"))
        found = {one: registry.subject("", one).pseudonym for one in ("A-1", "B 2", "C=3")}
        assert found == {"A-1": "X1", "B 2": "X2", "C=3": "X3"}

    def test_ctp_tables_without_pseudonyms_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "t.properties").write_text("acc/1=2\n")
        with pytest.raises(ConfigError, match="key type"):
            read_ctp(tmp_path / "t.properties")
        (tmp_path / "t.properties").write_text("SECRET=2\nptid/A=A\n")
        with pytest.raises(ConfigError) as caught:
            read_ctp(tmp_path / "t.properties")
        assert [one.partition(":")[0] for one in caught.value.problems] == ["line 1", "line 2"]
        assert "SECRET" not in str(caught.value)

    def test_what_was_exported_can_be_imported(self, tmp_path: Path, registry: Registry) -> None:
        registry.subject("HOSP", 'A,"1"')
        registry.add([Entry("B", "X2", name="Sham^Name", weeks=60)])
        registry.alias(("LAB", "7"), ("", "B"))
        assert write_csv(tmp_path / "out" / "t.csv", registry.entries()) == 3
        assert (tmp_path / "out" / "t.csv").stat().st_mode & 0o777 == 0o600
        other = Registry(None, Key.make())
        other.add(read_csv(tmp_path / "out" / "t.csv"))
        for asked in (("HOSP", 'A,"1"'), ("", "B"), ("LAB", "7")):
            assert other.subject(*asked) == registry.subject(*asked)


class TestReidentification:
    """The way back is asked for with a reason, and written down."""

    def test_it_is_audited_before_it_is_answered(self, tmp_path: Path, registry: Registry) -> None:
        made = registry.subject("HOSP", "a1")
        registry.alias(("LAB", "7"), ("HOSP", "A1"))
        audit = Audit(tmp_path / "audit.jsonl", KEY)
        assert registry.reidentify(made.pseudonym, audit, "incidental finding") == [("HOSP", "a1"), ("LAB", "7")]
        (record,) = audit.records()
        assert (record["event"], record["reason"], record["found"]) == ("reidentify", "incidental finding", 2)
        assert "HOSP" not in audit.path.read_text()

    @pytest.mark.parametrize("reason", ["", "  ", "because of A1"])
    def test_it_needs_a_reason_without_the_id(self, tmp_path: Path, registry: Registry, reason: str) -> None:
        made = registry.subject("", "A1")
        with pytest.raises(ConfigError):
            registry.reidentify(made.pseudonym, Audit(tmp_path / "audit.jsonl"), reason)

    def test_unknown_pseudonyms_are_not_repeated(self, tmp_path: Path, registry: Registry) -> None:
        audit = Audit(tmp_path / "audit.jsonl")
        assert registry.reidentify("JOHN SMITH", audit, "a mistake") == []
        assert "SMITH" not in audit.path.read_text()


def ask(where: str, seed: int, patients: int, told: str) -> None:
    """Ask for all patients in an order of one's own; write down what was answered."""
    order = list(range(patients))
    random.Random(seed).shuffle(order)
    with Registry(where, KEY) as registry, Path(told).open("a") as stream:
        for number in order:
            found = registry.subject("", f"P{number}")
            stream.write(f"{number} {found.pseudonym} {found.weeks}\n")
            stream.flush()


def race(
    where: str, folder: Path, processes: int, patients: int, *, kills: int, patience: float = 60
) -> dict[int, str]:
    """Let processes ask at once, kill some at random and begin them again; return the map that all agree on."""
    context, rng = get_context("spawn"), random.Random(7)
    told = [folder / f"told-{at}" for at in range(processes)]

    def begin(at: int) -> object:
        process = context.Process(target=ask, args=(where, at, patients, str(told[at])))
        process.start()
        return process

    running = [begin(at) for at in range(processes)]
    for _ in range(kills):
        at = rng.randrange(processes)
        enough = rng.randrange(patients * 10) + (told[at].stat().st_size if told[at].exists() else 0)
        victim = running[at]
        wait_for(
            lambda at=at, enough=enough, victim=victim: (
                not victim.is_alive() or (told[at].exists() and told[at].stat().st_size > enough)
            ),
            patience,
        )
        if victim.is_alive():
            os.kill(victim.pid, signal.SIGKILL)
        victim.join(60)
        running[at] = begin(at)
    for one in running:
        one.join(5 * patience)
        assert one.exitcode == 0
    answers: dict[int, str] = {}
    for path in told:
        for line in path.read_text().splitlines():
            number, _, rest = line.partition(" ")
            if rest.count(" ") == 1 and rest.split()[1].isdigit():  # not cut by a kill
                assert answers.setdefault(int(number), rest) == rest
    return answers


def check_map(where: str, answers: dict[int, str], patients: int) -> None:
    with Registry(where, KEY, mode="refuse") as registry:
        entries = list(registry.entries())
        assert len(entries) == patients == len({one.patient_id for one in entries})
        assert len({one.pseudonym for one in entries}) == patients
        for one in entries:
            assert answers[int(one.patient_id[1:])] == f"{one.pseudonym} {one.weeks}"


def test_killed_processes_agree_on_one_map_in_sqlite(tmp_path: Path) -> None:
    where = str(tmp_path / "r.sqlite")
    answers = race(where, tmp_path, 4, 250, kills=6)
    check_map(where, answers, 250)


@pytest.mark.live
def test_killed_processes_agree_on_one_map_in_postgresql(tmp_path: Path, postgres_url: str) -> None:
    answers = race(postgres_url, tmp_path, 4, 250, kills=6)
    check_map(postgres_url, answers, 250)


@pytest.mark.live
def test_postgresql_gives_what_sqlite_gives(postgres_url: str, registry: Registry) -> None:
    with Registry(postgres_url, KEY) as other:
        for one in ("A", "ä", "日本", "\0x", "\ud800"):
            assert other.subject("I", one) == registry.subject("I", one) == other.lookup("I", one)
        other.alias(("", "Z"), ("I", "A"))
        assert other.subject("", "Z") == other.subject("I", "A")
        with pytest.raises(ConfigError):
            other.add([Entry("Q", other.subject("I", "A").pseudonym, line=2)])
        assert len(list(other.entries())) == 6
