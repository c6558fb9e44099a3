"""``diana-cli deid explain``, ``verify``, ``conformance`` and ``audit``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any  # rows

import click

from diana.exceptions import ConfigError
from diana_cli.app import FAILURE, WITH_FAILURES, App, say
from diana_cli.commands.deid import FILE, key_option, make_recipe, recipe_options, with_options


@click.command("explain", short_help="Say element by element what would happen to a file, and why.")
@click.argument("file", type=FILE)
@with_options(*recipe_options)
@click.pass_obj
def explain(app: App, file: Path, preset: str | None, recipe: Path | None) -> int:
    """
    Say element by element what would happen to FILE, and why. Nothing is written, no value is shown.

    Exit 1 when the file would be refused.
    """
    from diana.deid.engine import Deidentifier
    from diana.deid.key import Key
    from diana.deid.setup import table_name
    from diana.utils.blob import Blob

    if not file.is_file():
        raise ConfigError("no such file")
    engine = Deidentifier(make_recipe(preset, recipe), Key.ephemeral())
    say(table_name())

    def rows() -> Iterator[dict[str, Any]]:
        for step in engine.explain(Blob(file)):
            yield {"path": step.path, "name": step.name, "vr": step.vr, "action": step.action, "rule": step.rule}

    app.out.rows(rows(), ("path", "name", "vr", "action", "rule"))
    return 0


@click.command("verify", short_help="Look for what is left in anybody's output.")
@click.argument("folder", type=FILE, metavar="DIR")
@with_options(*recipe_options)
@click.option("--against", type=FILE, metavar="FOLDER", help="The originals: look for what identifies in them.")
@click.option("--custody", type=FILE, metavar="FOLDER", help="Folder with the crosswalk, to know each file's original.")
@click.pass_obj
def verify(
    app: App, folder: Path, preset: str | None, recipe: Path | None, against: Path | None, custody: Path | None
) -> int:
    """
    Look at every file below DIR: markers, attributes that the Basic Profile removes, preamble.

    With --against or --custody also for names, ids, dates and texts of the originals, in bytes, text and encodings.
    One line for each finding, without file names and values. Exit 3 when there is one.
    """
    from diana.daemons.deid_verify import Verifier, sources_in
    from diana.deid.recipe import Recipe
    from diana.deid.setup import table_name
    from diana_cli.output import progress

    if not folder.is_dir() or not (against is None or against.is_dir()):
        raise ConfigError("no such folder")
    chosen = make_recipe(preset, recipe) if preset or recipe else Recipe("profile", "profile")
    found = Verifier(chosen, against, {} if custody is None else sources_in(custody))
    say(table_name())
    count = bad = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal count, bad
        with progress("files") as step:
            for _number, findings in found.check(folder):
                count += 1
                bad += bool(findings)
                step()
                yield from ({"file": one.file, "kind": one.kind, "where": one.where} for one in findings)

    app.out.rows(rows(), ("file", "kind", "where"))
    if not count:
        raise ConfigError("the folder holds no file")
    say(f"{count} files, {bad} with findings")
    return WITH_FAILURES if bad else 0


@click.command("conformance", short_help="Print the conformance statement of a recipe.")
@with_options(*recipe_options)
def conformance(preset: str | None, recipe: Path | None) -> int:
    """Print the statement that PS3.15 E.1.3 asks for, made from the tables in use."""
    from diana.deid.conformance import statement

    for line in statement(make_recipe(preset, recipe)):
        click.echo(line)
    return 0


@click.command("audit", short_help="Check that an audit was not changed.")
@click.argument("file", type=FILE)
@key_option
@click.option("--head", default="", metavar="HASH", help="A hash that a summary printed: the audit still has it.")
@click.pass_obj
def audit(app: App, file: Path, key: Path | None, head: str) -> int:
    """
    Check the chain of FILE, and with the key its seals; name the first record that is not as it was written.

    Exit 1 when there is one.
    """
    from diana.deid.audit import Audit
    from diana.deid.key import Key

    verdict = Audit(file, None if key is None else Key.load(key)).verify(head)
    app.out.rows([{"records": verdict.records, "ok": verdict.ok, "problem": verdict.problem, "head": verdict.head}])
    return 0 if verdict.ok else FAILURE
