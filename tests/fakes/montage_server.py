"""A Montage report archive in memory, which speaks its JSON in pages."""

from __future__ import annotations

import json
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
    """Hold reports; ``lie`` announces that many more results than there are, ``junk`` adds results that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, dict[str, Any]] = {}
        self.lie = 0
        self.junk = 0

    def add(self, item: Dixel, text: str = "FINDINGS: none.") -> None:
        """Store a report."""
        self.rows[str(item.tags["AccessionNumber"])] = report(item, text)

    @property
    def port(self) -> int:
        """Return the port."""
        return int(self.base.rpartition(":")[2])

    def respond(self, method: str, target: str, kind: str, body: bytes) -> Page:
        """Answer a request."""
        parts = urlsplit(target)
        words = parts.path.strip("/").split("/")
        asked = {key: values[-1] for key, values in parse_qs(parts.query).items()}
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
        first, count = int(asked.get("offset", "0")), int(asked.get("limit", "20"))
        meta = {"total_count": len(rows) + self.lie, "offset": first, "limit": count}
        return _json({"meta": meta, "objects": rows[first : first + count]})


def _fits(row: dict[str, Any], asked: dict[str, str]) -> bool:
    day = row["events"][0]["date"][:10]
    word = asked.get("q", "").strip('"').lower()
    inside = asked.get("start_date", "0") <= day <= asked.get("end_date", "9")
    return inside and word in f"{row['accession_number']} {row['text']}".lower()


def _json(data: Any) -> Page:
    return 200, "application/json", json.dumps(data).encode()
