"""Services and routes in one file, made into a Watcher."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any  # a document holds any YAML value until it is checked

from attrs import define, field

from diana.daemons.routes import EVENTS, HANDLERS, mk_route
from diana.daemons.rules import Route
from diana.daemons.steps import Step, bound, deidentify, make_step
from diana.exceptions import ConfigError, DianaError
from diana.ledger.journal import Journal
from diana.ledger.store import Store
from diana.utils.dicom import DicomEventType, Query
from diana.utils.endpoint import ServiceManager, Trigger, Watcher
from diana.utils.endpoint.manager import load_document, substitute

TOP_KEYS = ("services", "routes", "state", "grace")
ROUTE_KEYS = ("name", "source", "event", "when", "steps", "to", "remove_source", "workers")
HANDLER_KEYS = ("handler", "source", "dest")
MAX_GRACE = 86400
EVENT_WORDS = {
    **EVENTS,
    "instance": DicomEventType.INSTANCE_ADDED,
    "study": DicomEventType.STUDY_ADDED,
    "file": DicomEventType.FILE_ADDED,
}


@define
class WatchConfig:
    """Hold what a watch file says: ``state`` is the ledger's folder, ``grace`` the seconds that a stop waits."""

    services: ServiceManager
    routes: list[Route] = field(factory=list)
    handlers: list[tuple[str, str, str | None]] = field(factory=list)
    state: Path | None = None
    grace: float = 30.0


def load_config(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> WatchConfig:
    """
    Read a watch file: ``services``, ``routes``, ``state`` and ``grace``.

    A route is either ``{name, source, event, when, steps, to, remove_source, workers}`` or, with a handler's name,
    ``{handler, source, dest}``. ``${VAR}`` and ``${VAR:-default}`` are replaced in texts. Raises ConfigError with
    every problem of the file.
    """
    origin = Path(path).name
    environ = os.environ if environ is None else environ
    document = load_document(path)
    problems = [_unknown(origin, key, TOP_KEYS) for key in document if key not in TOP_KEYS]
    if not isinstance(document.get("services"), Mapping) or not document["services"]:
        raise ConfigError([*problems, f"{origin}: 'services' names at least one service"])
    config = WatchConfig(ServiceManager.from_mapping(document, origin, environ=environ))
    try:
        rest = substitute({key: document[key] for key in TOP_KEYS[1:] if key in document}, environ)
    except ConfigError as error:
        raise ConfigError([*problems, *(f"{origin}: {one}" for one in error.problems)]) from None
    for key, read in (("state", _read_state), ("grace", _read_grace)):
        try:
            setattr(config, key, read(rest.get(key)))
        except ConfigError as error:
            problems.append(f"{origin}: {error}")
    routes = rest.get("routes") or []
    if not isinstance(routes, list):
        raise ConfigError([*problems, f"{origin}: 'routes' is a list"])
    for at, described in enumerate(routes):
        problems += _add_route(config, described, f"{origin}: route {at + 1}")
    names = [route.name for route in config.routes]
    problems += [
        f"{origin}: two routes are named {name!r}" for name in sorted({one for one in names if names.count(one) > 1})
    ]
    if problems:
        raise ConfigError(problems)
    return config


def make_watcher(
    config: WatchConfig, *, state: str | os.PathLike[str] | None = None, until_idle: bool = False
) -> Watcher:
    """
    Return the Watcher that a configuration describes, its ledger in the folder ``state`` (default: the file's own).

    Raises ConfigError when nothing is to be watched, StateError for a damaged or foreign ledger.
    """
    journal = Journal(Store(state if state is not None else config.state))
    watcher = Watcher(journal=journal, grace=config.grace, until_idle=until_idle)
    for trigger in make_triggers(config, journal):
        watcher.add_trigger(trigger)
    if not watcher.triggers:
        raise ConfigError("no routes: nothing is to be watched")
    return watcher


def make_triggers(config: WatchConfig, journal: Journal) -> Iterable[Trigger]:
    """Yield the triggers of every route and named handler of a configuration."""
    for route in config.routes:
        yield from route.triggers(journal.receipts)
    for hname, source, dest in config.handlers:
        get = config.services.get
        yield mk_route(hname, get(source), None if dest in (None, "-") else get(str(dest)), book=journal.receipts)


def _add_route(config: WatchConfig, described: Any, where: str) -> list[str]:
    """Add one route to the configuration; return what is wrong with it."""
    if not isinstance(described, Mapping):
        return [f"{where}: is a mapping"]
    if "name" in described and isinstance(described["name"], str):
        where = f"{where} ({described['name']})"
    if "handler" in described:
        return [f"{where}: {one}" for one in _add_handler(config, described)]
    problems = [_unknown(where, key, ROUTE_KEYS) for key in described if key not in ROUTE_KEYS]
    found: dict[str, Any] = {}
    for key, read in READERS.items():
        try:
            found[key] = read(config, described.get(key))
        except DianaError as error:
            problems += [f"{where}: {one}" for one in str(error).splitlines()]
    if not problems and found["remove_source"] and len(found["to"]) > 1:
        problems.append(f"{where}: 'remove_source' needs a single destination")
    if not problems:
        try:
            found["steps"] = [bound(step, found["source"]) for step in found["steps"]]
        except ConfigError as error:
            problems.append(f"{where}: {error}")
    if not problems:
        found["evtype"] = found.pop("event")
        config.routes.append(Route(**found))
    return problems


def _add_handler(config: WatchConfig, described: Mapping[str, Any]) -> list[str]:
    problems = [_unknown("handler", key, HANDLER_KEYS) for key in described if key not in HANDLER_KEYS]
    hname, source, dest = (described.get(key) for key in HANDLER_KEYS)
    if not isinstance(hname, str) or hname not in HANDLERS:
        near = get_close_matches(str(hname), HANDLERS, 1)
        return [*problems, f"unknown handler {hname!r}" + (f", did you mean {near[0]!r}?" if near else "")]
    for key, name in (("source", source), ("dest", dest)):
        if key == "source" or (name not in (None, "-")):
            try:
                config.services.get(str(name))
            except DianaError as error:
                problems.append(str(error))
    if not problems and not hasattr(config.services.get(str(source)), "source_id"):
        problems.append(f"the source of {hname} cannot be watched")
    if not problems and HANDLERS[str(hname)].anonymize:
        try:
            deidentify()
        except ConfigError as error:
            problems += error.problems
    if not problems:
        config.handlers.append((str(hname), str(source), None if dest is None else str(dest)))
    return problems


def _read_name(_: WatchConfig, value: Any) -> str:
    if not isinstance(value, str) or not value or ":" in value:
        raise ConfigError(
            "'name' is a word without a colon; it must stay the same, because the ledger knows the route by it"
        )
    return value


def _read_source(config: WatchConfig, value: Any) -> Any:
    source = config.services.get(_service_name("source", value))
    if not hasattr(source, "source_id"):
        # what the file calls it may be a shortcut with a password
        raise ConfigError(f"{source.name!r} ({type(source).__name__}) cannot be watched")
    return source


def _read_event(_: WatchConfig, value: Any) -> DicomEventType:
    word = str(value or "instances").lower()
    if word not in EVENT_WORDS:
        raise ConfigError(f"unknown event {word!r}; use instance, series, study or file")
    return EVENT_WORDS[word]


def _read_when(_: WatchConfig, value: Any) -> Query:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError("'when' maps DICOM keywords to what they must be")
    query = Query(value)
    query.check_keywords()
    return query


def _read_steps(_: WatchConfig, value: Any) -> list[Step]:
    if value is not None and not isinstance(value, list):
        raise ConfigError("'steps' is a list")
    return [make_step(one) for one in value or ()]


def _read_to(config: WatchConfig, value: Any) -> list[Any]:
    names = value if isinstance(value, list) and value else [value]
    found = [config.services.get(_service_name("to", name)) for name in names]
    unable = [one.name for one in found if not one.can("put")]
    if unable:
        raise ConfigError(f"nothing can be put into {', '.join(unable)}")
    if len({one.name for one in found}) < len(found):
        raise ConfigError("'to' names a destination twice")
    return found


def _read_remove(_: WatchConfig, value: Any) -> bool:
    if value not in (None, True, False):
        raise ConfigError("'remove_source' is true or false")
    return bool(value)


def _read_workers(_: WatchConfig, value: Any) -> int:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64):
        raise ConfigError("'workers' is a number from 1 to 64")
    return value or 4


def _read_state(value: Any) -> Path | None:
    if value in (None, ""):
        return None
    if not isinstance(value, str) or "\0" in value:
        raise ConfigError("'state' is the path of a folder")
    return Path(value)


def _read_grace(value: Any) -> float:
    try:
        found = 30.0 if value is None else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if isinstance(value, bool) or not 0 <= found <= MAX_GRACE:
        raise ConfigError(f"'grace' is a number of seconds, from 0 to {MAX_GRACE}")
    return found


def _service_name(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key!r} names a service")
    return value


READERS = {
    "name": _read_name,
    "source": _read_source,
    "event": _read_event,
    "when": _read_when,
    "steps": _read_steps,
    "to": _read_to,
    "remove_source": _read_remove,
    "workers": _read_workers,
}


def _unknown(where: str, key: Any, known: Iterable[str]) -> str:
    near = get_close_matches(str(key), list(known), 1)
    return f"{where}: unknown key {str(key)!r}" + (f", did you mean {near[0]!r}?" if near else "")
