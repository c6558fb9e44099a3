"""Who is asking: tokens, logins and sessions, over both clients."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from requests.auth import HTTPDigestAuth

from diana.apis import DicomWeb, QidoRS
from diana.exceptions import (
    ConfigError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayError,
    GatewayRefused,
    ItemNotFound,
)
from diana.utils.blob import Blob
from diana.utils.gateways.web_auth import Bearer, VitreaLogin, make_client, path_within, split_last
from tests.fakes.http_server import Reply, ScriptedServer, gzip_reply, json_reply
from tests.helpers import free_port
from tests.planted import PASSWORD, PLANTED_USER

OK = json_reply({"fine": True})
Start = Callable[..., ScriptedServer]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[ScriptedServer] = []

    def make(*replies: Reply) -> ScriptedServer:
        made.append(ScriptedServer(list(replies)).__enter__())
        return made[-1]

    yield make
    for server in made:
        server.__exit__(None, None, None)


def session(**parts: Any) -> requests.Session:
    made = requests.Session()
    for name, value in parts.items():
        setattr(made, name, value)
    return made


def test_a_token_is_sent(start: Start) -> None:
    server = start(OK)
    client = make_client(server.url, token="abc")
    assert client.json("GET", "x") == {"fine": True}
    assert server.requests[0].headers["authorization"] == "Bearer abc"
    client.close()


def test_a_refused_token_is_fetched_again_once(start: Start) -> None:
    server = start(OK, Reply(401), OK)
    tokens = iter(["one", "two", "three"])
    client = make_client(server.url, token=lambda: next(tokens))
    for _ in range(2):
        assert client.json("GET", "x") == {"fine": True}
    assert [one.headers["authorization"][-3:] for one in server.requests] == ["one", "one", "two"]
    client.close()


def test_a_fixed_token_that_is_refused_raises(start: Start) -> None:
    server = start(Reply(401))
    client = make_client(server.url, token="abc")
    with pytest.raises(GatewayRefused):
        client.json("GET", "x")
    assert len(server.requests) == 1


def test_a_new_token_that_is_refused_too_raises(start: Start) -> None:
    server = start(Reply(401))
    client = make_client(server.url, token=lambda: "abc")
    with pytest.raises(GatewayRefused):
        client.json("GET", "x")
    assert len(server.requests) == 2


def test_a_function_that_fails_raises_an_error_of_the_tree(start: Start) -> None:
    def fetch() -> str:
        raise RuntimeError(PASSWORD)

    with pytest.raises(GatewayRefused) as caught:
        make_client(start(OK).url, token=fetch).json("GET", "x")
    assert PASSWORD not in str(caught.value)


def test_threads_that_are_refused_at_once_refresh_once() -> None:
    fetched: list[str] = []
    barrier = threading.Barrier(8)

    def fetch() -> str:
        fetched.append("x")
        return f"token{len(fetched)}"

    bearer = Bearer(fetch)
    refused = bearer.headers()

    def renew(_: int) -> bool:
        barrier.wait(5)
        return bearer.renew(refused)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(renew, range(8)))
    assert len(fetched) == 2


def test_the_body_is_sent_again_after_a_refresh(start: Start) -> None:
    server = start(Reply(401), OK)
    client = make_client(server.url, token=lambda: "t")
    client.json("POST", "x", body=Blob(b"content"))
    assert [one.body for one in server.requests] == [b"content", b"content"]
    client.close()


LOGGED_IN = Reply(
    200, b"{}", {"Set-Cookie": "JSESSIONID=first; Path=/; HttpOnly; Expires=Wed, 21 Oct 2099 07:28:00 GMT"}
)
AGAIN = Reply(200, b"{}", {"Set-Cookie": "JSESSIONID=second; Path=/"})


def test_a_login_is_used_and_renewed_without_the_old_cookie(start: Start) -> None:
    login, server = start(LOGGED_IN, AGAIN), start(OK, Reply(401), OK)
    client = make_client(server.url, auth=VitreaLogin(f"{login.url}/login", PLANTED_USER, PASSWORD))
    for _ in range(2):
        assert client.json("GET", "x") == {"fine": True}
    assert [one.headers["cookie"] for one in server.requests] == [
        "JSESSIONID=first",
        "JSESSIONID=first",
        "JSESSIONID=second",
    ]
    assert [(one.method, one.target, "cookie" in one.headers) for one in login.requests] == [
        ("POST", "/login", False)
    ] * 2
    sent = login.requests[0].headers
    assert (sent["x-userid"], sent["x-password"], sent["x-realm"]) == (PLANTED_USER, PASSWORD, "DefaultSystemRealm")
    assert "authorization" not in server.requests[0].headers
    client.close()


@pytest.mark.parametrize("reply", [Reply(401), Reply(200), Reply(500), Reply(302, headers={"Location": "/"})])
def test_a_login_that_opens_no_session_raises(start: Start, reply: Reply) -> None:
    login = start(reply)
    endpoint = QidoRS(url=start(OK).url, login=f"{login.url}/login", user="u", password=PASSWORD)
    with pytest.raises(GatewayError) as caught:
        endpoint.find({})
    assert PASSWORD not in str(caught.value) + repr(endpoint) + endpoint.json()


def test_what_a_session_holds_is_used(start: Start) -> None:
    server = start(OK)
    owned = session(auth=(PLANTED_USER, PASSWORD), headers={"X-Site": "north"})
    owned.cookies.set("JSESSIONID", "abc")
    client = make_client(server.url, session=owned)
    assert client.json("GET", "x?a=*/,&b=%C3%A4") == {"fine": True}
    sent = server.requests[0]
    assert sent.target == "/x?a=*/,&b=%C3%A4"
    assert sent.headers["authorization"].startswith("Basic ")
    assert (sent.headers["x-site"], sent.headers["cookie"]) == ("north", "JSESSIONID=abc")
    assert sent.headers["accept-encoding"] == "identity"
    owned.close()


def test_any_authbase_is_used(start: Start) -> None:
    challenge = Reply(401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})
    server = start(challenge, OK)
    client = make_client(server.url, auth=HTTPDigestAuth("u", PASSWORD))
    assert client.json("GET", "x") == {"fine": True}
    assert server.requests[1].headers["authorization"].startswith("Digest ")
    client.session.close()  # type: ignore[attr-defined]


def test_a_session_keeps_its_connection(start: Start) -> None:
    server = start(OK)
    owned = session()
    client = make_client(server.url, session=owned)
    for _ in range(3):
        client.json("GET", "x")
    assert server.connections == 1
    owned.close()


def test_a_session_follows_no_redirect(start: Start) -> None:
    other = start(OK)
    client = make_client(start(Reply(302, headers={"Location": other.url})).url, session=session())
    with pytest.raises(GatewayRefused):
        client.json("GET", "x")
    assert other.requests == []


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (gzip_reply(b"{}"), GatewayAnswerError),
        (Reply(silent=True), GatewayConnectionError),
        (Reply(reset=True), GatewayConnectionError),
        (Reply(body=b'{"a": 1}', length=100, headers={"Content-Type": "application/json"}), GatewayConnectionError),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", close=True), GatewayError),
        (Reply(raw=b"nonsense\r\n\r\n", close=True), GatewayConnectionError),
        (Reply(404), ItemNotFound),
        (Reply(410), ItemNotFound),
        (Reply(503), GatewayConnectionError),
    ],
)
def test_troubles_of_a_session_are_errors_of_the_tree(start: Start, reply: Reply, error: type[Exception]) -> None:
    client = make_client(start(reply).url, session=session(), timeout=(1.0, 0.3))
    with pytest.raises(error), client.request("GET", "x", absent=True) as answer:
        answer.read()


def test_nobody_there_is_an_error_of_the_tree() -> None:
    client = make_client(f"http://127.0.0.1:{free_port()}", session=session())
    with pytest.raises(GatewayConnectionError):
        client.json("GET", "x")


def test_a_session_sends_blobs_and_pieces(start: Start, tmp_path: Any) -> None:
    server = start(OK)
    client = make_client(server.url, session=session())
    (tmp_path / "file").write_bytes(b"on disk")
    for body, options in (
        (Blob(b"in memory"), {}),
        (Blob(tmp_path / "file"), {}),
        (lambda: iter([b"pie", b"ces"]), {"length": 6}),
        (lambda: iter([b"chu", b"nks"]), {}),
    ):
        client.json("POST", "x", body=body, **options)
    assert [one.body for one in server.requests] == [b"in memory", b"on disk", b"pieces", b"chunks"]
    assert server.requests[2].headers["content-length"] == "6"
    client.session.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options", [{}, {"session": 3, "url": "http://h"}, {"url": "nowhere"}, {"url": "http://h?x=1"}]
)
def test_what_is_no_address_or_session_raises(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DicomWeb(**options)


def test_credentials_in_the_address_never_show() -> None:
    endpoint = DicomWeb(url=f"http://someone:{PASSWORD}@127.0.0.1:1/dicom-web")
    assert endpoint.url == "http://127.0.0.1:1/dicom-web"
    assert endpoint.password == PASSWORD
    assert PASSWORD not in repr(endpoint) + endpoint.json() + repr(endpoint.gateway)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("http://pacs:80/dicom-web/bulk/1?a=b", "/dicom-web/bulk/1?a=b"),
        ("HTTP://PACS/elsewhere", "/elsewhere"),
        ("/bulk/1", "/bulk/1"),
        ("bulk/1", "/dicom-web/bulk/1"),
        ("../bulk", "/bulk"),
    ],
)
def test_addresses_of_the_server_itself_are_paths(uri: str, path: str) -> None:
    assert path_within("http://pacs/dicom-web", uri) == path


@pytest.mark.parametrize(
    "uri",
    [
        "http://evil/x",
        "https://pacs/x",
        "http://pacs:81/x",
        "//evil/x",
        "file:///etc/passwd",
        "http://[x",
        "http://pacs@evil/",
    ],
)
def test_addresses_elsewhere_are_refused(uri: str) -> None:
    with pytest.raises(GatewayAnswerError):
        path_within("http://pacs/dicom-web", uri)


def test_the_last_part_of_an_address_is_split_off() -> None:
    assert split_last("http://h:1/a/wado") == ("http://h:1/a", "wado")
    assert split_last("http://h/wado") == ("http://h", "wado")
    assert split_last("http://h") == ("http://h", "")
