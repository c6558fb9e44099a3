"""``diana-cli do``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any  # arguments and results are the method's own

import click

from diana.exceptions import Unsupported
from diana.utils.dicom.levels import DicomLevel
from diana_cli.app import App
from diana_cli.items import is_dixel, parse, row_of
from diana_cli.params import LIST, MAPPING, level_option

if TYPE_CHECKING:
    from diana.utils.endpoint import Endpoint


@click.command("do", short_help="Call any public method of a service.")
@click.argument("service")
@click.argument("method")
@click.argument("item", required=False, metavar="[ITEM]")
@click.option("-g", "--args", "arguments", type=LIST, default="[]", help="Further arguments, as a list.")
@click.option("-k", "--kwargs", "keywords", type=MAPPING, default="{}", help="Keyword arguments, as a mapping.")
@level_option(None)
@click.pass_obj
def command(
    app: App,
    service: str,
    method: str,
    item: str | None,
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
    level: DicomLevel | None,
) -> int:
    """
    Call a public method of a service's class and print whatever it returns.

    With ITEM (an id, or a line of `find`) that is the method's first argument.
    """
    endpoint = app.endpoint(service)
    options = {str(key): value for key, value in keywords.items()}
    try:
        found = _call(endpoint, method, item, level, arguments, options)
    except TypeError as error:
        if error.__traceback__ is not None and _is_deep(error):
            raise Unsupported(f"{endpoint.name}: {method} cannot work with these arguments") from error
        raise click.UsageError(f"{method} does not take these arguments") from None
    if is_dixel(found):
        app.out.rows([row_of(found, endpoint)])
    else:
        app.out.value(found)
    return 0


def _call(
    endpoint: Endpoint,
    method: str,
    item: str | None,
    level: DicomLevel | None,
    arguments: Sequence[Any],
    options: Mapping[str, Any],
) -> Any:
    if item is None:
        found = None if method.startswith("_") else getattr(type(endpoint), method, None)
        if not callable(found):
            raise Unsupported(f"{endpoint.name}: no method {method!r}")
        return found(endpoint, *arguments, **options)
    given = parse(item, "item", level)
    # a plain id goes as it was typed, because not every method takes a Ref
    first: Any = given.at_service(endpoint) if item.startswith("{") or level is not None else item
    return endpoint.handle(first, method, *arguments, **options)


def _is_deep(error: BaseException) -> bool:
    """Tell whether an error comes from inside the method, not from calling it."""
    depth, step = 0, error.__traceback__
    while step is not None:
        depth, step = depth + 1, step.tb_next
    return depth > 3
