"""``diana-cli serve``."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any  # the face of another protocol

import click

from diana.exceptions import ConfigError
from diana.utils.signals import stop_signal
from diana_cli.app import App, say

if TYPE_CHECKING:
    from diana.server.auth import Auth

DEFAULT_PORT = 8080


@click.command("serve", short_help="Give a service the faces of DICOMweb, WADO-URI, MINT, RAD-69 and DIMSE.")
@click.argument("endpoint", metavar="ENDPOINT")
@click.option(
    "--http", "http_port", type=click.IntRange(0, 65535), metavar="PORT", help="HTTP port; 0 for a free one. [8080]"
)
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Address to listen at. [127.0.0.1]")
@click.option("--user", metavar="NAME", help="Let in only this user; needs --password-env.")
@click.option("--password-env", metavar="VARIABLE", help="Environment variable with the user's password.")
@click.option("--token-env", metavar="VARIABLE", help="Environment variable with a token that lets its bearer in.")
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Certificate (PEM), for https.")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Its key (PEM).")
@click.option("--base-url", default="", metavar="URL", help="The address that clients see, behind a proxy.")
@click.option("--insecure", is_flag=True, help="Serve beyond this machine without authentication.")
@click.option("--dicom", type=click.IntRange(0, 65535), metavar="PORT", help="DICOM port; 0 for a free one.")
@click.option("--aet", default="DIANA", metavar="TITLE", help="AE title of the DICOM port. [DIANA]")
@click.option("--peer", "peers", multiple=True, metavar="TITLE=HOST:PORT", help="Where C-MOVE may send to.")
@click.option("--calling-aet", "calling_aets", multiple=True, metavar="TITLE", help="Let in only these AE titles.")
@click.option("--allow", "addresses", multiple=True, metavar="NETWORK", help="Who may reach the DICOM port. [loopback]")
@click.option("--dicom-tls", is_flag=True, help="The DICOM port wants TLS, with the same certificate.")
@click.option("--index/--no-index", default=True, help="Keep an index of a folder (DcmDir) in SQLite. [on]")
@click.pass_obj
def command(
    app: App,
    endpoint: str,
    http_port: int | None,
    host: str,
    user: str | None,
    password_env: str | None,
    token_env: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    base_url: str,
    insecure: bool,
    dicom: int | None,
    aet: str,
    peers: tuple[str, ...],
    calling_aets: tuple[str, ...],
    addresses: tuple[str, ...],
    dicom_tls: bool,
    index: bool,
) -> int:
    """
    Serve ENDPOINT over HTTP and DICOM until SIGTERM or Ctrl-C.

    Paths: /dicom-web, /wado, /mint, /rad69, /openapi.json, /healthz. With --dicom alone there is no HTTP. Where it
    listens is said on standard error, and with port 0 also on standard output, as one line of JSON. The index of a
    folder holds what the headers say of patients; it lies in the folder, in .diana, readable to its owner only.
    """
    try:
        from diana.server.run import HttpFace
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"serving needs the extra 'server' ({error.name} is missing): pip install 'python-diana[server]'"
        ) from None

    served = app.endpoint(endpoint)
    auth = _auth(user, password_env, token_env)
    if index:
        getattr(served, "use_index", _nothing)()
    ports: dict[str, str | int] = {}
    with stop_signal() as stopped, ExitStack() as stack:
        if http_port is not None or dicom is None:
            port = DEFAULT_PORT if http_port is None else http_port
            face = HttpFace(
                served, host, port, auth=auth, tls_cert=tls_cert, tls_key=tls_key, insecure=insecure, base=base_url
            )
            stack.enter_context(face)
            say(f"serving {served.name} at {face.url}")
            if port == 0:
                ports["http"] = face.url
        if dicom is not None:
            options = _dicom_options(peers, calling_aets, addresses, (tls_cert, tls_key) if dicom_tls else None)
            node = _dicom(served, aet, host, dicom, options)
            stack.callback(node.stop)
            say(f"serving {served.name} as {aet} at {host} port {node.port}")
            if dicom == 0:
                ports["dicom"] = node.port
        if ports:
            click.echo(json.dumps(ports))
        stopped.wait()
        say("ending")
    served.close()
    return 0


def _nothing() -> None:
    """Do nothing: the endpoint keeps no index."""


def _dicom(served: Any, aet: str, host: str, port: int, options: dict[str, Any]) -> Any:
    """Return the DIMSE face, started."""
    from diana.server.scp import DicomFace

    node = DicomFace(served, aet, host, port, **options)
    node.start()
    return node


def _dicom_options(
    peers: tuple[str, ...],
    calling_aets: tuple[str, ...],
    addresses: tuple[str, ...],
    certificate: tuple[Path | None, Path | None] | None,
) -> dict[str, Any]:
    """Return who may reach the DICOM port and where it may send to. Raises ConfigError."""
    found: dict[str, Any] = {"calling_aets": calling_aets, "peers": dict(map(_peer, peers))}
    if addresses:
        found["addresses"] = addresses
    if certificate is not None:
        found["tls"] = _tls(*certificate)
    return found


def _peer(text: str) -> tuple[str, tuple[str, int]]:
    title, sign, place = text.partition("=")
    host, colon, port = place.rpartition(":")
    if not sign or not colon or not title or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError("--peer takes TITLE=HOST:PORT")
    return title, (host.strip("[]"), int(port))


def _tls(certificate: Path | None, key: Path | None) -> Any:
    import ssl

    if certificate is None:
        raise ConfigError("--dicom-tls needs --tls-cert")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError):
        raise ConfigError("the certificate or its key cannot be used") from None
    return context


def _auth(user: str | None, password_env: str | None, token_env: str | None) -> list[Auth]:
    """Return the ways to be let in. Raises ConfigError for half a way."""
    from diana.server.auth import BasicAuth, BearerAuth

    if bool(user) != bool(password_env):
        raise ConfigError("--user and --password-env belong together")
    found: list[Auth] = []
    if user and password_env:
        found.append(BasicAuth(user, _secret(password_env)))
    if token_env:
        found.append(BearerAuth(_secret(token_env)))
    return found


def _secret(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        raise ConfigError(f"the environment variable {variable} is not set")
    return value
