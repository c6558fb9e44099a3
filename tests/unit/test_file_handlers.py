"""File handlers: names stay inside the folder, files are whole or absent, limits hold."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from diana.exceptions import GatewayConnectionError, GatewayRefused, IncompleteTransfer, InvalidItem, ItemNotFound
from diana.utils.blob import Blob
from diana.utils.gateways.file_handlers import (
    DcmFileHandler,
    ImageFileHandler,
    TextFileHandler,
    dcm_file,
    paths,
)
from tests.contract import samples

HOSTILE = [
    "",
    ".",
    "..",
    "/etc/passwd",
    "../up.dcm",
    "a/../../b",
    "a//b",
    "a/",
    "nul\0byte",
    "line\nfeed",
    "back\\slash",
    "NUL",
    "con.dcm",
    "COM1",
    "a" * 256,
    "é" * 128,
    "a/" * 600 + "b",
    "\ud800.dcm",
]


@pytest.mark.parametrize("name", HOSTILE, ids=[repr(name[:12]) for name in HOSTILE])
@pytest.mark.parametrize("depth", [0, 2])
def test_hostile_names_are_refused_by_every_verb(tmp_path: Path, name: str, depth: int) -> None:
    handler = TextFileHandler(path=str(tmp_path / "in"), subpath_depth=depth)
    for call in (lambda: handler.put(name, "x"), lambda: handler.get(name), lambda: handler.exists(name)):
        with pytest.raises(InvalidItem):
            call()
    with pytest.raises(InvalidItem):
        handler.delete(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "width", "depth", "where"),
    [
        ("abcdef.dcm", 2, 0, "abcdef.dcm"),
        ("abcdef.dcm", 2, 2, "ab/cd/abcdef.dcm"),
        ("abcdef.dcm", 3, 1, "abc/abcdef.dcm"),
        ("1.2.840.1.dcm", 2, 2, "1./2./1.2.840.1.dcm"),
        ("abc", 2, 2, "ab/c/abc"),
        ("ab", 2, 2, "ab/_/ab"),
        ("..abc", 2, 1, "__/..abc"),
        ("a.b", 1, 2, "a/_/a.b"),
        ("sub/abcd.dcm", 2, 1, "sub/ab/abcd.dcm"),
    ],
)
def test_layout_is_cut_from_the_characters_of_the_name(name: str, width: int, depth: int, where: str) -> None:
    assert paths.layout(name, width, depth) == where
    assert paths.name_at(where, width, depth) == name


def test_a_written_file_and_its_folders_are_private(tmp_path: Path) -> None:
    handler = TextFileHandler(path=str(tmp_path / "new"), subpath_depth=1)
    where = tmp_path / "new" / handler.put("report.txt", "text")
    assert stat.S_IMODE(where.stat().st_mode) == 0o600
    assert stat.S_IMODE(where.parent.stat().st_mode) == 0o700
    assert [one.name for one in where.parent.iterdir()] == ["report.txt"]


def test_text_comes_back_as_it_was(tmp_path: Path) -> None:
    handler = TextFileHandler(path=str(tmp_path))
    handler.put("r.txt", "one\r\ntwo é\n")
    assert handler.get("r.txt") == "one\r\ntwo é\n"
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidItem):
        handler.get("bad.txt")
    with pytest.raises(ItemNotFound):
        handler.get("absent.txt")


def test_links_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (inside / "link.txt").symlink_to(outside / "secret.txt")
    (inside / "ab").symlink_to(outside)
    handler = TextFileHandler(path=str(inside), subpath_depth=1)
    for name in ("link.txt", "ab/secret.txt"):
        with pytest.raises((InvalidItem, ItemNotFound)):
            handler.get(name)
    with pytest.raises(InvalidItem):
        handler.put("abcd.txt", "planted")
    assert sorted(one.name for one in outside.iterdir()) == ["secret.txt"]


def test_a_link_at_the_place_of_a_new_file_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("keep")
    (tmp_path / "x.txt").symlink_to(tmp_path / "target")
    TextFileHandler(path=str(tmp_path)).put("x.txt", "new")
    assert (tmp_path / "target").read_text() == "keep"


def test_fifos_and_folders_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    handler = TextFileHandler(path=str(tmp_path))
    for name in ("fifo", "folder"):
        with pytest.raises(InvalidItem):
            handler.get(name)
    with pytest.raises(InvalidItem):
        handler.put("folder", "text")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, GatewayConnectionError),
        (errno.EIO, GatewayConnectionError),
        (errno.EACCES, GatewayRefused),
        (errno.EROFS, GatewayRefused),
        (errno.ENAMETOOLONG, InvalidItem),
    ],
)
def test_disk_errors_become_errors_of_the_tree(number: int, kind: type[Exception]) -> None:
    error = paths.disk_error("archive", OSError(number, "x", "/secret/NAME^PLANTED"))
    assert isinstance(error, kind)
    assert "archive" in str(error)
    assert "PLANTED" not in str(error)


def test_what_a_killed_writer_left_is_removed_and_what_may_be_alive_stays(tmp_path: Path) -> None:
    for name, age in ((".0123456789abcdef.part", 7200), (".fedcba9876543210.part", 10), (".other.part", 7200)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    TextFileHandler(path=str(tmp_path)).put("x.txt", "text")
    assert sorted(one.name for one in tmp_path.iterdir()) == [".fedcba9876543210.part", ".other.part", "x.txt"]


def test_a_writer_does_not_mind_the_files_of_others_that_come_and_go(tmp_path: Path) -> None:
    ended = threading.Event()

    def come_and_go() -> None:
        parts = [tmp_path / f".{number:016x}.part" for number in range(50)]
        while not ended.is_set():
            for part in parts:
                part.touch()
            for part in parts:
                part.unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for number in range(200):
            TextFileHandler(path=tmp_path, durable=False).put(f"{number}.txt", "text")
    finally:
        ended.set()
        other.join()
    assert len(list(tmp_path.glob("*.txt"))) == 200


def test_nothing_stays_of_a_write_that_fails(tmp_path: Path) -> None:
    handler = TextFileHandler(path=str(tmp_path))

    def fail(out: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(GatewayConnectionError, match="full"):
        handler.write("x.txt", fail)
    assert not list(tmp_path.iterdir())


class TestDcm:
    def test_data_set_and_bytes_come_back(self, tmp_path: Path) -> None:
        handler = DcmFileHandler(path=str(tmp_path))
        ds = samples.dataset()
        handler.put("ds.dcm", ds)
        handler.put("bytes.dcm", samples.file_bytes(ds))
        assert handler.get("ds.dcm").SOPInstanceUID == ds.SOPInstanceUID
        assert "PixelData" not in handler.get("bytes.dcm")
        assert handler.get("bytes.dcm", get_pixels=True).PixelData == ds.PixelData

    def test_force_takes_files_without_preamble(self, tmp_path: Path) -> None:
        handler = DcmFileHandler(path=str(tmp_path))
        data = samples.file_bytes(samples.dataset())[132:]
        (tmp_path / "bare.dcm").write_bytes(data)
        with pytest.raises(InvalidItem):
            handler.get("bare.dcm")
        assert handler.get("bare.dcm", force=True).PatientID == "GENPID0000"
        assert DcmFileHandler.is_dicom(tmp_path / "bare.dcm")

    def test_what_is_not_dicom_raises_invalid_item(self, tmp_path: Path) -> None:
        (tmp_path / "x.dcm").write_bytes(b"plain text, long enough to be looked at " * 9)
        for force in (False, True):
            with pytest.raises(InvalidItem):
                DcmFileHandler(path=str(tmp_path)).get("x.dcm", force=force)
        assert not DcmFileHandler.is_dicom(tmp_path / "x.dcm")
        assert not DcmFileHandler.is_dicom(tmp_path / "absent")

    def test_pixels_of_a_cut_file_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "cut.dcm").write_bytes(samples.file_bytes(samples.dataset())[:-20])
        handler = DcmFileHandler(path=str(tmp_path))
        assert handler.get("cut.dcm").Rows == 8
        with pytest.raises(InvalidItem):
            handler.get("cut.dcm", get_pixels=True)

    @pytest.mark.parametrize("start", [b"MZ\x90\0", b"\x7fELF", b"#!/bin/sh\n"])
    def test_a_preamble_that_is_a_program_is_zeroed(self, tmp_path: Path, start: bytes) -> None:
        handler = DcmFileHandler(path=str(tmp_path))
        data = samples.file_bytes(samples.dataset())
        planted = start.ljust(128, b"A") + data[128:]
        (tmp_path / "source").write_bytes(planted)
        for blob in (Blob(planted), Blob(tmp_path / "source")):
            handler.put("x.dcm", blob)
            assert (tmp_path / "x.dcm").read_bytes() == data
            handler.put("x.dcm", blob, replace=False)

    def test_a_tiff_preamble_stays(self, tmp_path: Path) -> None:
        data = b"II*\0".ljust(128, b"\1") + samples.file_bytes(samples.dataset())[128:]
        DcmFileHandler(path=str(tmp_path)).put("x.dcm", data)
        assert (tmp_path / "x.dcm").read_bytes() == data

    def test_copying_a_large_file_gives_the_same_bytes(self, tmp_path: Path) -> None:
        data = samples.file_bytes(samples.dataset()) + os.urandom(5_000_001)
        (tmp_path / "source").write_bytes(data)
        DcmFileHandler(path=str(tmp_path)).put("x.dcm", Blob(tmp_path / "source"))
        assert (tmp_path / "x.dcm").read_bytes() == data

    def test_a_source_that_grew_is_not_taken(self, tmp_path: Path) -> None:
        (tmp_path / "source").write_bytes(b"x" * 200)
        blob = Blob(tmp_path / "source")
        (tmp_path / "source").write_bytes(b"x" * 300)
        with pytest.raises(IncompleteTransfer):
            DcmFileHandler(path=str(tmp_path)).put("x.dcm", blob)
        assert not (tmp_path / "x.dcm").exists()

    def test_other_bytes_are_kept_out_when_not_replacing(self, tmp_path: Path) -> None:
        handler = DcmFileHandler(path=str(tmp_path))
        handler.put("x.dcm", b"first", replace=False)
        handler.put("x.dcm", b"first", replace=False)
        with pytest.raises(FileExistsError):
            handler.put("x.dcm", b"other", replace=False)
        assert (tmp_path / "x.dcm").read_bytes() == b"first"

    def test_pixels_that_would_fill_the_memory_are_refused(self) -> None:
        ds = samples.dataset()
        ds.Rows = ds.Columns = 65535
        with pytest.raises(InvalidItem, match="take more than"):
            dcm_file.pixel_array(ds)


def test_a_file_blob_notices_that_its_file_was_replaced(tmp_path: Path) -> None:
    handler = DcmFileHandler(path=str(tmp_path))
    handler.put("x.dcm", b"first")
    blob = handler.blob("x.dcm")
    assert blob.read() == b"first"
    (tmp_path / "other").write_bytes(b"other")
    os.replace(tmp_path / "other", tmp_path / "x.dcm")
    with pytest.raises(IncompleteTransfer):
        blob.read()
    (tmp_path / "x.dcm").unlink()
    (tmp_path / "x.dcm").symlink_to(tmp_path / "elsewhere")
    for read in (blob.read, blob.digest, lambda: list(blob.pieces())):
        with pytest.raises(IncompleteTransfer):
            read()


class TestImages:
    @pytest.fixture(autouse=True)
    def _pillow(self) -> None:
        pytest.importorskip("PIL", reason="pictures need the extra 'images'")

    def test_squash_equals_the_formula_up_to_a_range_of_4096(self) -> None:
        data = np.array([[-3000, -1024, 0], [1000, 3071, 3071]], dtype=np.int16)
        clipped = np.maximum(data.astype(np.float32), -1024)
        wanted = ((clipped - clipped.min()) * (255 / 4096)).astype(np.uint8)
        assert np.array_equal(ImageFileHandler.squash_to_8bit(data), wanted)

    def test_squash_clips_above_and_never_wraps(self) -> None:
        data = np.array([[0, 4096, 5000, 65535]], dtype=np.uint16)
        assert ImageFileHandler.squash_to_8bit(data).tolist() == [[0, 255, 255, 255]]

    @pytest.mark.parametrize("kind", [np.uint8, np.bool_, np.float64, np.int32, np.uint16])
    def test_squash_gives_uint8_and_leaves_its_argument(self, kind: type) -> None:
        data = np.array([[0, 1], [1, 0]]).astype(kind)
        before = data.copy()
        found = ImageFileHandler.squash_to_8bit(data)
        assert found.dtype == np.uint8
        assert np.array_equal(data, before)
        if kind is np.uint8:
            assert np.array_equal(found, data)

    def test_squash_takes_odd_numbers(self) -> None:
        data = np.array([np.nan, np.inf, -np.inf, 0.0])
        assert ImageFileHandler.squash_to_8bit(data).tolist() == [0, 255, 0, 63]
        assert ImageFileHandler.squash_to_8bit(np.zeros((0,), np.int16)).size == 0

    @pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3), (1, 8, 6), (1, 8, 6, 3)])
    def test_png_comes_back(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        data = np.arange(int(np.prod(shape)), dtype=np.uint8).reshape(shape)
        handler = ImageFileHandler(path=str(tmp_path))
        handler.put("x.png", data)
        assert np.array_equal(handler.get("x.png"), data.reshape(shape[1:] if shape[0] == 1 else shape))

    def test_jpeg_of_16_bits_works(self, tmp_path: Path) -> None:
        handler = ImageFileHandler(path=str(tmp_path))
        handler.put("x.jpg", np.full((16, 16), 2048, np.uint16) + np.eye(16, dtype=np.uint16) * 1024)
        assert handler.get("x.jpg").shape == (16, 16)

    def test_the_longer_side_is_limited(self, tmp_path: Path) -> None:
        handler = ImageFileHandler(path=str(tmp_path))
        handler.put("x.png", np.zeros((2000, 500), np.uint8))
        handler.put("y.png", np.zeros((40, 80), np.uint8), max_size=20)
        assert handler.get("x.png").shape == (1024, 256)
        assert handler.get("y.png").shape == (10, 20)

    def test_frames_stand_side_by_side_on_one_scale_of_grey(self, tmp_path: Path) -> None:
        frames = np.stack([np.full((4, 4), value, np.int16) for value in (0, 1024, 2048, 4000, 4096)])
        handler = ImageFileHandler(path=str(tmp_path))
        handler.put("x.png", frames)
        found = handler.get("x.png")
        assert found.shape == (8, 12)
        assert [int(found[r, c]) for r, c in ((0, 0), (0, 4), (0, 8), (4, 0), (4, 4), (4, 8))] == [
            0,
            63,
            127,
            249,
            255,
            0,
        ]

    @pytest.mark.parametrize("name", ["x.gif", "x", "png"])
    def test_other_formats_are_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InvalidItem):
            ImageFileHandler(path=str(tmp_path)).put(name, np.zeros((4, 4), np.uint8))

    def test_what_is_no_picture_raises_invalid_item(self, tmp_path: Path) -> None:
        handler = ImageFileHandler(path=str(tmp_path))
        (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
        with pytest.raises(InvalidItem):
            handler.get("x.png")
        for shape in ((4,), (0, 4), (2, 2, 2, 2, 2)):
            with pytest.raises(InvalidItem):
                handler.put("y.png", np.zeros(shape, np.uint8))


def test_many_writers_of_one_name_leave_one_whole_file(tmp_path: Path) -> None:
    handler = DcmFileHandler(path=str(tmp_path))
    threads = [threading.Thread(target=handler.put, args=("x.dcm", bytes([n]) * 100_000)) for n in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(set((tmp_path / "x.dcm").read_bytes())) == 1
    assert len(list(tmp_path.iterdir())) == 1
