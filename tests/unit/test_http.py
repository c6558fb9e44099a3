"""The HTTP client against a server that misbehaves on purpose."""

from __future__ import annotations

import gc
import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from diana.exceptions import (
    ConfigError,
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayError,
    GatewayRefused,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
)
from diana.utils.blob import Blob
from diana.utils.gateways.http import HttpClient
from tests.fakes.http_server import Reply, ScriptedServer, gzip_reply, html_reply, json_reply
from tests.helpers import free_port, wait_for
from tests.planted import PASSWORD, PLANTED_IDS, PLANTED_USER

TIMEOUT = (1.0, 0.3)


class Bench:
    """Make a scripted server and a client of it."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def __call__(self, *replies: Reply, **options: Any) -> tuple[HttpClient, ScriptedServer]:
        server = ScriptedServer(list(replies)).__enter__()
        client = HttpClient(server.url, **{"timeout": TIMEOUT, "name": "shelf", **options})
        self._open += [server, client]
        return client, server

    def close(self) -> None:
        for one in self._open:
            if isinstance(one, HttpClient):
                one.close()
            else:
                one.__exit__(None, None, None)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_json_is_decoded_and_the_connection_kept(bench: Bench) -> None:
    client, server = bench(json_reply({"a": [1]}))
    assert [client.json("GET", "x") for _ in range(3)] == [{"a": [1]}] * 3
    assert server.connections == 1


def test_every_request_asks_for_uncompressed_bytes(bench: Bench) -> None:
    client, server = bench(json_reply({}))
    client.json("GET", "x")
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_data_is_sent_as_json(bench: Bench) -> None:
    client, server = bench(json_reply([]))
    client.json("POST", "tools/find", {"Level": "Study"})
    assert json.loads(server.requests[0].body) == {"Level": "Study"}
    assert server.requests[0].headers["content-type"] == "application/json"


def test_the_path_of_the_base_address_is_kept(bench: Bench) -> None:
    _, server = bench(json_reply({}))
    below = HttpClient(f"{server.url}/dicom-web/")
    below.json("GET", "/studies?limit=1")
    below.close()
    assert server.requests[0].target == "/dicom-web/studies?limit=1"


@pytest.mark.parametrize("size", [0, 10, 40_000, 3 << 20])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_an_upload_arrives_whole(bench: Bench, tmp_path: Path, size: int, where: str) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    (tmp_path / "f").write_bytes(data)
    client, server = bench(json_reply({}), timeout=(5, 5))
    client.call("POST", "instances", body=Blob(data if where == "memory" else tmp_path / "f"))
    assert server.requests[0].body == data
    assert server.requests[0].headers["content-length"] == str(size)


@pytest.mark.parametrize("length", [None, 6])
def test_pieces_are_sent_one_after_another(bench: Bench, length: int | None) -> None:
    client, server = bench(json_reply({}))
    client.call("POST", "studies", body=lambda: iter([b"abc", b"", b"def"]), length=length)
    assert server.requests[0].body == b"abcdef"


def test_a_file_that_became_shorter_raises(bench: Bench, tmp_path: Path) -> None:
    client, _ = bench(json_reply({}))
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100_000)
    blob = Blob(path)
    path.write_bytes(b"x" * 10)
    with pytest.raises(IncompleteTransfer):
        client.call("POST", "instances", body=blob)


def test_a_file_that_vanished_raises_invalid_item(bench: Bench, tmp_path: Path) -> None:
    client, _ = bench(json_reply({}))
    (tmp_path / "f").write_bytes(b"x")
    blob = Blob(tmp_path / "f")
    (tmp_path / "f").unlink()
    with pytest.raises(InvalidItem):
        client.call("POST", "instances", body=blob)


def test_a_small_download_stays_in_memory_and_a_large_one_goes_to_disk(bench: Bench, tmp_path: Path) -> None:
    client, _ = bench(Reply(body=b"s" * 100), Reply(body=b"l" * 5000), spill=1000, folder=str(tmp_path))
    small, large = client.blob("GET", "a"), client.blob("GET", "b")
    assert (small.path, small.read()) == (None, b"s" * 100)
    assert large.path is not None
    assert large.path.stat().st_mode & 0o777 == 0o600
    assert large.read() == b"l" * 5000
    large.close()
    assert list(tmp_path.iterdir()) == []


def test_a_download_without_length_is_whole_when_the_connection_ends(bench: Bench) -> None:
    client, _ = bench(Reply(body=b"z" * 300_000, bare=True))
    blob = client.blob("GET", "archive")
    assert blob.read() == b"z" * 300_000
    blob.close()


@pytest.mark.parametrize("cut", [0, 1, 4999])
@pytest.mark.parametrize("spill", [100, 1 << 20])
def test_a_download_that_is_cut_raises_and_leaves_nothing(bench: Bench, tmp_path: Path, cut: int, spill: int) -> None:
    client, _ = bench(Reply(body=b"x" * 5000, cut=cut), spill=spill, folder=str(tmp_path))
    with pytest.raises(GatewayConnectionError):
        client.blob("GET", "instances/1/file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [204, 200])
def test_an_answer_that_may_have_no_body_has_none(bench: Bench, status: int) -> None:
    client, _ = bench(Reply(status, length=18 if status == 204 else 0))
    assert client.text("GET", "x") == ""


def test_more_body_than_announced_is_not_taken_for_the_next_answer(bench: Bench) -> None:
    client, server = bench(
        Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n\r\n"),
        Reply(body=b"next"),
    )
    assert client.text("GET", "a") == "ab"
    assert client.text("GET", "b") == "next"
    assert server.connections == 2


def test_a_download_beyond_the_limit_raises(bench: Bench) -> None:
    client, _ = bench(Reply(body=b"x" * 5000), Reply(body=b"x" * 5000, bare=True), Reply(body=b"x" * 5000, bare=True))
    for call in (client.blob, client.blob, client.text):
        with pytest.raises(GatewayAnswerError):
            call("GET", "x", limit=4999)


def test_an_announced_length_beyond_all_memory_is_not_allocated(bench: Bench) -> None:
    client, _ = bench(json_reply({}, length=10**15))
    with pytest.raises(GatewayAnswerError):
        client.json("GET", "x")


@pytest.mark.parametrize(
    "reply",
    [
        html_reply(),
        Reply(body=b"{}", headers={"Content-Type": "text/plain"}),
        Reply(body=b"{} trailing", headers={"Content-Type": "application/json"}),
        Reply(body=b"[" * 200_000, headers={"Content-Type": "application/json"}),
        Reply(body=b"\xff\xfe\x00", headers={"Content-Type": "application/json"}),
        gzip_reply(b"{}"),
    ],
    ids=["html", "text", "trailing", "deep", "not-utf8", "gzip"],
)
def test_what_is_not_plain_json_raises(bench: Bench, reply: Reply) -> None:
    client, _ = bench(reply)
    with pytest.raises(GatewayAnswerError):
        client.json("GET", "x")


def test_a_web_page_is_neither_text_nor_file(bench: Bench) -> None:
    client, _ = bench(html_reply())
    for call in (client.text, client.blob):
        with pytest.raises(GatewayAnswerError):
            call("GET", "x")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
def test_temporary_statuses(bench: Bench, status: int) -> None:
    client, _ = bench(Reply(status, b"busy", {"Retry-After": "7"}))
    with pytest.raises(GatewayConnectionError) as caught:
        client.json("GET", "x")
    assert (caught.value.status, caught.value.retry_after, caught.value.temporary) == (status, 7.0, True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 411, 413, 415, 422, 501, 505])
def test_lasting_statuses(bench: Bench, status: int) -> None:
    client, _ = bench(Reply(status, b"no"))
    with pytest.raises(GatewayRefused) as caught:
        client.json("GET", "x")
    assert (caught.value.status, caught.value.temporary) == (status, False)


@pytest.mark.parametrize("text", ["99999999", "1e9", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_the_wait_that_a_server_asks_for_is_bounded(bench: Bench, text: str) -> None:
    client, _ = bench(Reply(503, headers={"Retry-After": text}))
    with pytest.raises(GatewayConnectionError) as caught:
        client.json("GET", "x")
    assert caught.value.retry_after is not None
    assert caught.value.retry_after <= 3600


@pytest.mark.parametrize("text", ["soon", "-5", "", "nan", "1 2"])
def test_a_wait_without_sense_is_none(bench: Bench, text: str) -> None:
    client, _ = bench(Reply(503, headers={"Retry-After": text}))
    with pytest.raises(GatewayConnectionError) as caught:
        client.json("GET", "x")
    assert caught.value.retry_after is None


def test_404_is_absent_only_where_the_caller_says_so(bench: Bench) -> None:
    client, _ = bench(Reply(404, b'{"HttpStatus": 404}', {"Content-Type": "application/json"}))
    with pytest.raises(ItemNotFound):
        client.json("GET", "x", absent=True)
    with pytest.raises(GatewayRefused):
        client.json("GET", "x")


def test_404_of_somebody_else_is_not_absent(bench: Bench) -> None:
    replies = [html_reply(404), Reply(404, b"nothing", {"Content-Type": "text/plain"})]
    client, _ = bench(*replies, believe_404="application/json")
    for _ in replies:
        with pytest.raises(GatewayAnswerError):
            client.json("GET", "x", absent=True)


def test_a_forgotten_client_closes_its_connections(bench: Bench) -> None:
    _, server = bench(json_reply({}))
    HttpClient(server.url).json("GET", "x")
    gc.collect()
    wait_for(lambda: server.open_connections == 0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(bench: Bench, status: int) -> None:
    _, bait = bench(json_reply({}))
    client, _ = bench(Reply(status, headers={"Location": f"{bait.url}/stolen"}), user="u", password="p")
    with pytest.raises(GatewayRefused):
        client.json("GET", "x")
    assert bait.requests == []


def test_proxies_of_the_environment_are_not_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = bench(json_reply({}))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    client.json("GET", "x")
    assert len(server.requests) == 1


def test_nobody_listening_raises() -> None:
    with pytest.raises(GatewayConnectionError):
        HttpClient(f"http://127.0.0.1:{free_port()}").json("GET", "x")


def test_an_unknown_host_raises() -> None:
    with pytest.raises(GatewayConnectionError):
        HttpClient("http://no-such-host.invalid").json("GET", "x")


def test_silence_ends_with_the_idle_timeout(bench: Bench) -> None:
    client, _ = bench(Reply(silent=True))
    with pytest.raises(GatewayConnectionError, match="timed out"):
        client.json("GET", "x")


def test_a_slow_but_living_answer_is_taken(bench: Bench) -> None:
    client, _ = bench(Reply(body=b"y" * 2000, drip=7))
    assert len(client.blob("GET", "x")) == 2000


def test_within_limits_the_whole_however_lively_the_server(bench: Bench) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500000000\r\n\r\n"
    client, _ = bench(Reply(raw=head + b"[" * 50_000_000, drip=1), timeout=(1.0, 5.0))
    with pytest.raises(GatewayConnectionError):
        client.json("GET", "x", within=0.3, limit=1 << 30)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/1.1 abc no\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    ],
)
def test_what_is_not_http_raises(bench: Bench, raw: bytes) -> None:
    client, _ = bench(Reply(raw=raw, close=True))
    with pytest.raises(GatewayAnswerError):
        client.json("GET", "x")


def test_a_cut_head_raises(bench: Bench) -> None:
    client, _ = bench(Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Le", close=True))
    with pytest.raises(GatewayConnectionError):
        client.json("GET", "x")


def test_chunks_and_interim_answers_are_read(bench: Bench) -> None:
    chunks = b"4;x=y\r\n[1,2\r\n2\r\n,3\r\n1\r\n]\r\n0\r\nTrailer: t\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    client, server = bench(Reply(raw=b"HTTP/1.1 100 Continue\r\n\r\n" + head + chunks))
    assert [client.json("GET", "x") for _ in range(2)] == [[1, 2, 3]] * 2
    assert server.connections == 1


def test_chunks_without_the_last_one_raise(bench: Bench) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    client, _ = bench(Reply(raw=head + b"2\r\n{}\r\n", close=True))
    with pytest.raises(GatewayConnectionError):
        client.json("GET", "x")


def test_a_kept_connection_that_the_server_closed_is_replaced(bench: Bench) -> None:
    client, server = bench(json_reply({}, close=True))
    for count in range(1, 4):
        client.json("POST", "x", {"n": count})
        wait_for(lambda: server.open_connections == 0)
    assert [json.loads(one.body)["n"] for one in server.requests] == [1, 2, 3]


def test_a_request_that_meets_a_stale_connection_is_repeated_once(bench: Bench) -> None:
    client, server = bench(json_reply({}), Reply(reset=True), json_reply({"again": 1}))
    client.json("GET", "x")
    assert client.json("POST", "y", {"n": 1}) == {"again": 1}
    assert [one.target for one in server.requests] == ["/x", "/y", "/y"]


def test_a_reset_on_a_fresh_connection_is_not_repeated(bench: Bench) -> None:
    client, server = bench(Reply(reset=True))
    with pytest.raises(GatewayConnectionError):
        client.json("GET", "x")
    assert len(server.requests) == 1


def test_a_request_is_repeated_at_most_once(bench: Bench) -> None:
    client, server = bench(json_reply({}), Reply(reset=True))
    client.json("GET", "x")
    with pytest.raises(GatewayConnectionError):
        client.json("GET", "y")
    assert len(server.requests) == 3


def test_an_answer_that_was_begun_is_never_repeated(bench: Bench) -> None:
    client, server = bench(json_reply({}), Reply(raw=b"HTTP/1.1 200 OK\r\n", close=True))
    client.json("GET", "x")
    with pytest.raises(GatewayConnectionError):
        client.json("GET", "y")
    assert len(server.requests) == 2


def test_a_refusal_before_the_whole_upload_is_told(bench: Bench) -> None:
    client, _ = bench(Reply(413, b"", early=True), timeout=(5, 5))
    with pytest.raises((GatewayRefused, GatewayConnectionError)):
        client.call("POST", "instances", body=b"x" * (30 << 20))


def test_an_answer_that_is_not_read_to_its_end_gives_its_connection_up(bench: Bench) -> None:
    client, server = bench(Reply(body=b"x" * 1_000_000), Reply(body=b"2"))
    with client.request("GET", "a") as answer:
        assert next(answer.pieces(10)) == b"x" * 10
    assert client.text("GET", "b") == "2"
    assert server.connections == 2


def test_an_answer_can_be_read_into_a_buffer(bench: Bench) -> None:
    client, _ = bench(Reply(body=b"0123456789", headers={"Content-Type": "Multipart/Related; boundary=x"}))
    view, found = memoryview(bytearray(4)), b""
    with client.request("GET", "a", headers={"Accept": "multipart/related"}) as answer:
        assert (answer.content_type, answer.length) == ("multipart/related", 10)
        while count := answer.read_into(view):
            found += view[:count]
    assert found == b"0123456789"


def test_many_threads_share_a_client(bench: Bench) -> None:
    client, server = bench(json_reply({"ok": 1}), timeout=(5, 5))
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: client.json("GET", "x") == {"ok": 1}, range(400)))
    assert server.connections <= 16


def test_credentials_never_show(bench: Bench) -> None:
    client, server = bench(Reply(401, b"no"), user=PLANTED_USER, password=PASSWORD)
    inside = HttpClient(server.url.replace("http://", f"http://{PLANTED_USER}:{PASSWORD}@"))
    with pytest.raises(GatewayRefused) as caught:
        inside.json("GET", "x")
    assert "authorization" in server.requests[0].headers
    for text in (repr(client), repr(inside), inside.base_url, inside.name, str(caught.value), repr(caught.value)):
        assert PASSWORD not in text
        assert PLANTED_USER not in text


def test_messages_hold_neither_query_nor_ids(bench: Bench) -> None:
    client, _ = bench(Reply(400, b"no"))
    with pytest.raises(GatewayRefused) as caught:
        client.json("GET", f"studies/{PLANTED_IDS[0]}?PatientID={PLANTED_IDS[0]}")
    assert PLANTED_IDS[0] not in str(caught.value)
    assert "studies" in str(caught.value)


@pytest.mark.parametrize("path", ["a b", "a\r\nX: y", "ü", "a\x00"])
def test_a_path_that_must_be_quoted_is_refused(bench: Bench, path: str) -> None:
    client, server = bench(json_reply({}))
    with pytest.raises(DianaError):
        client.json("GET", path)
    assert server.requests == []


def test_a_header_cannot_smuggle_lines(bench: Bench) -> None:
    client, server = bench(json_reply({}))
    with pytest.raises(ConfigError):
        client.json("GET", "x", headers={"Accept": "a\r\nX-Evil: 1"})
    assert server.requests == []


@pytest.mark.parametrize(
    "url", ["", "localhost", "ftp://x", "file:///etc/passwd", "http://", "http://h:port", "http://h/?q=1", "http://a b"]
)
def test_an_odd_address_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError):
        HttpClient(url)


def test_a_missing_ca_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        HttpClient("https://localhost", verify=str(tmp_path / "none.pem"))


def test_without_verification_every_start_warns(caplog: pytest.LogCaptureFixture) -> None:
    HttpClient("https://localhost", verify=False, name="shelf")
    assert "certificates are not checked" in caplog.text


class TestTls:
    """A server whose certificate only its own file vouches for."""

    @pytest.fixture
    def certificate(self, tmp_path: Path, program: Callable[[str, str], str]) -> tuple[str, str]:
        cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
        make = [program("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        more = ["-nodes", "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run([*make, *more, "-keyout", key, "-out", cert], check=True, capture_output=True)
        return cert, key

    @pytest.fixture
    def secure(self, certificate: tuple[str, str]) -> Iterator[ScriptedServer]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        with ScriptedServer([json_reply({"n": 1}, close=True)], tls=context) as server:
            yield server

    def test_an_unknown_certificate_is_refused(self, secure: ScriptedServer) -> None:
        with pytest.raises(GatewayRefused, match="certificate"):
            HttpClient(secure.url).json("GET", "x")
        assert secure.requests == []

    @pytest.mark.parametrize("trust", ["file", "off"])
    def test_a_trusted_one_is_talked_to_even_when_it_hangs_up_between(
        self, secure: ScriptedServer, certificate: tuple[str, str], trust: str
    ) -> None:
        client = HttpClient(secure.url, verify=certificate[0] if trust == "file" else False, timeout=TIMEOUT)
        for _ in range(3):
            assert client.json("POST", "x", {"n": 1}) == {"n": 1}
            wait_for(lambda: secure.open_connections == 0)
        client.close()

    def test_large_bodies_pass(self, secure: ScriptedServer, certificate: tuple[str, str], tmp_path: Path) -> None:
        client = HttpClient(secure.url, verify=certificate[0], timeout=(5, 5))
        (tmp_path / "f").write_bytes(b"z" * (3 << 20))
        client.call("POST", "x", body=Blob(tmp_path / "f"))
        client.call("POST", "x", body=b"z" * (3 << 20))
        client.close()
        assert [len(one.body) for one in secure.requests] == [3 << 20] * 2

    def test_plain_http_on_a_tls_port_and_the_reverse_raise(self, secure: ScriptedServer, bench: Bench) -> None:
        with pytest.raises(GatewayError):
            HttpClient(secure.url.replace("https", "http"), timeout=TIMEOUT).json("GET", "x")
        _, plain = bench(json_reply({}))
        with pytest.raises(GatewayError):
            HttpClient(plain.url.replace("http", "https"), timeout=TIMEOUT).json("GET", "x")
