"""CsvFile and the CSV tables below it: round trips, columns, spreadsheets, damaged and hostile files."""

from __future__ import annotations

import csv
import datetime as dt
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diana.apis.csvfile import CsvFile
from diana.dixel import Dixel
from diana.exceptions import ConfigError, DianaError, GatewayConnectionError, InvalidItem, Unsupported
from diana.utils.gateways.file_handlers import csv_table
from tests.contract import samples


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def lines(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def test_a_new_file_has_meta_with_underscore_then_tags(path: Path) -> None:
    CsvFile(path).put(Dixel(meta={"FileName": "a.zip"}, tags={"AccessionNumber": "A1", "Modality": "CT"}))
    assert path.read_bytes() == b"_FileName,AccessionNumber,Modality\r\na.zip,A1,CT\r\n"


def test_the_order_of_arrival_is_kept(path: Path) -> None:
    table = CsvFile(path)
    for n in (3, 1, 2):
        table.put(samples.study(n))
    accessions = [one.tags["AccessionNumber"] for one in CsvFile(path).dixels]
    assert accessions == ["GEN000003", "GEN000001", "GEN000002"]


def test_a_new_key_adds_a_column_and_keeps_the_rows_aligned(path: Path) -> None:
    table = CsvFile(path)
    table.put(Dixel(tags={"AccessionNumber": "A1", "Modality": "CT"}))
    table.put(Dixel(tags={"AccessionNumber": "A2", "StationName": "S"}))
    table.put(Dixel(tags={"AccessionNumber": "A3"}))
    header, *rows = lines(path)
    assert header == ["AccessionNumber", "Modality", "StationName"]
    assert rows == [["A1", "CT", ""], ["A2", "", "S"], ["A3", "", ""]]


def test_a_replaced_row_stays_in_its_place(path: Path) -> None:
    table = CsvFile(path)
    for n in range(3):
        table.put(samples.study(n))
    table.put(samples.study(1, StudyDescription="REPLACED"))
    found = [one.tags["StudyDescription"] for one in table.dixels]
    assert found == ["GENERATED STUDY 0", "REPLACED", "GENERATED STUDY 2"]


def test_an_added_row_does_not_rewrite_the_file(path: Path) -> None:
    table = CsvFile(path)
    table.put(samples.study(0))
    inode = path.stat().st_ino
    table.put(samples.study(1))
    assert path.stat().st_ino == inode


def test_force_write_rewrites_the_file(path: Path) -> None:
    table = CsvFile(path)
    table.put(samples.study(0))
    inode = path.stat().st_ino
    table.put(samples.study(0), force_write=True)
    assert path.stat().st_ino != inode
    assert len(lines(path)) == 2


def test_the_file_is_private(path: Path) -> None:
    CsvFile(path).put(samples.study())
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_study_is_found_by_uid_and_by_accession_number(path: Path) -> None:
    table = CsvFile(path)
    oid = table.put(samples.study(4))
    assert oid == samples.uid(5)
    assert table.get("GEN000004").tags["StudyInstanceUID"] == oid
    assert table.exists(Dixel(tags={"AccessionNumber": "GEN000004"}))
    assert table.delete("GEN000004") is True


def test_series_and_instances_need_their_uid(path: Path) -> None:
    table = CsvFile(path, level="series")
    with pytest.raises(InvalidItem, match="SeriesInstanceUID"):
        table.put(Dixel(tags={"AccessionNumber": "A"}, level="series"))
    with pytest.raises(InvalidItem, match="takes series, not studies"):
        table.put(samples.study())
    assert table.put(Dixel(tags={"SeriesInstanceUID": "1.2"}, level="series")) == "1.2"
    with pytest.raises(Unsupported):
        table.find({}, level="studies")


def test_find_asks_columns_of_its_own_and_meta(path: Path) -> None:
    table = CsvFile(path)
    table.put(samples.study(0, {"FileName": "x.zip"}, Organization="East"))
    table.put(samples.study(1, {"FileName": "y.zip"}, Organization="West"))
    assert len(table.find({"Organization": "W*"})) == 1
    assert len(table.find({"_FileName": "x.zip"})) == 1
    with pytest.raises(Unsupported, match="Organization"):
        table.find({"Organisation": "W*"})


def test_datetimes_are_iso_and_come_back(path: Path) -> None:
    moment = dt.datetime(2020, 2, 29, 13, 14, 15, 250000, tzinfo=dt.timezone.utc)
    item = samples.study(0, {"StudyDateTime": moment}, StudyDate=dt.date(2020, 2, 29), Keywords=["a", "b"], Depth=0)
    oid = CsvFile(path).put(item)
    assert b"2020-02-29T13:14:15.250000+00:00" in path.read_bytes()
    found = CsvFile(path).get(oid, view="meta|tags")
    assert found.meta["StudyDateTime"] == moment
    assert found.tags["StudyDate"] == "2020-02-29"
    assert found.tags["Keywords"] == "a\\b"
    assert found.tags["Depth"] == "0"


def test_fieldnames_keeps_only_some_columns(path: Path) -> None:
    table = CsvFile(path, fieldnames=["AccessionNumber", "Modality"])
    table.put(samples.study(0, {"Note": "x"}))
    assert lines(path) == [["AccessionNumber", "Modality"], ["GEN000000", "CT"]]


def test_fieldnames_without_a_key_are_refused(path: Path) -> None:
    with pytest.raises(InvalidItem):
        CsvFile(path, fieldnames=["Modality"]).put(samples.study())
    assert not path.exists()


def test_fieldnames_all_is_an_attribute_too(path: Path) -> None:
    table = CsvFile(path)
    table.fieldnames = "ALL"
    table.put(samples.study())
    assert "StudyInstanceUID" in lines(path)[0]
    with pytest.raises(ConfigError):
        table.fieldnames = "SOME"


def test_write_and_read_take_another_file(path: Path, tmp_path: Path) -> None:
    memory = CsvFile()
    for n in range(3):
        memory.put(samples.study(n))
    memory.write(path, ["AccessionNumber", "_None"])
    assert lines(path)[0] == ["AccessionNumber", "_None"]
    memory.write(path)
    other = CsvFile(tmp_path / "other.csv")
    assert other.read(path) == 3
    assert [one.tags for one in CsvFile(tmp_path / "other.csv").dixels] == [one.tags for one in memory.dixels]


def test_write_without_a_file_raises_invalid_item() -> None:
    with pytest.raises(InvalidItem, match="fp"):
        CsvFile().write()


@pytest.mark.parametrize(
    "text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\tx", "\rx", "\nx", "=cmd|' /C calc'!A0", "'=x", "''-y"]
)
def test_no_cell_is_a_formula_and_the_text_comes_back(path: Path, text: str) -> None:
    oid = CsvFile(path).put(samples.study(0, StudyDescription=text, **{text.strip() or "x": "key"}))
    for record in lines(path):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in record)
    assert CsvFile(path).get(oid).tags["StudyDescription"] == text


@pytest.mark.parametrize("text", ["-5", "+3.25", "-1e-3", "5", "'quoted'", "'", "it's"])
def test_numbers_and_plain_quotes_stay_as_they_are(path: Path, text: str) -> None:
    oid = CsvFile(path).put(samples.study(0, StudyDescription=text))
    assert any(text in record for record in lines(path))
    assert CsvFile(path).get(oid).tags["StudyDescription"] == text


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40))
def test_escape_is_undone_by_unescape(text: str) -> None:
    assert csv_table.unescape(csv_table.escape(text)) == text


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
ROWS = st.lists(st.fixed_dictionaries({"a": CELLS, "b": CELLS}), max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(ROWS)
def test_a_table_is_read_as_it_was_written(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    path = tmp_path / "t.csv"
    csv_table.write_table(path, ["a", "b"], [])
    for row in rows:
        csv_table.append_row(path, ["a", "b"], row)
    appended = path.read_bytes()
    csv_table.write_table(path, ["a", "b"], rows)
    assert path.read_bytes() == appended
    table = csv_table.read_table(path)
    assert table.columns == ["a", "b"]
    assert table.rows == [{key: value for key, value in row.items() if value} for row in rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_foreign_files_are_read_and_put_keeps_their_rows(path: Path, delimiter: str, coding: str) -> None:
    text = "\n".join(delimiter.join(row) for row in (["AccessionNumber", "PatientSex"], ["Ä1", "F"], ["Ä2", "M"]))
    path.write_bytes(text.encode(coding))
    table = CsvFile(path)
    assert table.get("Ä2").tags == {"AccessionNumber": "Ä2", "PatientSex": "M"}
    table.put(Dixel(tags={"AccessionNumber": "Ä3"}))
    assert lines(path)[1:] == [["Ä1", "F"], ["Ä2", "M"], ["Ä3", ""]]


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"AccessionNumber,A\r\nX,1\r\nY,\0\r\n", "row 3"),
        (b"AccessionNumber,A\r\nX,1\r\nY," + b"z" * 140_000 + b"\r\n", "row 3"),
        (b"AccessionNumber,A\r\nX\r\nY,2\r\n", "row 2"),
        (b"AccessionNumber,A\r\nX,1,2\r\n", "row 2"),
        (b'AccessionNumber,A\r\n"X"x,1\r\n', "row 2"),
        (b"AccessionNumber,A\r\nX,1\r\nY,\xff\xfe\r\n", "row 3"),
        (b"AccessionNumber,A\r\nX,1\r\n,2\r\n", "row 3"),
        (b"AccessionNumber,AccessionNumber\r\nX,1\r\n", "column 2"),
        (b",A\r\nX,1\r\n", "column 1"),
    ],
    ids=["nul", "huge", "short", "long", "quotes", "bytes", "no-key", "twice", "no-name"],
)
def test_a_damaged_file_is_refused_with_the_row(path: Path, data: bytes, where: str) -> None:
    path.write_bytes(data)
    with pytest.raises(InvalidItem, match=where) as caught:
        CsvFile(path).find({})
    assert "zzz" not in str(caught.value)
    assert CsvFile(path).check() is False


def test_a_row_cut_by_a_crash_is_left_out_and_the_next_put_heals_the_file(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = CsvFile(path)
    for n in range(2):
        table.put(samples.study(n))
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:15])
    again = CsvFile(path)
    assert len(again.dixels) == 2
    assert "cut" in caplog.text
    again.put(samples.study(2))
    assert [len(record) for record in lines(path)] == [len(lines(path)[0])] * 4


def test_a_last_row_without_newline_is_a_row(path: Path) -> None:
    path.write_bytes(b"AccessionNumber,A\r\nX,1\r\nY,2")
    assert len(CsvFile(path).dixels) == 2


@pytest.mark.parametrize(
    "tags",
    [
        {"StudyDescription": "a\0b"},
        {"StudyDescription": "z" * 140_000},
        {"StudyDescription": "\ud800"},
        {"_Note": "x"},
        {"StudyDescription": object()},
    ],
    ids=["nul", "huge", "surrogate", "underscore", "object"],
)
def test_what_a_table_cannot_hold_is_refused_and_nothing_is_written(path: Path, tags: dict[str, object]) -> None:
    with pytest.raises(InvalidItem) as caught:
        CsvFile(path).put(samples.study(0, **tags))
    assert "zzz" not in str(caught.value)
    assert not path.exists()


def test_a_full_disk_is_an_error_and_the_table_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = CsvFile(path)
    table.put(samples.study(0))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(GatewayConnectionError, match="No space left"):
            table.put(samples.study(1))
        with pytest.raises(DianaError):
            table.put(samples.study(2, NewColumn="x"))
    assert path.read_bytes() == before
    assert len(table.dixels) == 1
    table.put(samples.study(1))
    assert len(CsvFile(path).dixels) == 2


def test_changes_of_another_writer_are_seen(path: Path) -> None:
    one, two = CsvFile(path), CsvFile(path)
    one.put(samples.study(0))
    two.put(samples.study(1))
    assert len(one.dixels) == 2
    one.put(samples.study(2, Wider="x"))
    assert two.exists(samples.study(2))


def _put_many(path: Path, first: int) -> None:
    table = CsvFile(path)
    for n in range(first, first + 15):
        table.put(samples.study(n, **({f"Column{first}": "x"} if n % 5 == 0 else {})))


def test_processes_do_not_lose_each_others_rows(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_put_many, args=(path, first)) for first in (0, 100)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(CsvFile(path).dixels) == 30


def test_errors_name_no_path_and_no_value(tmp_path: Path) -> None:
    table = CsvFile(tmp_path / "PLANTEDPID4711" / "x.csv")
    with pytest.raises(GatewayConnectionError) as caught:
        table.put(samples.study())
    assert "PLANTED" not in str(caught.value)
