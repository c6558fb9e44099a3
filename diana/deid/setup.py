"""From a configuration to something that de-identifies: recipe, key and registry, by name or path."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Protocol  # options are YAML

import attrs
from attrs import field, frozen

from diana.deid.key import Key
from diana.deid.pseudonyms import MODES
from diana.deid.recipe import PRESETS, Recipe
from diana.deid.result import Quarantined, Reason, Refused, Result
from diana.exceptions import ConfigError, InvalidItem
from diana.utils.endpoint.serializable import SECRET

if TYPE_CHECKING:
    from diana.deid.audit import Audit
    from diana.deid.pseudonyms import Subject
    from diana.dixel import Dixel
    from diana.utils.blob import Blob

log = logging.getLogger(__name__)

KEY_VARIABLE: Final = "DIANA_DEID_KEY"
SHAM: Final = "sham"
UIDS: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
DESCRIPTIONS: Final = frozenset((0x00081030, 0x0008103E, 0x00200011))
SHAM_WARNING: Final = (
    "the preset 'sham' is no de-identification: its ids are unkeyed hashes of name, birth date and sex, which can be "
    "guessed, and pixels, descriptions and free text stay"
)


class Engine(Protocol):
    """Turn one object into a result."""

    def apply(self, blob: Blob) -> Result:
        """Return what became of an object."""


@frozen
class Setup:
    """
    Say how to de-identify: a preset or the file of a recipe, the file of the key, and a registry.

    Without ``key`` the environment's DIANA_DEID_KEY names the file. ``registry`` is what ``Registry`` takes; without
    one, pseudonyms come from the key alone. With ``audit`` each object is written down there. ``patterns`` is a file of
    what is removed from the text of reports, instead of the patterns that ship. The preset *sham* is the unkeyed
    mapping of ``ShamDixel``, for those who need its ids; it is no de-identification.
    """

    preset: str = "basic"
    recipe: str = ""
    key: str = ""
    registry: str = field(default="", repr=False, metadata=SECRET)
    project: str = "default"
    mode: str = "mint"
    audit: str = ""
    patterns: str = ""

    @staticmethod
    def from_options(options: Mapping[str, Any] | str | None) -> Setup:
        """Return the setup that a mapping, or the name of a preset, describes. Raises ConfigError with all problems."""
        if isinstance(options, str):
            options = {"preset": options}
        if options is not None and not isinstance(options, Mapping):
            raise ConfigError("'deid' takes the name of a preset, or a mapping of options")
        known = [one.name for one in attrs.fields(Setup)]
        problems = []
        for name, value in (options or {}).items():
            if name not in known:
                near = get_close_matches(str(name), known, 1)
                problems.append(f"deid: unknown key {str(name)!r}" + (f", did you mean {near[0]!r}?" if near else ""))
            elif not isinstance(value, str):
                problems.append(f"deid: {name!r} is a text")
        if problems:
            raise ConfigError(problems)
        setup = Setup(**(options or {}))
        if setup.mode not in MODES:
            raise ConfigError(f"deid: 'mode' is one of {', '.join(MODES)}")
        if setup.recipe and "preset" in (options or {}):
            raise ConfigError("deid: 'preset' and 'recipe' exclude each other")
        return setup

    @property
    def is_sham(self) -> bool:
        """Tell whether the compatibility preset is asked for."""
        return self.preset == SHAM and not self.recipe

    def make_recipe(self) -> Recipe:
        """Return the recipe. Raises ConfigError with all its problems, or the known presets."""
        if self.recipe:
            from diana.deid.recipe_files import load

            return load(self.recipe)
        if self.is_sham:
            return Recipe(name=SHAM, mode="profile")
        if self.preset not in PRESETS:
            raise ConfigError(f"unknown preset {self.preset[:40]!r}; known are {', '.join((*PRESETS, SHAM))}")
        return Recipe.preset(self.preset)

    @property
    def key_path(self) -> Path:
        """Return where the key is. Raises ConfigError when none is named."""
        path = self.key or os.environ.get(KEY_VARIABLE, "")
        if not path:
            raise ConfigError(
                f"de-identification needs a key: make one with 'diana-cli deid key make FILE', then name it as 'key' "
                f"or in {KEY_VARIABLE}"
            )
        return Path(path)

    def load_key(self) -> Key:
        """Return the key. Raises ConfigError when none is named, or its file may not be used."""
        return Key.load(self.key_path)

    def engine(self, recipe: Recipe | None = None, key: Key | None = None) -> Engine:
        """Return what de-identifies. Raises ConfigError."""
        if self.is_sham:
            return ShamEngine()
        from diana.deid.engine import Deidentifier

        key = key or self.load_key()
        registry = None
        if self.registry:
            from diana.deid.registry import Registry

            registry = Registry(self.registry, key, self.project, self.mode)
        return Deidentifier(recipe or self.make_recipe(), key, registry)


class ShamEngine:
    """Give objects the sham identity of ``ShamDixel``; a compatibility preset, see its warning."""

    def apply(self, blob: Blob) -> Result:
        """Return the object under its sham identity; the claim of the Basic Profile does not hold."""
        from diana.dixel import Dixel
        from diana.dixel.sham_file import sham_file
        from diana.utils.dicom import read_header

        try:
            with blob.open() as stream:
                header = read_header(stream)
            made = sham_file(Dixel.from_header(header, file=blob))
        except InvalidItem as error:
            return Result("refused", reason="broken", text=str(error))
        ref = made.ref
        return Result(
            "done",
            made.blob,
            sop_uid=ref.instance,
            study_uid=ref.study,
            series_uid=ref.series,
            digest_out="" if made.blob is None else made.blob.digest("sha256"),
        )


class LocalDeid:
    """De-identify dixels on this machine; what may not be released is raised, never returned."""

    def __init__(self, setup: Setup) -> None:
        if setup.is_sham:
            log.warning(SHAM_WARNING)
        from diana.deid.text import load_patterns

        self.setup = setup
        self.recipe = setup.make_recipe()
        self.key = None if setup.is_sham else setup.load_key()
        self.patterns = load_patterns(setup.patterns) if setup.patterns else None
        self._lock = Lock()
        self._engine: Engine | None = None
        self._audit: Audit | None = None

    @property
    def engine(self) -> Engine:
        """Return the engine, made when first asked for."""
        with self._lock:
            if self._engine is None:
                self._engine = self.setup.engine(self.recipe, self.key)
                if self.setup.audit:
                    from diana.deid.audit import Audit

                    self._audit = Audit(self.setup.audit, self.key)
                    self._audit.add(begin_record(self.recipe, self.key))
            return self._engine

    def record(self, what: dict[str, Any]) -> None:
        """Write into the audit, when there is one."""
        if self._audit is not None:
            self._audit.add(what)

    def subject(self, issuer: str, patient_id: str, others: Sequence[tuple[str, str]] = ()) -> Subject:
        """Return who stands for a patient, see ``Deidentifier.subject``. Raises ConfigError for the preset *sham*."""
        from diana.deid.engine import Deidentifier

        engine = self.engine
        if not isinstance(engine, Deidentifier):
            raise ConfigError("the preset 'sham' knows no pseudonyms")
        return engine.subject(issuer, patient_id, others)

    def __call__(self, dixel: Dixel) -> Dixel:
        """
        Return an instance with a new file and the tags of that file.

        Raises Quarantined or Refused with the reason code, InvalidItem without a file.
        """
        from diana.dixel import Dixel
        from diana.utils.dicom import read_header

        if dixel.blob is None:
            raise InvalidItem("the instance came without a file")
        result = self.engine.apply(dixel.blob)
        self.record(audit_record(result))
        if not result.done or result.blob is None:
            kind = Refused if result.state == "refused" else Quarantined
            raise kind(result.reason, f"{result.reason}: {result.text}" if result.text else result.reason)
        with result.blob.open() as stream:
            return Dixel.from_header(read_header(stream), file=result.blob)


def orthanc_map(key: Key, dixel: Dixel) -> dict[str, Any]:
    """
    Return the body of Orthanc's ``/anonymize`` for an instance, with the pseudonym and the UIDs that the key gives.

    They are those of the local engine without a registry. What the table may remove is removed from the top level;
    about all other elements the server's profile decides.
    """
    from diana.deid.pseudonyms import new_uid, subject_of

    tags = {name: str(dixel.tags.get(name) or "") for name in ("IssuerOfPatientID", "PatientID", *UIDS)}
    subject = subject_of(key, tags["IssuerOfPatientID"], tags["PatientID"])
    replaced = {"PatientID": subject.pseudonym, "PatientName": subject.name, "AccessionNumber": ""}
    replaced.update({name: new_uid(key, tags[name]) for name in UIDS if tags[name]})
    return {"Replace": replaced, "Remove": list(_removable()), "Force": True}


@lru_cache(maxsize=1)
def _removable() -> tuple[str, ...]:
    """Return the attributes, but for UIDs, for which the Basic Profile allows removal, as Orthanc writes tags."""
    from diana.deid.tables import rows, vrs

    found = [row.tag for row in rows() if "X" in row.basic and "x" not in row.tag.lower()]
    return tuple(f"{tag[:4]},{tag[4:]}" for tag in found if tag[:4] >= "0008" and vrs().get(int(tag, 16)) != "UI")


def check_left(before: Dixel, after: Dixel, *, is_sham: bool = False) -> None:
    """
    Look in what somebody else de-identified for what identified the patient.

    With ``is_sham`` the unkeyed hashes of the sham identity do not count, and the descriptions that its map keeps only
    where they hold a name, an id, a UID, a birth date or a phone number. Raises Quarantined *leak* with the places,
    InvalidItem without both files.
    """
    from diana.deid.scan import identifiers

    if before.blob is None or after.blob is None:
        raise InvalidItem("the instance came without a file")
    found = identifiers(before.blob).hits(after.blob, allowed=DESCRIPTIONS if is_sham else ())
    hits = [one for one in found if not is_sham or one.kind != "hash"]
    if hits:
        places = sorted({f"{one.kind} in {one.where}" for one in hits})
        raise Quarantined(
            Reason.LEAK, f"{Reason.LEAK}: {len(hits)} places hold what identifies: {', '.join(places[:5])}"
        )


def recipe_digest(recipe: Recipe) -> str:
    """Return 16 hex digits that are the same for the same recipe."""
    data = attrs.asdict(recipe, recurse=True)
    return sha256(json.dumps(data, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def begin_record(recipe: Recipe, key: Key | None, **more: Any) -> dict[str, Any]:
    """Return what an audit says at the start of a run: the table with its edition, the recipe, the key's name."""
    from diana import __version__

    return {
        "event": "run",
        "table": table_name(),
        "version": __version__,
        "recipe": recipe.name,
        "recipe_digest": recipe_digest(recipe),
        "mode": recipe.mode,
        "options": sorted(one.value for one in recipe.options),
        "key": "" if key is None else key.id,
        **more,
    }


def audit_record(result: Result, **more: Any) -> dict[str, Any]:
    """Return what an audit says of one object: new UIDs, counts of actions, reasons; no original value."""
    total: Counter[str] = Counter()
    for counts in result.actions.values():
        total.update(counts)
    record = {
        "event": "instance",
        **more,
        "state": result.state,
        "reason": result.reason,
        "text": result.text,
        "study": result.study_uid,
        "series": result.series_uid,
        "sop": result.sop_uid,
        "sha256": result.digest_out,
        "pixels": result.pixels,
        "claim": result.claim,
        "codes": list(result.codes),
        "actions": dict(total),
    }
    return {key: value for key, value in record.items() if value not in ("", [], {})}


def table_name() -> str:
    """Return the table in use with its edition and checksum, as every report says it."""
    from diana.deid.tables import checksum, edition

    return f"PS3.15 Table E.1-1, edition {edition()}, SHA-256 {checksum()}"


def _plain(value: object) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(str(getattr(one, "value", one)) for one in value)
    return str(getattr(value, "value", value))
