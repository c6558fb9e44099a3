"""Reports are cleaned in one pass: what was put in is not taken for something of the patient."""

from __future__ import annotations

from pathlib import Path

import pytest

from diana.deid.pseudonyms import Subject
from diana.deid.result import Quarantined
from diana.deid.text import Known, Pattern, clean_report, load_patterns
from diana.exceptions import ConfigError
from tests.helpers import REPO
from tests.unit.test_deid_text import KNOWN, REMOVED, REPORT, SUBJECT, UNCHANGED

LABELS = ["MRN", "Patient ID", "Accession", "ID", "case no.", "patient", "Fall-Nr.", "Medical Record Number"]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("pseudonym", ["PSN-ABCDEFGHIJ", "TRIAL-0012", "00471123", "S1234567"])
def test_the_pseudonym_stays_behind_a_label(label: str, pseudonym: str) -> None:
    subject = Subject(pseudonym, pseudonym, 60)
    line = f"{label}: MRN0012345"
    assert clean_report(line, subject, KNOWN) == f"{label}: {pseudonym}\n"
    assert clean_report(f"Seen again. {line} today", subject, KNOWN) == f"Seen again. {label}: {pseudonym} today\n"


@pytest.mark.parametrize("text", [REPORT, *REMOVED, *UNCHANGED], ids=lambda text: text[:12])
def test_cleaning_again_changes_nothing(text: str) -> None:
    once = clean_report(text, SUBJECT, KNOWN)
    assert clean_report(once, SUBJECT, KNOWN) == once


def test_cleaning_again_with_own_patterns_changes_nothing() -> None:
    patterns = load_patterns(REPO / "conf/deid/report-patterns.yml")
    once = clean_report("SEH-123456 on ward 12b of Saint Elsewhere, MRN MRN0012345", SUBJECT, KNOWN, patterns)
    assert clean_report(once, SUBJECT, KNOWN, patterns) == once == "[id] on [place] of [place], MRN PSN-ABCDEFGHIJ\n"


def test_what_stands_beside_the_pseudonym_behind_a_label_goes() -> None:
    line = "Patient: Lastname Unknown MRN0012345, lives elsewhere"
    assert clean_report(line, SUBJECT, KNOWN) == "Patient: [removed] PSN-ABCDEFGHIJ, [removed]\n"


def test_a_word_that_was_put_in_is_no_name() -> None:
    known = Known("X1234567", ("Removed^Place",), ("ACC998877",))
    once = clean_report("Patient: Somebody\nSeen by our Place at ACC998877", SUBJECT, known)
    assert once == "Patient: [removed]\nSeen by our [name] at [id]\n"
    assert clean_report(once, SUBJECT, known) == once


def test_a_pseudonym_that_tells_the_patient_is_not_let_out() -> None:
    with pytest.raises(Quarantined):
        clean_report("for MRN0012345", Subject("T-MRN0012345", "x", 60), KNOWN)


def test_a_short_pseudonym_hides_nothing() -> None:
    text = clean_report("call 555-867-5309 at 1", Subject("1", "1", 60), Known("MRN0012345"))
    assert "867" not in text


def test_groups_out_of_order_are_left_out() -> None:
    assert clean_report("ward 7 east", None, Known(), [Pattern(r"(ward) (\d)", r"\2 \1")]) == "7  east\n"


def test_groups_out_of_order_are_refused_in_a_file(tmp_path: Path) -> None:
    own = tmp_path / "p.yml"
    own.write_text(r"patterns: [{find: '(a)(b)', put: '\2\1'}, {find: '(a)', put: '\1\1'}, {find: '(a)', put: '\0'}]")
    with pytest.raises(ConfigError) as caught:
        load_patterns(own)
    assert len(caught.value.problems) == 3
