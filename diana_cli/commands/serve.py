"""``diana-cli serve``."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any  # the face of another protocol

import click

from diana.exceptions import ConfigError
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
) -> int:
    """
    Serve ENDPOINT over HTTP and DICOM until SIGTERM or Ctrl-C.

    Paths: /dicom-web, /wado, /mint, /rad69, /openapi.json, /healthz. With --dicom alone there is no HTTP. Where it
    listens is said on standard error, and with port 0 also on standard output, as one line of JSON.
    """
    from diana.server.run import HttpFace, stop_signal

    served = app.endpoint(endpoint)
    auth = _auth(user, password_env, token_env)
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
            node = _dicom(served, aet, host, dicom)
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


def _dicom(served: Any, aet: str, host: str, port: int) -> Any:
    """Return the DIMSE face, started."""
    from diana.server.scp import DicomFace

    node = DicomFace(served, aet, host, port)
    node.start()
    return node


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
