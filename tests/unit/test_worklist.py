"""Worklists are read as people have them, and what is wrong with a row is said of that row."""

from __future__ import annotations

from pathlib import Path

import pytest

from diana.daemons.worklist import Row, read_text, read_worklist
from diana.exceptions import ConfigError


def only(text: str, kind: str = "") -> Row:
    (row,) = read_text(text, kind)
    return row


@pytest.mark.parametrize(
    ("text", "accession"),
    [
        ("Accession\nA1\n", "A1"),
        ("Accession Number;Name\nA1;x\n", "A1"),
        ("name\tACC #\nx\tA1\n", "A1"),
        ('"Accession No."|other\n" A1 "|y\n', "A1"),
        ('accession\n="00123"\n', "00123"),
        ("accession\n'00123\n", "00123"),
        ("A1\n", "A1"),
        ("\ufeffaccession\r\nA1\r\n", "A1"),
        ("accession\nA\u200b1\u00a0\n", "A1"),
    ],
)
def test_accession_numbers_are_found_in_every_spelling_of_a_table(text: str, accession: str) -> None:
    assert only(text).accession == accession


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("A*", "wildcard"),
        ("A?1", "wildcard"),
        ("A\\B", "wildcard"),
        ("", "blank"),
        ("   ", "blank"),
        ("\u00a0", "blank"),
        ("1.23E+15", "invalid"),
        ("A\x07", "invalid"),
        ("A" * 65, "invalid"),
        ("A1", ""),
    ],
)
def test_a_cell_that_cannot_be_looked_for_is_named(cell: str, problem: str) -> None:
    assert only(f"accession,x\n{cell},1\n").problem == problem


@pytest.mark.parametrize(
    ("date", "read"),
    [
        ("20240131", "20240131"),
        ("2024-01-31", "20240131"),
        ("2024/1/31", "20240131"),
        ("2024-01-31T10:00", "20240131"),
        ("31.01.2024", "20240131"),
        ("01/31/2024", "20240131"),
        ("31/01/2024", "20240131"),
        ("05/05/2024", "20240505"),
        ("01/31/2024 10:00", "20240131"),
        ("31-JAN-2024", "20240131"),
        ("Jan 31, 2024", "20240131"),
    ],
)
def test_dates_are_read_where_there_is_one_way_to(date: str, read: str) -> None:
    assert only(f"accession;study date\nA1;{date}\n").date == read


@pytest.mark.parametrize("date", ["01/02/2024", "20241331", "yesterday", "45322", "31-ENE-2024", "31.01.24"])
def test_a_date_that_is_none_or_ambiguous_is_invalid(date: str) -> None:
    row = only(f"accession,date\nA1,{date}\n")
    assert (row.problem, "date" in row.reason) == ("invalid", True)
    assert date not in row.reason


def test_rows_keep_the_numbers_of_their_lines() -> None:
    rows = read_text("accession,x\nA1,1\n,\nA2,2\n")
    assert [(row.number, row.problem) for row in rows] == [(2, ""), (3, "blank"), (4, "")]


def test_a_plain_list_tells_uids_from_accession_numbers() -> None:
    rows = read_text("# a comment\n1.2.840.113619.2.1\n12345\n\n", "txt")
    assert [(row.study, row.accession, row.problem) for row in rows] == [
        ("1.2.840.113619.2.1", "", ""),
        ("", "12345", ""),
        ("", "", "blank"),
    ]


def test_what_find_prints_is_a_worklist() -> None:
    text = '{"level": "studies", "tags": {"AccessionNumber": "A1", "StudyInstanceUID": "1.2.3"}}\nnot json\n"A2"\n[1]\n'
    rows = read_text(text, "jsonl")
    assert [(row.accession, row.study, row.problem) for row in rows] == [
        ("A1", "1.2.3", ""),
        ("", "", "invalid"),
        ("A2", "", ""),
        ("", "", "invalid"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_a_file_is_read_in_every_usual_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes("Accession;Größe\nÄ1;x\n".encode(encoding))
    (row,) = read_worklist(path)
    assert row.accession == "Ä1"


def test_columns_may_be_named() -> None:
    (row,) = read_text(
        "Exam,Who,Code\nA1,P1,S1\n", columns={"accession": "exam", "patient": "Who", "pseudonym": "code"}
    )
    assert (row.accession, row.patient, row.pseudonym) == ("A1", "P1", "S1")


@pytest.mark.parametrize(
    ("text", "columns"),
    [("a,b\n1,2\n", {}), ("accession\nA1\n", {"study": "nowhere"}), ("date\n20240101\n", {}), ("a\n", {"color": "a"})],
)
def test_a_table_without_a_usable_column_is_refused(text: str, columns: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        read_text(text, columns=columns)


def test_a_patient_alone_is_too_little_and_a_date_makes_it_enough() -> None:
    assert only("mrn\nP1\n").problem == "invalid"
    assert only("mrn,date\nP1,20240131\n").problem == ""


def test_values_do_not_show_in_the_repr() -> None:
    assert "SECRET" not in repr(only("accession,mrn\nSECRET1,SECRET2\n"))


def test_an_absent_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_worklist(tmp_path / "none.csv")


def test_a_row_of_several_cells_in_a_list_without_heading_is_invalid() -> None:
    assert [row.problem for row in read_text("A1\nA2,x\n")] == ["", "invalid"]


def test_a_pseudonym_with_a_backslash_is_invalid() -> None:
    assert only("accession,pseudonym\nA1,S\\1\n").problem == "invalid"


def test_a_comment_before_the_heading_does_not_hide_the_columns() -> None:
    (row,) = read_text("# exported, by, hand\nname;accession\nx;A1\n")
    assert (row.number, row.accession) == (3, "A1")


@pytest.mark.parametrize("head", [b"PK\x03\x04 and more", b"\xd0\xcf\x11\xe0\xa1\xb1", b"%PDF-1.7", b"\x1f\x8b\x08"])
def test_a_file_that_is_no_text_is_refused_with_what_to_do(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(head + b"\n1,2\n")
    with pytest.raises(ConfigError, match="save it as CSV"):
        read_worklist(tmp_path / "list.csv")


def test_a_nul_does_not_make_a_list_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"A\x001\nA2\n")
    rows = read_worklist(tmp_path / "list.csv")
    assert [(row.accession, row.problem) for row in rows][1:] == [("A2", "")]
    assert rows[0].problem == "invalid"


def test_a_mark_before_text_in_another_encoding_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfA1\n\xc4\n")
    assert [row.accession for row in read_worklist(tmp_path / "list.txt")] == ["A1", "Ä"]


def test_a_spreadsheets_word_for_the_delimiter_is_no_heading() -> None:
    (row,) = read_text("sep=;\naccession;a, b\nA1;x\n")
    assert (row.number, row.accession) == (3, "A1")


@pytest.mark.parametrize("head", ["", "accession,comment\n", "comment,accession\n"])
def test_an_open_quotation_mark_spoils_one_row_only(head: str) -> None:
    tail = [f"A{n},x" if head.startswith("acc") else f"x,A{n}" if head else f"A{n}" for n in range(3, 300)]
    rows = read_text(head + "\n".join(['"A1', *tail, '"A2', *tail]))
    assert [row.problem for row in rows].count("invalid") == 2
    assert len(rows) == 2 * len(tail) + 2


def test_a_comment_of_several_lines_in_a_cell_belongs_to_its_row() -> None:
    rows = read_text('accession,comment,date\nA1,"one\n\ntwo, three\nfour",2024-01-31\nA2,x,\n')
    assert [(row.number, row.accession, row.date) for row in rows] == [(2, "A1", "20240131"), (6, "A2", "")]


def test_a_row_of_more_cells_than_the_heading_is_invalid_and_empty_ones_do_not_count() -> None:
    rows = read_text("name,accession\nDoe, John,A1\nx,A2,,,\nA3\n")
    assert [row.problem for row in rows] == ["invalid", "", "blank"]


def test_comments_in_a_table_are_no_rows_where_an_id_would_stand() -> None:
    assert [row.accession for row in read_text("accession,x\n# A1,1\nA2,1\n")] == ["A2"]
    assert [row.accession for row in read_text("x,accession\n#1,A1\n# all,\n#,A2\n")] == ["A1", "A2"]


def test_json_lines_end_at_line_feeds_only_and_numbers_are_read() -> None:
    text = '{"accession": "A1", "comment": "a\u2028b"}\n{"mrn": 12.0, "date": 20240131}\n{"accession": true}\n# x\n'
    rows = read_text(text)
    assert [(row.number, row.accession, row.patient, row.date, row.problem) for row in rows] == [
        (1, "A1", "", "", ""),
        (2, "", "12", "20240131", ""),
        (3, "", "", "", "blank"),
    ]
