"""Fetch from a DICOMweb server: WADO-RS (PS3.18 10.4), in plain values."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from attrs import define, evolve, field

from diana.exceptions import GatewayAnswerError, IncompleteTransfer, InvalidItem, ItemNotFound
from diana.utils.blob import Blob
from diana.utils.dicom.jsonmodel import JsonTags
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways.http import JSON_LIMIT, Answer, HttpClient
from diana.utils.gateways.multipart import CHUNK, Limits, Part, parts_of
from diana.utils.gateways.qido_rs import json_items
from diana.utils.gateways.web_auth import origin_of, path_within

__all__ = ["DICOM", "LARGEST", "OCTETS", "WadoRS"]

DICOM: Final = "application/dicom"
OCTETS: Final = "application/octet-stream"
PICTURES: Final = ("image/jpeg", "image/png", "image/gif", "image/jp2", "video/mpeg", "video/mp4")
LARGEST: Final = 8 << 30
METADATA_LIMIT: Final = 8 * JSON_LIMIT


def accept_line(kind: str, transfer_syntax: str | Sequence[str] = "*") -> str:
    """
    Return the Accept of a multipart answer.

    ``*``: as it is stored; empty: the server's default, which is explicit little endian; else transfer syntaxes, the
    best first.
    """
    wanted = [transfer_syntax] if isinstance(transfer_syntax, str) else list(transfer_syntax) or [""]
    if not all(one in ("", "*") or is_uid(one) for one in wanted):
        raise InvalidItem("a transfer syntax is a UID, or * for the stored one")
    line = f'multipart/related; type="{kind}"'
    return ", ".join(f"{line}; transfer-syntax={one}" if one else line for one in wanted)


@define(eq=False)
class WadoRS:
    """
    Fetch over a client whose base address is the DICOMweb root.

    ``transfer_syntax`` is what instances are asked for in, see ``accept_line``. A part beyond the client's ``spill``
    goes to a temporary file: close its blob. One beyond ``limits`` (8 GiB) is refused. ``chunk`` is the size in bytes
    of the buffer of an answer.
    """

    http: HttpClient
    transfer_syntax: str | Sequence[str] = field(default="*", kw_only=True)
    chunk: int = field(default=CHUNK, kw_only=True)
    limits: Limits = field(factory=partial(Limits, part=LARGEST), kw_only=True)

    def __attrs_post_init__(self) -> None:
        accept_line(DICOM, self.transfer_syntax)

    @property
    def name(self) -> str:
        """Return the name of the service."""
        return self.http.name

    def close(self) -> None:
        """Close kept connections; the gateway may be used again."""
        self.http.close()

    def instances(self, study: str, series: str = "", instance: str = "") -> Generator[Part, None, None]:
        """
        Yield the files of a study, series or instance as they arrive, unchecked.

        Raises ItemNotFound; GatewayConnectionError when the answer ends before its closing boundary;
        IncompleteTransfer at the end when the server says that this is not all (206).
        """
        answer = self._open(self._at(study, series, instance), accept_line(DICOM, self.transfer_syntax))
        if answer.content_type == DICOM:
            with answer:
                yield Part(answer.headers, answer.blob(self.limits.part))
        else:
            yield from self._parts(answer, DICOM)
        if answer.status == 206:
            raise IncompleteTransfer(f"{self.name}: the server says that it gave only a part (206)")

    def exists(self, study: str, series: str = "", instance: str = "") -> bool:
        """Tell whether there is something to fetch; the answer is not read."""
        try:
            self._open(self._at(study, series, instance), accept_line(DICOM, self.transfer_syntax)).close()
        except ItemNotFound:
            return False
        return True

    def metadata(self, study: str, series: str = "", instance: str = "") -> list[JsonTags]:
        """Return the tags of every instance, bulk values as references. Raises ItemNotFound."""
        path = f"{self._at(study, series, instance)}/metadata"
        with self._open(path, "application/dicom+json") as answer:
            found = json_items(answer, METADATA_LIMIT)
            if answer.status == 206:
                raise IncompleteTransfer(f"{self.name}: the server says that it gave only a part (206)")
        if not found:
            raise ItemNotFound(f"{self.name}: there are no instances")
        return found

    def frames(
        self, study: str, series: str, instance: str, numbers: Sequence[int], *, transfer_syntax: str = "*"
    ) -> Iterator[Part]:
        """Yield the pixels of some frames, counted from 1, as they are stored or in a transfer syntax."""
        if not numbers or any(type(one) is not int or one < 1 for one in numbers):
            raise InvalidItem("frames are counted from 1")
        path = f"{self._at(study, series, instance)}/frames/{','.join(map(str, numbers))}"
        answer = self._open(path, accept_line(OCTETS, transfer_syntax))
        count = 0
        for part in self._parts(answer, ""):
            count += 1
            yield part
        if count != len(numbers):
            raise GatewayAnswerError(f"{self.name}: {count} frames came, {len(numbers)} were asked for")

    def rendered(
        self,
        study: str,
        series: str = "",
        instance: str = "",
        *,
        frame: int | None = None,
        accept: str = "image/jpeg",
        parameters: Mapping[str, str] | None = None,
    ) -> Blob:
        """
        Return a picture for a viewer (PS3.18 10.4.1.1.4); ``parameters`` are those of the standard (viewport, window).

        Raises GatewayAnswerError for an answer that is no picture.
        """
        path = self._at(study, series, instance) + ("" if frame is None else f"/frames/{frame:d}") + "/rendered"
        if parameters:
            path += f"?{urlencode(parameters, safe=',')}"
        with self._open(path, accept) as answer:
            if answer.content_type not in PICTURES:
                raise GatewayAnswerError(f"{answer.where}: the answer is no picture", answer.status)
            return answer.blob(self.limits.part)

    def bulkdata(self, uri: str) -> Blob:
        """
        Return what stands behind a BulkDataURI.

        Only the server itself is asked: an address elsewhere raises GatewayAnswerError before any request.
        """
        path = path_within(self.http.base_url, uri)
        scheme, host, port = origin_of(self.http.base_url)
        place = f"[{host}]" if ":" in host else host
        root = evolve(self.http, base_url=f"{scheme}://{place}:{port}")
        try:
            answer = root.request("GET", path, headers={"Accept": f"{accept_line(OCTETS)}, */*;q=0.5"}, absent=True)
            if not answer.content_type.startswith("multipart/"):
                with answer:
                    if answer.content_type == "text/html":
                        raise GatewayAnswerError(f"{answer.where}: the answer is a web page", answer.status)
                    return answer.blob(self.limits.part)
            return self._single(self._parts(answer, ""))
        finally:
            root.close()

    def _single(self, parts: Generator[Part, None, None]) -> Blob:
        found: list[Part] = []
        try:
            with closing(parts):
                for part in parts:
                    found.append(part)
                    if len(found) > 1:
                        break
        except BaseException:
            self._drop(found)
            raise
        if len(found) != 1:
            self._drop(found)
            raise GatewayAnswerError(f"{self.name}: the answer is not a single part")
        return found[0].blob

    @staticmethod
    def _drop(parts: Sequence[Part]) -> None:
        for part in parts:
            part.blob.close()

    def check(self, *, within: float | None = None) -> None:
        """Ask for a study that nobody has. Raises GatewayError when the server does not answer that it has none."""
        options: dict[str, Any] = {"headers": {"Accept": accept_line(DICOM)}, "absent": True, "within": within}
        try:
            self.http.request("GET", "studies/1.2.826.0.1.3680043.10.43.0.404", **options).close()
        except ItemNotFound:
            return

    def _open(self, path: str, accept: str) -> Answer:
        """Return the answer to a request for something; 204 means that there is nothing."""
        answer = self.http.request("GET", path, headers={"Accept": accept}, absent=True)
        if answer.status == 204:
            answer.close()
            raise ItemNotFound(f"{answer.where}: the server has no content for it (204)")
        return answer

    def _parts(self, answer: Answer, kind: str) -> Generator[Part, None, None]:
        parts = parts_of(answer, spill=self.http.spill, folder=self.http.folder, limits=self.limits, chunk=self.chunk)
        with closing(parts):
            for part in parts:
                if kind and part.content_type not in (kind, ""):
                    part.blob.close()
                    raise GatewayAnswerError(f"{answer.where}: a part of the answer is not {kind}", answer.status)
                yield part

    def _at(self, study: str, series: str, instance: str) -> str:
        if not all(is_uid(uid) for uid in (study, series or "1", instance or "1")) or (instance and not series):
            raise ItemNotFound(f"{self.name}: what is asked for is not named by UIDs")
        path = f"studies/{study}"
        path += f"/series/{series}" if series else ""
        return path + (f"/instances/{instance}" if instance else "")
