"""``diana-cli deid``: de-identify, and what belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar  # query values

import click

from diana.exceptions import ConfigError
from diana_cli.app import WITH_FAILURES, App, say
from diana_cli.params import MAPPING

if TYPE_CHECKING:
    from diana.daemons.deid_run import Summary
    from diana.daemons.deid_work import Done
    from diana.deid.recipe import Recipe
    from diana.deid.setup import Setup
    from diana.utils.endpoint import Endpoint

PARTS = {
    "audit": "diana_cli.commands.deid_look",
    "conformance": "diana_cli.commands.deid_look",
    "explain": "diana_cli.commands.deid_look",
    "key": "diana_cli.commands.deid_key",
    "registry": "diana_cli.commands.deid_registry",
    "verify": "diana_cli.commands.deid_look",
}
RUN = "run"
Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)


class WithParts(click.Group):
    """Take the first word as the name of a part, or else everything as the arguments of the run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the run before arguments that name no part."""
        if args and args[0] not in (*PARTS, RUN, *ctx.help_option_names):
            args = [RUN, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the parts."""
        return [RUN, *PARTS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a part."""
        if cmd_name == RUN:
            return run
        if cmd_name not in PARTS:
            return None
        found: click.Command = getattr(import_module(PARTS[cmd_name]), cmd_name.replace("-", "_"))
        return found


@click.group("deid", cls=WithParts, short_help="De-identify files, folders, archives and services.")
def command() -> None:
    """
    De-identify by PS3.15 Annex E: `diana-cli deid IN OUT --key KEYFILE`.

    IN is a file, a folder, a ZIP archive or a service; OUT is a folder or a service. See `deid run --help` for the
    options, and the other commands for keys, the registry of pseudonyms, and what would be or was done.
    """


key_option = click.option(
    "--key", "-k", type=FILE, envvar="DIANA_DEID_KEY", metavar="KEYFILE", help="The secret, from `deid key make`."
)
recipe_options = (
    click.option("--preset", metavar="NAME", help="basic (default), research, teaching; sham for compatibility."),
    click.option("--recipe", type=FILE, metavar="FILE", help="A recipe in YAML, instead of a preset."),
)
registry_options = (
    click.option("--registry", metavar="URL", help="Registry of pseudonyms: a file *.sqlite, or a database's URL."),
    click.option("--project", default="default", show_default=True, metavar="NAME", help="Project in the registry."),
)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds several options."""

    def add(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@click.command(RUN, short_help="De-identify IN into OUT; the name may be left out.")
@click.argument("source", metavar="IN")
@click.argument("out", metavar="OUT")
@with_options(*recipe_options, key_option, *registry_options)
@click.option(
    "--mode",
    type=click.Choice(("mint", "refuse", "quarantine")),
    default="mint",
    show_default=True,
    help="What happens to a patient whom the registry does not know.",
)
@click.option("--jobs", "-j", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
@click.option("--custody", type=FILE, metavar="FOLDER", help="The custodian's folder. Default: KEYFILE.custody.")
@click.option("--audit", type=FILE, metavar="FILE", help="Default: audit.jsonl in the custodian's folder.")
@click.option("--quarantine", type=FILE, metavar="FOLDER", help="Default: quarantine in the custodian's folder.")
@click.option("--query", "-q", type=MAPPING, help="Of a service, only what matches these DICOM keywords.")
@click.option("--no-review", is_flag=True, help="Do not list the texts that outputs still hold.")
@click.pass_obj
def run(
    app: App,
    source: str,
    out: str,
    preset: str | None,
    recipe: Path | None,
    key: Path | None,
    registry: str | None,
    project: str,
    mode: str,
    jobs: int,
    custody: Path | None,
    audit: Path | None,
    quarantine: Path | None,
    query: dict[str, Any] | None,
    no_review: bool,
) -> int:
    """
    De-identify IN (file, folder, ZIP archive, service) into OUT (folder, service), and print the summary.

    Outputs are named by their new UIDs. The crosswalk, the review list, the audit and the quarantine go to the
    custodian's folder, which must lie outside OUT, like key and registry. A second run does only what is left. Exit 3
    when something was quarantined, refused or failed.
    """
    from diana.daemons.deid_custody import Places
    from diana.daemons.deid_run import Batch

    setup = make_setup(preset, recipe, key, registry, project, mode)
    _warn(setup)
    chosen = _place(app, out)
    origin = _place(app, source)
    if query and isinstance(origin, Path):
        raise click.UsageError("--query is for services")
    places = Places.below(custody or Path(f"{setup.key_path}.custody"), audit, quarantine)
    batch = Batch(setup, origin, chosen, places, jobs, query or {}, not no_review)
    with _progress() as step:

        def tell(done: Done) -> None:
            step()
            if done.state != "done":
                say(f"item {done.item}: {done.state}: {done.reason}" + (f": {done.text}" if done.text else ""))

        summary = batch.run(tell)
    _print(app, summary)
    return 0 if summary.clean else WITH_FAILURES


def make_setup(
    preset: str | None,
    recipe: Path | None,
    key: Path | None,
    registry: str | None = None,
    project: str = "default",
    mode: str = "mint",
) -> Setup:
    """Return the setup that options describe. Raises ConfigError."""
    from diana.deid.setup import Setup

    if preset and recipe:
        raise ConfigError("--preset and --recipe exclude each other")
    return Setup(
        preset or "basic", str(recipe or ""), str(key or ""), registry=registry or "", project=project, mode=mode
    )


def make_recipe(preset: str | None, recipe: Path | None) -> Recipe:
    """Return the recipe that options name. Raises ConfigError, for the compatibility preset too, which has none."""
    setup = make_setup(preset, recipe, None)
    if setup.is_sham:
        raise ConfigError("the preset 'sham' goes by no table: there is nothing to explain or to claim")
    return setup.make_recipe()


def _warn(setup: Setup) -> None:
    from diana.deid.setup import SHAM_WARNING

    if setup.is_sham:
        say(SHAM_WARNING)


def _place(app: App, text: str) -> Path | Endpoint:
    """Return the service that a text names, else the path that it is."""
    from diana.utils.endpoint.shortcuts import PREFIXES

    if text in app.services.names() or text.startswith(PREFIXES):
        return app.endpoint(text)
    return Path(text)


def _progress() -> Any:
    from diana_cli.output import progress

    return progress("objects")


def _print(app: App, summary: Summary) -> None:
    found = summary.asdict()
    if not app.out.is_table:
        app.out.value(found)
        return
    rows: list[dict[str, Any]] = [{"state": "done", "reason": "", "objects": summary.states["done"]}]
    if summary.before:
        rows.append({"state": "done before", "reason": "", "objects": summary.before})
    rows += [
        {"state": state, "reason": reason, "objects": count}
        for (state, reason), count in sorted(summary.reasons.items())
    ]
    app.out.rows(rows, ("state", "reason", "objects"))
    say(f"{found['table']}")
    say(f"recipe {summary.recipe}, key {summary.key}, audit up to {summary.head[:16]}, {summary.seconds:.1f} s")
