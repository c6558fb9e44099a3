"""The engine of the de-identification applied to made-up data sets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diana.deid import Deidentifier, Key, Option, Recipe
from diana.deid.result import Result
from diana.utils.blob import Blob
from tests.fakes.deid_files import EXPLICIT, read, to_bytes

KEY = Key(b"k" * 32)


def item(**values: Any) -> Any:
    """Return a data set with some values, for a sequence."""
    from pydicom.dataset import Dataset

    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def sequence(items: Iterable[Any]) -> Any:
    """Return a sequence of items."""
    from pydicom.sequence import Sequence

    return Sequence(list(items))


def deid(ds: Any, recipe: Recipe | None = None, syntax: str = EXPLICIT) -> Result:
    """Return what the engine makes of a data set with the key ``KEY``."""
    return Deidentifier(recipe or Recipe(), KEY).apply(Blob(to_bytes(ds, syntax)))


def treated(ds: Any, recipe: Recipe | None = None, syntax: str = EXPLICIT) -> Any:
    """Return the output of the engine as a data set; it must be released."""
    result = deid(ds, recipe, syntax)
    assert result.done, (result.reason, result.text)
    assert result.blob is not None
    return read(result.blob.read())


def with_options(*options: Option | str, **more: Any) -> Recipe:
    """Return a recipe with some options of PS3.15."""
    return Recipe(name="test", options=options, **more)
