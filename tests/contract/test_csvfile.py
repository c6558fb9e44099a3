"""CsvFile keeps the endpoint contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from diana.apis.csvfile import CsvFile
from tests.contract.suite import EndpointContract


class TestCsvFile(EndpointContract):
    """A table of studies; a study is known by its UID or accession number."""

    has_files = False

    @pytest.fixture
    def endpoint(self, tmp_path: Path) -> CsvFile:
        return CsvFile(tmp_path / "table.csv")

    @pytest.fixture
    def broken(self, tmp_path: Path) -> CsvFile:
        return CsvFile(tmp_path / "gone" / "table.csv")
