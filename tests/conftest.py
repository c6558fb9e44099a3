"""Fixtures of the whole test tree: real servers, the shared folder, the guard against leaks into logs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.helpers import REPO, load_tool, which
from tests.planted import LeakGuard
from tests.servers import (
    DcmqrscpServer,
    OrthancServer,
    PostgresServer,
    RedisServer,
    ServerPool,
    StorescpServer,
)


@pytest.fixture(scope="session", autouse=True)
def leak_guard() -> Iterator[LeakGuard]:
    """Fail the session at its end when a planted name or password occurred in a log record of the project."""
    guard = LeakGuard()
    guard.attach()
    yield guard
    guard.detach()
    assert not guard.leaks, "planted values reached the log:\n" + "\n".join(guard.leaks)


@pytest.fixture(scope="session")
def server_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    """Servers that live until the end of the session: `server_pool.orthanc(...)`, `.dcmqrscp`, `.storescp`, ..."""
    with ServerPool(tmp_path_factory.mktemp("servers")) as pool:
        yield pool


@pytest.fixture
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    """Servers that live until the end of the test."""
    with ServerPool(tmp_path_factory.mktemp("servers")) as pool:
        yield pool


@pytest.fixture(scope="session")
def orthanc(server_pool: ServerPool) -> OrthancServer:
    """One Orthanc with DICOMweb for the whole session; other tests put things there too, see `clean_orthanc`."""
    return server_pool.orthanc(plugins=True)


@pytest.fixture
def clean_orthanc(orthanc: OrthancServer) -> OrthancServer:
    """The Orthanc of the session, running and emptied."""
    orthanc.resume()
    orthanc.start()
    orthanc.reset()
    return orthanc


@pytest.fixture
def orthanc_factory(servers: ServerPool) -> Callable[..., OrthancServer]:
    """Start any number of Orthancs for one test: `orthanc_factory(aet="B", peers={...}, ...)`."""
    return servers.orthanc


@pytest.fixture
def dcmqrscp_factory(servers: ServerPool) -> Callable[..., DcmqrscpServer]:
    """Start any number of dcmtk archives for one test: `dcmqrscp_factory(aet=, peers={aet: (host, port)})`."""
    return servers.dcmqrscp


@pytest.fixture
def storescp_factory(servers: ServerPool) -> Callable[..., StorescpServer]:
    """Start any number of dcmtk receivers for one test: `storescp_factory(aet=, args=[...])`."""
    return servers.storescp


@pytest.fixture(scope="session")
def redis_server(server_pool: ServerPool) -> RedisServer:
    """One Redis for the whole session; see `clean_redis`."""
    return server_pool.redis()


@pytest.fixture
def clean_redis(redis_server: RedisServer) -> RedisServer:
    """The Redis of the session, running and emptied."""
    redis_server.resume()
    redis_server.start()
    redis_server.flush()
    return redis_server


@pytest.fixture
def redis_factory(servers: ServerPool) -> Callable[..., RedisServer]:
    """Start any number of Redis servers for one test: `redis_factory(durable=True)`."""
    return servers.redis


@pytest.fixture(scope="session")
def postgres_server(server_pool: ServerPool) -> PostgresServer:
    """One PostgreSQL for the whole session; see `postgres_url`."""
    return server_pool.postgres()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The address of an empty PostgreSQL database, for SQLAlchemy."""
    postgres_server.start()
    return postgres_server.create_database()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` beside the repository, or DIANA_SHARED; skips where it is absent."""
    folder = Path(os.environ.get("DIANA_SHARED") or REPO.parent / "shared")
    if not (folder / "tools").is_dir():
        pytest.skip("the folder 'shared' beside the repository is absent (set DIANA_SHARED)")
    return folder


class ProxyFactory(Protocol):
    """Start a flaky proxy before an address; rules, or the name of a preset, as in `shared/tools/flaky_proxy.py`."""

    def __call__(
        self,
        upstream: tuple[str, int],
        mode: str = "http",
        rules: Sequence[dict[str, Any]] | str = (),
        *,
        seed: int = 0,
    ) -> Any:
        """Return the running FlakyProxy: `.port`, `.url`, `.set_rules()`, `.down()`, `.up()`, `.freeze()`, ..."""


@pytest.fixture
def flaky_proxy(shared_dir: Path) -> Iterator[ProxyFactory]:
    """Make proxies that break on purpose: `flaky_proxy(("127.0.0.1", port), mode="http", rules=[...])`."""
    tool = load_tool(shared_dir, "flaky_proxy")
    proxies: list[Any] = []

    def make(
        upstream: tuple[str, int], mode: str = "http", rules: Sequence[dict[str, Any]] | str = (), *, seed: int = 0
    ) -> Any:
        presets: dict[str, list[dict[str, Any]]] = tool.PRESETS
        chosen = presets[rules] if isinstance(rules, str) else rules
        proxies.append(tool.FlakyProxy(upstream, mode=mode, rules=chosen, seed=seed).__enter__())
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.fixture(scope="session")
def program() -> Callable[[str, str], str]:
    """Find a program by name or skip naming its Debian package: `program("dciodvfy", "dicom3tools")`."""

    def find(name: str, package: str) -> str:
        return which(name) or pytest.skip(f"{name} is not installed (Debian package {package})")

    return find
