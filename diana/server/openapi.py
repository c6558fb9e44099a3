"""What the server says of itself: OpenAPI 3.0."""

from __future__ import annotations

from typing import Any, Final  # Any: JSON

from diana import __version__

JSON: Final = "application/dicom+json"
PROBLEM: Final = {
    "description": "what is wrong",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["title", "status"],
                "properties": {
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                },
            }
        }
    },
}
UID: Final = {"type": "string", "maxLength": 64, "pattern": r"^[0-9]+(\.[0-9]+)*$"}
WHOLE: Final = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
SEARCH: Final = (
    ("limit", WHOLE), ("offset", WHOLE), ("includefield", {"type": "string"}), ("fuzzymatching", {"type": "boolean"}),
    ("StudyInstanceUID", UID), ("SeriesInstanceUID", UID), ("SOPInstanceUID", UID), ("PatientID", {"type": "string"}),
    ("PatientName", {"type": "string"}), ("AccessionNumber", {"type": "string"}), ("StudyDate", {"type": "string"}),
    ("ModalitiesInStudy", {"type": "string"}), ("Modality", {"type": "string"}),
)  # fmt: skip
MINT: Final = (
    ("QueryLevel", {"type": "string", "enum": ["STUDY", "SERIES", "INSTANCE"]}), ("IncludeFields", {"type": "string"}),
    ("limit", WHOLE), ("minStudyDate", {"type": "string"}), ("maxStudyDate", {"type": "string"}), *SEARCH[4:10],
)  # fmt: skip
URI: Final = (
    ("requestType", {"type": "string", "enum": ["WADO"]}), ("studyUID", UID), ("seriesUID", UID), ("objectUID", UID),
    ("contentType", {"type": "string"}), ("transferSyntax", UID), ("frameNumber", WHOLE),
    ("windowCenter", {"type": "number"}), ("windowWidth", {"type": "number"}), ("rows", WHOLE), ("columns", WHOLE),
)  # fmt: skip
PICTURE: Final = (
    ("viewport", {"type": "string"}), ("window", {"type": "string"}), ("quality", WHOLE),
)  # fmt: skip

Row = tuple[str, str, str, tuple[tuple[str, dict[str, Any]], ...]]


def _rows() -> list[Row]:
    study, dicom = "/dicom-web/studies/{study}", 'multipart/related; type="application/dicom"'
    series = f"{study}/series/{{series}}"
    instance = f"{series}/instances/{{instance}}"
    at_all = (study, series, instance)
    return [
        *(
            (path, "search", JSON, SEARCH)
            for path in (
                "/dicom-web/studies",
                "/dicom-web/series",
                "/dicom-web/instances",
                f"{study}/series",
                f"{study}/instances",
                f"{series}/instances",
            )
        ),
        *((path, "retrieve", dicom, ()) for path in at_all),
        *((f"{path}/metadata", "retrieve metadata", JSON, ()) for path in at_all),
        *((f"{path}/rendered", "retrieve a picture", "image/jpeg", PICTURE) for path in at_all),
        *((f"{path}/thumbnail", "retrieve a small picture", "image/jpeg", PICTURE) for path in at_all),
        (f"{instance}/frames/{{frames}}", "retrieve frames", "multipart/related", ()),
        (f"{instance}/frames/{{frames}}/rendered", "retrieve a picture", "image/jpeg", PICTURE),
        (f"{instance}/bulkdata/{{path}}", "retrieve bulk data", "application/octet-stream", ()),
        ("/wado", "retrieve (WADO-URI)", "application/dicom", URI),
        ("/mint/studies", "search (MINT)", "text/xml", MINT),
        ("/mint/studies/{study}/DICOM/metadata", "retrieve metadata (MINT)", "text/xml", ()),
        ("/mint/studies/{study}/DICOM/binaryitems/{item}", "retrieve (MINT)", "application/octet-stream", ()),
        ("/healthz", "tell whether the archive answers", "application/json", ()),
        ("/openapi.json", "tell about this server", "application/json", ()),
    ]


def _parameters(path: str, query: tuple[tuple[str, dict[str, Any]], ...]) -> list[dict[str, Any]]:
    named = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    other: dict[str, dict[str, Any]] = {
        "frames": {"type": "string"},
        "path": {"type": "string"},
        "item": {"type": "string"},
    }
    found = [{"name": name, "in": "path", "required": True, "schema": other.get(name, UID)} for name in named]
    return found + [{"name": name, "in": "query", "schema": schema} for name, schema in query]


def _answers(kind: str) -> dict[str, Any]:
    return {"200": {"description": "the answer", "content": {kind: {}}}, "default": PROBLEM}


def _upload(summary: str, path: str, kind: str, answer: str) -> dict[str, Any]:
    """Describe an upload; of the forms in parts, which many tools cannot make, only the words speak."""
    return {
        "summary": summary,
        "description": "multipart/related is taken too",
        "parameters": _parameters(path, ()),
        "requestBody": {"required": True, "content": {kind: {"schema": {"type": "string", "format": "binary"}}}},
        "responses": _answers(answer),
    }


def document() -> dict[str, Any]:
    """Return the description of every path."""
    paths: dict[str, dict[str, Any]] = {}
    for path, summary, kind, query in _rows():
        answers = _answers(kind)
        paths.setdefault(path, {})["get"] = {
            "summary": summary,
            "parameters": _parameters(path, query),
            "responses": answers,
        }
    for path in ("/dicom-web/studies", "/dicom-web/studies/{study}"):
        paths[path]["post"] = _upload("store", path, "*/*", JSON)
    paths["/rad69"] = {"post": _upload("retrieve (RAD-69)", "/rad69", "text/xml", "multipart/related")}
    return {
        "openapi": "3.0.3",
        "info": {"title": "DIANA", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            }
        },
        "security": [{}, {"basic": []}, {"bearer": []}],
    }
