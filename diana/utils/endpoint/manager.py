"""Endpoints by name: from a services file, or from a shortcut such as ``path:/data``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any  # constructor arguments may be of any type

from attrs import define, field

from diana.exceptions import ConfigError, DianaError
from diana.utils.endpoint import shortcuts
from diana.utils.endpoint.documents import Document, Place, load_document, parse_document, substitute, substituted
from diana.utils.endpoint.fields import field_problems, fitted
from diana.utils.endpoint.registry import Factory, class_of

if TYPE_CHECKING:
    from diana.utils.endpoint.endpoint import Endpoint

__all__ = ["Document", "ServiceManager", "load_document", "parse_document", "services_of", "substitute"]


def services_of(document: Mapping[str, Any]) -> tuple[Place, Any]:
    """Return where the services of a document are, and them: under ``services``, or the whole document."""
    inner = document.get("services")
    if "services" in document and not (isinstance(inner, Mapping) and "ctype" in inner):
        return ("services",), inner if inner is not None else {}
    return (), document


@define(eq=False)
class ServiceManager:
    """
    Make the endpoints that a file describes, each when it is first asked for, once.

    The file maps names to ``{ctype: class, argument: value, ...}``, at the top or under ``services``; the name becomes
    the endpoint's name. ``descriptions`` are checked, with variables filled in and texts converted to the types of the
    arguments.
    """

    descriptions: Mapping[str, Mapping[str, Any]] = field(factory=dict, repr=lambda found: str(sorted(found)))
    origin: str = ""
    environ: Mapping[str, str] | None = field(default=None, repr=False)
    _made: dict[str, Endpoint] = field(init=False, factory=dict, repr=False)
    _lock: Any = field(init=False, factory=RLock, repr=False)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> ServiceManager:
        """Read a YAML file. Raises ConfigError with all its problems."""
        return cls.from_mapping(load_document(Path(path)), str(path), environ)

    @classmethod
    def from_text(cls, text: str, origin: str = "text", environ: Mapping[str, str] | None = None) -> ServiceManager:
        """Read a YAML text. Raises ConfigError with all its problems."""
        return cls.from_mapping(parse_document(text, origin), origin, environ)

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Any], origin: str = "", environ: Mapping[str, str] | None = None
    ) -> ServiceManager:
        """Take a document or a mapping of descriptions. Raises ConfigError with all problems, each on a line."""
        place, services = services_of(mapping)
        if not isinstance(services, Mapping):
            raise ConfigError(f"{_where(mapping, origin, place)}services is not a mapping of names to descriptions")
        problems: list[str] = []
        good: dict[str, Mapping[str, Any]] = {}
        for name, desc in services.items():
            found = _checked(str(name), desc, environ)
            for key, problem in found.problems:
                where = _where(mapping, origin, (*place, str(name), *key), (*place, str(name)))
                problems.append(f"{where}{name}: {problem}")
            good[str(name)] = found.desc
        if problems:
            raise ConfigError(problems)
        return cls(good, origin, environ)

    @classmethod
    def merged(cls, managers: Sequence[ServiceManager]) -> ServiceManager:
        """Return one manager for the services of several; the last wins where names meet."""
        together: dict[str, Mapping[str, Any]] = {}
        for manager in managers:
            together.update(manager.descriptions)
        environ = managers[-1].environ if managers else None
        return cls(together, ", ".join(manager.origin for manager in managers), environ)

    def names(self) -> list[str]:
        """Return the names of the services, in the order of the file."""
        return list(self.descriptions)

    def get(self, name: str) -> Endpoint:
        """
        Return the endpoint of a name or shortcut, always the same one.

        Shortcuts: ``path:/dir``, ``csv:file``, ``memory:``, ``redis:[password@]host:port/db``,
        ``orthanc:user,password,host,port``, ``orthanc:http://user:password@host:port/``. Raises ConfigError.
        """
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(name)
            return self._made[name]

    def hold(self, name: str, endpoint: Endpoint) -> None:
        """Give an endpoint that is made already a name."""
        with self._lock:
            self._made[name] = endpoint

    def all(self) -> dict[str, Endpoint]:
        """Return every service by name. Raises ConfigError."""
        return {name: self.get(name) for name in self.descriptions}

    def close(self) -> None:
        """Close every endpoint that was made; they may be used again."""
        with self._lock:
            for endpoint in self._made.values():
                endpoint.close()

    def _make(self, name: str) -> Endpoint:
        if name in self.descriptions:
            return _made(name, self.descriptions[name])
        desc = shortcuts.description(name, os.environ if self.environ is None else self.environ)
        if desc is not None:
            return _made(name.partition(":")[0] + ":", desc)
        near = get_close_matches(name, [*self.descriptions, *shortcuts.PREFIXES], 1)
        shown = name.partition(":")[0] + (":..." if ":" in name else "")
        raise ConfigError(
            f"{self.origin or 'services'}: no service {shown!r}"
            + (f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(self.descriptions) or 'none'}")
        )


@define
class _Checked:
    desc: dict[str, Any] = field(factory=dict)
    problems: list[tuple[Place, str]] = field(factory=list)


def _checked(name: str, desc: Any, environ: Mapping[str, str] | None) -> _Checked:
    """Return a description ready for the Factory, and every problem with the keys that lead to it."""
    found = _Checked()
    if not isinstance(desc, Mapping):
        found.problems.append(((), "is not a mapping with a ctype"))
        return found
    for key, value in desc.items():
        missing: list[str] = []
        found.desc[str(key)] = substituted(value, environ, f"key {key!r}: ", missing)
        found.problems += [((str(key),), one) for one in missing]
    ctype = found.desc.get("ctype")
    if ctype is None:
        found.problems.append(((), "has no ctype; it names the class, such as Orthanc or DcmDir"))
        return found
    try:
        cls = class_of(ctype)
    except ConfigError as error:
        found.problems += [(("ctype",), one) for one in error.problems]
        return found
    known_bad = {key[0] for key, _ in found.problems if key}
    given = {key: value for key, value in found.desc.items() if key != "ctype" and key not in known_bad}
    found.problems += [((key,) if key else (), one) for key, one in field_problems(cls, given, known_bad)]
    found.desc = {"ctype": ctype, "name": name, **fitted(cls, given)}
    return found


def _made(name: str, desc: Mapping[str, Any]) -> Endpoint:
    try:
        made: Endpoint = Factory.create(**desc)
    except ConfigError as error:
        raise ConfigError([f"{name}: {one}" for one in error.problems]) from None
    except DianaError as error:
        raise ConfigError(f"{name}: {error}") from None
    except (TypeError, ValueError) as error:
        # the text of the error may hold the value of a secret
        raise ConfigError(f"{name}: {desc['ctype']} does not take these values ({type(error).__name__})") from None
    return made


def _where(mapping: Mapping[str, Any], origin: str, *places: Place) -> str:
    """Return ``file:line: `` for the first of some places whose line is known."""
    lines: Mapping[Place, int] = getattr(mapping, "lines", {})
    line = next((lines[place] for place in places if place in lines), None)
    if line is None:
        return f"{origin}: " if origin else ""
    return f"{origin}:{line}: "
