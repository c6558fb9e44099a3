"""The dictionary of attributes says what pydicom says, and is there without pydicom."""

from __future__ import annotations

import subprocess
import sys

import pytest

from diana.utils.dicom import dictionary
from tests.helpers import REPO


def test_every_attribute_is_as_pydicom_has_it() -> None:
    from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_dict, keyword_for_tag

    assert {tag: tuple(one) for tag, one in dictionary.entries().items()} == DicomDictionary
    for tag in DicomDictionary:
        assert dictionary.keyword_of(tag) == keyword_for_tag(tag)
        assert dictionary.vr_of(tag) == dictionary_VR(tag).split(" or ")[0]
    assert dictionary.keywords() == {word: tag for word, tag in keyword_dict.items() if word}


@pytest.mark.parametrize("tag", [0x60003000, 0x60223000, 0x50003000, 0x00203100, 0x00280410, 0x60013000, 0x00097770])
def test_repeating_groups_are_as_pydicom_has_them(tag: int) -> None:
    from pydicom.datadict import dictionary_VR, keyword_for_tag

    assert dictionary.keyword_of(tag) == keyword_for_tag(tag)
    try:
        assert dictionary.vr_of(tag) == dictionary_VR(tag).split(" or ")[0]
    except KeyError:
        assert dictionary.vr_of(tag) == ""


def test_what_is_unknown_is_nothing() -> None:
    assert dictionary.tag_of("NoSuchKeyword") is None
    assert dictionary.tag_of("") is None
    assert (dictionary.vr_of("NoSuchKeyword"), dictionary.vr_of(0x00111010), dictionary.keyword_of(-1)) == ("", "", "")


def test_pydicom_is_not_loaded_for_it() -> None:
    code = (
        "import sys; from diana.utils.dicom import dictionary, Query\n"
        "assert dictionary.vr_of('PatientName') == 'PN'\n"
        "Query({'Modality': 'CT'}).check_keywords()\n"
        "assert 'pydicom' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
