"""A line of numbers on Redis, by Dramatiq: hints for workers on any machine about what to claim."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any  # urls are taken apart
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from attrs import define, field, frozen

from diana.exceptions import ConfigError, GatewayAnswerError, GatewayConnectionError, GatewayRefused

if TYPE_CHECKING:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

log = logging.getLogger(__name__)

LINE = "work"
ACTOR = "work_item"
# the defaults leave the messages of a dead worker for minutes
MAINTENANCE_CHANCE = 20_000
HEARTBEAT_MS = 60_000
IDLE_MS = 250
TIMEOUTS = {"socket_timeout": "10", "socket_connect_timeout": "5", "health_check_interval": "15"}

Handler = Callable[[int, int], None]


@define(eq=False)
class WorkQueue:
    """
    Send pairs of numbers (job, item), or have them handled; a pair may arrive never, once or several times.

    ``url`` is ``redis://[user:password@]host:port/db`` or ``rediss://``; use a database number of its own, since the
    upkeep of the line looks at every key of it. ``name`` keeps lines apart. Nothing but the two numbers is sent. Raises
    ConfigError when the URL cannot be used or the extra ``distributed`` is not installed.
    """

    url: str = field(repr=False)
    name: str = "diana"
    heartbeat_ms: int = field(default=HEARTBEAT_MS, kw_only=True)
    _broker: RedisBroker = field(init=False, repr=False)

    @_broker.default
    def _make_broker(self) -> RedisBroker:
        try:
            from dramatiq.brokers.redis import RedisBroker
        except ImportError:
            raise ConfigError(
                "work on many machines needs the extra: pip install 'python-diana[distributed]'"
            ) from None
        if urlsplit(self.url).scheme not in ("redis", "rediss", "unix"):
            raise ConfigError("the URL of the broker begins with redis:// or rediss://")
        try:
            made: Any = RedisBroker  # its maker has no types
            broker: RedisBroker = made(
                url=_with_timeouts(self.url),
                middleware=[],
                namespace=self.name,
                heartbeat_timeout=self.heartbeat_ms,
                maintenance_chance=MAINTENANCE_CHANCE,
            )
        except (ValueError, TypeError):
            raise ConfigError("the URL of the broker cannot be used") from None
        broker.declare_queue(LINE)
        return broker

    def send(self, job: int, item: int) -> None:
        """Put a pair into the line. Raises a GatewayError."""
        import dramatiq

        message: dramatiq.Message[Any] = dramatiq.Message(
            queue_name=LINE, actor_name=ACTOR, args=(int(job), int(item)), kwargs={}, options={}
        )
        with _translated():
            self._broker.enqueue(message)

    def check(self) -> None:
        """Raise a GatewayError when the broker does not answer or does not let us in."""
        with _translated():
            self._broker.client.ping()

    def serve(self, handle: Handler, threads: int) -> Serving:
        """
        Start threads that hand each pair to ``handle``; stop what is returned.

        While the broker is away they ask again every few seconds. A message that is not a pair of numbers is dropped.
        """
        import dramatiq

        def work_item(*args: object, **_more: object) -> None:
            numbers = [one for one in args if type(one) is int]
            if len(args) != 2 or len(numbers) != 2:
                log.warning("a message that is not ours was dropped")
                return
            try:
                handle(*numbers)
            except Exception as error:  # noqa: BLE001  # the thread must live; Dramatiq would log the arguments
                log.error("item %d could not be handled: %s", numbers[1], type(error).__name__)

        actor: Any = dramatiq.actor(actor_name=ACTOR, queue_name=LINE, broker=self._broker)(work_item)
        worker = dramatiq.Worker(self._broker, queues={LINE}, worker_timeout=IDLE_MS, worker_threads=threads)
        # what one process has fetched cannot be had by another that is idle
        worker.queue_prefetch = worker.delay_prefetch = threads
        worker.start()
        return Serving(worker, actor)

    def close(self) -> None:
        """Close the connections; twice does no harm."""
        self._broker.close()
        self._broker.client.close()


@frozen(eq=False)
class Serving:
    """Hold the threads of ``WorkQueue.serve``."""

    _worker: dramatiq.Worker
    _actor: object

    def stop(self, timeout: float) -> None:
        """Take nothing more, wait up to ``timeout`` seconds for what is in hand, put the rest back into the line."""
        try:
            self._worker.stop(timeout=max(1, int(timeout * 1000)))
        except Exception as error:  # noqa: BLE001  # whatever the broker says at the end, the messages are only hints
            log.warning("the line could not be left tidily: %s", type(error).__name__)


def _with_timeouts(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return url
    return urlunsplit(parts._replace(query=urlencode({**TIMEOUTS, **dict(parse_qsl(parts.query))})))


@contextmanager
def _translated() -> Iterator[None]:
    import redis

    try:
        yield
    except redis.AuthenticationError:
        raise GatewayRefused("the broker does not let us in") from None
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise GatewayConnectionError(f"the broker cannot be reached: {type(error).__name__}") from None
    except redis.RedisError as error:
        raise GatewayAnswerError(f"the broker did not take the message: {type(error).__name__}") from None
