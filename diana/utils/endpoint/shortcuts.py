"""Descriptions of endpoints from texts such as ``path:/data``, which are never shown: they may hold passwords."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any  # constructor arguments may be of any type
from urllib.parse import unquote, urlsplit

from diana.exceptions import ConfigError

HELP = {
    "path": "path:/dir",
    "csv": "csv:file",
    "memory": "memory:",
    "redis": "redis:[password@]host:port/db",
    "orthanc": "orthanc:user,password,host,port or orthanc:http://user:password@host:port/",
}
PREFIXES = tuple(f"{name}:" for name in HELP)

Description = dict[str, Any]
_REDIS = re.compile(
    r"(?:(?P<password>.*)@)?"
    r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:/@\[\]]*)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/(?P<db>[0-9]{1,5}))?\Z"
)


def description(text: str, environ: Mapping[str, str]) -> Description | None:
    """Return what a shortcut describes, None for a text with no known prefix. Raises ConfigError when malformed."""
    prefix, colon, rest = text.partition(":")
    if not colon or prefix not in HELP:
        return None
    try:
        return _MAKERS[prefix](rest, environ)
    except ValueError:
        raise ConfigError(f"a shortcut {prefix}: is written {HELP[prefix]}") from None


def _path(rest: str, environ: Mapping[str, str]) -> Description:
    if not rest:
        raise ValueError
    return {"ctype": "DcmDir", "path": rest, "name": f"path:{rest}"}


def _csv(rest: str, environ: Mapping[str, str]) -> Description:
    if not rest:
        raise ValueError
    return {"ctype": "CsvFile", "fp": rest, "name": f"csv:{rest}"}


def _memory(rest: str, environ: Mapping[str, str]) -> Description:
    return {"ctype": "Memory", "name": f"memory:{rest}"}


def _redis(rest: str, environ: Mapping[str, str]) -> Description:
    if rest.startswith("//"):
        url = urlsplit(f"redis:{rest}")
        found = {"host": url.hostname, "port": url.port, "db": url.path.strip("/")}
        found.update(user=unquote(url.username or ""), password=unquote(url.password or ""))
    else:
        match = _REDIS.match(rest)
        if match is None:
            raise ValueError
        found = {
            key: value.strip("[]") if key == "host" and value else value for key, value in match.groupdict().items()
        }
    known = {key: value for key, value in found.items() if value not in (None, "")}
    for key in ("port", "db"):
        if key in known:
            known[key] = int(str(known[key]))
    return {"ctype": "Redis", **known, "name": f"redis:{known.get('host', 'localhost')}"}


def _orthanc(rest: str, environ: Mapping[str, str]) -> Description:
    if rest.startswith(("http://", "https://")):
        return _orthanc_url(rest)
    keys = ("user", "password", "host", "port")
    if rest:
        parts = rest.split(",")
        if len(parts) < 4:
            raise ValueError
        # a password may hold commas
        values = [parts[0], ",".join(parts[1:-2]), *parts[-2:]]
    else:
        values = [environ.get(f"ORTHANC_{key.upper()}", "") for key in keys]
    found: Description = {key: value for key, value in zip(keys, values, strict=True) if value}
    if "port" in found:
        found["port"] = int(found["port"])
    return {"ctype": "Orthanc", **found, "name": f"orthanc:{found.get('host', 'localhost')}"}


def _orthanc_url(text: str) -> Description:
    url = urlsplit(text)
    if not url.hostname or url.query or url.fragment:
        raise ValueError
    found: Description = {
        "ctype": "Orthanc",
        "protocol": url.scheme,
        "host": url.hostname,
        "port": url.port or (443 if url.scheme == "https" else 80),
        "name": f"orthanc:{url.hostname}",
    }
    if url.path.strip("/"):
        found["path"] = url.path.strip("/")
    if url.username is not None:
        found.update(user=unquote(url.username), password=unquote(url.password or ""))
    return found


_MAKERS: Mapping[str, Callable[[str, Mapping[str, str]], Description]] = {
    "path": _path,
    "csv": _csv,
    "memory": _memory,
    "redis": _redis,
    "orthanc": _orthanc,
}
