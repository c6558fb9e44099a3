"""
Planted patients and passwords, and the guard that looks for them in the logs.

Tests use these values as patients' data and as passwords of servers. `LeakGuard` listens to every logger of
the project at DEBUG during the whole run; `tests/conftest.py` fails the session when a value occurred.
"""

from __future__ import annotations

import logging
import os

PLANTED_NAMES = ("Zyxwv^Planted", "Qrstu^Planted^Middle", "Plantedé^Ünïq")
PLANTED_IDS = ("PLANTEDPID4711", "PLANTEDPID4712")
PLANTED_ACCESSIONS = ("PLANTEDACC77001", "PLANTEDACC77002")
PLANTED_USER = "diana-test"
PLANTED_PASSWORDS = ("planted-passw0rd-7f3a", "planted-passw0rd-9c1e")
PASSWORD = PLANTED_PASSWORDS[0]

LOGGERS = ("diana", "diana_cli")


def _needles() -> tuple[str, ...]:
    names = [*PLANTED_NAMES, *(name.partition("^")[0] for name in PLANTED_NAMES)]
    values = [*names, *PLANTED_IDS, *PLANTED_ACCESSIONS, *PLANTED_PASSWORDS]
    return tuple(dict.fromkeys(value.casefold() for value in values))


NEEDLES = _needles()


def find_planted(text: str) -> list[str]:
    """Return the planted values that occur in a text, in any case."""
    folded = text.casefold()
    return [needle for needle in NEEDLES if needle in folded]


def assert_nothing_planted(text: str, where: str = "the text") -> None:
    """Fail when a planted value occurs in a text, for example the output of a child process."""
    found = find_planted(text)
    assert not found, f"{where} holds planted values: {found}"


class LeakGuard(logging.Handler):
    """Remember log records that hold a planted value: logger, line, value and the test of the moment."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.leaks: list[str] = []
        self._levels: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Look at the message, the arguments, the extras and the traceback of a record."""
        try:
            text = self._text(record)
        except (TypeError, ValueError, KeyError) as exc:
            text = repr(record.__dict__)
            self.leaks.append(f"{record.name}:{record.lineno} cannot be formatted: {exc}")
        for needle in find_planted(text):
            test = os.environ.get("PYTEST_CURRENT_TEST", "?")
            self.leaks.append(f"{record.name}:{record.funcName}:{record.lineno} logged {needle!r} in {test}")

    def _text(self, record: logging.LogRecord) -> str:
        parts = [record.getMessage(), repr(record.__dict__)]
        if record.exc_info:
            parts.append(logging.Formatter().formatException(record.exc_info))
        return "\n".join([*parts, record.exc_text or "", record.stack_info or ""])

    def attach(self) -> None:
        """Listen to the project's loggers at DEBUG."""
        for name in LOGGERS:
            logger = logging.getLogger(name)
            self._levels[name] = logger.level
            logger.setLevel(logging.DEBUG)
            logger.addHandler(self)

    def detach(self) -> None:
        """Stop listening and give the levels back."""
        for name, level in self._levels.items():
            logging.getLogger(name).removeHandler(self)
            logging.getLogger(name).setLevel(level)
        self._levels.clear()
