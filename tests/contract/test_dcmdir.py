"""DcmDir keeps the endpoint contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from diana.apis.dcmdir import DcmDir
from tests.contract.suite import EndpointContract


class DcmDirContract(EndpointContract):
    """What holds for every layout."""

    update_data: ClassVar[Mapping[str, Any]] = {"StudyDescription": "SEEN"}

    @pytest.fixture
    def broken(self, tmp_path: Path) -> DcmDir:
        (tmp_path / "plain").write_bytes(b"")
        return DcmDir(str(tmp_path / "plain" / "below"), name="broken")


class TestDcmDir(DcmDirContract):
    """A flat folder."""

    @pytest.fixture
    def endpoint(self, tmp_path: Path) -> DcmDir:
        return DcmDir(str(tmp_path))


class TestDcmDirWithSubfolders(DcmDirContract):
    """A folder laid out by the characters of the names."""

    @pytest.fixture
    def endpoint(self, tmp_path: Path) -> DcmDir:
        return DcmDir(str(tmp_path), subpath_width=2, subpath_depth=2)
