"""DcmDir keeps the endpoint contract when it has an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from diana.apis.dcmdir import DcmDir
from tests.contract.test_dcmdir import DcmDirContract


class TestDcmDirIndexed(DcmDirContract):
    """One folder for all, with an index."""

    @pytest.fixture
    def endpoint(self, tmp_path: Path) -> Iterator[DcmDir]:
        found = DcmDir(str(tmp_path), index=True)
        yield found
        found.close()


class TestDcmDirIndexedLayers(DcmDirContract):
    """Two layers of folders, with an index."""

    @pytest.fixture
    def endpoint(self, tmp_path: Path) -> Iterator[DcmDir]:
        found = DcmDir(str(tmp_path), 2, 2, index=True)
        yield found
        found.close()
