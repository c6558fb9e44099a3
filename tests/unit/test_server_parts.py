"""The parts of ``diana.server`` that need no socket."""

from __future__ import annotations

import subprocess
import sys

import pytest

from diana.apis import Memory
from diana.exceptions import ConfigError, InvalidItem, Unsupported
from diana.server.accept import chosen, dicom_wish, media_of
from diana.server.archive import Archive
from diana.server.asked import Ask, Refusal, begun, gathered, read_all
from diana.server.auth import BasicAuth, BearerAuth
from diana.server.dicomweb_query import QueryFace, search_of
from diana.server.limits import Limits
from diana.server.mint import wanted_of
from diana.server.mint_xml import attrs_of, item_number
from diana.server.problems import of_error
from diana.server.rad69_xml import MISSING, Wanted, answer, read_request
from diana.utils.gateways.multipart import PieceSource
from diana.utils.gateways.rad69_message import Wanted as Asked
from diana.utils.gateways.rad69_message import build_request, parse_response
from diana.utils.gateways.xml_safe import parse_xml
from tests.fakes.make import instance


def test_import_of_the_package_is_light() -> None:
    code = "import sys, diana.server; print([m for m in ('starlette', 'uvicorn', 'pydicom') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_best_acceptable_type_wins() -> None:
    assert chosen("image/png;q=0.5, image/jpeg", ("image/png", "image/jpeg")) == "image/jpeg"
    assert chosen("image/*", ("image/png", "image/jpeg")) == "image/png"
    with pytest.raises(Refusal):
        chosen("image/png;q=0", ("image/png",))


@pytest.mark.parametrize("text", ["a", 'x/y; q="', "*/*;q=nan", "a/b;q=2", "x" * 9000, 'a/b;c="d'])
def test_damaged_accept_is_invalid(text: str) -> None:
    with pytest.raises(InvalidItem):
        media_of(text)


def test_commas_inside_quotes_do_not_split() -> None:
    (one,) = media_of('multipart/related; type="a/b,c"')
    assert one.parameters["type"] == "a/b,c"


def test_transfer_syntaxes_are_gathered_and_a_star_means_as_stored() -> None:
    kind = 'multipart/related; type="application/dicom"; transfer-syntax='
    assert dicom_wish(f"{kind}1.2.3, {kind}1.2.4", single=False).syntaxes == ("1.2.3", "1.2.4")
    assert dicom_wish(f"{kind}*", single=False).syntaxes is None
    assert not dicom_wish("application/dicom", single=True).parts
    with pytest.raises(Refusal):
        dicom_wish("application/dicom", single=False)


def test_small_pieces_are_put_together_and_the_source_is_closed() -> None:
    closed = []

    def source():  # type: ignore[no-untyped-def]
        try:
            yield from [b"a"] * 10
        finally:
            closed.append(True)

    stream = begun(gathered(source()))
    assert next(stream) == b"a" * 10
    stream.close()  # type: ignore[attr-defined]
    assert closed


def test_body_longer_than_allowed_is_413() -> None:
    with pytest.raises(Refusal) as caught:
        read_all(PieceSource([b"12345"]), 4)
    assert caught.value.status == 413
    assert read_all(PieceSource([b"1234"]), 4) == b"1234"


def test_secrets_stay_out_of_reprs_and_empty_ones_are_refused() -> None:
    assert "hunter2" not in repr(BasicAuth("ann", "hunter2")) + repr(BearerAuth("hunter2"))
    for make in (lambda: BasicAuth("ann", ""), lambda: BasicAuth("a:b", "c"), lambda: BearerAuth("")):
        with pytest.raises(ConfigError):
            make()


def test_search_of_repeats_and_contradictions() -> None:
    found = search_of(Ask({"study": "1.2"}, "StudyInstanceUID=1.2&includefield=00100030,Rows&PatientName="))
    assert found.match == {"StudyInstanceUID": "1.2"}
    assert found.fields == ["PatientBirthDate", "Rows", "PatientName"]
    with pytest.raises(InvalidItem):
        search_of(Ask({"study": "1.2"}, "StudyInstanceUID=1.3"))


def test_mint_dates_of_both_spellings_become_a_range() -> None:
    assert wanted_of(Ask({}, "minStudyDate=20200101&max_study_date=20200202")).match["StudyDate"] == "20200101-20200202"
    assert wanted_of(Ask({}, "min_study_date=20200101")).match["StudyDate"] == "20200101-"
    with pytest.raises(InvalidItem):
        wanted_of(Ask({}, "minStudyDate=yesterday"))
    with pytest.raises(Unsupported):
        wanted_of(Ask({}, "QueryLevel=STUDY&IncludeFields=Rows"))


def test_attributes_of_any_text_are_well_formed() -> None:
    text = attrs_of({"PatientName": "A&<\"'>\x00\x1f\ud800", "StudyDescription": "two\nlines"})
    (name, _) = sorted(parse_xml(f"<a>{text}</a>".encode()), key=lambda one: one.get("tag") or "", reverse=True)
    assert (name.get("val") or "").startswith("A&<\"'>")


def test_numbers_of_binary_items_fit_eighteen_digits() -> None:
    assert item_number("1.2.3", 5) < 10**18
    assert item_number("1.2.3", 5) - item_number("1.2.3", 0) == 5


def test_rad69_requests_of_our_client_are_read_and_its_answers_too() -> None:
    request = read_request(build_request([Asked("1.2", "1.3", "1.4"), Asked("1.2", "1.3", "1.5")], "urn:x"), 10)
    assert [one.instance for one in request.wanted] == ["1.4", "1.5"]
    assert request.message.startswith("urn:uuid:")
    message = parse_response(answer([Wanted("1.2", "1.3", "1.4")], [("1.5", MISSING)], request.message), "answer")
    assert (message.status, message.documents[0].cid) == ("PartialSuccess", "1.4@diana")
    with pytest.raises(InvalidItem):
        read_request(build_request([Asked("1.2", "1.3", f"1.{n}") for n in range(5)], "urn:x"), 3)


def test_study_level_search_shows_nothing_of_deeper_levels() -> None:
    memory = Memory()
    memory.put(instance(1))
    face = QueryFace(Archive(memory), Limits())
    body = face.studies(Ask({}, "includefield=all")).body
    assert isinstance(body, bytes)
    assert b'"00080018"' not in body
    assert b'"0020000D"' in body


def test_unsupported_is_the_clients_fault_only_in_queries() -> None:
    assert of_error(Unsupported("x"), query=True).status_code == 400
    assert of_error(Unsupported("x")).status_code == 501
