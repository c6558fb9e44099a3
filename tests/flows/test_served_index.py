"""A folder served with its index answers as one without: DICOMweb, C-FIND, and the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from diana.apis import DcmDir, DicomQR
from diana.dixel import Dixel
from diana.server.scp import DicomFace
from diana.utils.gateways.multipart_write import OutPart, body_pieces, content_type
from tests.contract import samples
from tests.helpers import wait_for

pytest.importorskip("uvicorn")

STUDIES = 7


def items() -> Iterator[Dixel]:
    """Yield seven studies of two series, CT, MR or US, the second series SR in some."""
    yield from samples.instances(STUDIES, 2, 3)
    for number in (0, 3):
        yield samples.instance(number, 5, 0, Modality="SR", SeriesDescription="REPORT")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shelf = DcmDir(str(tmp_path / "archive"), durable=False)
    for item in items():
        shelf.put(item)
    return tmp_path / "archive"


@pytest.fixture
def indexed(folder: Path) -> Iterator[DcmDir]:
    found = DcmDir(str(folder), index=True)
    yield found
    found.close()


@pytest.fixture
def faces(folder: Path, indexed: DcmDir) -> Iterator[tuple[str, str]]:
    from diana.server import HttpFace

    with HttpFace(DcmDir(str(folder))) as plain, HttpFace(indexed) as quick:
        yield f"{plain.url}/dicom-web", f"{quick.url}/dicom-web"


def rows(root: str, path: str) -> list[Any]:
    answer = requests.get(f"{root}/{path}")
    assert answer.status_code == 200, answer.text
    return sorted((json.loads(answer.text.replace(root, ""))), key=repr)


ASKED = [
    "studies",
    "studies?PatientName=generated^*&includefield=all",
    "studies?ModalitiesInStudy=SR",
    "studies?ModalitiesInStudy=CT&StudyDate=20200101-20200630",
    "studies?Modality=SR",
    f"studies?SeriesInstanceUID={samples.uid(1, 6)}&includefield=Manufacturer",
    f"studies?StudyInstanceUID={samples.uid(1)},{samples.uid(3)},{samples.uid(99)}",
    "studies?AccessionNumber=GEN00000?",
    "series?Modality=MR",
    "series?ModalitiesInStudy=SR",
    f"studies/{samples.uid(2)}/series",
    f"series?SOPInstanceUID={samples.uid(2, 1, 1)}",
    "instances?InstanceNumber=2",
    "instances?BitsStored=12&includefield=BitsStored",
    f"studies/{samples.uid(2)}/instances?includefield=all",
    f"studies/{samples.uid(2)}/series/{samples.uid(2, 2)}/instances",
    "instances?PatientID=NOBODY",
]


@pytest.mark.parametrize("path", ASKED)
def test_qido_answers_the_same_with_and_without_index(faces: tuple[str, str], path: str) -> None:
    plain, quick = (rows(root, path) for root in faces)
    assert quick == plain
    assert bool(quick) == ("NOBODY" not in path)


def test_counts_are_those_of_the_whole_study(faces: tuple[str, str]) -> None:
    for path in ("studies", "studies?Modality=SR", "studies?ModalitiesInStudy=SR"):
        (found,) = [one for one in rows(faces[1], path) if one["0020000D"]["Value"] == [samples.uid(1)]]
        assert found["00080061"]["Value"] == ["CT", "SR"]
        assert [found[tag]["Value"] for tag in ("00201206", "00201208")] == [[3], [7]]
    (found,) = rows(faces[1], f"series?SOPInstanceUID={samples.uid(2, 1, 1)}")
    assert found["00201209"]["Value"] == [3]


@pytest.mark.parametrize(
    ("path", "tag", "count"),
    [("studies", "0020000D", STUDIES), ("series", "0020000E", 16), ("instances", "00080018", 44)],
)
def test_pages_give_everything_once(faces: tuple[str, str], path: str, tag: str, count: int) -> None:
    found = []
    for offset in range(0, count + 5, 5):
        page = rows(faces[1], f"{path}?limit=5&offset={offset}")
        assert len(page) == max(0, min(5, count - offset))
        found += [one[tag]["Value"][0] for one in page]
    assert len(set(found)) == count


def test_what_is_stored_or_removed_is_known_to_the_next_search(faces: tuple[str, str], folder: Path) -> None:
    item = samples.instance(50)
    path = f"studies?StudyInstanceUID={samples.uid(51)}"
    assert rows(faces[1], path) == []
    body = b"".join(body_pieces([OutPart(item.file or b"", {"Content-Type": "application/dicom"})], "b0"))
    headers = {"Content-Type": content_type("b0", "application/dicom")}
    for root in faces:  # the other server stores the same, and another file later
        assert requests.post(f"{root}/studies", data=body, headers=headers).status_code == 200
        assert len(rows(faces[1], path)) == 1
    (folder / f"{samples.uid(51, 1, 1)}.dcm").unlink()
    assert rows(faces[1], path) == []
    (folder / "deep").mkdir()
    (folder / "deep" / "x").write_bytes(item.file or b"")
    assert len(rows(faces[1], path)) == 1


def test_retrieved_files_are_those_stored(faces: tuple[str, str], indexed: DcmDir) -> None:
    stored = {one.tags["SOPInstanceUID"]: one.file for one in items()}
    study, series, uid = samples.uid(4), samples.uid(4, 1), samples.uid(4, 1, 2)
    answer = requests.get(
        f"{faces[1]}/studies/{study}/series/{series}/instances/{uid}",
        headers={"Accept": "application/dicom; transfer-syntax=*"},
    )
    assert answer.content == stored[uid]
    pulled = {one.tags["SOPInstanceUID"]: one.file for one in indexed.pull(study, level="studies")}
    assert pulled == {uid: file for uid, file in stored.items() if uid.startswith(f"{study}.")}


def test_c_find_answers_the_same_with_and_without_index(folder: Path, indexed: DcmDir) -> None:
    asked = [
        ({"PatientName": "generated*"}, "studies"),
        ({"ModalitiesInStudy": "SR"}, "studies"),
        ({"StudyInstanceUID": samples.uid(1)}, "series"),
        ({"StudyInstanceUID": samples.uid(1), "SeriesInstanceUID": samples.uid(1, 6)}, "instances"),
    ]
    answers = []
    for shelf in (DcmDir(str(folder)), indexed):
        with DicomFace(shelf, port=0) as face:
            client = DicomQR(host="127.0.0.1", port=face.port, aec="DIANA")
            fields = {"studies": ["NumberOfStudyRelatedInstances", "ModalitiesInStudy", "StudyDate"]}
            answers.append(
                [
                    sorted(
                        repr(sorted(one.tags.items()))
                        for one in client.find(match, level=level, fields=fields.get(level, ()))
                    )
                    for match, level in asked
                ]
            )
    assert answers[0] == answers[1]
    assert [len(one) for one in answers[1]] == [STUDIES, 2, 3, 1]


@pytest.mark.parametrize("option", ["--index", "--no-index", None])
def test_the_command_keeps_an_index_unless_told_not_to(folder: Path, option: str | None) -> None:
    command = [
        sys.executable,
        "-m",
        "diana_cli",
        "serve",
        f"path:{folder}",
        "--http",
        "0",
        *([option] if option else []),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            root = json.loads(process.stdout.readline())["http"] + "/dicom-web"
            assert len(rows(root, "studies")) == STUDIES
            if option != "--no-index":
                wait_for((folder / ".diana" / "index.sqlite").exists, 60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert (folder / ".diana").exists() == (option != "--no-index")
