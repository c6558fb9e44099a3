"""A tree indexed and uploaded by workers in other processes is, key for key, what one machine makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from diana.apis import DcmDir, Redis
from diana.daemons.file_indexer import FileIndexer
from diana.ledger import Store, Work
from tests.fakes.make import instance
from tests.flows.test_docs_examples import blocks, env, run  # noqa: F401  # env is a fixture
from tests.helpers import REPO, wait_for
from tests.live.test_runners import WAIT, WorkerServer
from tests.servers import RedisServer

pytestmark = pytest.mark.live

FOLDERS, FILES = 24, 150
LARGE = 5_200  # worked in two parts


class IndexWorkers(WorkerServer):
    """A group of workers that knows the registry and the destination."""

    services: Path

    def command(self) -> list[str]:
        command = super().command()
        at = command.index("--state")
        return [*command[:at], "-s", str(self.services), *command[at:]]


def fill(root: Path) -> None:
    """Write small folders, a large one, and some files that are none."""
    for number in range(FOLDERS):
        folder = root / f"s{number:02}" / "series"
        folder.mkdir(parents=True)
        data = instance(1, study=f"1.2.{number}", AccessionNumber=f"GEN{number:04}", size=4).file or b""
        for at in range(FILES):
            (folder / f"{at:04}.dcm").write_bytes(data)
    (root / "s03" / "bad.dcm").write_text("no")
    (root / "large").mkdir()
    (root / "large" / "first.dcm").write_bytes(data)
    for at in range(1, LARGE):
        os.link(root / "large" / "first.dcm", root / "large" / f"{at:05}.dcm")
    newest = max(one.lstat().st_ctime_ns for one in root.rglob("*"))
    wait_for(lambda: time.time_ns() - newest > 200_000_000, timeout=5, what="the clock of the files")


def everything(server: RedisServer, db: int) -> dict[bytes, Any]:
    """Return all that a database of a Redis holds."""
    import redis

    found: dict[bytes, Any] = {}
    with redis.Redis(host=server.host, port=server.port, password=server.password, db=db) as client:
        for key in client.keys("*"):
            found[key] = client.smembers(key) if client.type(key) == b"set" else client.hgetall(key)
    return found


@pytest.fixture
def redis(clean_redis: RedisServer) -> Iterator[RedisServer]:
    import redis

    yield clean_redis
    with redis.Redis(host=clean_redis.host, port=clean_redis.port, password=clean_redis.password) as client:
        client.flushall()


@pytest.fixture
def services(tmp_path: Path, redis: RedisServer) -> Path:
    path = tmp_path / "services.yml"
    at = f"host: {redis.host}, port: {redis.port}, password: {redis.password}"
    path.write_text(
        f"files: {{ctype: Redis, {at}, db: 1}}\n"
        f"alone: {{ctype: Redis, {at}, db: 2}}\n"
        f"dest: {{ctype: DcmDir, path: {tmp_path / 'dest'}, subpath_depth: 1}}\n"
    )
    return path


@pytest.fixture
def cli(tmp_path: Path, services: Path, redis: RedisServer, postgres_url: str) -> Callable[..., tuple[int, list[Any]]]:
    urls = {"DIANA_WORKER_LEDGER": postgres_url, "DIANA_WORKER_BROKER": redis.url, "PYTHONPATH": str(REPO)}

    def run(*arguments: str) -> tuple[int, list[Any]]:
        command = [sys.executable, "-m", "diana_cli", "--json", "-s", str(services), "--state", str(tmp_path / "state")]
        done = subprocess.run(
            [*command, "index", *arguments],
            cwd=REPO,
            env={**os.environ, **urls},
            capture_output=True,
            text=True,
            timeout=WAIT,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.mark.timeout(240)
def test_workers_index_and_upload_as_one_machine_does_though_one_is_killed(
    cli: Callable[..., tuple[int, list[Any]]], services: Path, redis: RedisServer, postgres_url: str, tmp_path: Path
) -> None:
    root, store = tmp_path / "tree", Store(postgres_url)
    fill(root)
    work = Work(store)
    total = FOLDERS * FILES + LARGE + 1
    alone = Redis(host=redis.host, port=redis.port, password=redis.password, db=2)
    FileIndexer().index_path(root, alone, "*.dcm")
    server = IndexWorkers(tmp_path / "worker", postgres_url, redis.url, "-p", "2", "-t", "1", "--lease", "4")
    server.services = services
    with server:
        code, (told,) = cli(str(root), "-R", "files", "--pattern", "*.dcm")
        assert (code, told) == (
            3,
            {"checked": total, "registered": total - 1, "unchanged": 0, "removed": 0, "bad": 1},
        )
        assert everything(redis, 1) == everything(redis, 2)
        assert work.jobs() == []
        assert cli(str(root), "-R", "files", "--pattern", "*.dcm")[1][0]["unchanged"] == total
        (root / "s01" / "series" / "0001.dcm").unlink()
        (root / "s02" / "series" / "0001.dcm").rename(root / "s01" / "moved.dcm")
        code, (told,) = cli(str(root), "-R", "files", "--pattern", "*.dcm")
        assert (code, told["removed"], told["registered"]) == (0, 2, 1)
        FileIndexer().index_path(root, alone, "*.dcm")
        assert set(everything(redis, 1)) == set(everything(redis, 2))
        assert FileIndexer.items_on_path(root, alone) == [f"GEN{at:04}" for at in range(FOLDERS)]

        killed: list[int] = []

        def kills_one() -> bool:
            if (tmp_path / "dest").exists():
                killed.extend(server.workers()[:1])
                os.kill(killed[0], signal.SIGKILL)
            return bool(killed)

        thread = Thread(target=lambda: wait_for(kills_one, WAIT))
        thread.start()
        uploaded = cli("upload", str(root), "dest", "GEN0001", "GEN0005", "-R", "files")
        thread.join()
        assert uploaded == (0, [{"uploaded": 2 * FILES - 1, "failed": 0}])
    log = server.log()
    assert "GEN0" not in log
    assert "Traceback" not in log
    dest = DcmDir(path=str(tmp_path / "dest"), subpath_depth=1)
    assert {one.tags["AccessionNumber"] for one in dest.find({}, "studies")} == {"GEN0001", "GEN0005"}
    store.close()
    alone.close()


def test_without_a_registry_that_workers_reach_nothing_is_sent(
    cli: Callable[..., tuple[int, list[Any]]], tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    assert cli(str(tmp_path / "tree")) == (2, [])


def test_the_page_runs(
    tmp_path: Path,
    env: dict[str, str],  # noqa: F811
    redis: RedisServer,
    postgres_url: str,
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    env |= {
        "DIANA_STATE": str(folder),
        "REGISTRY_HOST": redis.host,
        "REGISTRY_PORT": str(redis.port),
        "REGISTRY_PASSWORD": redis.password,
    }
    workers = {"DIANA_WORKER_LEDGER": postgres_url, "DIANA_WORKER_BROKER": redis.url.replace("/0", "/1")}
    ran = 0
    for words, body, line in blocks(REPO / "docs" / "how-to" / "index.md"):
        if "servers" not in words:
            continue
        done = run(words, body, folder, env | (workers if " worker " in body else {}))
        ran += 1
        assert done is None or done.returncode == 0, f"index.md:{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done is None or "Traceback" not in done.stderr, f"index.md:{line}\n{done.stderr}"
    assert ran >= 4
