"""ZIP archives: members come back, limits hold, and what is bad is named."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest

from diana.exceptions import InvalidItem
from diana.utils.blob import Blob
from diana.utils.gateways.file_handlers import ZipFileHandler, zip_file


class TestZip:
    def names(self, handler: ZipFileHandler, fn: str) -> list[tuple[str, bytes | None, str]]:
        return [(one.name, one.blob.read() if one.blob else None, one.problem) for one in handler.unzip(fn)]

    def test_members_come_back_in_order(self, tmp_path: Path) -> None:
        handler = ZipFileHandler(path=str(tmp_path))
        handler.zip("x.zip", [("a.dcm", b"one"), ("b.dcm", Blob(b"two"))])
        assert self.names(handler, "x.zip") == [("a.dcm", b"one", ""), ("b.dcm", b"two", "")]

    def test_the_same_members_give_the_same_archive(self, tmp_path: Path) -> None:
        handler = ZipFileHandler(path=str(tmp_path))
        for fn in ("x.zip", "y.zip"):
            handler.zip(fn, [("a.dcm", b"one")])
        assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "y.zip").read_bytes()

    def test_a_large_member_goes_to_a_temporary_file_that_close_removes(self, tmp_path: Path) -> None:
        handler = ZipFileHandler(path=str(tmp_path))
        data = os.urandom(zip_file.SMALL + 10)
        handler.zip("x.zip", [("a.dcm", data)])
        (member,) = handler.unzip("x.zip")
        assert member.blob is not None
        assert member.blob.path is not None
        assert member.blob.read() == data
        member.blob.close()
        assert not member.blob.path.exists()

    def test_a_bomb_is_named_and_the_rest_is_read(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb", bytes(40 << 20))
            archive.writestr("good", b"good")
        found = self.names(ZipFileHandler(path=str(tmp_path)), "x.zip")
        assert [(name, data) for name, data, _ in found] == [("bomb", None), ("good", b"good")]
        assert "200" in found[0][2]

    def test_a_forged_size_does_not_pass_the_limit(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb", bytes(40 << 20))
        data = (tmp_path / "x.zip").read_bytes()
        (tmp_path / "x.zip").write_bytes(data.replace((40 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")))
        ((_, found, problem),) = self.names(ZipFileHandler(path=str(tmp_path)), "x.zip")
        assert found is None
        assert problem

    def test_too_many_bytes_in_all_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zip_file, "MAX_ARCHIVE", 1000)
        handler = ZipFileHandler(path=str(tmp_path))
        handler.zip("x.zip", [(str(at), os.urandom(400)) for at in range(4)])
        with pytest.raises(InvalidItem, match="more than 1000"):
            list(handler.unzip("x.zip"))

    def test_too_many_members_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zip_file, "MAX_MEMBERS", 3)
        handler = ZipFileHandler(path=str(tmp_path))
        handler.zip("x.zip", [(str(at), b"") for at in range(4)])
        with pytest.raises(InvalidItem, match="members"):
            list(handler.unzip("x.zip"))

    def test_links_are_named_and_folders_passed_by(self, tmp_path: Path) -> None:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr(link, "/etc/passwd")
            archive.mkdir("folder") if hasattr(archive, "mkdir") else archive.writestr("folder/", b"")
        assert self.names(ZipFileHandler(path=str(tmp_path)), "x.zip") == [("link", None, "a link")]

    @pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
    def test_a_cut_archive_raises_invalid_item(self, tmp_path: Path, keep: float) -> None:
        handler = ZipFileHandler(path=str(tmp_path))
        handler.zip("x.zip", [("a", os.urandom(1000))])
        data = (tmp_path / "x.zip").read_bytes()
        (tmp_path / "x.zip").write_bytes(data[: int(keep * len(data)) if 0 < keep < 1 else int(keep)])
        with pytest.raises(InvalidItem):
            list(handler.unzip("x.zip"))

    def test_a_damaged_member_is_named(self, tmp_path: Path) -> None:
        handler = ZipFileHandler(path=str(tmp_path))
        handler.zip("x.zip", [("a", os.urandom(1000)), ("b", b"good")])
        data = bytearray((tmp_path / "x.zip").read_bytes())
        data[200] ^= 0xFF
        (tmp_path / "x.zip").write_bytes(data)
        found = self.names(handler, "x.zip")
        assert [one[1] for one in found] == [None, b"good"]
        assert "damaged" in found[0][2]
