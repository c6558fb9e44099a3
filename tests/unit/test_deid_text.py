"""Reports as text, and the patterns that clean them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from diana.deid.pseudonyms import Subject
from diana.deid.regexes import safe_pattern
from diana.deid.result import Quarantined
from diana.deid.scan import Identifiers
from diana.deid.text import Known, Pattern, builtin_patterns, clean_report, clean_study, known_of, load_patterns
from diana.dixel import Dixel, RadiologyReport
from diana.exceptions import ConfigError, InvalidItem
from tests.helpers import REPO

SUBJECT = Subject("PSN-ABCDEFGHIJ", "PSN-ABCDEFGHIJ", 60)
KNOWN = Known(
    "MRN0012345", ("Müller^Jörg^K", "Smith^Alan"), ("ACC998877",), ("19500213",), ("20190302",), ("12 Nowhere Lane",)
)
REPORT = """Patient: Joerg Mueller
MRN: 0012345   Accession: ACC998877
EXAM: CT CHEST 3/2/2019 at 10:15 am
HISTORY: 69 year old male, MÜLLER presented on March 1. Seen by Dr. Karl Referman, call 555-867-5309 or x4455.
Compared to 02/14/2018 and Nov 2017. Nodule 4 x 5 mm, series 3 image 45, 1.2 cm. HU 45-60. L4/5 disc, 6/12 ribs.
Patient MRN0012345 lives at 12 nowhere lane. Mail a.b@c.org. Discussed with Dr. Jane Roe at 3:15 pm.
Jorg Muller, 95-year-old. UID 1.2.840.113619.2.55.3.604688119
Electronically signed by: Alan Smith, MD 03/02/2019 11:00
"""


@pytest.mark.parametrize("report", [REPORT, RadiologyReport(REPORT)], ids=["text", "report"])
def test_a_report_is_cleaned_into_the_pseudonym(report: str | RadiologyReport) -> None:
    text = clean_report(report, SUBJECT, KNOWN)
    for left in (
        *("ueller", "uller", "ÜLLER", "0012345", "998877", "2019", "2018", "2017", "March", "Referman", "867", "4455"),
        *("nowhere", "a.b@", "Roe", "Alan", "Smith", "10:15", "95", "604688119"),
    ):
        assert left not in text, left
    assert "Patient PSN-ABCDEFGHIJ lives at [address]" in text
    assert "69 year old male" in text
    assert "Nodule 4 x 5 mm, series 3 image 45, 1.2 cm. HU 45-60. L4/5 disc, 6/12 ribs." in text
    assert text.count("\n") == REPORT.count("\n")


UNCHANGED = [
    "Heart size is normal. No pleural effusion.",
    "The left kidney measures 10.5 x 4.2 x 4.8 cm, previously 10.1 cm.",
    "Liver segment 4a/b; BI-RADS 2; T2/FLAIR; L5/S1; 3 of 12 nodes.",
    "RADCAT 3. ICD-10 J18.9. 120 kVp, 5 mm slices, 100 mL contrast.",
    "Follow up in 6 months. The patient is a 45-year-old woman.",
]


@pytest.mark.parametrize("line", UNCHANGED)
def test_findings_stay(line: str) -> None:
    assert clean_report(line, SUBJECT, Known()) == line + "\n"


REMOVED = {
    "Befund vom 12.03.2019 durch Frau Dr. med. Ilse Ötting": ("12.03", "Ötting", "Ilse"),
    "Reported by JOHN PUBLIC": ("PUBLIC",),
    "Findings were communicated to Nurse Ratched": ("Ratched",),
    "interpreted: Jane Q. Public, M.D.": ("Public",),
    "SSN 123-45-6789, MRN# A1234567": ("123-45", "A1234567"),
    "fax 0431 / 123 45": ("123 45",),
    "on 3/14 and the 4th of July 2018": ("3/14", "July"),
    "DOE^JOHN": ("DOE", "JOHN"),
}


@pytest.mark.parametrize(("line", "gone"), REMOVED.items(), ids=[line[:12] for line in REMOVED])
def test_people_numbers_and_dates_go(line: str, gone: tuple[str, ...]) -> None:
    text = clean_report(line, SUBJECT, Known())
    assert not [one for one in gone if one in text], text


def test_what_is_left_of_the_patient_stops_the_report() -> None:
    echo = (Pattern("carcinoma", "Quillfeather"),)
    with pytest.raises(Quarantined) as caught:
        clean_report("a carcinoma", SUBJECT, Known(names=("Quillfeather^O",)), echo)
    assert caught.value.reason == "leak"
    assert "uill" not in str(caught.value)


def test_known_shows_no_values_and_identifiers_serve_as_well() -> None:
    assert "0012345" not in repr(KNOWN)
    known = Identifiers.of([(0x00100010, "PN", b"Quillfeather^Ottoline")])
    assert clean_report("QUILLFEATHER, Ottoline: fine", None, known) == "[name], [name]: fine\n"


def test_a_study_of_a_report_archive_goes_under_its_pseudonym() -> None:
    dixel = Dixel(
        meta={
            "PatientName": "Quillfeather^Ottoline",
            "PatientAge": "093Y",
            "ReadingPhysiciansName": "Grimthorpe^Karl",
            "PatientStatus": "Inpatient",
            "ReportText": "unused",
            "Secret": "QUILLFEATHER",
        },
        tags={
            "PatientID": "MRN0012345",
            "AccessionNumber": "ACC998877",
            "PatientSex": "F",
            "StudyDescription": "CT CHEST for Ottoline",
            "Organization": "Saint Elsewhere",
            "StudyDate": "20190302",
            "ReferringPhysicianName": "Doe^Jane",
        },
    )
    dixel.report = RadiologyReport(
        "Ottoline (MRN0012345) seen by K. Grimthorpe at Saint Elsewhere, 2 March 2019. Clear."
    )
    made = clean_study(dixel, SUBJECT, accession="0")
    assert made.tags == {
        "PatientID": "PSN-ABCDEFGHIJ",
        "PatientName": "PSN-ABCDEFGHIJ",
        "AccessionNumber": "0",
        "PatientSex": "F",
        "StudyDescription": "CT CHEST for [name]",
    }
    assert made.meta["PatientAge"] == "90"
    assert made.meta["PatientStatus"] == "Inpatient"
    assert set(made.meta) == {"PatientAge", "PatientStatus", "ReportText"}
    assert made.report is not None
    assert made.report.text.startswith("[name] (PSN-ABCDEFGHIJ) seen by")
    told = f"{made.tags}{made.meta}{made.report.text}"
    assert not [one for one in ("Ottoline", "QUILL", "0012345", "Grim", "Elsewhere", "2019") if one in told]
    assert known_of(dixel).patient_id == "MRN0012345"


def test_an_enormous_text_is_refused() -> None:
    with pytest.raises(InvalidItem):
        clean_report("x" * ((4 << 20) + 1), SUBJECT, Known())


def test_long_lines_are_cleaned_in_pieces() -> None:
    text = clean_report("normal findings. " * 500 + "Seen by Dr. Karl Referman. " * 400, SUBJECT, Known())
    assert "Referman" not in text
    assert "Karl" not in text
    assert text.count("normal findings.") == 500


@pytest.mark.parametrize(
    "piece", ["A", "1", "Dr. A ", "1-", "(1 ", "phone: ", "discussed a ", " ", "a.", "A'", "Jan 1"]
)
def test_no_text_makes_the_patterns_slow(piece: str) -> None:
    line = (piece * 400)[:399] + "\x01"
    begin = time.process_time()
    clean_report("\n".join([line] * 10), SUBJECT, Known())
    assert time.process_time() - begin < 20


SLOW = [
    r"(a+)+$", r"(a|aa)+$", r"(.*)*x", r"\w+\w+\w+\w+x", r"(\w+\s?)+:", r"(?:(?:a{1,20}){1,20}){1,20}b",
    r"(a)\1", r".*.*.*=.*", r"(a?){60}a{60}", r"(?:\s*)+x", r"([a-z]*)*!", r"(?=(a+)+b)", "x" * 5000, "[", "(?P<a",
]  # fmt: skip


@pytest.mark.parametrize("pattern", SLOW, ids=[one[:20] for one in SLOW])
def test_patterns_that_may_take_long_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigError):
        safe_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\bMRN[: ]+\d{4,10}\b",
        r"[A-Z][a-z]+,\s*[A-Z][a-z]+",
        r"^Patient:.*$",
        r"GE|SIEMENS|Philips",
        r".*SCREEN.*",
        r"\d+/\d+",
    ],
)
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    assert safe_pattern(pattern) is safe_pattern(pattern)


def test_patterns_come_from_a_file() -> None:
    found = load_patterns(REPO / "conf/deid/report-patterns.yml")
    assert len(found) == 3 + len(builtin_patterns())
    assert clean_report("at Saint Elsewhere Hospital, ward 12b", None, Known(), found) == "at [place], [place]\n"


def test_all_problems_of_a_file_of_patterns_are_told(tmp_path: Path) -> None:
    path = tmp_path / "p.yml"
    path.write_text(
        "builtn: true\npatterns:\n- {find: '(a+)+$'}\n- {fnd: x}\n- {find: 'x*'}\n- {find: '(a)', put: '\\2'}\n"
        "- {find: '['}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_patterns(path)
    assert len(caught.value.problems) == 7
    assert "did you mean 'find'" in str(caught.value)
    assert "did you mean 'builtin'" in str(caught.value)
