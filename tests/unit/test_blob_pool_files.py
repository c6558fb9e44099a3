"""Blobs, bounded work, and files that are whole or absent."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator
from hashlib import md5, sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diana.utils.blob import Blob
from diana.utils.files import make_private, remove_parts, whole_file
from diana.utils.pool import bounded_map


class TestBlob:
    @pytest.fixture(params=["bytes", "bytearray", "memoryview", "file", "path text"])
    def blob(self, request: pytest.FixtureRequest, tmp_path: Path) -> Blob:
        data = bytes(range(256)) * 40
        path = tmp_path / "b"
        path.write_bytes(data)
        sources = {"bytes": data, "bytearray": bytearray(data), "memoryview": memoryview(data), "file": path}
        return Blob(sources.get(request.param, str(path)))

    def test_every_way_gives_the_same_bytes(self, blob: Blob) -> None:
        data = bytes(range(256)) * 40
        assert len(blob) == len(data)
        assert blob.read() == data
        assert isinstance(blob.read(), bytes)
        assert b"".join(blob.pieces(1000)) == data
        assert max(len(piece) for piece in blob.pieces(1000)) == 1000
        with blob.open() as one, blob.open() as two:
            assert one.read(5) == two.read(5) == data[:5]
        assert blob.digest() == md5(data).hexdigest()
        assert blob.digest("sha256") == sha256(data).hexdigest()

    def test_copy_to_writes_all(self, blob: Blob, tmp_path: Path) -> None:
        with (tmp_path / "out").open("wb") as out:
            blob.copy_to(out)
        assert (tmp_path / "out").read_bytes() == blob.read()

    def test_the_length_counts_bytes(self) -> None:
        view = memoryview(array("H", [1, 2, 3]))
        assert len(Blob(view)) == len(Blob(view).read()) == 6

    def test_only_an_owned_file_is_removed(self, tmp_path: Path) -> None:
        path = tmp_path / "b"
        path.write_bytes(b"x")
        Blob(path).close()
        assert path.exists()
        owned = Blob(path, owned=True)
        owned.close()
        owned.close()
        assert not path.exists()

    def test_the_repr_shows_neither_bytes_nor_name(self, tmp_path: Path) -> None:
        path = tmp_path / "SECRET"
        path.write_bytes(b"SECRET")
        assert "SECRET" not in repr(Blob(path)) + repr(Blob(b"SECRET"))

    def test_an_empty_blob_is_a_blob(self) -> None:
        assert list(Blob(b"").pieces()) == []
        assert Blob(b"").read() == b""

    def test_an_absent_file_is_an_error_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Blob(tmp_path / "none")


class TestBoundedMap:
    @given(st.lists(st.integers(), max_size=30), st.integers(0, 5), st.integers(1, 4))
    def test_it_is_map(self, items: list[int], workers: int, ahead: int) -> None:
        assert list(bounded_map(lambda n: n * 2, items, workers=workers, ahead=ahead)) == [n * 2 for n in items]

    @pytest.mark.parametrize(("workers", "ahead", "most"), [(1, 1, 1), (1, 9, 1), (2, 1, 2), (4, 2, 8), (3, 5, 15)])
    def test_an_endless_source_is_taken_only_so_far(self, workers: int, ahead: int, most: int) -> None:
        taken = []

        def source() -> Iterator[int]:
            for n in itertools.count():
                taken.append(n)
                yield n

        results = bounded_map(lambda n: n, source(), workers=workers, ahead=ahead)
        for expected in range(30):
            assert next(results) == expected
            assert len(taken) <= expected + most
        results.close()  # type: ignore[attr-defined]

    def test_nothing_is_taken_before_the_first_result_is_asked_for(self) -> None:
        taken: list[int] = []
        bounded_map(lambda n: n, (taken.append(n) or n for n in range(9)), workers=4)
        assert taken == []

    @pytest.mark.parametrize("workers", [1, 4])
    def test_an_error_comes_where_its_result_would_have_been(self, workers: int) -> None:
        def work(n: int) -> int:
            if n == 3:
                raise ValueError("three")
            return n

        results = bounded_map(work, range(10), workers=workers)
        assert list(itertools.islice(results, 3)) == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            next(results)
        assert list(results) == []

    @pytest.mark.parametrize("workers", [1, 4])
    def test_an_error_of_the_source_comes_after_the_results_before_it(self, workers: int) -> None:
        def source() -> Iterator[int]:
            yield from range(3)
            raise ValueError("source")

        results = bounded_map(lambda n: n, source(), workers=workers)
        assert list(itertools.islice(results, 3)) == [0, 1, 2]
        with pytest.raises(ValueError, match="source"):
            next(results)

    def test_work_is_done_at_once(self) -> None:
        barrier = threading.Barrier(4, timeout=20)
        assert list(bounded_map(lambda n: barrier.wait() >= 0, range(4), workers=4)) == [True] * 4

    def test_leaving_early_joins_the_threads(self) -> None:
        before = threading.active_count()
        results = bounded_map(lambda n: n, itertools.count(), workers=4)
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before

    def test_nothing_is_started_after_an_error(self) -> None:
        started: list[int] = []

        def work(n: int) -> int:
            started.append(n)
            raise ValueError

        with pytest.raises(ValueError):  # noqa: PT011
            list(bounded_map(work, itertools.count(), workers=2, ahead=2))
        assert len(started) <= 4


class TestWholeFile:
    def test_the_bytes_appear_at_the_end(self, tmp_path: Path) -> None:
        target = tmp_path / "t"
        with whole_file(target) as out:
            out.write(b"abc")
            out.flush()
            assert not target.exists()
        assert target.read_bytes() == b"abc"
        assert os.listdir(tmp_path) == ["t"]

    @pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit, GeneratorExit])
    @pytest.mark.parametrize("replace", [True, False])
    def test_an_error_in_the_block_leaves_nothing(
        self, tmp_path: Path, error: type[BaseException], replace: bool
    ) -> None:
        with pytest.raises(error), whole_file(tmp_path / "t", replace=replace) as out:  # noqa: PT012
            out.write(b"x" * 100_000)
            raise error
        assert os.listdir(tmp_path) == []

    def test_an_error_in_the_block_leaves_the_old_file(self, tmp_path: Path) -> None:
        target = tmp_path / "t"
        target.write_bytes(b"old")
        with pytest.raises(ValueError), whole_file(target) as out:  # noqa: PT011, PT012
            out.write(b"new")
            raise ValueError
        assert target.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["t"]

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_failing_disk_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space"), whole_file(tmp_path / "t") as out:
            out.write(b"x")
        assert os.listdir(tmp_path) == []

    def test_a_real_full_disk_leaves_nothing(self, tmp_path: Path) -> None:
        code = (
            "import resource, signal, sys; from pathlib import Path; from diana.utils.files import whole_file\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
            "try:\n"
            "    with whole_file(Path(sys.argv[1])) as out: out.write(b'x' * 9000)\n"
            "except OSError: sys.exit(7)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "t")], check=False)
        assert done.returncode == 7
        assert os.listdir(tmp_path) == []

    def test_an_existing_target_is_kept_without_replace(self, tmp_path: Path) -> None:
        target = tmp_path / "t"
        target.write_bytes(b"old")
        with pytest.raises(FileExistsError), whole_file(target, replace=False) as out:
            out.write(b"new")
        assert target.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["t"]

    def test_a_folder_in_the_way_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "t").mkdir()
        with pytest.raises(OSError), whole_file(tmp_path / "t") as out:  # noqa: PT011
            out.write(b"x")
        assert os.listdir(tmp_path) == ["t"]

    def test_a_link_at_the_target_is_replaced_and_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "other").write_bytes(b"other")
        (tmp_path / "t").symlink_to(tmp_path / "other")
        with whole_file(tmp_path / "t") as out:
            out.write(b"x")
        assert (tmp_path / "other").read_bytes() == b"other"
        assert not (tmp_path / "t").is_symlink()

    def test_one_of_two_writers_wins_whole(self, tmp_path: Path) -> None:
        with whole_file(tmp_path / "t") as one, whole_file(tmp_path / "t") as two:
            one.write(b"1" * 1000)
            two.write(b"2" * 1000)
        assert set((tmp_path / "t").read_bytes()) in ({ord("1")}, {ord("2")})

    def test_files_and_folders_are_private(self, tmp_path: Path) -> None:
        target = tmp_path / "a" / "b" / "t"
        before = os.umask(0)
        try:
            with whole_file(target) as out:
                out.write(b"x")
        finally:
            os.umask(before)
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700

    def test_make_private_leaves_an_existing_folder_alone(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir(mode=0o755)
        (tmp_path / "a").chmod(0o755)
        make_private(tmp_path / "a")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755

    def test_remove_parts_takes_only_what_a_killed_writer_left(self, tmp_path: Path) -> None:
        code = (
            "import os, sys; from pathlib import Path; from diana.utils.files import whole_file\n"
            "with whole_file(Path(sys.argv[1])) as out:\n"
            "    out.write(b'x'); out.flush(); os.kill(os.getpid(), 9)\n"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "t")], check=False)
        (tmp_path / "kept.part").write_bytes(b"x")
        (tmp_path / ".hidden").write_bytes(b"x")
        assert len(os.listdir(tmp_path)) == 3
        assert remove_parts(tmp_path) == 1
        assert sorted(os.listdir(tmp_path)) == [".hidden", "kept.part"]
