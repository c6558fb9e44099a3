"""Makers of hostile things: tags with paths, damaged and exploding files and archives; and what watches over them."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from attrs import frozen

from diana.dixel import Dixel
from diana.utils.dicom import DicomLevel
from tests.contract import samples
from tests.helpers import REPO

TEXTS: Mapping[str, str] = {
    "parent": "../../../x",
    "parent of windows": "..\\..\\x",
    "passwd": "../../etc/passwd",
    "absolute": "/tmp/diana-hostile-x",
    "home": "~/x",
    "drive": "C:\\x",
    "unc": "\\\\host\\share\\x",
    "dot": ".",
    "dots": "..",
    "hidden": ".profile",
    "empty part": "a//b",
    "slash": "a/b/c",
    "only slash": "/",
    "nul": "a\0b",
    "newline": "a\nb",
    "return": "a\r\nSet-Cookie: x=y",
    "tab": "a\tb",
    "escape": "\x1b[2Jx",
    "con": "CON",
    "con with suffix": "con.dcm",
    "nul device": "NUL",
    "com1": "COM1.txt",
    "long": "1" * 5000,
    "long uid": "1." * 2500 + "1",
    "65 digits": "1" * 65,
    "uid with dots": "1..2",
    "uid with dot at the end": "1.2.",
    "shell": "$(touch x);`id`|x",
    "quote": "';DROP TABLE x;--",
    "percent": "%2e%2e%2f%2e%2e%2fx",
    "percent n": "%n%s%x",
    "braces": "{0.__class__}",
    "variable": "${HOME}",
    "query": "x?a=b&c=d#e",
    "star": "*",
    "question": "?",
    "minus": "-rf",
    "formula": "=cmd|' /C calc'!A0",
    "plus": "+1+cmd|' /C calc'!A0",
    "at": "@SUM(1+1)*cmd|' /C calc'!A0",
    "right to left": "abc\u202egpj.exe",
    "full-width slash": "\uff0e\uff0e\uff0fx",
    "combining": "e\u0301" * 40,
    "zero width": "a\u200bb",
    "bom": "\ufeffx",
    "line separator": "a\u2028b",
    "emoji": "\U0001f600" * 70,
    "private use": "\ue000",
    "json": '{"a": 1}',
    "xml": "<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><x>&y;</x>",
    "part": ".0123456789abcdef.part",
    "lock": ".lock",
    "space": " ",
    "trailing space": "x ",
    "zip": "x.zip",
}

# What a DICOM file can hold in one value: no backslash, which parts values, and nothing above 64 KiB.
FILE_TEXTS: Mapping[str, str] = {name: text for name, text in TEXTS.items() if "\\" not in text}

EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
LONG_FORM = {"OB", "OW", "SQ", "UN", "UT", "OF"}


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """Return one element in explicit VR little endian, with a false length when given."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB") else b" "
    size = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + (struct.pack("<HI", 0, size) if vr in LONG_FORM else struct.pack("<H", size)) + value


def part10(body: bytes, syntax: str = EXPLICIT, uid: str = "1.2.3.4") -> bytes:
    """Return a data set as a file with preamble and meta group."""
    meta = element(0x00020001, "OB", b"\0\1")
    meta += element(0x00020002, "UI", samples.SECONDARY_CAPTURE.encode())
    meta += element(0x00020003, "UI", uid[:64].encode("utf-8", "replace"))
    meta += element(0x00020010, "UI", syntax.encode())
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta + body


def body(
    sop: str = "1.2.3.4",
    *,
    study: str = "1.2.3",
    series: str = "1.2.3.1",
    patient: str = "GENPID",
    name: str = "Generated^One",
    accession: str = "GENACC",
    more: bytes = b"",
    pixels: bytes | None = None,
) -> bytes:
    """Return a data set of a 8x8 secondary capture whose values nobody checked; ``more`` goes before the pixels."""
    pieces = [
        element(0x00080005, "CS", b"ISO_IR 192"),
        element(0x00080016, "UI", samples.SECONDARY_CAPTURE.encode()),
        element(0x00080018, "UI", sop.encode()),
        element(0x00080020, "DA", b"20200111"),
        element(0x00080050, "SH", accession.encode()),
        element(0x00080060, "CS", b"OT"),
        element(0x00100010, "PN", name.encode()),
        element(0x00100020, "LO", patient.encode()),
        element(0x0020000D, "UI", study.encode()),
        element(0x0020000E, "UI", series.encode()),
        element(0x00200011, "IS", b"1"),
        element(0x00200013, "IS", b"1"),
        element(0x00280002, "US", struct.pack("<H", 1)),
        element(0x00280004, "CS", b"MONOCHROME2"),
        element(0x00280010, "US", struct.pack("<H", 8)),
        element(0x00280011, "US", struct.pack("<H", 8)),
        element(0x00280100, "US", struct.pack("<H", 8)),
        element(0x00280101, "US", struct.pack("<H", 8)),
        element(0x00280102, "US", struct.pack("<H", 7)),
        element(0x00280103, "US", struct.pack("<H", 0)),
        more,
        element(0x7FE00010, "OB", bytes(64)) if pixels is None else pixels,
    ]
    return b"".join(pieces)


def nasty_file(sop: str = "1.2.3.4", **values: str) -> bytes:
    """Return a whole file with values that no program should have written."""
    return part10(body(sop, **values), uid=sop)


def nasty_dixel(sop: str = "1.2.3.4", fn: str | None = None, **values: str) -> Dixel:
    """Return an instance as some server might describe it: hostile tags, and a file that says the same."""
    tags = {
        "SOPInstanceUID": sop,
        "StudyInstanceUID": values.get("study", "1.2.3"),
        "SeriesInstanceUID": values.get("series", "1.2.3.1"),
        "PatientID": values.get("patient", "GENPID"),
        "AccessionNumber": values.get("accession", "GENACC"),
        "SeriesNumber": 1,
        "InstanceNumber": 1,
    }
    found = Dixel(meta={} if fn is None else {"FileName": fn}, tags=tags, level=DicomLevel.INSTANCES)
    found.file = nasty_file(sop, **values)
    return found


def _nested(depth: int, defined: bool = False) -> bytes:
    """Return sequences in sequences."""
    if not defined:
        start = element(0x00081115, "SQ", b"", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return start * depth + end * depth
    found = b""
    for _ in range(depth):
        found = element(0x00081115, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(found)) + found)
    return found


def deflated(data: bytes) -> bytes:
    """Return raw deflate, as the deflated transfer syntax has it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def deflate_bomb(mebibytes: int = 256) -> bytes:
    """Return a deflated file that inflates to that many MiB, in front of its SOP Instance UID."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = [packer.compress(element(0x00080000, "UN", b"", mebibytes << 20))]
    pieces += [packer.compress(bytes(1 << 20)) for _ in range(mebibytes)]
    pieces += [packer.compress(body()), packer.flush()]
    return part10(b"".join(pieces), DEFLATED)


def _after(tag: int) -> bytes:
    """Return a data set up to the element before a tag."""
    data = body()
    return data[: data.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF))]


@lru_cache(maxsize=1)
def bad_dicom() -> dict[str, bytes]:
    """Return files that are no whole DICOM object, each bad in its own way."""
    good = nasty_file()
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    many = element(0x00081115, "SQ", b"", 0xFFFFFFFF)
    swapped = bytearray(good)
    swapped[132:] = bytes(len(good) - 132)
    return {
        "empty": b"",
        "one byte": b"D",
        "prefix only": bytes(128) + b"DICM",
        "zeros": bytes(5000),
        "noise": bytes((7 * n * n + n) % 256 for n in range(9000)),
        "cut in the meta group": good[:200],
        "cut in the ids": good[:430],
        "cut in the pixels": good[:-10],
        "cut after the header": part10(body(pixels=b"")),
        "meta group alone": part10(b""),
        "prefix and zeros": bytes(swapped),
        "4 GiB in the middle": part10(_after(0x00100010) + element(0x00100010, "UT", b"x", 0xFFFFFFFE)),
        "4 GiB of pixels": part10(body(pixels=element(0x7FE00010, "OW", bytes(64), 0xFFFFFFFE))),
        "4 GiB in an item": part10(
            _after(0x00100010) + many + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFF0) + bytes(20)
        ),
        "undefined text": part10(_after(0x00100010) + element(0x00100010, "UT", b"abc", 0xFFFFFFFF)),
        "endless items": part10(_after(0x00100010) + many + items * 300_000),
        "endless fragments": part10(
            body(pixels=element(0x7FE00010, "OB", b"", 0xFFFFFFFF) + items * 300_000), "1.2.840.10008.1.2.4.50"
        ),
        "endless elements": part10(_after(0x00100010) + element(0x00090001, "LO", b"") * 300_000),
        "deep": part10(_after(0x00100010) + _nested(5000) + body()[len(_after(0x00100010)) :]),
        "deep with lengths": part10(_after(0x00100010) + _nested(3000, defined=True)),
        "deep and open": part10(_after(0x00100010) + _nested(20_000)[:100_000]),
        "deflate bomb": deflate_bomb(600),
        "deflate cut": part10(deflated(body())[:-30], DEFLATED),
        "deflate noise": part10(b"\xff" * 400, DEFLATED),
        "item at the top": part10(items + body()),
        "unknown vr": part10(_after(0x00100010) + b"\x10\0\x10\0??\x04\0abcd"),
        "no instance": part10(body("")),
        "other syntax": part10(bytes(range(256)) * 8, "1.2.840.10008.1.2.2"),
        "meta length lies": good[:140] + struct.pack("<I", 0xFFFFFFF0) + good[144:],
        "html": b"<html>log in</html>",
    }


def good_dicom(count: int = 3) -> dict[str, bytes]:
    """Return sound files of one generated study by name."""
    return {f"good{number}.dcm": samples.file_bytes(samples.dataset(0, 0, number)) for number in range(count)}


def zip_of(members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a plain archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return out.getvalue()


def _zip_link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link.dcm")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return out.getvalue()


def _patched(data: bytes, signature: bytes, at: int, value: bytes) -> bytes:
    """Return an archive with a field of its first record of a kind replaced."""
    found = data.index(signature) + at
    return data[:found] + value + data[found + len(value) :]


def _spoilt(data: bytes) -> bytes:
    """Return an archive whose first member has other packed bytes."""
    name = struct.unpack("<H", data[26:28])[0]
    at = 30 + name + 14
    return data[:at] + bytes(one ^ 0x5A for one in data[at : at + 40]) + data[at + 40 :]


def directory_of(entries: int, *, name: bytes = b"a") -> bytes:
    """Return an archive of nothing but a directory with so many entries, which all point to the same place."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0) + name
    listed = entry * entries
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(listed), len(local), 0)
    return local + listed + end


def zip64_directory(path: Path, mebibytes: int) -> None:
    """Write a sparse archive whose short end record says a small directory, and whose long one says a huge one."""
    size = mebibytes << 20
    with path.open("wb") as out:
        out.write(b"PK\3\4")
        out.truncate(size)
        out.seek(size)
        out.write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, 0))
        out.write(struct.pack("<4sIQI", b"PK\6\7", 0, size, 1))
        out.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 10, 0, 0))


@lru_cache(maxsize=1)
def bad_zips() -> dict[str, bytes]:
    """Return archives that attack their reader; each holds no instance that could be delivered."""
    good = next(iter(good_dicom(1).values()))
    plain = zip_of([("a.dcm", good)])
    return {
        "cut": plain[: len(plain) // 2],
        "no directory": plain[:-60],
        "bomb": zip_of([("a.dcm", bytes(128) + b"DICM" + bytes(64 << 20))]),
        "forged size": _patched(plain, b"PK\1\2", 24, struct.pack("<I", 0xFFFFFFF0)),
        "forged small size": _patched(
            zip_of([("a.dcm", bytes(128) + b"DICM" + bytes(8 << 20))]), b"PK\1\2", 24, struct.pack("<I", 10)
        ),
        "encrypted": _patched(plain, b"PK\1\2", 8, b"\1\0"),
        "unknown method": _patched(_patched(plain, b"PK\1\2", 10, b"\x63\0"), b"PK\3\4", 8, b"\x63\0"),
        "link": _zip_link(),
        "nested": zip_of([("inner.zip", plain)]),
        "folders alone": zip_of([("a/", b""), ("b/", b"")]),
        "spoilt deflate": _spoilt(plain),
        "spoilt bzip2": _spoilt(zip_of([("a.dcm", good)], zipfile.ZIP_BZIP2)),
        "spoilt lzma": _spoilt(zip_of([("a.dcm", good)], zipfile.ZIP_LZMA)),
        "many": directory_of(120_000),
        "offset outside": _patched(plain, b"PK\1\2", 42, struct.pack("<I", 0x7FFFFFFF)),
    }


@frozen
class Tree:
    """Hold what is below a folder: paths with size and time of change."""

    known: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, folder: Path, *, without: Path | None = None) -> Tree:
        """Look at everything below a folder but one subfolder."""
        known = {}
        for place, folders, files in os.walk(folder):
            if without is not None and Path(place) == without:
                folders.clear()
                continue
            for one in [*folders, *files]:
                path = os.path.join(place, one)
                if without is None or Path(path) != without:
                    found = os.lstat(path)
                    known[os.path.relpath(path, folder)] = (found.st_size, found.st_mtime_ns if one in files else 0)
        return cls(known)


@contextmanager
def nothing_outside(target: Path) -> Iterator[None]:
    """Fail when anything beside or above a folder changed, two floors up, or at the places that the texts name."""
    around = target.parent.parent
    before = Tree.of(around, without=target)
    named = [Path("/tmp/diana-hostile-x"), Path("/x"), Path("/etc/passwd.dcm"), Path("/tmp/x"), Path.home() / "x"]
    yield
    assert Tree.of(around, without=target) == before
    assert not [path for path in named if os.path.lexists(path)]


def files_below(folder: Path) -> list[Path]:
    """Return every file below a folder, links not followed; what is not a plain file fails."""
    found = [path for path in folder.rglob("*") if not path.is_dir()]
    assert all(path.is_file() and not path.is_symlink() for path in found)
    return sorted(found)


PEAK = """
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(int(line.split()[1]) // 1024)
"""


def run_apart(code: str, *args: str, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a process of its own; what it prints last is its peak of memory in MiB."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}{PEAK}", *args],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO), **env},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def peak_mib(done: subprocess.CompletedProcess[str]) -> int:
    """Return the peak that ``run_apart`` printed; fails when the process did."""
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[-1])
