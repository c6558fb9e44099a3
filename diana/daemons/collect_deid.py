"""De-identification within a collection: the ledger is the registry, and the worklist may choose pseudonyms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any, Final  # described steps are YAML

import attrs
from attrs import define, field, frozen

from diana.daemons.steps import Deidentify, Step
from diana.deid.engine import Deidentifier
from diana.deid.key import Key
from diana.deid.recipe import Recipe
from diana.deid.registry import Entry, Registry
from diana.deid.result import Quarantined, Reason
from diana.deid.setup import Engine, LocalDeid, Setup
from diana.dixel import Dixel
from diana.exceptions import ConfigError, InvalidItem
from diana.ledger import Store
from diana.utils.dicom import read_header

WORD: Final = "deid"
PATIENT: Final = ("IssuerOfPatientID", "PatientID")


@frozen
class LedgerSetup(Setup):
    """Say how to de-identify with the ledger ``store`` as the registry, unless another one is named."""

    store: Store | None = field(default=None, kw_only=True, repr=False)

    @classmethod
    def of(cls, setup: Setup, store: Store, project: str) -> LedgerSetup:
        """Return a setup in the ledger; its pseudonyms are those of the project unless the options name another."""
        given = {one.name: getattr(setup, one.name) for one in attrs.fields(Setup)}
        return cls(**{**given, "project": project if setup.project == "default" else setup.project}, store=store)

    def engine(self, recipe: Recipe | None = None, key: Key | None = None) -> Engine:
        """Return what de-identifies. Raises ConfigError."""
        if self.is_sham or self.registry:
            return Setup.engine(self, recipe, key)
        key = key or self.load_key()
        return Deidentifier(recipe or self.make_recipe(), key, Registry(self.store, key, self.project, self.mode))


def options_of(described: Any) -> tuple[bool, Any]:
    """Tell whether a described step de-identifies on this machine, and return its options."""
    if described == WORD:
        return True, None
    if isinstance(described, Mapping) and set(described) == {WORD}:
        return True, described[WORD]
    return False, None


def make_deid(options: Any, store: Store, project: str) -> Deidentify:
    """Return the step ``deid`` of a collection. Raises ConfigError when the key is missing."""
    return Deidentify(LocalDeid(LedgerSetup.of(Setup.from_options(options), store, project)))


def registry_of(steps: Iterable[Step]) -> Registry | None:
    """Return the registry that the steps give pseudonyms from, if there is one."""
    for step in steps:
        if isinstance(step, Deidentify):
            registry = getattr(step.local.engine, "registry", None)
            return registry if isinstance(registry, Registry) else None
    return None


@define(eq=False)
class Choose:
    """
    Enter the pseudonym that the worklist chose for the patient of each instance into the registry.

    An instance does not go on when the patient has another pseudonym there, or the pseudonym belongs to another
    patient.
    """

    registry: Registry = field(repr=False)
    pseudonym: str = field(repr=False)
    name: str = "pseudonym"
    _entered: set[tuple[str, str]] = field(init=False, factory=set, repr=False)
    _lock: Lock = field(init=False, factory=Lock, repr=False)

    def __call__(self, dixel: Dixel) -> Dixel:
        """Return the instance. Raises Quarantined *conflict*, InvalidItem without a file."""
        if dixel.blob is None:
            raise InvalidItem("the instance came without a file")
        with dixel.blob.open() as stream:
            tags = dict(read_header(stream, tags=PATIENT).items())
        patient = str(tags.get("IssuerOfPatientID") or ""), str(tags.get("PatientID") or "")
        with self._lock:
            if patient not in self._entered:
                self._enter(*patient)
                self._entered.add(patient)
        return dixel

    def _enter(self, issuer: str, patient_id: str) -> None:
        if not patient_id.strip():
            raise Quarantined(Reason.CONFLICT, "the worklist chose a pseudonym, but the instance names no patient")
        try:
            self.registry.add([Entry(patient_id, self.pseudonym)])
        except ConfigError:
            raise Quarantined(
                Reason.CONFLICT,
                "conflict: the registry has another pseudonym for the patient, or another patient with the pseudonym",
            ) from None
        found = self.registry.lookup(issuer, patient_id)
        if found is None or found.pseudonym != self.pseudonym:
            raise Quarantined(Reason.CONFLICT, "conflict: the registry has another pseudonym for the patient")


@define(eq=False)
class Noted:
    """Run one step for one study; note which instances it drops and the patient ids that it gives."""

    step: Step
    dropped: set[str] = field(factory=set, repr=False)
    patients: set[str] = field(factory=set, repr=False)

    @property
    def name(self) -> str:
        """Return the name of the step."""
        return self.step.name

    def __call__(self, dixel: Dixel) -> Dixel | None:
        """Do what the step does."""
        made = self.step(dixel)
        if made is None:
            self.dropped.add(str(dixel.tags.get("SOPInstanceUID") or ""))
        else:
            self.patients.add(str(made.tags.get("PatientID") or ""))
        return made


def pseudonym_given(steps: Iterable[Noted]) -> str:
    """Return the pseudonym under which the instances of a study went on, when it is one."""
    for noted in steps:
        if isinstance(noted.step, Deidentify) and len(noted.patients) == 1:
            return next(iter(noted.patients))
    return ""
