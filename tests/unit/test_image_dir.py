"""ImageDir: names, levels and pixel values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diana.apis.image_dir import ImageDir
from diana.dixel import Dixel, ShamDixel
from diana.exceptions import Conflict, InvalidItem
from diana.utils.dicom import DicomLevel
from tests.contract import samples

pytest.importorskip("PIL", reason="pictures need the extra 'images'")


@pytest.fixture
def study() -> Dixel:
    """A study of two series with two instances each."""
    items = list(samples.instances(1, 2, 2))
    top = samples.above(items[0], DicomLevel.STUDIES)
    top.tags["AccessionNumber"] = items[0].tags["AccessionNumber"]
    top.children = items
    return top


def test_a_study_is_put_by_its_instances_and_found_by_its_name(tmp_path: Path, study: Dixel) -> None:
    pictures = ImageDir(str(tmp_path))
    assert pictures.put(study) == "GEN000000"
    wanted = [f"GEN000000-{series:04}-{number:04}.png" for series in (1, 2) for number in (1, 2)]
    assert sorted(one.name for one in tmp_path.iterdir()) == wanted
    assert pictures.get("GEN000000", view="meta").meta["Images"] == 4
    assert pictures.get("GEN000000-0002", level="series", view="meta").meta["Images"] == 2
    assert pictures.exists("GEN00000") is False
    assert pictures.delete("GEN000000-0002", level="series") is True
    assert pictures.delete(study) is True
    assert pictures.exists(study) is False


@pytest.mark.parametrize("accession", ["A/B", "../../up", "ACC 1", "é"])
def test_an_odd_accession_number_stays_inside(tmp_path: Path, accession: str) -> None:
    (tmp_path / "in").mkdir()
    pictures = ImageDir(str(tmp_path / "in"))
    item = samples.instance(AccessionNumber=accession)
    fn = pictures.put(item)
    assert [one.name for one in (tmp_path / "in").iterdir()] == [fn]
    assert pictures.exists(item)


def test_values_are_rescaled_and_monochrome1_is_inverted(tmp_path: Path) -> None:
    pictures = ImageDir(str(tmp_path))
    found = []
    for n, kind in enumerate(("MONOCHROME2", "MONOCHROME1")):
        item = samples.instance(n, PhotometricInterpretation=kind, RescaleSlope=2, RescaleIntercept=-1024)
        item.tags.update(Rows=2, Columns=2)
        item.pixels = np.array([[0, 512], [1024, 2047]], np.uint16)
        fn = pictures.put(item)
        found.append(pictures.get(fn, view="pixels").pixels)
    assert found[0].tolist() == [[0, 63], [127, 254]]
    assert found[1].tolist() == [[254, 191], [127, 0]]


def test_another_picture_under_the_same_numbers_is_a_conflict(tmp_path: Path) -> None:
    pictures = ImageDir(str(tmp_path))
    item = samples.instance()
    fn = pictures.put(item)
    before = (tmp_path / fn).read_bytes()
    item.pixels = np.full((8, 8), 900, np.uint16)
    item.pixels[0, 0] = 0
    with pytest.raises(Conflict):
        pictures.put(item)
    assert (tmp_path / fn).read_bytes() == before


def test_the_sham_preset_takes_the_name_of_the_sham(tmp_path: Path) -> None:
    pictures = ImageDir(str(tmp_path), anonymizing=True, deid="sham")
    item = samples.instance()
    assert pictures.put(item) == f"{ShamDixel.from_dixel(item).image_base_fn}.png"
    assert "GEN" not in str(next(tmp_path.iterdir()).name)
    assert pictures.exists(item)


def test_without_pixels_or_numbers_it_is_refused(tmp_path: Path) -> None:
    pictures = ImageDir(str(tmp_path))
    empty = samples.instance()
    empty.blob = None
    nameless = Dixel(tags={"AccessionNumber": "A"}, level=DicomLevel.INSTANCES)
    for item in (empty, nameless, samples.study()):
        with pytest.raises(InvalidItem):
            pictures.put(item)
