"""``diana-cli routes``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any  # tags and rows

import click

from diana.exceptions import ConfigError, DianaError
from diana_cli.app import FAILURE, WITH_FAILURES, App, say
from diana_cli.commands.receipts import SINCE
from diana_cli.output import local_time
from diana_cli.params import MAPPING

if TYPE_CHECKING:
    from diana.daemons.rules import Route
    from diana.daemons.watch import WatchConfig

config_argument = click.argument("config", type=click.Path(path_type=Path))
route_option = click.option("--route", "only", metavar="NAME", help="Only this route.")


@click.group("routes", short_help="List, check, explain and backtest the routes of a file.")
def command() -> None:
    """List, check, explain and backtest the routes of a file, without running them."""


@command.command("list")
@config_argument
@click.pass_obj
def list_(app: App, config: Path) -> int:
    """List the routes of a file: what they take, change and serve."""
    found = _load(config)
    app.out.rows(_rows(found), ("name", "source", "event", "when", "steps", "to"))
    return 0


@command.command("check")
@config_argument
@click.pass_obj
def check(app: App, config: Path) -> int:
    """Say every mistake of a file at once (exit 2), or how many routes it has."""
    found = _load(config)
    count = len(found.routes) + len(found.handlers)
    if not count:
        raise ConfigError(f"{config.name}: no routes")
    say(f"{config.name}: {count} routes, {len(found.services.names())} services, no mistakes")
    return 0


@command.command("explain")
@config_argument
@click.argument("subject", metavar="FILE|TAGS")
@route_option
@click.pass_obj
def explain(app: App, config: Path, subject: str, only: str | None) -> int:
    """
    Say clause by clause whether routes would take an object: a DICOM file, or tags as JSON.

    Exit 1 when no route would. Values of the object are not shown.
    """
    tags = _tags(subject)
    taken = False
    rows: list[dict[str, Any]] = []
    for route in _chosen(_load(config), only):
        matched = route.when.matches(tags)
        taken = taken or matched
        clauses = [str(clause) for clause in route.explain(tags)]
        rows.append({"route": route.name, "matches": matched, "clauses": clauses or ["no condition: takes everything"]})
    if app.out.is_table:
        rows = [{**row, "clauses": "; ".join(row["clauses"])} for row in rows]
    app.out.rows(rows, ("route", "matches", "clauses"))
    return 0 if taken else FAILURE


@command.command("backtest")
@config_argument
@click.option("--since", type=SINCE, default=0.0, help="Only events since: 2h, 7d, or a date.")
@route_option
@click.option("--state", type=click.Path(path_type=Path), metavar="FOLDER", help="The ledger, as the global --state.")
@click.pass_obj
def backtest_(app: App, config: Path, since: float, only: str | None, state: Path | None) -> int:
    """Run the conditions of a file over the events in the ledger; exit 3 when some cannot be told any more."""
    from diana.daemons.rules import backtest
    from diana.ledger import Journal, Store

    found = _load(config)
    app.state_given = state or app.state_given
    folder = app.state if app.state_given is not None or found.state is None else found.state
    if not (folder / "ledger.sqlite").is_file():
        raise ConfigError(f"no ledger in {folder}; name its folder with --state")
    unknown = 0
    store = Store(folder / "ledger.sqlite")

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal unknown
        for route in _chosen(found, only):
            for one in backtest(route, Journal(store), since):
                unknown += one.matched is None
                yield {
                    "route": route.name,
                    "event": one.event,
                    "at": local_time(one.at),
                    "matches": one.matched,
                    "clauses": [str(clause) for clause in one.clauses if not clause.met],
                }

    try:
        app.out.rows(rows(), ("route", "event", "at", "matches", "clauses"))
    finally:
        store.close()
    if unknown:
        say(f"{unknown} events are gone at their source and cannot be told")
    return WITH_FAILURES if unknown else 0


def _load(config: Path) -> WatchConfig:
    from diana.daemons.watch import load_config

    return load_config(config, os.environ)


def _rows(found: WatchConfig) -> Iterator[dict[str, Any]]:
    for route in found.routes:
        yield {
            "name": route.name,
            "source": route.source.name,
            "event": route.evtype.name.lower(),
            "when": route.when.match,
            "steps": [step.name for step in route.steps],
            "to": [one.name for one in route.to],
            "remove_source": route.remove_source,
        }
    for hname, source, dest in found.handlers:
        yield {"name": hname, "source": source, "to": [] if dest in (None, "-") else [dest]}


def _chosen(found: WatchConfig, only: str | None) -> list[Route]:
    routes = [route for route in found.routes if only in (None, route.name)]
    if not routes:
        raise ConfigError(f"no route named {only!r}" if only else "the file has no routes with conditions")
    return routes


def _tags(subject: str) -> Mapping[str, Any]:
    """Return the tags of a DICOM file, or those given as JSON or YAML (a line of `find` too)."""
    if not os.path.isfile(subject):
        found: Mapping[str, Any] = MAPPING.convert(subject, None, None)
        inner = found.get("tags")
        return inner if isinstance(inner, Mapping) else found
    from diana.dixel import Dixel
    from diana.utils.dicom import read_header

    try:
        from pydicom import dcmread

        return Dixel.from_pydicom(dcmread(subject, stop_before_pixels=True)).tags
    except DianaError:
        return Dixel.from_header(read_header(subject)).tags
