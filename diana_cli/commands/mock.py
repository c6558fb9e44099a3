"""``diana-cli mock``."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any  # a description comes from a file; signal frames

import click

from diana.utils.signals import stop_signal
from diana_cli.app import App, say
from diana_cli.params import Data

FAST = 3_600_000
DESC = Data((dict, list), "a site or a list of sites")
DEFAULT = {
    "name": "Mock Hospital",
    "services": [
        {"name": "Main CT", "modality": "CT", "devices": 1, "studies_per_hour": 12},
        {"name": "Bedside CR", "modality": "CR", "devices": 2, "studies_per_hour": 60},
    ],
}


@click.command("mock", short_help="Let a mock site send generated studies to a service.")
@click.argument("desc", required=False, metavar="[DESC]", type=DESC)
@click.option("--dest", required=True, metavar="SERVICE", help="Where the studies go.")
@click.option("--studies", type=click.IntRange(min=1), metavar="N", help="End after that many. Default: never.")
@click.option(
    "-m",
    "--modality",
    "modalities",
    type=click.Choice(("CT", "MR", "CR", "US")),
    multiple=True,
    help="A site with one device of each, instead of DESC.",
)
@click.option("--fast", is_flag=True, help="Without the pauses of a real site.")
@click.pass_obj
def command(app: App, desc: Any, dest: str, studies: int | None, modalities: tuple[str, ...], fast: bool) -> int:
    """
    Let a mock site make studies at the pace of a real one and send them to a service.

    DESC describes sites (name, services with modality, devices, studies_per_hour), as YAML, JSON or @file.
    """
    from diana.daemons.mock_site import MockSite, run_sites

    if desc is not None and modalities:
        raise click.UsageError("give either DESC or --modality")
    described = desc or (_site(modalities) if modalities else DEFAULT)
    if fast:
        described = [_hurried(one) for one in ([described] if isinstance(described, Mapping) else described)]
    sites = MockSite.Factory.create(described)
    endpoint = app.endpoint(dest)
    stop = threading.Event()
    with stop_signal(stop):
        made = run_sites(sites, endpoint, stop, studies=studies)
    say(f"{made} studies sent to {endpoint.name}")
    return 0


def _site(modalities: tuple[str, ...]) -> dict[str, Any]:
    services = [{"name": f"Main {one}", "modality": one, "studies_per_hour": 12} for one in modalities]
    return {"name": DEFAULT["name"], "services": services}


def _hurried(site: Any) -> Any:
    if not isinstance(site, Mapping) or not isinstance(site.get("services"), list):
        return site
    services = [{**one, "studies_per_hour": FAST} if isinstance(one, Mapping) else one for one in site["services"]]
    return {**site, "services": services}
