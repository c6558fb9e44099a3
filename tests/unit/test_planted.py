"""The guard against planted values in logs sees them wherever they hide."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from tests.planted import PASSWORD, PLANTED_IDS, PLANTED_NAMES, LeakGuard, assert_nothing_planted, find_planted

NAME = PLANTED_NAMES[0]


def log_failure(log: logging.Logger) -> None:
    try:
        raise ValueError(f"no such patient: {NAME}")
    except ValueError:
        log.exception("failed")


LEAKS: dict[str, Callable[[logging.Logger], None]] = {
    "message": lambda log: log.debug(f"got {NAME}"),
    "argument": lambda log: log.info("got %s", NAME.lower()),
    "object": lambda log: log.info("got %s", {"PatientID": PLANTED_IDS[0]}),
    "extra": lambda log: log.warning("got one", extra={"secret": PASSWORD}),
    "traceback": log_failure,
    "family name": lambda log: log.info("got %s", NAME.partition("^")[0]),
}


@pytest.fixture
def guard() -> LeakGuard:
    return LeakGuard()


@pytest.fixture
def log(guard: LeakGuard) -> logging.Logger:
    """A logger with the guard as its only listener, so that the guard of the session stays quiet."""
    logger = logging.Logger("apart", logging.DEBUG)  # noqa: LOG001 - outside of the tree of loggers
    logger.addHandler(guard)
    return logger


@pytest.mark.parametrize("kind", LEAKS)
def test_guard_sees(kind: str, guard: LeakGuard, log: logging.Logger) -> None:
    LEAKS[kind](log)
    assert guard.leaks
    assert "test_guard_sees" in guard.leaks[0]


def test_guard_is_quiet_about_the_rest(guard: LeakGuard, log: logging.Logger) -> None:
    log.info("sent oid=%s bytes=%d", "abc", 3)
    assert guard.leaks == []


def test_guard_reports_a_broken_format(guard: LeakGuard, log: logging.Logger) -> None:
    log.info("%d items", "three")
    assert "cannot be formatted" in guard.leaks[0]


def test_guard_of_the_session_listens_at_debug(leak_guard: LeakGuard) -> None:
    for name in ("diana", "diana_cli"):
        assert leak_guard in logging.getLogger(name).handlers
        assert logging.getLogger(f"{name}.x").isEnabledFor(logging.DEBUG)


def test_text_of_a_child_process_can_be_searched() -> None:
    assert find_planted(f"x {PASSWORD.upper()} y") == [PASSWORD]
    assert_nothing_planted("nothing here")
    with pytest.raises(AssertionError, match="stderr holds"):
        assert_nothing_planted(NAME, "stderr")
