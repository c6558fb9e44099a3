"""``diana-cli guid``."""

from __future__ import annotations

import click

from diana_cli.app import App


@click.command("guid", short_help="Mint a pseudo-identity.")
@click.argument("name")
@click.argument("born", required=False, metavar="[DOB]")
@click.option("--dob", metavar="DATE", help="Date of birth.")
@click.option("--sex", "--gender", default="U", show_default=True, metavar="M|F|U", help="Sex.")
@click.option("--age", metavar="YEARS", help="Age, when the date of birth is not known.")
@click.option("--reference-date", metavar="DATE", help="When the person was that old.")
@click.pass_obj
def command(
    app: App, name: str, born: str | None, dob: str | None, sex: str, age: str | None, reference_date: str | None
) -> int:
    """
    Mint the reproducible pseudo-identity of a person (see GUIDMint): the same input gives the same one.

    It has no key: whoever can guess name and birth date can compute it.
    """
    from diana.utils.guid import GUIDMint

    if born and dob:
        raise click.UsageError("the date of birth is given twice")
    sham = GUIDMint.get_sham_id(name, dob=dob or born, age=age, reference_date=reference_date, gender=sex)
    birth_date = sham["BirthDate"]
    app.out.rows(
        [
            {
                "ID": sham["ID"],
                "Name": "^".join(sham["Name"]),
                "BirthDate": birth_date.strftime("%Y-%m-%d"),
                "TimeOffset": str(sham["TimeOffset"]),
            }
        ]
    )
    return 0
