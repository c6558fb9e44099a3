"""A Montage report archive in memory, which speaks its JSON in pages."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from diana.dixel import Dixel
from tests.fakes.archive_server import ArchiveServer

Page = tuple[int, str, bytes]
CODES = {"7": {"code": "71020", "anatomies": ["/api/v1/anatomy/3/"]}, "8": {"code": "74177", "anatomies": []}}
ANATOMIES = {
    "3": {"label": "LUNG", "parent": "/api/v1/anatomy/2/"},
    "2": {"label": "CHEST", "parent": "/api/v1/anatomy/1/"},
    "1": {"label": "BODY", "parent": None},
    "5": {"label": "RING", "parent": "/api/v1/anatomy/5/"},
}


def report(item: Dixel, text: str = "FINDINGS: none.") -> dict[str, Any]:
    """Return the JSON of one report."""
    tags = item.tags
    last, _, first = str(tags.get("PatientName", "Test^Generated")).partition("^")
    provider = {"provider": {"name": "Reader, A"}, "date": "2024-01-02T10:00:00"}
    return {
        "accession_number": tags["AccessionNumber"],
        "patient_mrn": tags.get("PatientID", "TEST1"),
        "patient_last_name": last,
        "patient_first_name": first,
        "patient_sex": tags.get("PatientSex", "O"),
        "patient_age": 54,
        "patient_status": "O",
        "organization": {"label": "Example"},
        "exam_type": {
            "code": "X1",
            "description": tags.get("StudyDescription", "CHEST"),
            "modality": {"label": tags.get("Modality", "CR")},
            "cpts": ["/api/v1/cptcode/7/"],
        },
        "events": [provider, provider],
        "text": text,
    }


class MontageServer(ArchiveServer):
    """
    Hold reports.

    ``lie`` announces that many more results than there are, ``junk`` adds results that are none, ``largest`` is the
    longest page. ``change`` gets each decoded answer with the words of the request and returns what is sent instead.
    ``wait`` holds every answer back until it is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, dict[str, Any]] = {}
        self.lie = 0
        self.junk = 0
        self.largest = 200
        self.change: Callable[[Any, Mapping[str, str]], Any] | None = None
        self.wait: threading.Event | None = None

    @property
    def searches(self) -> list[dict[str, str]]:
        """Return the words of every search that came."""
        return [_words(path) for path in self.paths if "/search/" in path]

    def add(self, item: Dixel, text: str = "FINDINGS: none.") -> None:
        """Store a report."""
        self.rows[str(item.tags["AccessionNumber"])] = report(item, text)

    @property
    def port(self) -> int:
        """Return the port."""
        return int(self.base.rpartition(":")[2])

    def respond(self, method: str, target: str, kind: str, body: bytes) -> Page:
        """Answer a request, when it is time and as ``change`` wants it."""
        if self.wait is not None:
            self.wait.wait(30)
        status, media, content = self._answer(method, target)
        if self.change is not None and status == 200:
            return _json(self.change(json.loads(content), _words(target)))
        return status, media, content

    def _answer(self, method: str, target: str) -> Page:
        parts = urlsplit(target)
        words = parts.path.strip("/").split("/")
        asked = _words(target)
        if words[:2] != ["api", "v1"] or method != "GET":
            return 404, "text/html", b"no"
        if words[2:] == ["index"]:
            return _json({"rad": "/api/v1/index/rad/"})
        if words[2:3] == ["index"] and words[4:] == ["search"]:
            return self._search(asked) if words[3] == "rad" else (404, "application/json", b"{}")
        for word, known in (("cptcode", CODES), ("anatomy", ANATOMIES)):
            if words[2:3] == [word]:
                return _json(known[words[3]]) if words[3] in known else (404, "application/json", b"{}")
        return 404, "application/json", b"{}"

    def _search(self, asked: dict[str, str]) -> Page:
        rows = [row for row in self.rows.values() if _fits(row, asked)]
        rows += [{"accession_number": "X"}] * self.junk
        first, count = int(asked.get("offset", "0")), min(int(asked.get("limit", "20")), self.largest)
        meta = {"total_count": len(rows) + self.lie, "offset": first, "limit": count}
        return _json({"meta": meta, "objects": rows[first : first + count]})


def _words(target: str) -> dict[str, str]:
    return {key: values[-1] for key, values in parse_qs(urlsplit(target).query).items()}


def _fits(row: dict[str, Any], asked: dict[str, str]) -> bool:
    day = row["events"][0]["date"][:10]
    word = asked.get("q", "").strip('"').lower()
    inside = asked.get("start_date", "0") <= day <= asked.get("end_date", "9")
    return inside and word in f"{row['accession_number']} {row['text']}".lower()


def _json(data: Any) -> Page:
    return 200, "application/json", json.dumps(data).encode()
