"""ReportDir keeps the endpoint contract."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from diana.apis.report_dir import ReportDir
from diana.dixel import Dixel, RadiologyReport
from tests.contract import samples
from tests.contract.suite import EndpointContract


class TestReportDir(EndpointContract):
    """Texts are named by accession numbers."""

    has_files: ClassVar[bool] = False
    by_uid: ClassVar[bool] = False

    @pytest.fixture
    def endpoint(self, tmp_path: Path) -> ReportDir:
        return ReportDir(str(tmp_path), subpath_width=2, subpath_depth=1)

    @pytest.fixture
    def broken(self, tmp_path: Path) -> ReportDir:
        (tmp_path / "plain").write_bytes(b"")
        return ReportDir(str(tmp_path / "plain" / "below"), name="broken")

    def make_item(self, n: int = 0) -> Dixel:
        study = samples.study(n)
        study.report = RadiologyReport(f"GENERATED REPORT {n}")
        return study
