"""DicomListener keeps the endpoint contract, as far as a spool can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from diana.apis import DicomListener
from diana.dixel import Dixel
from diana.utils.blob import Blob
from diana.utils.endpoint import Endpoint
from diana.utils.gateways import dimse
from diana.utils.gateways.dimse_pdu import file_head
from tests.contract.suite import EndpointContract


class TestDicomListener(EndpointContract):
    """Instances come by C-STORE."""

    absent_id = "0000000000000000-0000000000000000.dcm"

    @pytest.fixture
    def endpoint(self, tmp_path: Path) -> Iterator[DicomListener]:
        listener = DicomListener(port=0, path=tmp_path / "spool")
        listener.listen(lambda: None)
        yield listener
        listener.unlisten()

    @pytest.fixture
    def broken(self, tmp_path: Path) -> Endpoint:
        (tmp_path / "file").write_bytes(b"")
        return DicomListener(path=tmp_path / "file")

    def make_item(self, n: int = 0) -> Dixel:
        return self._as_received(super().make_item(n))

    @staticmethod
    def _as_received(item: Dixel) -> Dixel:
        """Give an item the file meta information of the receiver: C-STORE sends the data set alone."""
        assert item.file is not None
        sent = dimse.outgoing(Blob(item.file))
        item.file = file_head(sent.sop_class, sent.sop_instance, sent.transfer_syntax) + item.file[sent.offset :]
        return item

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        assert isinstance(endpoint, DicomListener)
        self._as_received(item)
        assert item.blob is not None
        before = set(endpoint.path.glob("*.dcm"))
        [outcome] = dimse.store([item.blob], "127.0.0.1", endpoint.port, called_aet=endpoint.aet)
        assert outcome.ok
        [path] = set(endpoint.path.glob("*.dcm")) - before
        return path.name
