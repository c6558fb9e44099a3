"""A transfer ends with a receipt that is true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import define, field

from diana.apis import Memory
from diana.daemons.steps import make_step
from diana.daemons.transfer import transfer
from diana.dixel import Dixel
from diana.exceptions import ConfigError, GatewayConnectionError, IncompleteTransfer, ItemNotFound
from diana.ledger import Proof
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.endpoint import Endpoint
from tests.fakes.make import instance

STUDY = Ref("studies", study="1.2.3")


@define(eq=False)
class Faulty(Memory):
    """A Memory that loses, alters or refuses on purpose, and counts puts."""

    name: str = field(default="faulty", kw_only=True)
    forget: set[str] = field(factory=set)
    spoil: set[str] = field(factory=set)
    hold_back: set[str] = field(factory=set)
    cut_after: int | None = None
    down_after: int | None = None
    puts: int = field(init=False, default=0)

    def _put(self, dixel: Dixel) -> str:
        if self.down_after is not None and self.puts >= self.down_after:
            raise GatewayConnectionError("faulty: away")
        self.puts += 1
        number = str(dixel.tags["InstanceNumber"])
        if number in self.forget:
            return dixel.oid()
        oid = super()._put(dixel)
        if number in self.spoil:
            self._rows[oid].file = b"other bytes"
        return oid

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        for count, one in enumerate(super()._pull(ref)):
            if count == self.cut_after:
                raise IncompleteTransfer("faulty: the answer ended early")
            if str(one.tags["InstanceNumber"]) not in self.hold_back:
                yield one


def filled(count: int = 5, **faults: Any) -> Faulty:
    source = Faulty(name="source")
    for number in range(1, count + 1):
        source.put(instance(number))
    for key, value in faults.items():
        setattr(source, key, value)
    return source


def test_a_study_arrives_and_is_read_back() -> None:
    dest, seen = Memory(name="dest"), list[Proof]()
    receipt = transfer(filled(), dest, STUDY, on_instance=seen.append)
    assert (receipt.state, receipt.expected, receipt.verified, receipt.reason) == ("verified", 5, 5, "")
    assert len(seen) == 5
    assert receipt.size == sum(len(one.file or b"") for one in dest.pull(STUDY))
    assert receipt.asdict()["missing"] == []


@pytest.mark.parametrize("level", ["patients", "series", "instances"])
def test_every_level_can_be_moved(level: str) -> None:
    source, dest = filled(), Memory(name="dest")
    item = source.find({}, level)[0]
    receipt = transfer(source, dest, item)
    assert receipt.state == "verified"
    assert receipt.expected == (1 if level == "instances" else 5)
    assert receipt.study == ("" if level == "patients" else "1.2.3") or receipt.study == "1.2.3"


def test_a_source_that_holds_back_is_incomplete_with_the_list() -> None:
    receipt = transfer(filled(hold_back={"2", "4"}), Memory(name="dest"), STUDY)
    assert receipt.state == "incomplete"
    assert sorted(receipt.missing) == ["1.2.3.1.2", "1.2.3.1.4"]


def test_a_cut_wire_is_incomplete_and_may_heal() -> None:
    receipt = transfer(filled(cut_after=2), Memory(name="dest"), STUDY)
    assert (receipt.state, receipt.temporary, receipt.blame) == ("incomplete", True, "source")
    assert receipt.verified + len(receipt.missing) == 5
    assert "ended early" in receipt.reason


def test_a_destination_that_forgets_is_never_verified() -> None:
    receipt = transfer(filled(), Faulty(forget={"3"}), STUDY)
    assert receipt.state == "incomplete"
    assert receipt.missing == ["1.2.3.1.3"]


def test_other_bytes_at_the_destination_are_rejected_as_conflict() -> None:
    receipt = transfer(filled(), Faulty(spoil={"3"}), STUDY)
    assert receipt.state == "incomplete"
    assert list(receipt.rejected) == ["1.2.3.1.3"]
    assert receipt.rejected["1.2.3.1.3"].startswith("Conflict")


def test_after_an_outage_the_second_run_sends_only_the_rest() -> None:
    source, dest = filled(8), Faulty(down_after=3)
    first = transfer(source, dest, STUDY, workers=1)
    assert (first.state, first.blame, first.verified) == ("incomplete", "dest", 3)
    dest.down_after = None
    second = transfer(source, dest, STUDY, look_first=True)
    assert (second.state, second.verified) == ("verified", 8)
    assert dest.puts == 8


def test_tries_make_one_receipt_for_all() -> None:
    source, dest = filled(6), Faulty(down_after=2)
    rest = iter([None])

    def heal(proof: Proof) -> None:
        if proof.state == "missing" and next(rest, 0) is None:
            dest.down_after = None

    receipt = transfer(source, dest, STUDY, tries=3, workers=1, on_instance=heal)
    assert (receipt.state, receipt.verified, receipt.expected) == ("verified", 6, 6)
    assert dest.puts == 6


def test_what_is_known_is_left_out() -> None:
    dest = Faulty()
    receipt = transfer(filled(3), dest, STUDY, known={"1.2.3.1.1": "", "1.2.3.1.2": ""})
    assert (receipt.state, receipt.expected, receipt.verified) == ("verified", 1, 1)
    assert dest.puts == 1


def test_what_is_known_with_other_bytes_is_not_left_out() -> None:
    source, dest = filled(3), Faulty()
    uid = "1.2.3.1.1"
    right = source.digest(Ref("instances", study="1.2.3", series="1.2.3.1", instance=uid))
    receipt = transfer(source, dest, STUDY, known={uid: right, "1.2.3.1.2": "0" * 32})
    assert (receipt.state, receipt.expected, receipt.verified) == ("verified", 2, 2)


def test_an_absent_item_is_failed() -> None:
    receipt = transfer(filled(), Memory(name="dest"), Ref("studies", study="9.9"))
    assert (receipt.state, receipt.temporary) == ("failed", False)
    assert receipt.reason.startswith("ItemNotFound")


def test_a_source_that_cannot_list_is_unverifiable() -> None:
    class NoList(Faulty):
        _find = Endpoint._find

    source = NoList(name="source")
    source.put(instance(1))
    receipt = transfer(source, Memory(name="dest"), STUDY)
    assert receipt.state == "unverifiable"
    assert "cannot say what it has" in receipt.reason
    assert receipt.expected is None


def test_a_destination_that_cannot_be_read_back_is_unverifiable() -> None:
    class Blind(Memory):
        _digest = Endpoint._digest
        _exists = Endpoint._exists

    receipt = transfer(filled(), Blind(name="blind"), STUDY)
    assert (receipt.state, receipt.reason) == ("unverifiable", "blind cannot be read back")


def test_a_destination_without_digests_is_proved_by_presence() -> None:
    class NoDigest(Memory):
        _digest = Endpoint._digest

    assert transfer(filled(), NoDigest(name="plain"), STUDY).state == "verified"


def test_a_filter_leaves_out_and_says_so() -> None:
    dest = Memory(name="dest")
    receipt = transfer(filled(), dest, STUDY, [make_step({"filter": {"InstanceNumber": "<=2"}})])
    assert (receipt.state, receipt.expected, receipt.verified, receipt.steps) == ("verified", 2, 2, ("filter",))
    nothing = transfer(filled(), dest, STUDY, [make_step({"filter": {"Modality": "MR"}})])
    assert (nothing.expected, nothing.reason) == (0, "every instance was filtered out")


def test_a_step_that_fails_rejects_only_its_instance() -> None:
    class Fussy:
        name = "fussy"

        def __call__(self, dixel: Dixel) -> Dixel:
            if dixel.tags["InstanceNumber"] == "2":
                raise ItemNotFound("no such thing")
            return dixel

    receipt = transfer(filled(), Memory(name="dest"), STUDY, [Fussy()])
    assert receipt.verified == 4
    assert receipt.state == "incomplete"


def test_unknown_steps_are_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="pseudonymize"):
        make_step("pseudonymise")
    with pytest.raises(ConfigError, match="Modality"):
        make_step({"filter": {"Modallity": "CT"}})


def test_levels_of_a_plain_id_are_given_by_the_caller() -> None:
    source, dest = filled(), Memory(name="dest")
    oid = source.find({}, "series")[0].oid()
    assert transfer(source, dest, oid, level=DicomLevel.SERIES).verified == 5


@define(eq=False)
class BySeries(Memory):
    """A source that notes what it is asked for, and gives of a study only what it could get."""

    asked: list[tuple[str, str]] = field(init=False, factory=list)
    lost: set[str] = field(factory=set)

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        self.asked.append((ref.level.singular, ref.uid))
        found = list(super()._pull(ref))
        bad = [one.ref.instance for one in found if one.ref.instance in self.lost]
        if bad:
            received = [one.ref.instance for one in found if one.ref.instance not in self.lost]
            raise IncompleteTransfer("not all arrived", bad, received)
        yield from found


def by_series(**options: Any) -> BySeries:
    source = BySeries(**options)
    for series in (1, 2, 3):
        for number in (1, 2):
            source.put(instance(number, series=series))
    return source


def test_what_is_missing_is_asked_for_series_by_series() -> None:
    source, dest = by_series(), Memory()
    for one in (instance(1, series=1), instance(2, series=1), instance(1, series=2)):
        dest.put(one)
    receipt = transfer(source, dest, Ref(DicomLevel.STUDIES, study="1.2.3"), look_first=True)
    assert receipt.state == "verified"
    assert source.asked == [("Instance", "1.2.3.2.2"), ("Series", "1.2.3.3")]


@pytest.mark.parametrize("look_first", [False, True])
def test_one_image_that_cannot_be_had_does_not_hold_back_the_others(look_first: bool) -> None:
    source, dest = by_series(lost={"1.2.3.2.1"}), Memory()
    receipt = transfer(source, dest, Ref(DicomLevel.STUDIES, study="1.2.3"), look_first=look_first)
    assert (receipt.state, receipt.missing, receipt.verified) == ("incomplete", ["1.2.3.2.1"], 5)
    assert receipt.temporary
