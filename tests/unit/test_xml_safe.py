"""XML from the wire is bounded, and errors are those of the tree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diana.exceptions import GatewayAnswerError
from diana.utils.gateways import xml_safe
from diana.utils.gateways.xml_safe import children_of, local, namespace, parse_xml


def test_names_and_namespaces_are_told_apart() -> None:
    root = parse_xml(b'<a:b xmlns:a="urn:x"><c/></a:b>')
    assert (local(root), namespace(root)) == ("b", "urn:x")
    assert (local(root[0]), namespace(root[0])) == ("c", "")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"   ",
        b"text",
        b"<a>",
        b"<a></b>",
        b"<a/><b/>",
        b"<a>&b;</a>",
        b"<a b='1' b='2'/>",
        b"<a>\x00</a>",
        b"\xff\xfe\x00",
        b"<?xml version='1.0' encoding='none-such'?><a/>",
        b"<!DOCTYPE a><a/>",
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>',
        b'<!DOCTYPE a SYSTEM "http://127.0.0.1/x.dtd"><a/>',
        b"<a>" * 201 + b"</a>" * 201,
    ],
)
def test_what_is_not_taken_raises(text: bytes) -> None:
    with pytest.raises(GatewayAnswerError):
        parse_xml(text)
    with pytest.raises(GatewayAnswerError):
        list(children_of([text], root="a"))


def test_200_levels_are_taken() -> None:
    assert local(parse_xml(b"<a>" * 200 + b"</a>" * 200)) == "a"


def test_size_and_number_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_safe, "MAX_BYTES", 1000)
    monkeypatch.setattr(xml_safe, "MAX_ELEMENTS", 10)
    with pytest.raises(GatewayAnswerError, match="elements"):
        parse_xml(b"<a>" + b"<b/>" * 11 + b"</a>")

    def endless() -> Iterator[bytes]:
        yield b"<a>"
        while True:
            yield b"x" * 100

    with pytest.raises(GatewayAnswerError, match="larger"):
        parse_xml(endless())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_children_come_as_they_arrive_in_pieces_of_any_size(size: int) -> None:
    text = "<r>" + "".join(f"<s n='{n}'><t>ü{n}</t></s>" for n in range(50)) + "</r>"
    data = text.encode()
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    found = list(children_of(pieces, root="r"))
    assert [(one.get("n"), one[0].text) for one in found] == [(str(n), f"ü{n}") for n in range(50)]


def test_a_document_of_another_kind_raises_before_its_children() -> None:
    with pytest.raises(GatewayAnswerError, match="another kind"):
        next(children_of([b"<html><s/></html>"], root="r"))


def test_the_documents_own_encoding_goes_before_that_of_the_transport() -> None:
    text = "<?xml version='1.0' encoding='UTF-8'?><a>é</a>".encode()
    assert parse_xml(text, charset="iso-8859-1").text == "é"
    assert parse_xml("<a>é</a>".encode("latin-1"), charset="iso-8859-1").text == "é"
    with pytest.raises(GatewayAnswerError):
        parse_xml("<a>é</a>".encode("latin-1"))
