"""A DICOM node that does not tell its instances is fetched from all the same, and never called verified."""

from __future__ import annotations

import pytest

from diana.apis import DicomNode, Memory
from diana.daemons.collector import Collector
from diana.daemons.worklist import rows_of
from diana.exceptions import GatewayRefused, IncompleteTransfer, ItemNotFound
from diana.utils.blob import Blob
from diana.utils.endpoint import ServiceManager
from diana.utils.gateways import dimse
from diana.utils.gateways import dimse_pdu as p
from tests.contract import samples
from tests.fakes.dicom_node import Script, Talk, dicom_node

STUDY = samples.uid(1)
UIDS = [samples.uid(1, 1, at) for at in (1, 2, 3)]
PENDING, REFUSED, SOME_FAILED = 0xFF00, 0xA900, 0xB000


def data_set(at: int) -> bytes:
    """Return the data set of a file, without its preamble and file meta."""
    file = samples.instance(0, 0, at).file or b""
    return file[dimse.outgoing(Blob(file)).offset :]


def reticent(image_level: int, *, gives: int = 3, lost: int = 0, known: bool = True) -> Script:
    """Return a script that knows one study, answers questions for instances with a status, and gives some."""

    def script(talk: Talk) -> None:
        while (operation := talk.read()) != 0:
            if operation == p.C_FIND:
                if b"IMAGE" in talk.data:
                    talk.answer(image_level)
                    continue
                if known:
                    keys = {"StudyInstanceUID": STUDY, "AccessionNumber": "GEN000000", "PatientID": "GEN0"}
                    below = {"SeriesInstanceUID": samples.uid(1, 1)} if b"SERIES" in talk.data else {}
                    talk.answer(PENDING, talk.identifier(**keys, **below))
                talk.answer(0)
            elif operation == p.C_GET:
                for at in range(gives):
                    talk.store(samples.SECONDARY_CAPTURE, UIDS[at], data_set(at))
                talk.answer(SOME_FAILED if lost else 0, completed=gives, failed=lost, warnings=0)

    return script


def node(port: int) -> DicomNode:
    return DicomNode("127.0.0.1", port, aec="ANY", timeout=(5, 10))


@pytest.mark.parametrize("image_level", [0, REFUSED], ids=["lists nothing", "refuses"])
def test_a_node_without_an_image_level_ends_unverifiable_with_what_came(image_level: int) -> None:
    services, dest, collector = ServiceManager(), Memory(name="dest"), Collector()
    with dicom_node(reticent(image_level)) as port:
        source = node(port)
        services.hold("source", source)
        services.hold("dest", dest)
        plan = collector.plan("p", source, dest, rows_of(["GEN000000"]), tries=1)
        assert (plan.counts(), plan.uncounted) == ({"ready": 1}, 1)
        assert collector.execute(plan, services) == {"unverifiable": 1}
    (item,) = collector.outcomes("p").values()
    assert "list" in item.reason
    assert {one.ref.instance for one in dest.find({}, "instances")} == set(UIDS)


def test_what_the_node_counts_as_failed_is_not_taken_for_all() -> None:
    with dicom_node(reticent(REFUSED, gives=2, lost=1)) as port, pytest.raises(IncompleteTransfer):
        list(node(port).pull(STUDY, level="studies"))


def test_a_study_that_the_node_has_not_is_not_found() -> None:
    with dicom_node(reticent(0, known=False)) as port, pytest.raises(ItemNotFound):
        list(node(port).pull(STUDY, level="studies"))
    with dicom_node(reticent(REFUSED, known=False)) as port, pytest.raises((GatewayRefused, ItemNotFound)):
        list(node(port).pull(STUDY, level="studies"))
