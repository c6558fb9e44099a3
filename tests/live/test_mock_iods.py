"""Mock images are valid, and real programs read them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from random import Random

import pytest
from pydicom import dcmread

from diana.dixel import MockStudy, ShamDixel
from diana.dixel.mock_dixel import MockInstance
from diana.utils.dicom import DicomLevel
from tests.helpers import which
from tests.servers import OrthancServer

pytestmark = pytest.mark.live

MODALITIES = ("CT", "MR", "CR", "US")
WHEN = datetime(2018, 1, 1, 8)


def kinds(modality: str) -> Iterator[MockInstance]:
    """Yield one instance of every kind of series, body part and contrast that some studies show."""
    seen = set()
    for seed in range(40):
        study = MockStudy(study_datetime=WHEN, modality=modality, matrix=32, rng=Random(seed))
        for series in study.children:
            one = series.children[0]
            assert isinstance(one, MockInstance)
            words = one.tags["StudyDescription"].split()
            kind = (one.tags["SeriesDescription"].split()[0], words[2], words[3])
            if kind not in seen:
                seen.add(kind)
                yield one


@pytest.fixture(params=MODALITIES)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """One file of every kind of a modality."""
    written = []
    for number, one in enumerate(kinds(request.param)):
        one.gen_file()
        path = tmp_path / f"{number:04}.dcm"
        path.write_bytes(one.file or b"")
        written.append(path)
    assert len(written) > 20
    return written


def run(program: str, *arguments: str | Path) -> str:
    """Return what a program says, on both outputs."""
    path = which(program)
    if path is None:
        pytest.skip(f"{program} is absent")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_dciodvfy_finds_no_error(files: list[Path]) -> None:
    for path in files:
        said = run("dciodvfy", path)
        assert not [line for line in said.splitlines() if line.startswith(("Error", "Warning"))], path.name


def test_dcmtk_reads_them(files: list[Path]) -> None:
    assert run("dcmftest", *files).count("yes:") == len(files)
    for path in files[:8]:
        said = run("dcmdump", "+P", "SOPInstanceUID", path)
        assert str(dcmread(path).SOPInstanceUID) in said
        assert "W:" not in said
        assert "E:" not in said


def test_pydicom_reads_their_pixels(files: list[Path]) -> None:
    for path in files:
        pixels = dcmread(path).pixel_array
        assert pixels.max() > pixels.min()


@pytest.mark.parametrize("modality", MODALITIES)
def test_orthanc_stores_them_under_the_predicted_id_and_draws_them(clean_orthanc: OrthancServer, modality: str) -> None:
    for one in list(kinds(modality))[:12]:
        stored = one.as_stored()
        assert stored.file is not None
        assert clean_orthanc.upload(stored.file)["ID"] == one.oid() == stored.oid()
        picture = clean_orthanc.rest("GET", f"/instances/{one.oid()}/preview")
        assert picture[:4] == b"\x89PNG"


def test_study_is_found_by_its_stored_accession_number(clean_orthanc: OrthancServer) -> None:
    study = MockStudy(study_datetime=WHEN, modality="CR", rng=Random(5))
    stored = [one.as_stored() for one in study.instances() if isinstance(one, MockInstance)]
    for one in stored:
        clean_orthanc.upload(one.file or b"")
    query = {"AccessionNumber": stored[0].tags["AccessionNumber"]}
    assert clean_orthanc.rest("POST", "/tools/find", {"Level": "Study", "Query": query}) == [study.oid()]


@pytest.mark.parametrize("level", [DicomLevel.STUDIES, DicomLevel.SERIES, DicomLevel.INSTANCES])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dated", [True, False])
def test_orthanc_makes_the_sham_that_was_foretold(
    clean_orthanc: OrthancServer, level: DicomLevel, wide: bool, dated: bool
) -> None:
    study = MockStudy(study_datetime=WHEN, modality="CR", rng=Random(6))
    one = next(iter(study.instances()))
    assert isinstance(one, MockInstance)
    clean_orthanc.upload(one.as_stored().file or b"")
    tags = dict(one.tags) if dated else {key: value for key, value in one.tags.items() if key != "StudyDate"}
    tags = tags if dated else {key: value for key, value in tags.items() if not key.endswith("Date")}
    sham = ShamDixel(tags={**tags, "PatientBirthDate": "19700101"}, level=level, wide=wide)
    body = sham.orthanc_sham_map()
    answer = clean_orthanc.rest("POST", f"/{level}/{one.parent_oid(level)}/anonymize", body)
    if level == DicomLevel.INSTANCES:
        made = clean_orthanc.upload(answer)["ID"]
        assert made == sham.sham_oid()
    else:
        assert sham.sham_parent_oid() in clean_orthanc.ids("studies")
        assert answer["ID"] == sham.sham_oid()
