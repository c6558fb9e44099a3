"""What is looked for: one language for ``find``, for the ``when`` of routes and for filters."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any  # tag values may be of any type

from attrs import evolve, field, frozen

from diana.exceptions import ConfigError, Unsupported
from diana.utils.dicom import matching
from diana.utils.dicom.dictionary import keywords
from diana.utils.dicom.levels import DicomLevel, as_level

GROUPS = ("any", "all", "not")
MAX_DEPTH = 16


@frozen
class Clause:
    """Say of one key of a query whether an object met it. Holds no values, so that it may be shown."""

    key: str
    met: bool
    present: bool

    def __str__(self) -> str:
        if self.met:
            return f"{self.key}: matches"
        return f"{self.key}: does not match" if self.present else f"{self.key}: the object has no such value"


def _frozen_copy(match: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(match or {})


@frozen
class Query:
    """
    Ask for objects by DICOM keyword.

    Each value of ``match`` is one of: a text (``*`` and ``?`` are wildcards, a backslash or a list means any of,
    ``A-B`` is a range for dates and times, ``>2`` ``<=5`` compare numbers), a date, a number, or empty: then the key
    is not matched but asked for (PS3.4 C.2.2.2). The lower-case keys ``all``, ``any`` (lists of such mappings) and
    ``not`` (one mapping) combine them; wire protocols do not know these and refuse them. Names of persons match
    whatever the case. ``fields`` are more keywords to return; ``limit`` ends the search early on purpose.
    """

    match: Mapping[str, Any] = field(factory=dict, converter=_frozen_copy, repr=lambda match: str(sorted(match)))
    level: DicomLevel = field(default=DicomLevel.STUDIES, converter=as_level)
    limit: int | None = field(default=None, kw_only=True)
    fields: Sequence[str] = field(default=(), kw_only=True)

    def at(self, level: DicomLevel) -> Query:
        """Return the same question at another level."""
        return evolve(self, level=level)

    def keywords(self) -> set[str]:
        """Return every DICOM keyword that occurs, groups included."""
        return set(_keywords(self.match)) | set(self.fields)

    def wire(self) -> dict[str, str]:
        """
        Return the keys as the DICOM texts that a wire protocol sends, empty for keys that are only asked for.

        Raises Unsupported for groups and comparisons, which only the local predicate knows.
        """
        texts = dict.fromkeys(self.fields, "")
        for key, wanted in self.match.items():
            if key in GROUPS:
                raise Unsupported(f"the group {key!r} cannot be sent to a server")
            if matching.is_comparison(wanted):
                raise Unsupported(f"the comparison for {key} cannot be sent to a server")
            texts[key] = matching.wire_text(wanted)
        return texts

    def matches(self, tags: Mapping[str, Any]) -> bool:
        """Tell whether a set of tags (keyword to value, several values as list) is what is looked for."""
        return all(_met(key, wanted, tags) for key, wanted in self.match.items())

    def explain(self, tags: Mapping[str, Any]) -> list[Clause]:
        """Return for each key, groups unrolled with their path, whether the tags meet it."""
        return list(_explain(self.match, tags, ""))

    def check_keywords(self) -> None:
        """Raise ConfigError naming each key that is no DICOM keyword, with the nearest one that is."""
        problems = list(_group_problems(self.match))
        if not problems and (self.match or self.fields):
            for key in sorted(self.keywords()):
                if key not in keywords():
                    near = get_close_matches(key, keywords(), 1)
                    hint = f", did you mean {near[0]!r}?" if near else ""
                    problems.append(f"unknown DICOM keyword {key!r}{hint}")
        if problems:
            raise ConfigError(problems)


def _group_problems(match: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Yield what is wrong with the shape of the groups, at every depth."""
    if depth > MAX_DEPTH:
        yield f"groups are nested more than {MAX_DEPTH} deep"
        return
    for key, wanted in match.items():
        if not isinstance(key, str):
            yield "a key is a DICOM keyword, 'any', 'all' or 'not'"
        elif key in GROUPS:
            inner = [wanted] if key == "not" else wanted
            if not isinstance(inner, list | tuple) or not all(isinstance(one, Mapping) for one in inner):
                yield f"{key!r} takes " + ("one mapping" if key == "not" else "a list of mappings")
            else:
                for one in inner:
                    yield from _group_problems(one, depth + 1)
        elif isinstance(wanted, Mapping) or (
            isinstance(wanted, list | tuple) and any(isinstance(one, Mapping | list | tuple) for one in wanted)
        ):
            yield f"{key} is matched by a value or a list of values"


def _keywords(match: Mapping[str, Any]) -> Iterator[str]:
    for key, wanted in match.items():
        if key in GROUPS:
            for inner in [wanted] if key == "not" else wanted:
                yield from _keywords(inner)
        else:
            yield key


def _met(key: str, wanted: Any, tags: Mapping[str, Any]) -> bool:
    if key == "not":
        return not Query(wanted).matches(tags)
    if key == "any":
        return any(Query(one).matches(tags) for one in wanted)
    if key == "all":
        return all(Query(one).matches(tags) for one in wanted)
    return matching.met(key, wanted, tags.get(key))


def _explain(match: Mapping[str, Any], tags: Mapping[str, Any], path: str) -> Iterator[Clause]:
    for key, wanted in match.items():
        if key in GROUPS:
            yield Clause(path + key, _met(key, wanted, tags), present=True)
            for at, inner in enumerate([wanted] if key == "not" else wanted):
                yield from _explain(inner, tags, f"{path}{key}[{at}]." if key != "not" else f"{path}not.")
        else:
            yield Clause(path + key, _met(key, wanted, tags), present=not matching.is_blank(tags.get(key)))


def today(days_ago: int = 0) -> str:
    """Return a DICOM date (YYYYMMDD) counted back from today, for use in a query."""
    return (dt.date.today() - dt.timedelta(days=days_ago)).strftime("%Y%m%d")
