"""Text files, in UTF-8."""

from __future__ import annotations

from attrs import define

from diana.exceptions import InvalidItem
from diana.utils.gateways.file_handlers._handler import FileHandler

MAX_TEXT = 64 << 20


@define(eq=False, slots=False)
class TextFileHandler(FileHandler):
    """Read and write texts below one folder."""

    def put(self, fn: str, data: str) -> str:
        """Write a text as it is, line ends included (lone surrogates become "?"); return its path below the folder."""
        return self.write(fn, lambda out: out.write(data.encode("utf-8", "replace")))

    def get(self, fn: str) -> str:
        """Return a text. Raises ItemNotFound; InvalidItem when it is not UTF-8 or larger than 64 MiB."""
        with self.open(fn) as stream, self.errors():
            data = stream.read(MAX_TEXT + 1)
        if len(data) > MAX_TEXT:
            raise InvalidItem(f"{self.name}: the text is larger than {MAX_TEXT} bytes")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidItem(f"{self.name}: the text is not UTF-8") from None
