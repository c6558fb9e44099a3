"""The application: paths, and what stands before all of them."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final  # Any: what state holds

from attrs import define, field
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from diana.exceptions import DianaError, GatewayConnectionError
from diana.server.archive import Archive
from diana.server.asked import Ask, Reply, begun, json_bytes
from diana.server.auth import Auth, as_auths
from diana.server.bridge import Incoming, Pool, Stream, drained
from diana.server.dicomweb_query import QueryFace
from diana.server.dicomweb_retrieve import RetrieveFace
from diana.server.dicomweb_store import StoreFace
from diana.server.limits import Limits
from diana.server.mint import MintFace
from diana.server.openapi import document
from diana.server.problems import of_error, problem
from diana.server.rad69 import Rad69Face
from diana.server.wado_uri import UriFace
from diana.utils.endpoint import Endpoint

log = logging.getLogger(__name__)

Work = Callable[[Ask], Reply]
Handler = Callable[[Request], Awaitable[Response]]
OPEN: Final = "/healthz"
FRESH: Final = 5.0
_HOST: Final = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?\Z")


def make_app(
    endpoint: Endpoint,
    *,
    auth: Auth | Iterable[Auth] | None = None,
    limits: Limits | None = None,
    hosts: Iterable[str] | None = None,
    base: str = "",
) -> Starlette:
    """
    Return an ASGI application that gives an endpoint its faces over HTTP.

    ``auth`` are ways to be let in, any of which is enough. ``hosts`` are the names under which the server may be
    addressed (None: any); a server without authentication should name them, or a web page that rebinds its name can
    reach it. ``base`` is the address that clients see (``https://pacs.example``) where it is not that of the request.
    """
    bounds = limits or Limits()
    pool = Pool(bounds)
    guard = Middleware(
        Guard, auths=as_auths(auth), limits=bounds, hosts=None if hosts is None else frozenset(map(str.lower, hosts))
    )
    app = Starlette(
        routes=_routes(Archive(endpoint), bounds, pool, base.rstrip("/")),
        middleware=[guard],
        exception_handlers={HTTPException: _refused, 500: _bug},
    )
    app.state.endpoint, app.state.limits = endpoint, bounds
    return app


async def _refused(_request: Request, error: Exception) -> Response:
    """Answer for a path or method that does not exist."""
    status = error.status_code if isinstance(error, HTTPException) else 400
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return problem(status, "no such resource" if status == 404 else "the method is not allowed here", headers)


async def _bug(_request: Request, error: Exception) -> Response:
    """Answer for what should not happen."""
    log.error("a request failed by a bug (%s)", type(error).__name__)
    return problem(500, "the server has a bug")


def _routes(archive: Archive, limits: Limits, pool: Pool, base: str) -> list[Route]:
    query, read = QueryFace(archive, limits), RetrieveFace(archive, limits)
    store, mint = StoreFace(archive, limits), MintFace(archive, limits)
    study = "/dicom-web/studies/{study}"
    series = study + "/series/{series}"
    instance = series + "/instances/{instance}"
    searches: list[tuple[str, Work]] = [
        ("/dicom-web/studies", query.studies),
        ("/dicom-web/series", query.series),
        ("/dicom-web/instances", query.instances),
        (study + "/series", query.series),
        (study + "/instances", query.instances),
        (series + "/instances", query.instances),
        ("/mint/studies", mint.search),
    ]
    reads: list[tuple[str, Work]] = [
        *((path, read.instances) for path in (study, series, instance)),
        *((path + "/metadata", read.metadata) for path in (study, series, instance)),
        *((path + "/rendered", read.rendered) for path in (study, series, instance)),
        *((path + "/thumbnail", read.rendered) for path in (study, series, instance)),
        (instance + "/frames/{frames}", read.frames),
        (instance + "/frames/{frames}/rendered", read.rendered),
        (instance + "/bulkdata/{path:path}", read.bulkdata),
        ("/wado", UriFace(archive, limits).instance),
        ("/mint/studies/{study}/DICOM/metadata", mint.metadata),
        ("/mint/studies/{study}/DICOM/binaryitems/{item}", mint.binary_item),
    ]
    uploads: list[tuple[str, Work]] = [
        ("/dicom-web/studies", store.store),
        (study, store.store),
        ("/rad69", Rad69Face(archive, limits).retrieve),
    ]
    made = [Route(path, _handler(work, pool, base, query=True), methods=["GET"]) for path, work in searches]
    made += [Route(path, _handler(work, pool, base), methods=["GET"]) for path, work in reads]
    made += [Route(path, _handler(work, pool, base, upload=True), methods=["POST"]) for path, work in uploads]
    by_path: dict[str, list[Route]] = {}
    for one in made:
        by_path.setdefault(one.path, []).append(one)
    return [
        *map(_joined, by_path.values()),
        Route("/openapi.json", _openapi),
        Route(OPEN, Health(archive, pool).answer),
    ]


def _joined(routes: list[Route]) -> Route:
    """Return one route for all methods of a path, so that others are refused as such and not as unknown paths."""
    if len(routes) == 1:
        return routes[0]
    handlers: dict[str, Any] = {method: one.endpoint for one in routes for method in one.methods or ()}

    async def handle(request: Request) -> Response:
        response: Response = await handlers[request.method](request)
        return response

    return Route(routes[0].path, handle, methods=list(handlers))


def _handler(work: Work, pool: Pool, base: str, *, upload: bool = False, query: bool = False) -> Handler:
    limits = pool.limits

    async def handle(request: Request) -> Response:
        body = Incoming(request.receive, limits.body, limits.idle) if upload else None
        try:
            reply = await pool.run(_worked, work, _ask(request, base, body), upload=upload)
        except GatewayConnectionError as error:
            if body is None or body.unread:
                return of_error(error)
            response = problem(400, "the request was cut")
        except DianaError as error:
            response = of_error(error, query=query)
        else:
            if isinstance(reply.body, bytes):
                response = Response(reply.body, reply.status, dict(reply.headers), reply.kind)
            else:
                response = Stream(reply.body, pool, reply.status, dict(reply.headers), reply.kind)
        if body is not None and body.unread and not await drained(request.receive):
            response.headers["Connection"] = "close"
        return response

    return handle


def _worked(work: Work, ask: Ask) -> Reply:
    """Make an answer and the first piece of its body, so that what goes wrong at once has a status of its own."""
    reply = work(ask)
    if isinstance(reply.body, bytes):
        return reply
    return Reply(begun(reply.body), reply.kind, reply.status, reply.headers)


def _ask(request: Request, base: str, body: Incoming | None) -> Ask:
    return Ask(
        path={name: str(value) for name, value in request.path_params.items()},
        query=request.scope["query_string"].decode("latin-1"),
        headers=dict(request.headers.items()),
        base=base or f"{request.scope['scheme']}://{_place(request)}",
        body=body,
    )


def _place(request: Request) -> str:
    """Return host and port as the client sees them; some clients leave out the port even where it must be said."""
    host = request.headers.get("host", "")
    name, port = request.scope.get("server") or ("localhost", 80)
    found = _HOST.match(host)
    if found and (found[2] or found[1].strip("[]").lower() not in (name, "localhost")):
        return host
    shown = found[1] if found else f"[{name}]" if ":" in name else name
    return f"{shown}:{port}"


async def _openapi(request: Request) -> Response:
    return Response(json_bytes(document()), 200, None, "application/json")


@define(eq=False)
class Health:
    """Tell whether the endpoint answers; asked again only when the last answer is a few seconds old."""

    archive: Archive
    pool: Pool
    _until: float = field(init=False, default=0.0)
    _good: bool = field(init=False, default=True)

    async def answer(self, _request: Request) -> Response:
        """Answer 200 or 503."""
        now = time.monotonic()
        if now >= self._until:
            self._until = now + FRESH
            endpoint = self.archive.endpoint
            self._good = not endpoint.can("check") or await self.pool.run(endpoint.check)
        status = {"status": "ok" if self._good else "unavailable"}
        return Response(
            json_bytes(status), 200 if self._good else 503, {"Cache-Control": "no-store"}, "application/json"
        )


class Guard:
    """Stand before everything: known names only, known users only, not too many at a time."""

    def __init__(self, app: ASGIApp, auths: tuple[Auth, ...], limits: Limits, hosts: frozenset[str] | None) -> None:
        self.app = app
        self.auths = auths
        self.limits = limits
        self.hosts = hosts
        self._busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer why not."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        self._busy += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._busy -= 1

    def _refusal(self, scope: Scope) -> Response | None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope.get("raw_path", b"")) + len(scope["query_string"]) > self.limits.headers:
            return problem(431, "the head of the request is too large", {"Connection": "close"})
        headers = Headers(scope=scope)
        if self.hosts is not None and _name(headers.get("host", "")) not in self.hosts:
            return problem(421, "the server is not addressed by a name that it has", {"Connection": "close"})
        if self.auths and scope["path"] != OPEN:
            given = headers.get("authorization", "")
            if not any(one.allows(given) for one in self.auths):
                challenge = ", ".join(one.challenge for one in self.auths)
                return problem(401, "authentication is needed", {"WWW-Authenticate": challenge, "Connection": "close"})
        if self._busy >= self.limits.requests:
            return problem(503, "too many requests at a time", {"Retry-After": "2", "Connection": "close"})
        return None


def _name(host: str) -> str:
    """Return the name in a Host header without port and brackets."""
    found = _HOST.match(host)
    return found[1].strip("[]").lower() if found else ""
