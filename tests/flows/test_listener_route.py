"""From a scanner by way of a DicomListener and a route to a destination: verified, and the spool empty."""

from __future__ import annotations

import threading
from pathlib import Path

from diana.apis import DicomListener, Memory
from diana.daemons.rules import Route
from diana.ledger import Journal, Store
from diana.utils.dicom import DicomEventType
from diana.utils.endpoint import Watcher
from diana.utils.gateways import dimse
from tests.contract import samples
from tests.helpers import wait_for


def test_what_a_scanner_sends_is_delivered_and_leaves_the_spool(tmp_path: Path) -> None:
    listener, archive = DicomListener(port=0, path=tmp_path / "spool"), Memory()
    journal = Journal(Store(tmp_path / "state"))
    watcher = Watcher(0.05, journal=journal)
    for trigger in Route("r", listener, DicomEventType.INSTANCE_ADDED, [archive]).triggers(journal.receipts):
        watcher.add_trigger(trigger)
    thread = threading.Thread(target=watcher.run)
    thread.start()
    try:
        wait_for(lambda: listener.port, what="the port")
        wait_for(listener.check, what="the listener")
        files = [item.file for item in samples.instances(2, 2, 5)]
        outcomes = dimse.store([file for file in files if file] * 2, "127.0.0.1", listener.port, called_aet="DIANA")
        assert all(outcome.ok for outcome in outcomes)
        wait_for(lambda: not list(listener.path.glob("*.dcm")), what="an empty spool")
    finally:
        watcher.stop()
        thread.join()
    found = archive.find({}, "instances")
    assert {item.tags["SOPInstanceUID"] for item in found} == {outcome.sop_instance for outcome in outcomes}
    assert len(found) == 20
