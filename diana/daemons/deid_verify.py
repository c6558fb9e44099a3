"""Look at what anybody de-identified: markers, attributes that should be gone, identifiers of the originals."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from diana.daemons.deid_custody import CROSSWALK
from diana.deid.engine import Deidentifier
from diana.deid.key import Key
from diana.deid.recipe import Recipe
from diana.deid.scan import Hit, Identifiers, Value, values_of
from diana.exceptions import ConfigError, InvalidItem
from diana.utils.blob import Blob
from diana.utils.dicom import read_header
from diana.utils.files import PART

if TYPE_CHECKING:
    from diana.utils.dicom.header import Header

LEAVING = frozenset(("keep", "code", "term", "number", "age", "text", "clean", "tidy", "walk"))
DATING = frozenset(("keep", "tidy", "shift", "birth", "dummy", "replace"))
MARKS = ("PatientIdentityRemoved", "DeidentificationMethod", "LongitudinalTemporalInformationModified")


@frozen
class Finding:
    """Say where something is wrong in the file of a number, and of which kind it is, never what stands there."""

    file: int
    kind: str
    where: str = ""


@frozen
class Originals:
    """
    Hold what identifies somebody in originals, as far as a recipe takes it away.

    ``kept`` are tags whose text the recipe may leave, ``dated`` those in which it leaves or writes a date.
    """

    found: tuple[Identifiers, ...] = ()
    kept: frozenset[int] = frozenset()
    dated: frozenset[int] = frozenset()

    @staticmethod
    def of(engine: Deidentifier, blobs: Iterable[Blob]) -> Originals:
        """Return what is in some files, together for each character set."""
        values: dict[str, dict[Value, None]] = {}
        kept: set[int] = set()
        dated: set[int] = set()
        for blob in blobs:
            left, gone = _tags(engine, blob, dated)
            found, charset = values_of(blob)
            values.setdefault(charset, {}).update(
                dict.fromkeys(one for one in found if one[0] in gone or one[0] not in left)
            )
            kept |= left
        return Originals(
            tuple(Identifiers.of(one, charset) for charset, one in values.items()), frozenset(kept), frozenset(dated)
        )

    def hits(self, blob: Blob) -> Iterator[Hit]:
        """Yield where something of the originals is in a file."""
        for one in self.found:
            for hit in one.hits(blob, allowed=self.kept):
                if hit.kind not in ("birth", "date") or _last_tag(hit.where) not in self.dated:
                    yield hit


@frozen
class Verifier:
    """
    Check files one by one.

    ``recipe`` says what should be gone. The files in ``against`` are searched for in every file; with ``sources`` (name
    of an output to its original) a file is searched for what was in its own original.
    """

    recipe: Recipe
    against: Path | None = None
    sources: dict[str, str] = field(factory=dict, repr=False)

    def check(self, folder: Path) -> Iterator[tuple[int, list[Finding]]]:
        """Yield number and findings of every file below a folder, in order of name."""
        engine = Deidentifier(self.recipe, Key.ephemeral())
        blobs = () if self.against is None else map(Blob, files_below(self.against))
        originals = Originals.of(engine, blobs)
        for number, path in enumerate(files_below(folder), 1):
            try:
                yield number, list(self._check(engine, number, path, self._own(engine, path, folder) or originals))
            except OSError as error:
                yield number, [Finding(number, "unreadable", error.strerror or "")]

    def _check(self, engine: Deidentifier, number: int, path: Path, originals: Originals) -> Iterator[Finding]:
        blob = Blob(path)
        try:
            with blob.open() as stream:
                head = stream.read(128)
                header = read_header(path, MARKS)
        except InvalidItem:
            yield Finding(number, "not DICOM")
            return
        yield from (Finding(number, "marker", one) for one in _lacking(header))
        if any(head):
            yield Finding(number, "preamble")
        left: Counter[str] = Counter()
        try:
            for step in engine.explain(blob):
                if step.action == "remove" and step.rule.startswith("E.1-1"):
                    left[f"{step.path} {step.name}".strip()] += 1
        except InvalidItem as error:
            yield Finding(number, "refused", getattr(error, "reason", ""))
        yield from (Finding(number, "attribute", one) for one in left)
        yield from (Finding(number, hit.kind, hit.where) for hit in originals.hits(blob))

    def _own(self, engine: Deidentifier, path: Path, folder: Path) -> Originals | None:
        """Return what is in the original of a file, None when that is not known or gone."""
        source = self.sources.get(path.relative_to(folder).as_posix())
        if source is None:
            return None
        try:
            return Originals.of(engine, [Blob(source)])
        except OSError:
            return None


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder in order of name."""
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(base, name)
            if path.is_file() and not (name.startswith(".") and name.endswith(PART)):
                yield path


def sources_in(custody: Path) -> dict[str, str]:
    """Return name of output to path of original, from a crosswalk. Raises ConfigError when there is none."""
    found: dict[str, str] = {}
    try:
        with (custody / CROSSWALK).open() as stream:
            for line in stream:
                row = json.loads(line)
                if row.get("state") == "done" and "member" not in row.get("source", {}):
                    found[row["out"]] = row["source"].get("path", "")
    except (OSError, ValueError, KeyError, AttributeError):
        raise ConfigError("the custodian's folder has no crosswalk that can be read") from None
    return {out: path for out, path in found.items() if path}


def _lacking(header: Header) -> Iterator[str]:
    if header.get("PatientIdentityRemoved", "").strip() != "YES":
        yield "(0012,0062) Patient Identity Removed is not YES"
    if not header.get("DeidentificationMethod", "").strip():
        yield "(0012,0063) De-identification Method is missing"
    if not header.get("LongitudinalTemporalInformationModified", "").strip():
        yield "(0028,0303) Longitudinal Temporal Information Modified is missing"


def _tags(engine: Deidentifier, blob: Blob, dated: set[int]) -> tuple[set[int], set[int]]:
    """Return the tags of a file that the recipe may leave, and takes away, somewhere; add those with dates."""
    left: set[int] = set()
    gone: set[int] = set()
    try:
        for step in engine.explain(blob):
            tag = _last_tag(step.path)
            (left if step.action in LEAVING else gone).add(tag)
            if step.action in DATING:
                dated.add(tag)
    except InvalidItem:
        return set(), set()
    return left, gone


def _last_tag(path: str) -> int:
    """Return the tag at the end of a path, 0 without one."""
    try:
        return int(path.rpartition(".")[2][1:10].replace(",", ""), 16)
    except ValueError:
        return 0
