"""The verbs of the program: what they print, where, and with which exit code."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diana_cli.cli import COMMANDS, run
from tests.contract import samples
from tests.helpers import free_port

Cli = Callable[..., "Done"]


class Done:
    """What a run printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run the program in a folder of its own: `cli("ls", stdin="...")`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    for name in ("DIANA_SERVICES", "DIANA_STATE"):
        monkeypatch.delenv(name, raising=False)

    def call(*args: str, stdin: str = "") -> Done:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = run([str(one) for one in args])
        found = capsys.readouterr()
        return Done(code, found.out, found.err)

    return call


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """A folder with two studies of two instances, as a shortcut."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for one in samples.instances(2, 1, 2):
        (folder / one.fn).write_bytes(one.file or b"")
    return f"path:{folder}"


@pytest.fixture
def empty(tmp_path: Path) -> str:
    """An empty folder, as a shortcut."""
    (tmp_path / "empty").mkdir()
    return f"path:{tmp_path / 'empty'}"


def test_help_lists_every_command(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    assert all(name in done.out for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(cli: Cli, name: str) -> None:
    done = cli(name, "--help")
    assert done.code == 0
    assert "Usage: diana-cli" in done.out


def test_find_prints_one_json_line_per_study(cli: Cli, archive: str) -> None:
    done = cli("find", archive, "-q", '{"StudyDescription": "GENERATED*"}')
    assert done.code == 0
    assert [row["level"] for row in done.rows] == ["studies", "studies"]
    assert {row["uid"] for row in done.rows} == {samples.uid(1), samples.uid(2)}


def test_find_takes_yaml_and_files(cli: Cli, archive: str, tmp_path: Path) -> None:
    (tmp_path / "query.yml").write_text("Modality: [MR]\n")
    by_text = cli("find", archive, "-q", "{Modality: MR}").rows
    assert by_text == cli("find", archive, "-q", "@query.yml").rows
    assert [row["uid"] for row in by_text] == [samples.uid(2)]


def test_find_by_accession_numbers_of_a_file_ignores_line_ends(cli: Cli, archive: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfGEN000001\r\n\r\nGEN000007\r\nGEN000000\n")
    done = cli("find", archive, "-a", "@list.txt")
    assert {row["uid"] for row in done.rows} == {samples.uid(1), samples.uid(2)}
    assert "nothing found for 1 of 3 accession numbers: place 2" in done.err
    assert "GEN" not in done.err


def test_find_refuses_wildcards_among_accession_numbers(cli: Cli, archive: str) -> None:
    assert cli("find", archive, "-a", "GEN*").code == 2


def test_find_without_a_key_needs_a_word(cli: Cli, archive: str) -> None:
    assert cli("find", archive).code == 2
    assert len(cli("find", archive, "--all").rows) == 2
    assert len(cli("find", archive, "--limit", "1").rows) == 1


def test_find_says_the_nearest_keyword(cli: Cli, archive: str) -> None:
    done = cli("find", archive, "-q", "{PatientNam: X}")
    assert done.code == 2
    assert "did you mean 'PatientName'?" in done.err


def test_find_today_finds_nothing_old(cli: Cli, archive: str) -> None:
    done = cli("find", archive, "--today")
    assert (done.code, done.out) == (0, "")


def test_table_has_no_control_characters_of_values(cli: Cli, empty: str) -> None:
    folder = Path(empty.removeprefix("path:"))
    (folder / "a.dcm").write_bytes(samples.instance(StudyDescription="\x1b[31mred").file or b"")
    done = cli("--table", "find", empty, "--all")
    assert "?[31mred" in done.out
    assert "\x1b[31mred" not in done.out


def test_get_shows_tags_of_piped_lines(cli: Cli, archive: str) -> None:
    lines = cli("find", archive, "--all", "-l", "instances").out
    done = cli("get", archive, "-", stdin=lines)
    assert len(done.rows) == 4
    assert all(row["tags"]["SOPInstanceUID"] == row["uid"] for row in done.rows)


def test_get_of_files_needs_a_folder(cli: Cli, archive: str) -> None:
    assert cli("get", archive, "x", "--view", "file").code == 2


def test_one_bad_line_is_named_and_the_rest_goes_on(cli: Cli, archive: str) -> None:
    lines = cli("find", archive, "--all").out.splitlines()
    stdin = "\n".join([lines[0], '{"level": "studies"', '{"level": "moons", "id": "x"}', "", lines[1]])
    done = cli("get", archive, "-", stdin=stdin)
    assert done.code == 3
    assert len(done.rows) == 2
    assert "line 2: not a JSON object" in done.err
    assert "line 3: no DICOM level" in done.err


def test_pull_and_put_join_by_a_pipe(cli: Cli, archive: str, empty: str, tmp_path: Path) -> None:
    found = cli("find", archive, "--all").out
    pulled = cli("pull", archive, "-", "-o", str(tmp_path / "out"), stdin=found)
    assert (pulled.code, len(pulled.rows)) == (0, 4)
    stored = cli("put", empty, "-", stdin=pulled.out)
    assert (stored.code, len(stored.rows)) == (0, 4)
    assert len(cli("find", empty, "--all", "-l", "instances").rows) == 4


def test_put_takes_folders_and_names_what_is_not_dicom(cli: Cli, empty: str, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox" / "deep"
    inbox.mkdir(parents=True)
    (inbox / "a.dcm").write_bytes(samples.instance().file or b"")
    (inbox / "Secret^Name.txt").write_text("no DICOM")
    done = cli("put", empty, str(tmp_path / "inbox"))
    assert (done.code, len(done.rows)) == (3, 1)
    assert "item 1, file 1: " in done.err
    assert "Secret" not in done.err


def test_saved_names_cannot_leave_the_folder(cli: Cli, empty: str, tmp_path: Path) -> None:
    folder = Path(empty.removeprefix("path:"))
    good = samples.uid(1).encode()
    hostile = b"../../../up".ljust(len(good), b"x")
    data = samples.instance(SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.4").file or b""
    (folder / "a.dcm").write_bytes(data.replace(good, hostile))
    done = cli("pull", empty, "a.dcm", "-o", str(tmp_path / "out"))
    assert done.code == 0
    assert all(Path(row["file"]).resolve().is_relative_to(tmp_path / "out") for row in done.rows)


def test_exists_tells_by_exit_code(cli: Cli, archive: str) -> None:
    line = cli("find", archive, "--limit", "1").out
    assert cli("exists", archive, "-", stdin=line).code == 0
    absent = json.dumps({"level": "studies", "uid": samples.uid(77)})
    done = cli("exists", archive, absent)
    assert (done.code, done.rows[0]["exists"]) == (1, False)
    assert cli("exists", archive, "-q", "{Modality: XX}").code == 1


def test_exists_of_an_unreachable_service_is_neither_yes_nor_no(cli: Cli) -> None:
    oid = "-".join(["0" * 8] * 5)
    done = cli("exists", f"orthanc:http://127.0.0.1:{free_port()}/", oid)
    assert (done.code, done.out) == (3, "")


def test_delete_asks_unless_told(cli: Cli, archive: str) -> None:
    lines = cli("find", archive, "--all").out
    assert cli("delete", archive, "-", stdin=lines).code == 2
    done = cli("delete", archive, "-", "--yes", stdin=lines)
    assert [row["deleted"] for row in done.rows] == [True, True]
    again = cli("delete", archive, "-", "-y", stdin=lines)
    assert [row["deleted"] for row in again.rows] == [False, False]
    assert cli("delete", archive, "x", stdin="n\n").code == 1


def test_ids_of_another_service_are_not_mistaken_for_own(cli: Cli, archive: str, empty: str) -> None:
    folder = Path(empty.removeprefix("path:"))
    for at, one in enumerate(samples.instances(1, 1, 2)):
        # the same file names as in the archive, each for the other instance
        (folder / f"g000s00i{1 - at:04}.dcm").write_bytes(one.file or b"")
    lines = cli("find", archive, "-l", "instances", "-q", f"{{StudyInstanceUID: {samples.uid(1)}}}").out
    done = cli("get", empty, "-", stdin=lines)
    assert [row["tags"]["SOPInstanceUID"] for row in done.rows] == [
        json.loads(one)["uid"] for one in lines.splitlines()
    ]


def test_do_calls_public_methods_and_prints_any_result(cli: Cli, archive: str) -> None:
    assert cli("do", archive, "check").rows == [{"result": True}]
    assert cli("do", archive, "files", "-k", '{"rex": "g000*"}').rows == [
        {"result": "g000s00i0000.dcm"},
        {"result": "g000s00i0001.dcm"},
    ]
    assert cli("do", archive, "get", "g000s00i0000.dcm").rows[0]["uid"] == samples.uid(1, 1, 1)
    assert cli("do", archive, "exists", "no.dcm").rows == [{"result": False}]


@pytest.mark.parametrize("method", ["_find", "__init__", "nonsense", "path"])
def test_do_refuses_what_is_no_public_method(cli: Cli, archive: str, method: str) -> None:
    assert cli("do", archive, method).code == 1


def test_do_with_wrong_arguments_is_a_usage_error(cli: Cli, archive: str) -> None:
    assert cli("do", archive, "files", "-g", "[1, 2, 3]").code == 2


def test_update_changes_an_item(cli: Cli, archive: str) -> None:
    line = cli("find", archive, "-l", "instances", "--limit", "1").out
    done = cli("update", archive, "-", "--data", "{StationName: NEW}", stdin=line)
    assert done.code in (0, 3)
    if done.code == 0:
        assert cli("get", archive, "-", stdin=line).rows[0]["tags"]["StationName"] == "NEW"


def test_ls_lists_and_checks_services(cli: Cli, archive: str, tmp_path: Path) -> None:
    text = f"a: {{ctype: DcmDir, path: {tmp_path}/archive}}\nb: {{ctype: DcmDir, path: {tmp_path}/none}}\n"
    plain = cli("-s", text, "ls")
    assert [(row["name"], row["ctype"]) for row in plain.rows] == [("a", "DcmDir"), ("b", "DcmDir")]
    assert [row["ready"] for row in cli("-s", text, "ls", "--check").rows] == [True, False]
    assert cli("-s", text, "check").code == 3
    assert cli("-s", text, "check", "a").code == 0


def test_services_of_several_files_join_and_the_last_wins(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "one.yml").write_text("a: {ctype: Memory}\nb: {ctype: Memory}\n")
    (tmp_path / "two.yml").write_text("services:\n  b: {ctype: DcmDir}\nroutes: []\n")
    done = cli("-s", "one.yml", "-s", "@two.yml", "ls")
    assert [(row["name"], row["ctype"]) for row in done.rows] == [("a", "Memory"), ("b", "DcmDir")]


def test_services_file_comes_from_the_environment(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my services.yml").write_text("a: {ctype: Memory}\n")
    monkeypatch.setenv("DIANA_SERVICES", str(tmp_path / "my services.yml"))
    assert [row["name"] for row in cli("ls").rows] == ["a"]


def test_every_problem_of_a_services_file_is_said_with_exit_2(cli: Cli) -> None:
    done = cli("-s", "a: {ctype: DcmDirr}\nb: {ctype: DcmDir, pth: x}\n", "ls")
    assert done.code == 2
    assert "did you mean 'DcmDir'?" in done.err
    assert "did you mean 'path'?" in done.err
    assert "Traceback" not in done.err


def test_unknown_service_is_a_configuration_error(cli: Cli) -> None:
    done = cli("-s", "archive: {ctype: Memory}\n", "find", "archiv", "--all")
    assert (done.code, done.out) == (2, "")
    assert "did you mean 'archive'?" in done.err


@pytest.mark.parametrize(
    "args",
    [
        ["guid", "Doe^Jane", "--age", "40", "--sex", "F", "--reference-date", "2020-05-01"],
        ["guid", "--sex", "F", "--reference-date", "2020-05-01", "--age", "40", "Doe^Jane"],
    ],
)
def test_guid_takes_options_in_any_order(cli: Cli, args: list[str]) -> None:
    from diana.utils.guid import GUIDMint

    sham = GUIDMint.get_sham_id("Doe^Jane", age=40, gender="F", reference_date="2020-05-01")
    assert cli(*args).rows[0]["ID"] == sham["ID"]


def test_guid_equals_the_library_for_a_birth_date(cli: Cli) -> None:
    from diana.utils.guid import GUIDMint

    sham = GUIDMint.get_sham_id("Doe^Jane", dob="2000-01-01")
    assert cli("guid", "Doe^Jane", "2000-01-01").rows == cli("guid", "Doe^Jane", "--dob", "2000-01-01").rows
    assert cli("guid", "Doe^Jane", "2000-01-01").rows[0]["ID"] == sham["ID"]


def test_mock_sends_studies(cli: Cli, empty: str) -> None:
    site = '{"name": "Test Site", "services": [{"name": "CR", "modality": "CR"}]}'
    done = cli("mock", site, "--dest", empty, "--studies", "2", "--fast")
    assert done.code == 0
    assert len(cli("find", empty, "--all").rows) == 2


def test_mock_says_what_is_wrong_with_a_site(cli: Cli, empty: str) -> None:
    done = cli("mock", '{"name": "X", "services": [{"name": "A", "modality": "XX"}]}', "--dest", empty)
    assert done.code == 2


def test_traceback_only_with_verbose(cli: Cli, archive: str) -> None:
    assert "Traceback" not in cli("do", archive, "nonsense").err
    assert "Traceback" in cli("-v", "do", archive, "nonsense").err
