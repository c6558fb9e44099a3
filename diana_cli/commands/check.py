"""``diana-cli check``."""

from __future__ import annotations

import click

from diana_cli.app import WITH_FAILURES, App


@click.command("check", help="Tell whether services (default: all) answer; exit 3 when one does not.")
@click.argument("names", nargs=-1, metavar="[SERVICES...]")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds to wait.")
@click.pass_obj
def command(app: App, names: tuple[str, ...], timeout: float) -> int:
    """Run the command."""
    from diana.daemons.doctor import answering

    endpoints = {name: app.endpoint(name) for name in names or app.services.names()}
    ready = answering(endpoints, timeout=timeout)
    app.out.rows({"name": name, "ready": ready[name]} for name in endpoints)
    return 0 if all(ready.values()) else WITH_FAILURES
