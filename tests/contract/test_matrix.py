"""Every endpoint stands in the matrix, does what its row says, and the README tells the same."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import diana.apis
from diana.utils.dicom import DixelView
from diana.utils.endpoint import Endpoint
from tests.contract.matrix import MATRIX, VERBS, VIEWS
from tests.helpers import REPO


def class_of(ctype: str) -> type[Any]:
    found = getattr(diana.apis, ctype)
    assert inspect.isclass(found)
    return found


@pytest.mark.parametrize("ctype", diana.apis.CTYPES)
def test_every_endpoint_stands_in_the_matrix(ctype: str) -> None:
    assert (ctype in MATRIX) == issubclass(class_of(ctype), Endpoint)


@pytest.mark.parametrize("ctype", MATRIX)
def test_every_row_names_a_public_class(ctype: str) -> None:
    assert ctype in diana.apis.CTYPES
    assert class_of(ctype).__name__ == ctype


@pytest.mark.parametrize("ctype", MATRIX)
def test_can_agrees_with_the_matrix(ctype: str) -> None:
    cls = class_of(ctype)
    assert {verb for verb in VERBS if cls.can(verb)} == MATRIX[ctype].verbs


@pytest.mark.parametrize("ctype", MATRIX)
def test_views_agree_with_the_matrix(ctype: str) -> None:
    views = class_of(ctype).views
    assert {str(part) for part in views.parts()} == MATRIX[ctype].views


@pytest.mark.parametrize("ctype", MATRIX)
def test_an_endpoint_without_get_has_no_views(ctype: str) -> None:
    assert ("get" in MATRIX[ctype].verbs) == bool(MATRIX[ctype].views)


@pytest.mark.parametrize("ctype", MATRIX)
def test_every_row_has_a_contract_class(ctype: str) -> None:
    wanted = MATRIX[ctype].contract or ctype
    sources = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert re.search(rf"^class Test{wanted}\w*\(.*Contract\):", sources, re.M), f"no TestClass for {wanted}"


def test_the_words_of_the_matrix_are_known() -> None:
    names = {str(part) for part in DixelView(31).parts()}
    assert set(VIEWS) == names
    for row in MATRIX.values():
        assert row.verbs <= set(VERBS)
        assert row.views <= names


def test_the_readme_is_in_step() -> None:
    tool = runpy.run_path(str(REPO / "tools" / "capability_table.py"))
    text = (REPO / "README.md").read_text(encoding="utf-8")
    assert tool["BEGIN"] in text, tool["HOW"]
    assert tool["with_table"](text) == text, "run: python tools/capability_table.py"
