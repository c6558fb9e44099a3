"""What can be tried on a service, by what it has: an address, a folder, a port of its own, a gateway's own words."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any  # services are known here by what they have, not by their class
from urllib.parse import urlsplit

from attrs import frozen

from diana.exceptions import DianaError, GatewayAnswerError, GatewayConnectionError, GatewayRefused
from diana.utils.endpoint import Endpoint

RESERVE = 1 << 30
SKEW = 5.0
MODALITIES = 20


@frozen
class Finding:
    """Say what one try found: ``state`` is ok, note or wrong; ``advice`` says what to do."""

    service: str
    check: str
    state: str
    found: str
    advice: str = ""


def probes(name: str, endpoint: Endpoint, timeout: float) -> Iterator[Finding]:
    """Yield what is found about one service, the cheap tries first."""
    inner = [(key, getattr(endpoint, key, None)) for key in ("proxy", "searcher", "downloader")]
    parts = [(key, part) for key, part in inner if isinstance(part, Endpoint)]
    if parts:
        for key, part in parts:
            yield from probes(f"{name}.{key}", part, timeout)
        yield _answer(name, endpoint)
        return
    if hasattr(endpoint, "calling_aets"):
        yield from _listener(name, endpoint)
    elif (address := _address(endpoint)) is not None:
        yield from _network(name, endpoint, address, timeout)
    elif (place := _place(endpoint)) is not None:
        yield from _disk(name, endpoint, place)
    else:
        yield _answer(name, endpoint)


def _address(endpoint: Endpoint) -> tuple[str, int] | None:
    """Return host and port of a service that is reached over a network."""
    gateway = getattr(endpoint, "gateway", None)
    url = getattr(getattr(gateway, "http", None), "base_url", None)
    if isinstance(url, str):
        parts = urlsplit(url)
        return parts.hostname or "localhost", parts.port or (443 if parts.scheme == "https" else 80)
    for one in (endpoint, gateway):
        host, port = getattr(one, "host", None), getattr(one, "port", None)
        if isinstance(host, str) and isinstance(port, int):
            return host, port
    return None


def _place(endpoint: Endpoint) -> Path | None:
    for key in ("path", "fp"):
        found = getattr(endpoint, key, None)
        if isinstance(found, str | os.PathLike):
            return Path(found)
    return None


def _answer(name: str, endpoint: Endpoint) -> Finding:
    """Ask the service whether it is well, and turn its error into advice."""
    if not endpoint.can("check"):
        return Finding(name, "answer", "note", "has no check of its own")
    try:
        # the hook instead of ``check``, because its error says what to do
        endpoint._check()
    except GatewayRefused as error:
        if error.status in (401, 403) or "password" in str(error):
            return Finding(name, "credentials", "wrong", str(error), "check user and password in the services file")
        return Finding(name, "answer", "wrong", str(error), "check the settings of both ends")
    except GatewayConnectionError as error:
        return Finding(name, "answer", "wrong", str(error), "is it running, and is the address right?")
    except GatewayAnswerError as error:
        return Finding(name, "answer", "wrong", str(error), "does something else listen there? check port and path")
    except DianaError as error:
        return Finding(name, "answer", "wrong", str(error), "check the services file")
    return Finding(name, "answer", "ok", "answers" if _address(endpoint) is None else "answers, and lets us in")


def _network(name: str, endpoint: Endpoint, address: tuple[str, int], timeout: float) -> Iterator[Finding]:
    host, port = address
    before = time.monotonic()
    try:
        socket.create_connection((host, port), timeout=min(5.0, timeout)).close()
    except OSError as error:
        why = error.strerror or ("no answer" if isinstance(error, TimeoutError) else type(error).__name__)
        advice = (
            "start it, or correct host and port"
            if isinstance(error, ConnectionRefusedError)
            else "check host, DNS, firewall"
        )
        yield Finding(name, "reachable", "wrong", f"{host} port {port}: {why}", advice)
        return
    yield Finding(name, "reachable", "ok", f"{host} port {port}, {1000 * (time.monotonic() - before):.0f} ms")
    answer = _answer(name, endpoint)
    yield answer
    if answer.state == "wrong":
        return
    gateway = getattr(endpoint, "gateway", None)
    for words, probe in GATEWAYS:
        if all(hasattr(gateway, word) for word in words):
            yield from _guarded(name, probe(name, gateway))


def _guarded(name: str, found: Iterator[Finding]) -> Iterator[Finding]:
    try:
        yield from found
    except DianaError as error:
        yield Finding(name, "details", "note", str(error), "it answers, but does not tell more about itself")


def _disk(name: str, endpoint: Endpoint, place: Path) -> Iterator[Finding]:
    """Look at the folder of a service, or that of its file."""
    is_file = getattr(endpoint, "fp", None) is not None
    folder = place.parent if is_file else place
    if not folder.is_dir():
        yield Finding(name, "folder", "wrong", "the folder does not exist", f"mkdir -p {folder}")
        return
    yield _answer(name, endpoint)
    yield from _room(name, folder, needs_write=endpoint.can("put"))
    if hasattr(endpoint, "changes"):
        yield from _notifications(name)


def _room(name: str, folder: Path, *, needs_write: bool) -> Iterator[Finding]:
    """Try whether the folder can be written, and how much room is left."""
    try:
        trial = folder / f".{secrets.token_hex(8)}.part"
        os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        trial.unlink()
        yield Finding(name, "write", "ok", "the folder can be written")
    except OSError as error:
        state = "wrong" if needs_write else "note"
        yield Finding(
            name, "write", state, error.strerror or type(error).__name__, "give this user the right to write there"
        )
    usage = shutil.disk_usage(folder)
    text = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB"
    if usage.free < min(RESERVE, usage.total // 20):
        yield Finding(name, "space", "wrong", text, "make room; below 1 GB or 5 % nothing new is taken")
    else:
        yield Finding(name, "space", "ok", text)


def _notifications(name: str) -> Iterator[Finding]:
    limit = Path("/proc/sys/fs/inotify/max_user_watches")
    try:
        count = int(limit.read_text())
    except (OSError, ValueError):
        return
    if count < 65_536:
        text = f"{count} folders can be watched by this user"
        yield Finding(name, "notifications", "note", text, "for more: sysctl fs.inotify.max_user_watches=524288")


def _listener(name: str, endpoint: Any) -> Iterator[Finding]:
    """Look at a port of our own, whether it is open already or not."""
    host, port = str(endpoint.host), int(endpoint.port)
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
        yield Finding(name, "port", "ok", f"port {port} is free; `watch` opens it")
    except PermissionError:
        yield Finding(name, "port", "wrong", f"port {port} needs more rights", "use one above 1023, such as 11112")
    except OSError as error:
        yield from _taken_port(name, endpoint, error)
    folder = Path(endpoint.path)
    near = next((one for one in (folder, *folder.parents) if one.is_dir()), Path("."))
    yield from _room(name, near, needs_write=True)
    if host not in ("127.0.0.1", "::1", "localhost") and not endpoint.calling_aets:
        text = "takes any calling AE title from its addresses"
        yield Finding(name, "access", "note", text, "list the scanners in calling_aets and addresses")


def _taken_port(name: str, endpoint: Any, error: OSError) -> Iterator[Finding]:
    from diana.utils.gateways import dimse

    host = "127.0.0.1" if endpoint.host in ("", "0.0.0.0") else endpoint.host  # noqa: S104  # compared, not bound
    caller = endpoint.calling_aets[0] if endpoint.calling_aets else "DIANA"
    try:
        dimse.echo(host, endpoint.port, caller, endpoint.aet, timeout=3.0)
    except DianaError:
        text = f"port {endpoint.port}: {error.strerror or type(error).__name__}"
        yield Finding(name, "port", "wrong", text, "another program has it; choose another port")
    else:
        yield Finding(name, "port", "ok", f"a listener answers the DICOM echo on port {endpoint.port}")


def _redis(name: str, gateway: Any) -> Iterator[Finding]:
    """Ask a Redis what happens to the data at a crash and when memory is full."""
    info = gateway.info()
    yield Finding(name, "version", "ok", f"Redis {info.get('redis_version', '?')}")
    if info.get("aof_enabled"):
        yield Finding(name, "persistence", "ok", "append-only file is on")
    else:
        yield Finding(name, "persistence", "note", "what is new may be lost at a crash", "set: appendonly yes")
    if info.get("rdb_last_bgsave_status") not in ("ok", None) or info.get("aof_last_write_status") not in ("ok", None):
        yield Finding(name, "persistence", "wrong", "the last save failed", "look at its disk and its log")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        yield Finding(
            name, "eviction", "wrong", f"{policy}: keys vanish when memory is full", "maxmemory-policy noeviction"
        )
    else:
        yield Finding(name, "eviction", "ok", "no key is thrown out")


def _orthanc(name: str, gateway: Any) -> Iterator[Finding]:
    """Ask an Orthanc for its version and clock, and let it call the modalities it knows."""
    facts = gateway.system(within=5.0)
    yield Finding(name, "version", "ok", f"{facts.get('Name') or 'Orthanc'}, version {facts.get('Version', '?')}")
    if facts.get("OverwriteInstances"):
        text = "other bytes replace an instance of the same UID"
        yield Finding(name, "overwrite", "note", text, "set OverwriteInstances to false")
    yield from _clock(name, gateway)
    modalities = gateway.modalities()
    for domain in modalities[:MODALITIES]:
        yield _echo(name, gateway, domain)
    if modalities:
        text = "C-STORE waits 40 ms for each instance where Nagle's algorithm is on"
        yield Finding(
            name, "nagle", "note", text, "start both ends with TCP_NODELAY=1 in the environment, or move by HTTP"
        )


def _echo(name: str, gateway: Any, domain: str) -> Finding:
    before = time.monotonic()
    try:
        gateway.recho(domain, seconds=3)
    except DianaError:
        advice = "compare AE titles, address and port at both ends; is the modality on?"
        return Finding(name, "echo", "wrong", f"the modality {domain} does not answer", advice)
    return Finding(name, "echo", "ok", f"the modality {domain} answers, {1000 * (time.monotonic() - before):.0f} ms")


def _clock(name: str, gateway: Any) -> Iterator[Finding]:
    """Compare the server's clock with ours, by its Date header or by Orthanc's own word for now (UTC)."""
    before = time.time()
    try:
        with gateway.http.request("GET", "tools/now", within=5.0) as answer:
            stamp, word = answer.headers.get("date", ""), bytes(answer.read(100)).decode("ascii", "replace")
        ours = (before + time.time()) / 2
        theirs = parsedate_to_datetime(stamp) if stamp else datetime.strptime(f"{word.strip()}+0000", "%Y%m%dT%H%M%S%z")
    except (DianaError, ValueError):
        return
    skew = theirs.timestamp() - ours
    if abs(skew) > SKEW:
        text = f"its clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
        yield Finding(name, "clock", "wrong", text, "synchronise both clocks (NTP)")
    else:
        yield Finding(name, "clock", "ok", "agrees with ours")


GATEWAYS: tuple[tuple[tuple[str, ...], Callable[[str, Any], Iterator[Finding]]], ...] = (
    (("ping", "add_members"), _redis),
    (("system", "modalities", "recho", "http"), _orthanc),
)
