"""Jobs run the same in threads of one process and in workers that a Redis and a PostgreSQL join."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from diana.daemons.runner import Runner, Threads
from diana.daemons.runner_dramatiq import Dramatiq, line_name
from diana.exceptions import ConfigError
from diana.ledger import Item, Store, Work
from diana.ledger.schema import work_items
from diana.utils.gateways.work_queue import WorkQueue
from tests.fakes import work_tasks
from tests.helpers import REPO, free_port, process_exists, wait_for
from tests.servers import PostgresServer, RedisServer, ServerPool, ServerProcess

pytestmark = pytest.mark.live

WAIT = 60


class WorkerServer(ServerProcess):
    """A group of workers: `diana-cli worker`, its processes started and killed together."""

    label = "worker"

    def __init__(self, folder: Path, ledger: str, broker: str, *options: str) -> None:
        super().__init__(folder)
        self.ledger, self.broker, self.options = ledger, broker, options
        self._seen = 0

    def command(self) -> list[str]:
        self._seen = self.ready_count()
        program = [sys.executable, "-m", "diana_cli", "-v", "--state", str(self.folder), "worker"]
        return [*program, "--tasks", "tests.fakes.work_tasks", *self.options]

    def environment(self) -> dict[str, str]:
        return {
            "PYTHONPATH": str(REPO),
            "DIANA_WORKER_LEDGER": self.ledger,
            "DIANA_WORKER_BROKER": self.broker,
        }

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def ready_count(self) -> int:
        return self.log().count("is ready with")

    def answers(self) -> bool:
        return self.ready_count() > self._seen

    def workers(self) -> list[int]:
        """Return the processes that work, which the first one started."""
        found = subprocess.run(
            ["ps", "-ww", "-o", "pid=", "-o", "args=", "--ppid", str(self.pid)], capture_output=True, text=True
        )
        return [int(line.split()[0]) for line in found.stdout.splitlines() if "spawn_main" in line]

    def freeze_workers(self, number: int) -> None:
        for pid in self.workers():
            os.kill(pid, number)


def freezes_with_items(server: WorkerServer, work: Work) -> bool:
    """Freeze a group with at least two items in hand; else let it go on."""
    server.freeze_workers(signal.SIGSTOP)
    with work.store.begin() as connection:
        owners = connection.execute(select(work_items.c.owner).where(work_items.c.state == "running")).scalars().all()
    pids = {f"{pid}." for pid in server.workers()}
    if sum(any(f"/{pid}" in owner for pid in pids) for owner in owners) >= 2:
        return True
    server.freeze_workers(signal.SIGCONT)
    return False


@pytest.fixture(scope="module")
def group(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, postgres_server: PostgresServer
) -> Iterator[WorkerServer]:
    folder = tmp_path_factory.mktemp("worker")
    with WorkerServer(folder, postgres_server.create_database(), redis_server.url, "-t", "4") as server:
        yield server


@pytest.fixture(params=["caller", "threads", "dramatiq"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def work(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Work]:
    where = request.getfixturevalue("group").ledger if kind == "dramatiq" else tmp_path / "ledger.sqlite"
    store = Store(where)
    yield Work(store)
    store.close()


@pytest.fixture
def runner(kind: str, work: Work, request: pytest.FixtureRequest) -> Runner:
    if kind == "dramatiq":
        return Dramatiq(work, request.getfixturevalue("group").broker)
    return Threads(work, 4 if kind == "threads" else 0, tasks=work_tasks.TASKS)


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    (tmp_path / "dest").mkdir()
    return tmp_path / "dest"


Make = Callable[..., str]


@pytest.fixture
def make(work: Work, dest: Path) -> Make:
    """Make a job: `make([payload, ...], seconds=...)`; the keys are a0, a1, ..."""

    def create(payloads: list[dict[str, Any]], **spec: Any) -> str:
        items = [(f"a{at}", {"n": at, **payload}) for at, payload in enumerate(payloads)]
        return work.create("effects", {"dest": str(dest), **spec}, items)

    return create


def puts(dest: Path) -> Counter[str]:
    """Return how often each item was put."""
    return Counter(path.parent.name for path in dest.glob("*/*"))


def test_every_item_ends_once_and_is_told_of(runner: Runner, work: Work, make: Make, dest: Path) -> None:
    job, told = make([{}] * 30), list[Item]()
    assert runner.run(job, told.append) == {"done": 30}
    assert sorted(item.payload["n"] for item in told) == list(range(30))
    assert all(item.outcome == {"n": item.payload["n"]} for item in told)
    assert puts(dest) == Counter(f"a{at}" for at in range(30))
    assert {item.attempts for item in work.items(job)} == {1}


def test_a_finished_job_ends_at_once_and_tells_of_nothing(runner: Runner, make: Make) -> None:
    job, told = make([{}] * 3), list[Item]()
    runner.run(job)
    assert runner.run(job, told.append) == {"done": 3}
    assert told == []


def test_items_that_are_added_are_the_only_ones_worked(runner: Runner, work: Work, make: Make, dest: Path) -> None:
    job, told = make([{}] * 3), list[Item]()
    runner.run(job)
    work.create("effects", {"dest": str(dest)}, [("a2", {}), ("more", {"n": 9})], job)
    assert runner.run(job, told.append) == {"done": 4}
    assert [item.key for item in told] == ["more"]


def test_what_may_heal_is_tried_again(runner: Runner, work: Work, make: Make) -> None:
    job = make([{"fails": 2}, {}])
    assert runner.run(job) == {"done": 2}
    assert work.item(job, "a0").attempts == 3


def test_failures_are_named_and_do_not_stop_the_others(runner: Runner, work: Work, make: Make) -> None:
    job = make([{"refused": True}, {"bug": True}, *[{}] * 5])
    told: list[Item] = []
    assert runner.run(job, told.append) == {"done": 5, "failed": 2}
    assert work.item(job, "a0").reason == "never"
    assert work.item(job, "a0").attempts == 1
    assert work.item(job, "a1").reason.startswith("ValueError in work_tasks.py:")
    assert len(told) == 7


def test_what_waits_for_its_time_is_not_at_fault(runner: Runner, work: Work, make: Make, dest: Path) -> None:
    job = make([{"later": True}, {}])

    def open_at_last() -> None:
        wait_for(lambda: work.item(job, "a0").reason == "the window is shut", WAIT)
        (dest / "open").touch()

    opener = threading.Thread(target=open_at_last)
    opener.start()
    assert runner.run(job) == {"done": 2}
    opener.join()
    assert work.item(job, "a0").attempts == 1


def test_a_new_spec_counts_for_what_is_left(runner: Runner, work: Work, make: Make, dest: Path, tmp_path: Path) -> None:
    job = make([{}] * 3)
    runner.run(job)
    (tmp_path / "other").mkdir()
    work.create("effects", {"dest": str(tmp_path / "other")}, [("b0", {})], job)
    assert runner.run(job) == {"done": 4}
    assert puts(tmp_path / "other") == {"b0": 1}


def test_a_stop_starts_nothing_more_and_the_next_run_does_the_rest(
    runner: Runner, work: Work, make: Make, dest: Path
) -> None:
    job, stop = make([{}] * 40, seconds=0.05), threading.Event()

    def on_item(_item: Item) -> None:
        stop.set()

    counts = runner.run(job, on_item, stop)
    assert counts["done"] < 40
    assert "running" not in counts
    assert runner.run(job) == {"done": 40}
    assert max(puts(dest).values()) == 1


def test_a_run_that_was_stopped_before_it_began_starts_nothing(runner: Runner, make: Make) -> None:
    stop = threading.Event()
    stop.set()
    assert runner.run(make([{}] * 3), None, stop) == {"waiting": 3}


@pytest.mark.parametrize("kind", ["caller", "threads"], indirect=True)
def test_a_task_that_cannot_be_made_is_an_error_before_anything_starts(runner: Runner, work: Work) -> None:
    for wrong in ("broken", "unknown", "absent", "effects"):
        job = work.create(wrong, {}, [("a", {})])
        with pytest.raises(ConfigError):
            runner.run(job)
        assert work.item(job, "a").attempts == 0


@pytest.mark.parametrize("kind", ["threads"], indirect=True)
def test_what_does_not_end_within_the_grace_is_given_back(work: Work, make: Make) -> None:
    job, stop = make([{"seconds": 30, "polite": True}, {"seconds": 30, "polite": True}]), threading.Event()
    runner = Threads(work, 2, tasks=work_tasks.TASKS, grace_s=0.5)
    timer = threading.Thread(
        target=lambda: (wait_for(lambda: work.counts(job).get("running") == 2, WAIT), stop.set()), daemon=True
    )
    timer.start()
    assert runner.run(job, None, stop) == {"waiting": 2}
    assert {item.attempts for item in work.items(job)} == {0}


class TestThreadsInProcesses:
    """Runs that are killed, and runs beside each other."""

    @pytest.fixture
    def where(self, tmp_path: Path) -> str:
        return str(tmp_path / "ledger.sqlite")

    @pytest.fixture
    def work(self, where: str) -> Iterator[Work]:
        store = Store(where)
        yield Work(store)
        store.close()

    @staticmethod
    def start(where: str, job: str, threads: int = 4, kills: int = 3) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "tests.fakes.work_tasks", where, job, str(threads), str(kills)]
        return subprocess.Popen(program, cwd=REPO, stderr=subprocess.DEVNULL)

    def test_a_killed_run_is_taken_up_at_once(self, where: str, work: Work, make: Make, dest: Path) -> None:
        job = make([{}] * 60, seconds=0.02)
        for at in (10, 30):
            process = self.start(where, job, kills=99)
            wait_for(lambda at=at: work.counts(job).get("done", 0) >= at, WAIT)  # type: ignore[misc]
            process.kill()
            process.wait(WAIT)
        assert self.start(where, job, kills=99).wait(WAIT) == 0
        assert work.counts(job) == {"done": 60}
        assert puts(dest) == Counter(f"a{at}" for at in range(60))

    def test_several_runs_share_a_job(self, where: str, work: Work, make: Make, dest: Path) -> None:
        job = make([{}] * 80, seconds=0.02)
        processes = [self.start(where, job, threads) for threads in (0, 2, 2)]
        assert [process.wait(WAIT) for process in processes] == [0, 0, 0]
        assert puts(dest) == Counter(f"a{at}" for at in range(80))
        assert {item.attempts for item in work.items(job)} == {1}

    def test_killers_end_failed_and_what_ran_beside_them_does_not(
        self, where: str, work: Work, make: Make, dest: Path
    ) -> None:
        job = make([{"kills": at in (3, 9)} for at in range(16)], seconds=0.02)
        for _ in range(12):
            if self.start(where, job).wait(WAIT) == 0:
                break
        assert work.counts(job) == {"done": 14, "failed": 2}
        assert {item.key: item.reason for item in work.items(job, "failed")} == {
            "a3": "killed 3 times",
            "a9": "killed 3 times",
        }


def test_a_ledger_that_goes_away_is_waited_for(servers: ServerPool, dest: Path) -> None:
    server = servers.postgres()
    store = Store(server.url)
    work = Work(store)
    items = [(f"a{at}", {"n": at}) for at in range(60)]
    job = work.create("effects", {"dest": str(dest), "seconds": 0.05}, items)
    ended: list[dict[str, int]] = []
    runner = Threads(work, 4, tasks=work_tasks.TASKS, lease_s=2)
    run = threading.Thread(target=lambda: ended.append(runner.run(job)), daemon=True)
    run.start()
    wait_for(lambda: len(puts(dest)) >= 10, WAIT)
    server.kill()
    server.start()
    run.join(WAIT)
    assert ended == [{"done": 60}]
    assert puts(dest) == Counter(f"a{at}" for at in range(60))
    store.close()


class TestWorkers:
    """Groups of workers as processes, killed, frozen and stopped."""

    @pytest.fixture
    def redis(self, servers: ServerPool) -> RedisServer:
        return servers.redis(durable=True)

    @pytest.fixture
    def work(self, postgres_url: str) -> Iterator[Work]:
        store = Store(postgres_url)
        yield Work(store)
        store.close()

    @pytest.fixture
    def start(self, tmp_path: Path, postgres_url: str, redis: RedisServer) -> Iterator[Callable[..., WorkerServer]]:
        started: list[WorkerServer] = []

        def start(*options: str) -> WorkerServer:
            server = WorkerServer(tmp_path / f"worker-{len(started)}", postgres_url, redis.url, *options)
            started.append(server)
            return server.start()

        yield start
        for server in started:
            server.discard()

    def test_nothing_is_lost_or_done_twice_while_everything_is_killed(
        self, start: Callable[..., WorkerServer], work: Work, redis: RedisServer, make: Make, dest: Path
    ) -> None:
        """Workers killed, Redis killed, one worker cut off past its lease and coming back."""
        job = make([{}] * 200, seconds=0.1)
        frozen, other = (start("-t", "4", "--lease", "2", "--kills", "50") for _ in range(2))
        ended: list[dict[str, int]] = []
        run = threading.Thread(
            target=lambda: ended.append(Dramatiq(work, redis.url, again_s=2.0).run(job)), daemon=True
        )
        run.start()

        def more(number: int) -> None:
            least = work.counts(job).get("done", 0) + number
            wait_for(lambda: work.counts(job).get("done", 0) >= least, WAIT)

        more(10)
        wait_for(lambda: freezes_with_items(frozen, work), WAIT)
        more(10)
        redis.kill()
        redis.start()
        more(10)
        other.kill()
        other.start()
        more(10)
        os.kill(other.workers()[0], signal.SIGKILL)
        more(10)
        redis.kill()
        redis.start()
        run.join(WAIT)
        assert ended == [{"done": 200}]
        frozen.freeze_workers(signal.SIGCONT)
        wait_for(lambda: "has gone to another worker" in frozen.log(), WAIT)
        assert puts(dest) == Counter(f"a{at}" for at in range(200))
        assert work.counts(job) == {"done": 200}

    def test_an_item_that_kills_its_worker_ends_failed(
        self, start: Callable[..., WorkerServer], work: Work, redis: RedisServer, make: Make
    ) -> None:
        job = make([{"kills": at == 2} for at in range(10)], seconds=0.01)
        server = start("-t", "2", "--kills", "3")
        assert Dramatiq(work, redis.url, again_s=1.0).run(job) == {"done": 9, "failed": 1}
        assert work.item(job, "a2").reason == "killed 3 times"
        assert server.running
        assert server.log().count("another takes its place") == 3

    def test_a_worker_ends_its_items_at_sigterm_and_leaves_no_lease(
        self, start: Callable[..., WorkerServer], work: Work, redis: RedisServer, make: Make
    ) -> None:
        job = make([{"seconds": 1.0}] * 12)
        server = start("-t", "2", "--grace", "20")
        wait_for(lambda: work.counts(job).get("running") == 2, WAIT)
        children = server.workers()
        assert len(children) == 1
        process = server._process
        assert process is not None
        process.terminate()
        assert process.wait(WAIT) == 0
        counts = work.counts(job)
        assert "running" not in counts
        assert 2 <= counts["done"] < 12
        assert not any(process_exists(pid) for pid in children)

    def test_a_worker_gives_back_what_does_not_end_within_the_grace(
        self, start: Callable[..., WorkerServer], work: Work, redis: RedisServer, make: Make
    ) -> None:
        job = make([{"seconds": 300}, {"seconds": 300, "polite": True}])
        server = start("-t", "2", "--grace", "1")
        wait_for(lambda: work.counts(job).get("running") == 2, WAIT)
        process = server._process
        assert process is not None
        process.terminate()
        assert process.wait(WAIT) == 0
        assert work.counts(job) == {"waiting": 2}
        assert {item.attempts for item in work.items(job)} == {0}

    def test_workers_end_when_their_group_is_killed(
        self, start: Callable[..., WorkerServer], work: Work, make: Make
    ) -> None:
        server = start("-t", "1", "-p", "2")
        wait_for(lambda: server.ready_count() == 2, WAIT)
        children = server.workers()
        assert len(children) == 2
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: not any(process_exists(pid) for pid in children), WAIT)

    def test_workers_do_a_job_alone_and_end_when_idle(
        self, tmp_path: Path, postgres_url: str, work: Work, redis: RedisServer, make: Make
    ) -> None:
        job = make([{}] * 20)
        server = WorkerServer(tmp_path / "once", postgres_url, redis.url, "--once")
        server.start(wait=False)
        process = server._process
        assert process is not None
        assert process.wait(WAIT) == 0
        assert work.counts(job) == {"done": 20}

    def test_a_worker_without_broker_waits_for_it(
        self, start: Callable[..., WorkerServer], work: Work, redis: RedisServer, make: Make
    ) -> None:
        redis.kill()
        start("-t", "2")
        redis.start()
        assert Dramatiq(work, redis.url, again_s=1.0).run(make([{}] * 5)) == {"done": 5}

    def test_messages_and_logs_hold_no_key(
        self, start: Callable[..., WorkerServer], work: Work, redis: RedisServer, dest: Path
    ) -> None:
        keys = [f"ACC{at:07}" for at in range(30)]
        items = [(key, {"bug": at == 0, "fails": at == 1}) for at, key in enumerate(keys)]
        job = work.create("effects", {"dest": str(dest)}, items, "smith-study")
        queue = WorkQueue(redis.url, line_name(work))
        number = work.job(job).number
        for item in work.items(job):
            queue.send(number, item.id)
        queue.close()
        with redis.client() as client:
            seen = b" ".join(client.dump(key) + key for key in client.keys("*"))
            raw = [value for key in client.keys("*.msgs") for value in client.hvals(key)]
        assert len(raw) == 30
        for text in (seen, b" ".join(raw)):
            assert b"ACC" not in text
            assert b"smith" not in text
        server = start("-t", "2")
        Dramatiq(work, redis.url).run(job)
        assert "ValueError" in server.log()
        assert "ACC" not in server.log()
        assert redis.password not in server.log()

    def test_messages_of_others_are_dropped(
        self, start: Callable[..., WorkerServer], work: Work, redis: RedisServer, make: Make
    ) -> None:
        queue = WorkQueue(redis.url, line_name(work))
        for job, item in ((1, 2), (99, 1), (-1, 2**62)):
            queue.send(job, item)
        import dramatiq

        for args in ((), ("os", "system"), (1, 2, 3), ({"a": 1}, [2])):
            queue._broker.enqueue(dramatiq.Message("work", "work_item", args, {}, {}))
        queue._broker.enqueue(dramatiq.Message("work", "other", (1, 2), {}, {}))
        queue.close()
        server = start("-t", "2")
        assert Dramatiq(work, redis.url, again_s=1.0).run(make([{}] * 5)) == {"done": 5}
        assert server.running

    def test_a_broker_or_ledger_that_is_not_there_is_told_in_one_line(self, tmp_path: Path, redis: RedisServer) -> None:
        wrong = redis.url.replace(redis.password, "wrong")
        for broker, ledger, said in (
            (wrong, str(tmp_path / "l"), "does not let us in"),
            ("http://localhost", str(tmp_path / "l"), "redis://"),
            (redis.url, f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/x", "cannot be written now"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "diana_cli", "worker"],
                env={**os.environ, "DIANA_WORKER_BROKER": broker, "DIANA_WORKER_LEDGER": ledger},
                cwd=REPO,
                capture_output=True,
                text=True,
                timeout=WAIT,
            )
            assert done.returncode in (1, 2)
            assert said in done.stderr
            assert "Traceback" not in done.stderr
            assert "secret" not in done.stderr
