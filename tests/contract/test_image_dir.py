"""ImageDir keeps the endpoint contract."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from diana.apis.image_dir import ImageDir
from diana.dixel import Dixel
from tests.contract import samples
from tests.contract.suite import EndpointContract


class TestImageDir(EndpointContract):
    """Pictures are not DICOM files and have names of their own."""

    has_files: ClassVar[bool] = False
    by_uid: ClassVar[bool] = False

    @pytest.fixture
    def endpoint(self, tmp_path: Path) -> ImageDir:
        pytest.importorskip("PIL", reason="pictures need the extra 'images'")
        return ImageDir(str(tmp_path))

    @pytest.fixture
    def broken(self, tmp_path: Path) -> ImageDir:
        (tmp_path / "plain").write_bytes(b"")
        return ImageDir(str(tmp_path / "plain" / "below"), name="broken")

    def make_item(self, n: int = 0) -> Dixel:
        return samples.instance(n)
