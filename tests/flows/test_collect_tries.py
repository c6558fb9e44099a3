"""A collection gives up what brings nothing new, and goes on while something comes or the line is bad."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import define, field

from diana.apis import Memory
from diana.daemons.collector import Collector
from diana.daemons.worklist import rows_of
from diana.dixel import Dixel
from diana.exceptions import GatewayConnectionError, IncompleteTransfer
from diana.utils.endpoint import ServiceManager
from tests.fakes.make import instance

STUDY = "1.2.840.77"


@define(eq=False)
class Miser(Memory):
    """A source that gives ``portion`` instances that were not given before, after ``refusals`` refusals."""

    name: str = field(default="source", kw_only=True)
    portion: int = 9
    refusals: int = 0
    pulls: int = 0
    given: set[str] = field(factory=set)

    def _pull(self, ref: Any) -> Iterator[Dixel]:
        self.pulls += 1
        if self.refusals:
            self.refusals -= 1
            raise GatewayConnectionError("source: out of order for now")
        left = self.portion
        for one in super()._pull(ref):
            uid = str(one.tags["SOPInstanceUID"])
            if uid in self.given or left > 0:
                left -= uid not in self.given
                self.given.add(uid)
                yield one
        if len(self.given) < 6:
            raise IncompleteTransfer("source: the rest did not come")


def collect(source: Miser, monkeypatch: pytest.MonkeyPatch, tries: int) -> dict[str, int]:
    monkeypatch.setattr("diana.daemons.collect_task.Backoff.delay", lambda *_: 0.01)
    for number in range(1, 7):
        source.put(instance(number, study=STUDY, AccessionNumber="A1", size=4))
    services, dest, collector = ServiceManager(), Memory(name="dest"), Collector()
    services.hold("source", source)
    services.hold("dest", dest)
    plan = collector.plan("p", source, dest, rows_of(["A1"]), tries=tries)
    return collector.execute(plan, services)


def test_starts_that_bring_something_new_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert collect(Miser(portion=1), monkeypatch, tries=2) == {"verified": 1}


def test_what_brings_nothing_new_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Miser(portion=0)
    assert collect(source, monkeypatch, tries=3) == {"incomplete": 1}
    assert source.pulls <= 3 * 2


def test_a_source_that_is_away_is_asked_more_often_than_one_that_holds_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert collect(Miser(refusals=7), monkeypatch, tries=2) == {"verified": 1}
    assert collect(Miser(refusals=999), monkeypatch, tries=2) != {"verified": 1}
