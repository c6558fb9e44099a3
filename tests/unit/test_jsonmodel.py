"""The DICOM JSON model: to tags and back, and what is not of its form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from diana.exceptions import InvalidItem
from diana.utils.dicom.jsonmodel import JsonTags, to_model
from tests.contract import samples


def tags(model: dict[str, Any]) -> dict[str, Any]:
    return JsonTags(model).as_dict()


def test_an_instance_comes_back_from_pydicoms_json() -> None:
    ds = samples.dataset(PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", OtherPatientNames=["A^B", "C^D"])
    found = JsonTags(json.loads(ds.to_json()))
    assert found["PatientName"] == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert found["OtherPatientNames"] == ["A^B", "C^D"]
    assert found["Rows"] == 8
    assert found["StudyDate"] == "20200111"
    assert "PixelData" not in found
    assert found.binary("PixelData") == ds.PixelData
    assert found.dataset() == ds
    assert tags(to_model(found.as_dict())) == found.as_dict()


def test_sequences_are_lists_of_mappings() -> None:
    inner = {"00080100": {"vr": "SH", "Value": ["C1"]}, "00080104": {"vr": "LO", "Value": ["Meaning"]}}
    model = {"00081032": {"vr": "SQ", "Value": [inner, {}]}}
    assert tags(model) == {"ProcedureCodeSequence": [{"CodeValue": "C1", "CodeMeaning": "Meaning"}, {}]}
    assert to_model(tags(model)) == model


@pytest.mark.parametrize(
    ("element", "value"),
    [
        ({"vr": "IS", "Value": [3]}, 3),
        ({"vr": "IS", "Value": ["3"]}, 3),
        ({"vr": "IS", "Value": [3.0]}, 3),
        ({"vr": "IS", "Value": ["3x"]}, "3x"),
        ({"vr": "DS", "Value": ["1.50"]}, 1.5),
        ({"vr": "DS", "Value": [1, 2]}, [1.0, 2.0]),
        ({"vr": "DS", "Value": [1, None]}, [1.0, ""]),
        ({"vr": "LO", "Value": [7]}, "7"),
        ({"Value": [4]}, 4),
    ],
    ids=repr,
)
def test_numbers_are_numbers_where_they_can_be(element: dict[str, Any], value: Any) -> None:
    assert tags({"00200013": element}) == {"InstanceNumber": value}


@pytest.mark.parametrize(
    "element", [{"vr": "LO"}, {"vr": "LO", "Value": []}, {"vr": "LO", "Value": [None]}, {"vr": "LO", "Value": None}]
)
def test_empty_elements_are_left_out_and_known_by_name(element: dict[str, Any]) -> None:
    found = JsonTags({"00081030": element})
    assert "StudyDescription" not in found
    assert len(found) == 0
    assert found.names("StudyDescription")


def test_private_and_unknown_elements_are_left_out() -> None:
    assert tags({"00091001": {"vr": "LO", "Value": ["x"]}, "00080003": {"vr": "LO", "Value": ["x"]}}) == {}


def test_bulk_data_are_named_by_their_address() -> None:
    model = {"7fe00010": {"vr": "OW", "BulkDataURI": "http://h/bulk/1"}, "00091001": {"vr": "UN", "BulkDataURI": "b"}}
    assert JsonTags(model).bulk() == {"PixelData": "http://h/bulk/1", "00091001": "b"}
    assert tags(model) == {}
    assert isinstance(JsonTags(model).dataset(), Dataset)


@pytest.mark.parametrize(
    "model",
    [
        None,
        [],
        "text",
        {"StudyDate": {"vr": "DA"}},
        {"0008,0020": {"vr": "DA"}},
        {"00080020": "20200101"},
        {"00080020": None},
        {"00080020": {"vr": ["DA"], "Value": ["20200101"]}},
        {"00080020": {"vr": "DA", "Value": "20200101"}},
        {"00080020": {"vr": "DA", "Value": {"a": 1}}},
        {"00080020": {"vr": "DA", "Value": [["20200101"]]}},
        {"00080020": {"vr": "DA", "Value": [True]}},
        {"00100010": {"vr": "PN", "Value": [{"Alphabetic": 3}]}},
        {"00081032": {"vr": "SQ", "Value": ["x"]}},
    ],
    ids=repr,
)
def test_what_is_not_of_the_form_raises(model: Any) -> None:
    with pytest.raises(InvalidItem):
        tags(model)


def test_endless_nesting_raises() -> None:
    model: dict[str, Any] = {"00080100": {"vr": "SH", "Value": ["x"]}}
    for _ in range(100):
        model = {"00081032": {"vr": "SQ", "Value": [model]}}
    for read in (tags, lambda one: JsonTags(one).dataset()):
        with pytest.raises(InvalidItem):
            read(model)


def test_damaged_inline_bytes_raise() -> None:
    with pytest.raises(InvalidItem):
        JsonTags({"7FE00010": {"vr": "OW", "InlineBinary": "%%%"}}).binary("PixelData")


def test_values_never_show() -> None:
    assert "Planted" not in repr(JsonTags({"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Planted"}]}}))


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["00080020", "00100010", "00081032", "vr", "Value", "Alphabetic", "x"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_gives_tags_or_an_error_of_the_tree(found: Any) -> None:
    try:
        tags(found)
    except InvalidItem:
        return
