"""Read dates that people write."""

from __future__ import annotations

import re
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from diana.exceptions import InvalidItem

if TYPE_CHECKING:
    import dateutil.parser

MAX_LENGTH = 64
# only years that, read as YYMMDD, would name a month that does not exist
_YEAR_AND_MONTH = re.compile("((?:19|20)(?:00|1[3-9]|[2-9][0-9]))(0[1-9]|1[0-2])")


def parse_date(text: str, what: str = "date") -> date | None:
    """
    Return the date that a text says, None for a blank one.

    Takes DICOM dates (PS3.5 6.2, DA), cut ones too ("195005"), and the common forms ("2018-01-02", "1/2/2018" with
    the month first, "January 2, 2018"). A missing day or month is the first, never today's; a year of two digits lies
    in 1975 to 2074. Raises InvalidItem, without the value, for text that names no year or is no date.
    """
    if not text.strip():
        return None
    if len(text) > MAX_LENGTH:
        raise InvalidItem(f"the {what} is not a date")
    cut = _YEAR_AND_MONTH.fullmatch(text.strip())
    if cut:
        return date(int(cut[1]), int(cut[2]), 1)
    # A missing part comes from the default: if the year does, the two answers differ.
    first, second = (_parse(text, datetime(year, 1, 1), what) for year in (2000, 2004))
    if first != second:
        raise InvalidItem(f"the {what} names no year")
    return first


def _parse(text: str, default: datetime, what: str) -> date:
    try:
        return _parser().parse(text, default=default, ignoretz=True).date()
    except (ValueError, OverflowError, TypeError, AttributeError, ArithmeticError):
        # dateutil lets several kinds of error escape from odd texts.
        raise InvalidItem(f"the {what} is not a date") from None


@lru_cache(maxsize=1)
def _parser() -> dateutil.parser.parser:
    from dateutil.parser import parser, parserinfo

    class FixedCentury(parserinfo):
        """Read two-digit years the same way every year."""

        def convertyear(self, year: int, century_specified: bool = False) -> int:
            if century_specified or year >= 100:
                return year
            return year + (2000 if year < 75 else 1900)

    return parser(FixedCentury())
