"""``diana-cli doctor``."""

from __future__ import annotations

import attrs
import click

from diana_cli.app import WITH_FAILURES, App, say


@click.command("doctor", short_help="Try every service and say what to do about what is wrong.")
@click.argument("names", nargs=-1, metavar="[SERVICES...]")
@click.option("--timeout", type=click.FloatRange(min=0.5), default=15.0, show_default=True, help="Seconds to wait.")
@click.pass_obj
def command(app: App, names: tuple[str, ...], timeout: float) -> int:
    """
    Try services (default: all): reachable, credentials, version, clock, DICOM echo, folders, disk, Redis settings.

    One line for each try, and what to do about it. Exit 3 when something is wrong.
    """
    from diana.daemons.doctor import examine

    endpoints = {name: app.endpoint(name) for name in names or app.services.names()}
    found = examine(endpoints, timeout=timeout)
    app.out.rows((attrs.asdict(one) for one in found), ("service", "check", "state", "found", "advice"))
    wrong = sorted({one.service for one in found if one.state == "wrong"})
    say(f"wrong: {', '.join(wrong)}" if wrong else f"{len(endpoints)} services, nothing wrong")
    return WITH_FAILURES if wrong else 0
