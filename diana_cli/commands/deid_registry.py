"""``diana-cli deid registry``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any  # options of click

import click

from diana.exceptions import ConfigError
from diana_cli.app import FAILURE, App, say
from diana_cli.commands.deid import FILE, key_option, with_options
from diana_cli.params import LINES

if TYPE_CHECKING:
    from diana.deid.audit import Audit
    from diana.deid.registry import Registry

places = with_options(
    click.option(
        "--registry", "where", required=True, metavar="URL", help="A file *.sqlite, or the URL of a database."
    ),
    click.option("--project", default="default", show_default=True, metavar="NAME", help="Project in the registry."),
    key_option,
)
audit_option = click.option(
    "--audit", type=FILE, metavar="FILE", help="Default: audit.jsonl in the folder KEYFILE.custody."
)


@click.group("registry", short_help="Import, export and look up pseudonyms.")
def registry() -> None:
    """Import, export and look up pseudonyms."""


@registry.command("import")
@click.argument("table", type=FILE)
@places
@click.option("--aliases", is_flag=True, help="Ids that share a pseudonym are ids of one patient.")
@click.option("--issuer", default="", metavar="TEXT", help="Issuer of ids for which the table names none.")
@click.pass_obj
def import_(app: App, table: Path, where: str, project: str, key: Path | None, aliases: bool, issuer: str) -> int:
    """
    Store the pseudonyms of TABLE, all or none.

    TABLE is a CSV file with a header (patient id, pseudonym, and optionally issuer, name, weeks), or a CTP lookup table
    *.properties (ptid/ORIGINAL=NEW). Each contradiction is named by its line.
    """
    from attrs import evolve

    from diana.deid.registry_files import read_table

    entries = [evolve(one, issuer=one.issuer or issuer) for one in read_table(table)]
    with _open(where, project, key) as found:
        count = found.add(entries, aliases=aliases)
    app.out.rows([{"new": count, "there": len(entries) - count}])
    return 0


@registry.command("export")
@click.argument("table", type=FILE)
@places
@audit_option
@click.pass_obj
def export(app: App, table: Path, where: str, project: str, key: Path | None, audit: Path | None) -> int:
    """Write every patient id with its pseudonym to the CSV file TABLE (mode 0600); that it was done is in the audit."""
    from diana.deid.registry_files import write_csv

    with _open(where, project, key) as found:
        _audit(audit, key).add({"event": "export", "project": project})
        count = write_csv(table, found.entries())
    app.out.rows([{"rows": count}])
    return 0


@registry.command("lookup")
@click.argument("patients", type=LINES, metavar="PATIENT|@FILE")
@places
@click.option("--issuer", default="", metavar="TEXT", help="Issuer of the ids.")
@click.pass_obj
def lookup(app: App, patients: list[str], where: str, project: str, key: Path | None, issuer: str) -> int:
    """
    Print the pseudonyms of patient ids, in order; the ids are not repeated.

    Nothing is minted. Exit 1 when one is not known.
    """
    with _open(where, project, key) as found:
        subjects = [found.lookup(issuer, one) for one in patients]
    app.out.rows({"pseudonym": "" if one is None else one.pseudonym, "known": one is not None} for one in subjects)
    return FAILURE if None in subjects else 0


@registry.command("reidentify")
@click.argument("pseudonym")
@places
@audit_option
@click.option("--reason", required=True, metavar="TEXT", help="Why; it goes into the audit.")
@click.pass_obj
def reidentify(
    app: App, pseudonym: str, where: str, project: str, key: Path | None, audit: Path | None, reason: str
) -> int:
    """Print the patient ids behind PSEUDONYM; that it was asked, and why, is in the audit before. Exit 1 for none."""
    with _open(where, project, key) as found:
        ids = found.reidentify(pseudonym, _audit(audit, key), reason)
    if not ids:
        say("no such pseudonym")
        return FAILURE
    app.out.rows({"issuer": issuer, "patient_id": patient} for issuer, patient in ids)
    return 0


def _open(where: str, project: str, key: Path | None) -> Registry:
    from diana.deid.key import Key
    from diana.deid.registry import Registry

    return Registry(where, Key.load(_given(key)), project)


def _audit(audit: Path | None, key: Path | None) -> Audit:
    from diana.deid.audit import Audit
    from diana.deid.key import Key

    path = _given(key)
    return Audit(audit or Path(f"{path}.custody") / "audit.jsonl", Key.load(path))


def _given(key: Any) -> Path:
    if key is None:
        raise ConfigError("the registry needs the project's key: --key KEYFILE")
    return Path(key)
