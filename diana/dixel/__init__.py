"""The thing that endpoints hold: a study, series or instance with its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.utils.dicom.views import DixelView
from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.dixel.dixel import Dixel
    from diana.dixel.hashes import DixelHashes
    from diana.dixel.mock_dixel import MockInstance, MockSeries, MockStudy, reset_mock_seed
    from diana.dixel.report import RadiologyReport
    from diana.dixel.sham_dixel import ShamDixel

__all__ = [
    "Dixel",
    "DixelHashes",
    "DixelView",
    "MockInstance",
    "MockSeries",
    "MockStudy",
    "RadiologyReport",
    "ShamDixel",
    "reset_mock_seed",
]

CTYPES = ("Dixel", "MockInstance", "MockSeries", "MockStudy", "ShamDixel")

__getattr__ = lazy_names(
    __name__,
    {
        "Dixel": ".dixel",
        "DixelHashes": ".hashes",
        "MockInstance": ".mock_dixel",
        "MockSeries": ".mock_dixel",
        "MockStudy": ".mock_dixel",
        "RadiologyReport": ".report",
        "ShamDixel": ".sham_dixel",
        "reset_mock_seed": ".mock_dixel",
    },
)
