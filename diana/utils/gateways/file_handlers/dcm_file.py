"""DICOM files as bytes or as pydicom data sets."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO  # Any: arrays hold what DICOM says

from attrs import define

from diana.exceptions import DianaError, IncompleteTransfer, InvalidItem
from diana.utils.blob import PIECE, Blob
from diana.utils.dicom import header as header_reader
from diana.utils.dicom.structure import check_whole
from diana.utils.gateways.file_handlers._handler import FileHandler
from diana.utils.lazy import parent_first

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

log = logging.getLogger(__name__)

MAX_PIXELS = 512 << 20
PREAMBLE = 128
DEFLATED = "1.2.840.10008.1.2.1.99"
PROGRAMS = (b"MZ", b"\x7fELF", b"#!", b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe")
NO_FAST_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.ETXTBSY)


@define(eq=False, slots=False)
class DcmFileHandler(FileHandler):
    """
    Read and write DICOM files below one folder.

    A preamble that a system would run as a program (PE, ELF, Mach-O, scripts) is zeroed in what is written; every
    other byte stays (PS3.10 7.1).
    """

    name: str = "DcmFileHandler"

    def get(self, fn: str, get_pixels: bool = False, force: bool = False) -> Dataset:
        """
        Return a file as a data set, without its pixel data unless asked for.

        ``force`` also takes files without the DICM prefix. Raises ItemNotFound; InvalidItem when it is not DICOM.
        """
        with self.open(fn) as stream:
            return parse(stream, pixels=get_pixels, force=force)

    def put(self, fn: str, data: Dataset | Blob | bytes, *, replace: bool = True) -> str:
        """
        Write a data set, or bytes as they are; return the path below the folder.

        With ``replace=False`` other bytes under the name raise FileExistsError, the same bytes do nothing.
        """
        if not isinstance(data, bytes | bytearray | memoryview | Blob):
            return self.write(fn, lambda out: _save(data, out), replace=replace)
        blob = data if isinstance(data, Blob) else Blob(data)
        if replace:
            return self.write(fn, lambda out: copy(blob, out))
        try:
            if not os.path.lexists(self.root / self.located(fn)):
                return self.write(fn, lambda out: copy(blob, out), replace=False)
        except FileExistsError:
            log.debug("%s: another writer was first", self.name)
        if not self.holds(fn, blob):
            raise FileExistsError
        return self.located(fn)

    def holds(self, fn: str, blob: Blob) -> bool:
        """Tell whether a file has exactly the bytes that writing the blob would give."""
        with self.open(fn) as stream, self.errors():
            if os.fstat(stream.fileno()).st_size != len(blob):
                return False
            return all(stream.read(len(piece)) == piece for piece in cleaned(blob))

    @staticmethod
    def is_dicom(item: object) -> bool:
        """Tell whether a path, bytes or an open file start like DICOM, with the DICM prefix or without."""
        if isinstance(item, Blob):
            with item.open() as stream:
                return header_reader.is_dicom(stream)
        try:
            return header_reader.is_dicom(item)  # type: ignore[arg-type]  # anything else is not DICOM either
        except OSError:
            return False


def parse(stream: BinaryIO, *, pixels: bool = False, force: bool = True) -> Dataset:
    """
    Return a data set read by pydicom; whatever it cannot read raises InvalidItem.

    So do a file that ends before its pixels do, when these are wanted, and a deflated one that inflates to too much:
    pydicom takes the one for whole, and holds all of the other.
    """
    from pydicom import dcmread

    if not header_reader.is_dicom(stream):
        raise InvalidItem("the file is not DICOM")
    deflated = header_reader.read_header(stream, ("SOPInstanceUID",)).transfer_syntax == DEFLATED
    if pixels or deflated:
        whole = check_whole(stream)
        if whole.state == "cut" or (deflated and not whole.ok):
            raise InvalidItem(f"the file is not whole: {whole.reason}")
    try:
        return dcmread(stream, stop_before_pixels=not pixels, force=force)
    except DianaError:
        raise
    except Exception as error:  # noqa: BLE001  # pydicom raises any type for damaged files
        raise InvalidItem(f"the file cannot be read as DICOM ({type(error).__name__})") from None


def pixel_array(ds: Dataset) -> NDArray[Any]:
    """
    Return the decoded pixels, colour as RGB.

    Raises InvalidItem when there are none, when they cannot be decoded, or when they would take more than 512 MiB.
    """
    parent_first("pydicom")
    from pydicom.pixels.processing import apply_color_lut

    try:
        need = int(ds.Rows) * int(ds.Columns) * int(ds.get("SamplesPerPixel") or 1) * int(ds.get("NumberOfFrames") or 1)
        if need * max(1, int(ds.BitsAllocated) // 8) > MAX_PIXELS:
            raise InvalidItem(f"the pixels take more than {MAX_PIXELS} bytes")
        found = ds.pixel_array
        if ds.get("PhotometricInterpretation") == "PALETTE COLOR":
            found = apply_color_lut(found, ds)
    except InvalidItem:
        raise
    except Exception as error:  # noqa: BLE001  # decoders raise any type for damaged or unknown pixel data
        raise InvalidItem(f"the pixels cannot be decoded ({type(error).__name__})") from None
    return found


def runs(start: bytes) -> bool:
    """Tell whether a preamble is the start of a program (CVE-2019-11687)."""
    return start[PREAMBLE : PREAMBLE + 4] == b"DICM" and start.startswith(PROGRAMS)


def cleaned(blob: Blob) -> Iterator[bytes]:
    """Yield the bytes that are written for a blob."""
    for at, piece in enumerate(blob.pieces()):
        yield bytes(PREAMBLE) + piece[PREAMBLE:] if at == 0 and runs(piece) else piece


def copy(blob: Blob, out: BinaryIO) -> None:
    """
    Write a blob to a new file; from one file to another inside the kernel where that can be done.

    Raises IncompleteTransfer when fewer or more bytes came than the blob announces.
    """
    with blob.open() as stream:
        start = stream.read(PREAMBLE + 4)
        stream.seek(0)
        if runs(start):
            out.write(bytes(PREAMBLE))
            stream.seek(PREAMBLE)
            shutil.copyfileobj(stream, out, PIECE)
        elif blob.path is None or not _fast_copy(stream, out):
            shutil.copyfileobj(stream, out, PIECE)
    out.flush()
    if os.fstat(out.fileno()).st_size != len(blob):
        raise IncompleteTransfer("the file changed while it was copied")


def _fast_copy(source: BinaryIO, out: BinaryIO) -> bool:
    """Copy by copy_file_range; False, with nothing written, where the file systems cannot."""
    if not hasattr(os, "copy_file_range"):
        return False
    try:
        source.seek(0)
        at = 0
        while count := os.copy_file_range(source.fileno(), out.fileno(), 1 << 30, at, at):
            at += count
    except OSError as error:
        if error.errno not in NO_FAST_COPY or at:
            raise
        return False
    os.lseek(out.fileno(), at, os.SEEK_SET)
    return at > 0


def _save(ds: Any, out: BinaryIO) -> None:
    """Write a data set; what pydicom cannot write raises InvalidItem."""
    try:
        if runs((getattr(ds, "preamble", None) or b"") + b"DICM"):
            ds.preamble = bytes(PREAMBLE)
        ds.save_as(out, enforce_file_format=True)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  # pydicom raises any type for what it cannot encode
        raise InvalidItem(f"the data set cannot be written ({type(error).__name__})") from None
