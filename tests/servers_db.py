"""A real Redis and a real PostgreSQL."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.helpers import free_port
from tests.planted import PASSWORD
from tests.servers_process import ServerProcess, binary, identity_of

if TYPE_CHECKING:
    import redis

PG_PROGRAMS = "/usr/lib/postgresql/*/bin/"


class RedisServer(ServerProcess):
    """A Redis with a password. `durable=True` keeps an append-only file, so that content survives `kill`."""

    label = "Redis"

    def __init__(self, folder: Path, *, password: str = PASSWORD, durable: bool = False) -> None:
        super().__init__(folder)
        self.binary = binary("redis-server", "redis-server")
        self.host, self.port, self.password, self.durable = "127.0.0.1", free_port(), password, durable

    @property
    def url(self) -> str:
        """Return the address with the password, database 0."""
        return f"redis://:{quote(self.password)}@{self.host}:{self.port}/0"

    def command(self) -> list[str]:
        """Write the configuration and return the command line."""
        path = self.folder / "redis.conf"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.folder}",
            f"requirepass {self.password}",
            'save ""',
            f"appendonly {'yes' if self.durable else 'no'}",
            "appendfsync everysec",
            "daemonize no",
        ]
        path.write_text("\n".join([*lines, ""]))
        return [self.binary, str(path)]

    def client(self, *, timeout: float = 10) -> redis.Redis:
        """Return a new client that does not retry; the caller closes it."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return redis.Redis(
            host=self.host, port=self.port, password=self.password, socket_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )

    def answers(self) -> bool:
        """Tell whether the server answers to a ping."""
        import redis

        with self.client() as client:
            try:
                return bool(client.ping())
            except (redis.RedisError, OSError):
                return False

    def flush(self) -> None:
        """Delete everything in all databases."""
        with self.client() as client:
            client.flushall()


class PostgresServer(ServerProcess):
    """
    A PostgreSQL cluster of its own, without fsync, trusting local clients.

    It refuses to run as root, so root starts it as `postgres` or `nobody`, in a folder of its own that this
    user may enter; `folder` holds only the log.
    """

    label = "PostgreSQL"
    stop_signal = signal.SIGINT

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.postgres = binary("postgres", "postgresql", also=f"{PG_PROGRAMS}postgres")
        self.initdb = binary("initdb", "postgresql", also=f"{PG_PROGRAMS}initdb")
        self.createdb = binary("createdb", "postgresql-client", also=f"{PG_PROGRAMS}createdb")
        self.host, self.port, self.user = "127.0.0.1", free_port(), "diana"
        # A short path: the name of a Unix socket has room for 107 bytes.
        self.data = Path(tempfile.mkdtemp(prefix="diana-pg-"))

    @property
    def url(self) -> str:
        """Return the address of the database `postgres` for SQLAlchemy with psycopg."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the address of a database for SQLAlchemy with psycopg."""
        return f"postgresql+psycopg://{self.user}@{self.host}:{self.port}/{database}"

    def system_user(self) -> str | None:
        """Return who runs the server when we are root."""
        if os.getuid() != 0:
            return None
        return "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"

    def command(self) -> list[str]:
        """Make the cluster at the first start and return the command line."""
        if not (self.data / "cluster").exists():
            self._make_cluster()
        options = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.data),
            "fsync": "off",
            "max_connections": "100",
            "shared_buffers": "32MB",
        }
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return [self.postgres, "-D", str(self.data / "cluster"), *settings]

    def _make_cluster(self) -> None:
        identity = identity_of(self.system_user())
        if identity:
            os.chown(self.data, identity["user"], identity["group"])
        command = [self.initdb, "-D", str(self.data / "cluster"), "-U", self.user, "-A", "trust", "-E", "UTF8"]
        with self.log_path.open("ab") as log:
            subprocess.run(
                [*command, "--locale=C", "--no-sync"],
                cwd=self.data,
                stdout=log,
                stderr=log,
                check=True,
                timeout=120,
                **identity,
            )

    def answers(self) -> bool:
        """Tell whether the server takes queries."""
        ready = binary("pg_isready", "postgresql-client", also=f"{PG_PROGRAMS}pg_isready")
        done = subprocess.run(
            [ready, "-q", "-h", self.host, "-p", str(self.port), "-U", self.user, "-d", "postgres"],
            check=False,
            timeout=10,
        )
        return done.returncode == 0

    def create_database(self) -> str:
        """Make an empty database and return its address for SQLAlchemy."""
        name = f"t{secrets.token_hex(6)}"
        subprocess.run(
            [self.createdb, "-h", self.host, "-p", str(self.port), "-U", self.user, name], check=True, timeout=30
        )
        return self.url_of(name)

    def _signal_stop(self) -> None:
        # A fast shutdown is the postmaster's work: a signal to the whole group would end its children first.
        os.kill(self.pid, self.stop_signal)

    def discard(self) -> None:
        """Stop the server, which gives its shared memory back, and remove the cluster."""
        self.stop()
        super().discard()
        shutil.rmtree(self.data, ignore_errors=True)
