"""What endpoints that fetch offer to users of the trolley: data sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any  # Any: objects of several kinds

if TYPE_CHECKING:
    from pydicom import Dataset


class Downloader:
    """Give an endpoint that pulls the trolley's way to ask for data sets."""

    def datasets(self, objects: Any) -> Iterator[Dataset]:
        """
        Yield each instance of one or several objects or references as a pydicom data set.

        Raises NonInstanceParameterError or NonSeriesParameterError for what is not deep enough, and as ``pull`` does.
        """
        from diana.apis.trolley import Trolley

        # mixed into endpoints only
        return Trolley(downloader=self).fetch_all_datasets(objects)  # type: ignore[arg-type]
