"""``diana-cli deid key``."""

from __future__ import annotations

from pathlib import Path

import click

from diana_cli.app import App, say

FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group("key", short_help="Make and rotate the secret of a project.")
def key() -> None:
    """Make and rotate the secret of a project; it is never shown."""


@key.command("make")
@FILE
@click.pass_obj
def make(app: App, file: Path) -> int:
    """Write a new key to FILE (mode 0600), which must not be there yet, and print its public name."""
    from diana.deid.key import Key

    made = Key.make()
    made.save(file)
    app.out.rows([{"key": made.id}])
    return 0


@key.command("rotate")
@FILE
@click.pass_obj
def rotate(app: App, file: Path) -> int:
    """
    Put a new secret into FILE, before the old ones, which stay.

    New UIDs and pseudonyms come from the new secret; a registry keeps those that it has.
    """
    from diana.deid.key import Key

    made = Key.load(file).rotate()
    made.save(file, replace=True)
    say("de-identify whole projects anew, or into another folder: the new UIDs do not fit to those made so far")
    app.out.rows([{"key": made.id, "before": list(made.ids[1:])}])
    return 0


@key.command("show-id")
@FILE
@click.pass_obj
def show_id(app: App, file: Path) -> int:
    """Print the public name of the key, and of those before it."""
    from diana.deid.key import Key

    found = Key.load(file)
    app.out.rows([{"key": found.id, "before": list(found.ids[1:])}])
    return 0
