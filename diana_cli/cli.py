"""
The program's entry: global options, commands loaded when asked for, errors as one line, exit codes.

Exit codes: 0 well, 1 failure, 2 usage or configuration, 3 finished with failures, 130 interrupted, 141 the reader of
the output went away.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any  # the signatures of click

import click

from diana import __version__
from diana.exceptions import ConfigError, DianaError
from diana_cli.app import FAILURE, INTERRUPTED, NO_READER, USAGE, App, say
from diana_cli.params import WHOLE

COMMANDS: Mapping[str, str] = {
    "check": "Tell whether services answer.",
    "collect": "Collect the studies of a worklist.",
    "deid": "De-identify files, folders, archives and services.",
    "delete": "Remove items from a service.",
    "demo": "Show a verified route on this machine, from nothing.",
    "do": "Call any public method of a service.",
    "doctor": "Try every service and say what to do about what is wrong.",
    "exists": "Tell whether items are there.",
    "find": "Search a service.",
    "get": "Show parts of items: tags, metadata, files.",
    "guid": "Mint a pseudo-identity.",
    "index": "Register the files of a folder by accession number.",
    "ls": "List the services.",
    "mfind": "Search an archive of reports.",
    "mock": "Let a mock site send generated studies to a service.",
    "pull": "Save every instance of items to a folder.",
    "put": "Store files in a service.",
    "receipts": "List receipts and dead letters; send again what failed.",
    "routes": "List, check, explain and backtest the routes of a file.",
    "serve": "Give a service the faces of DICOMweb, WADO-URI, MINT, RAD-69 and DIMSE.",
    "transfer": "Move items from one service to another and prove it.",
    "update": "Change items of a service.",
    "watch": "Run routes until told to stop.",
    "worker": "Work items of jobs that another machine hands out.",
}


class LazyGroup(click.Group):
    """List the commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"diana_cli.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list for ``--help``."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; end quietly when the reader of the output has gone away."""
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # what Python still holds back for the closed pipe must not raise again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return NO_READER
        return found


@click.group(cls=LazyGroup, context_settings={"auto_envvar_prefix": "DIANA", "help_option_names": ["-h", "--help"]})
@click.option(
    "-s",
    "--services",
    multiple=True,
    type=WHOLE,
    metavar="FILE|TEXT",
    help="Services: a YAML file, or YAML text. May be repeated. Default: services.yml, if there.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the ledger. Default: diana in $XDG_STATE_HOME, else in ~/.local/state.",
)
@click.option("--json", "form", flag_value="json", help="Print JSON lines, also to a terminal.")
@click.option("--table", "form", flag_value="table", help="Print tables, also to a pipe.")
@click.option("-v", "--verbose", count=True, help="Say more on standard error; -vv for everything.")
@click.version_option(__version__, prog_name="diana-cli")
@click.pass_context
def cli(ctx: click.Context, services: tuple[str, ...], state: Path | None, form: str | None, verbose: int) -> None:
    """
    Move DICOM between the systems of a hospital and prove that it arrived.

    A service is a name in the services file, or a shortcut: path:FOLDER, memory:, orthanc:URL, redis:URL, csv:FILE.
    Results are JSON lines when piped, tables on a terminal. Commands join by pipes:

    \b
      diana-cli find pacs -q '{"PatientName": "B*"}' | diana-cli transfer pacs archive -
    """
    configure_logging(verbose)
    ctx.obj = App(sources=services, state_given=state, form=form, verbose=verbose)


class _CliHandler(logging.StreamHandler):  # type: ignore[type-arg]  # the generic form is only known to type checkers
    """Write log records of this project to standard error."""


def configure_logging(verbose: int) -> None:
    """Send our own loggers to standard error, and those of the libraries nowhere."""
    level = (logging.WARNING, logging.INFO)[verbose] if verbose < 2 else logging.DEBUG
    handler = _CliHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("diana", "diana_cli"):
        logger = logging.getLogger(name)
        for old in [one for one in logger.handlers if isinstance(one, _CliHandler)]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        handler.setLevel(level)
        if logger.level == logging.NOTSET or logger.level > level:
            logger.setLevel(level)
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())


def run(args: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code; ``args`` default to those of the process."""
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        code = cli.main(arguments, prog_name="diana-cli", standalone_mode=False)
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConfigError as error:
        for problem in error.problems:
            say(problem)
        return USAGE
    except DianaError as error:
        _explain(error)
        return FAILURE
    except OSError as error:
        say(error.strerror or type(error).__name__)
        _trace()
        return FAILURE
    except Exception as error:  # noqa: BLE001  # a bug: its text may hold anything, so only -v shows it
        say(f"this is a bug: {type(error).__name__} (-v shows where)")
        _trace()
        return FAILURE
    return code if isinstance(code, int) else 0


def _explain(error: DianaError) -> None:
    say(str(error) or type(error).__name__)
    _trace()


def _trace() -> None:
    """Show where the error in hand came from when ``-v`` asked for it: places and kinds; texts may hold anything."""
    handlers = logging.getLogger("diana_cli").handlers
    if any(isinstance(one, _CliHandler) and one.level <= logging.INFO for one in handlers):
        import traceback

        say("Traceback, without what the errors say:")
        error, seen = sys.exc_info()[1], set[int]()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            for frame in traceback.extract_tb(error.__traceback__):
                say(f"  {frame.filename}:{frame.lineno} in {frame.name}")
            say(f"{type(error).__module__}.{type(error).__qualname__}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def main() -> None:
    """Run the program and exit."""
    import warnings

    # pydicom and its neighbours quote values of patients in their warnings
    warnings.simplefilter("ignore")
    sys.exit(run())
