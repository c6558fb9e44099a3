"""Receipts as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any  # receipts are JSON

from diana_cli.output import human_size, local_time

COLUMNS = ("ended", "route", "from", "to", "study", "state", "verified", "size", "reason")
TAIL = 10


def receipt_row(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return a receipt for people: local time, end of the UID, ``verified/expected``, a size with its unit."""
    expected = receipt.get("expected")
    return {
        "ended": local_time(float(receipt["ended"])),
        "route": receipt["route"],
        "from": receipt["source"],
        "to": receipt["dest"],
        "study": _tail(str(receipt["study"])),
        "state": receipt["state"],
        "verified": f"{receipt['verified']}/{'?' if expected is None else expected}",
        "size": human_size(int(receipt["bytes"])),
        "reason": receipt["reason"],
    }


def _tail(uid: str) -> str:
    """Return the end of a UID, which is where UIDs differ."""
    return uid if len(uid) <= TAIL else "\u2026" + uid[-TAIL:]
