"""Sessions that log in to a Vitrea Connection server."""

from __future__ import annotations

import pytest

from diana.exceptions import GatewayRefused
from diana.trolley import QidoRS, VitreaAuth, VitreaConnection, create_session
from tests.fakes.http_server import Reply, ScriptedServer, json_reply
from tests.planted import PASSWORD, PLANTED_USER

OK = json_reply([])


def logged_in(cookie: str) -> Reply:
    return Reply(200, headers={"Set-Cookie": f"session={cookie}; Path=/; HttpOnly"})


def test_log_in_gives_a_session_with_the_cookies_of_the_login() -> None:
    with ScriptedServer([logged_in("one"), OK]) as server:
        with VitreaConnection(f"{server.url}/login").log_in(PLANTED_USER, PASSWORD, "realm") as session:
            assert session.get(f"{server.url}/x", timeout=5).json() == []
        login, asked = server.requests
        assert (login.method, login.headers["x-userid"], login.headers["x-realm"]) == ("POST", PLANTED_USER, "realm")
        assert asked.headers["cookie"] == "session=one"
        assert PASSWORD not in repr(session.auth)


def test_a_session_that_has_expired_logs_in_again() -> None:
    with ScriptedServer([logged_in("one"), Reply(401), logged_in("two"), OK, OK]) as server:
        with create_session(f"{server.url}/login", PLANTED_USER, PASSWORD) as session:
            assert list(QidoRS(session, f"{server.url}/qido").find({})) == []
        assert [one.headers.get("cookie") for one in server.requests[:4]] == [None, "session=one", None, "session=two"]


def test_a_server_that_refuses_for_good_is_asked_twice() -> None:
    with ScriptedServer([logged_in("one"), Reply(401), logged_in("two"), Reply(401)]) as server:
        with create_session(f"{server.url}/login", PLANTED_USER, PASSWORD) as session:
            assert session.get(f"{server.url}/x", timeout=5).status_code == 401
        assert len(server.requests) == 4


def test_a_login_that_is_refused_raises() -> None:
    with ScriptedServer([Reply(401)]) as server, pytest.raises(GatewayRefused) as caught:
        VitreaConnection(f"{server.url}/login").log_in(PLANTED_USER, PASSWORD)
    assert PASSWORD not in str(caught.value)


def test_another_server_gets_no_cookies() -> None:
    with ScriptedServer([logged_in("one")]) as server, ScriptedServer([OK]) as other:
        with create_session(f"{server.url}/login", PLANTED_USER, PASSWORD) as session:
            assert isinstance(session.auth, VitreaAuth)
            session.auth.log_in()
            session.get(f"{other.url}/x", timeout=5)
        assert "cookie" not in other.requests[0].headers
