"""A router that kills itself at a given moment: python -m tests.fakes.killed_router FOLDER MOMENT."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diana.ledger import Journal, Store
from diana.utils.dicom import DicomEventType
from diana.utils.endpoint import Event, Observable, Page, Trigger, Watcher
from diana.utils.files import whole_file


class Twenty(Observable):
    """Twenty events, five a page."""

    name = "twenty"
    polling_interval = 0.05
    shortest_pause = 0.01

    def __init__(self, moment: str) -> None:
        self.moment, self.at = moment, 0

    def resume(self, cursor: Any, seen: Any) -> None:
        self.at = cursor or 0

    def changes(self) -> Page:
        if self.at >= 20:
            return Page([])
        numbers = range(self.at, self.at + 5)
        events = [Event(DicomEventType.FILE_ADDED, {"fn": str(one)}, key=str(one)) for one in numbers]
        if self.at == 10:
            die(self.moment, "fetched")
        return Page(events, self.at + 5, more=True)

    def ack(self, page: Page) -> None:
        if page.cursor == 10:
            die(self.moment, "stored")
        self.at = page.cursor if page.cursor is not None else self.at


def die(moment: str, here: str) -> None:
    """Die by SIGKILL when this is the moment."""
    if moment == here:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Copy twenty names into FOLDER/dest."""
    folder, moment = Path(sys.argv[1]), sys.argv[2]

    def copy(data: Mapping[str, Any]) -> None:
        if data["fn"] == "7":
            die(moment, "handled")
        with whole_file(folder / "dest" / data["fn"]) as out:
            out.write(b"x")
        if data["fn"] == "7":
            die(moment, "put")

    watcher = Watcher(0.05, journal=Journal(Store(folder / "state")), until_idle=True)
    watcher.add_trigger(Trigger(DicomEventType.FILE_ADDED, Twenty(moment), copy, name="copy"))
    watcher.run()


if __name__ == "__main__":
    main()
