"""What may happen to an instance on its way: steps of a transfer, by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
)  # Any: options are the step's own, a server is an Orthanc by what it can do

from attrs import evolve, field, frozen

from diana.dixel import Dixel
from diana.exceptions import ConfigError, InvalidItem
from diana.utils.dicom import Query, read_header

if TYPE_CHECKING:
    from diana.deid.key import Key
    from diana.deid.setup import LocalDeid

log = logging.getLogger(__name__)


class Step(Protocol):
    """Change an instance on its way; None drops it."""

    @property
    def name(self) -> str:
        """Return the word that the receipt shows."""

    def __call__(self, dixel: Dixel) -> Dixel | None:
        """Return the instance as it goes on, or None. Raises InvalidItem when it must not go on."""


@frozen
class Filter:
    """Let pass only the instances whose tags a query describes."""

    query: Query
    name: str = field(default="filter")

    def __call__(self, dixel: Dixel) -> Dixel | None:
        """Return the instance when it is what the query looks for."""
        return dixel if self.query.matches(tags_of(dixel, self.query)) else None


@frozen
class Pseudonymize:
    """
    Give the instance the stable sham identity of its patient (see ``ShamDixel``).

    This is a pseudonym for routing between trusted systems, unkeyed and without a look at private or free text; it is
    no de-identification by PS3.15.
    """

    name: str = field(default="pseudonymize")

    def __call__(self, dixel: Dixel) -> Dixel | None:
        """Return a new instance with the sham identity in tags and file."""
        from diana.dixel.sham_file import sham_file

        return sham_file(dixel)


@frozen(eq=False)
class Deidentify:
    """
    De-identify the instance on this machine, see ``diana.deid``; what may not be released does not go on.

    ``local`` holds recipe, key and registry.
    """

    local: LocalDeid
    name: str = field(default="deid")

    def __call__(self, dixel: Dixel) -> Dixel | None:
        """Return the de-identified instance. Raises Quarantined or Refused with the reason code."""
        return self.local(dixel)


@frozen
class ServerAnonymize:
    """
    Let the Orthanc that holds an instance de-identify it, with the pseudonym and UIDs that a key gives.

    Without ``key``, for the preset *sham*, it is the ShamDixel's replacement map, whose ids are unkeyed hashes. The
    server's own profile decides about everything else, and leaves more than ``Deidentify`` does. The answer is the new
    file; nothing is stored there. It is searched for what identified the patient, and does not go on with a hit.
    ``server`` is the route's own source when it is None.
    """

    server: Any = None
    name: str = field(default="server_anonymize")
    key: Key | None = field(default=None, repr=False)

    def __call__(self, dixel: Dixel) -> Dixel | None:
        """Return the de-identified instance. Raises Quarantined with the places of what was left."""
        from diana.deid.setup import check_left, orthanc_map
        from diana.dixel.sham_dixel import ShamDixel

        if self.key is not None:
            wanted = orthanc_map(self.key, dixel)
        else:
            wanted = ShamDixel.from_dixel(dixel, wide=True).orthanc_sham_map()
        found: Dixel = self.server.anonymize(dixel, replacement_map=wanted)
        check_left(dixel, found, is_sham=self.key is None)
        return found


def tags_of(dixel: Dixel, query: Query) -> Mapping[str, Any]:
    """Return the tags that a query needs, reading the header of the file for those that the dixel does not hold."""
    absent = [keyword for keyword in query.keywords() if keyword not in dixel.tags]
    if not absent or dixel.blob is None:
        return dixel.tags
    try:
        with dixel.blob.open() as stream:
            header = read_header(stream, tags=absent)
    except InvalidItem:
        return dixel.tags
    return {**dixel.tags, **dict(header.items())}


def _filter(options: Any) -> Filter:
    if not isinstance(options, Mapping):
        raise ConfigError("the step 'filter' takes a mapping of DICOM keywords to what they must be")
    query = Query(options)
    query.check_keywords()
    return Filter(query)


def _pseudonymize(options: Any) -> Pseudonymize:
    if options not in (None, {}):
        raise ConfigError("the step 'pseudonymize' takes no options")
    return Pseudonymize()


def deidentify(options: Any = None) -> Step:
    """
    Return the step that de-identifies by a preset's name or by options, see ``diana.deid.setup.Setup``.

    Raises ConfigError when the key is missing.
    """
    from diana.deid.setup import LocalDeid, Setup

    return Deidentify(LocalDeid(Setup.from_options(options)))


def server_anonymize(options: Any = None, server: Any = None) -> ServerAnonymize:
    """
    Return the step that lets a server de-identify; ``options`` are those of ``deidentify``, of which the key counts.

    With the preset *sham* the ids are those of ``ShamDixel``. Raises ConfigError when the key is missing.
    """
    from diana.deid.setup import SHAM_WARNING, Setup

    setup = Setup.from_options(options)
    if setup.is_sham:
        log.warning(SHAM_WARNING)
    return ServerAnonymize(server, key=None if setup.is_sham else setup.load_key())


STEPS: Mapping[str, Callable[[Any], Step]] = {
    "deid": deidentify,
    "filter": _filter,
    "pseudonymize": _pseudonymize,
    "server_anonymize": server_anonymize,
}


def make_step(described: Any) -> Step:
    """
    Return the step that a word, or a mapping of one word to its options, names.

    Raises ConfigError with the nearest known word.
    """
    name, options = described, None
    if isinstance(described, Mapping) and len(described) == 1:
        ((name, options),) = described.items()
    maker = STEPS.get(name) if isinstance(name, str) else None
    if maker is None:
        if not isinstance(name, str):
            # what it holds may be the values of a query
            raise ConfigError("a step is a word, or a mapping of one word to its options")
        near = get_close_matches(name, STEPS, 1)
        raise ConfigError(f"unknown step {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    return maker(options)


def bound(step: Step, source: Any) -> Step:
    """Return a step that works at a route's own source. Raises ConfigError when the source cannot do it."""
    if not isinstance(step, ServerAnonymize) or step.server is not None:
        return step
    if not hasattr(source, "anonymize"):
        raise ConfigError(f"the step 'server_anonymize': {source.name} cannot anonymize")
    return evolve(step, server=source)
