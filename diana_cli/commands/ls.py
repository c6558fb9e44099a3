"""``diana-cli ls``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any  # rows

import click

from diana.utils.endpoint.endpoint import VERBS
from diana_cli.app import App


@click.command("ls", help="List the services with their types and verbs; with --check also whether they answer.")
@click.option("-c", "--check", is_flag=True, help="Ask each service, all at once.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds to wait.")
@click.pass_obj
def command(app: App, check: bool, timeout: float) -> int:
    """Run the command."""
    from diana.daemons.doctor import answering

    endpoints = {name: app.endpoint(name) for name in app.services.names()}
    ready = answering(endpoints, timeout=timeout) if check else {}

    def rows() -> Iterator[dict[str, Any]]:
        for name, endpoint in endpoints.items():
            row: dict[str, Any] = {"name": name, "ctype": type(endpoint).__name__}
            if check:
                row["ready"] = ready[name]
            row["verbs"] = [verb for verb in VERBS if endpoint.can(verb)] if not app.out.is_table else ""
            if app.out.is_table:
                row["verbs"] = " ".join(verb for verb in VERBS if endpoint.can(verb))
            yield row

    app.out.rows(rows())
    return 0
