"""The named handlers: small functions that act on what a source announces, and ``mk_route`` that ties them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from typing import Any  # sources are endpoints that are also observables; items are their own JSON

from attrs import frozen

from diana.daemons.rules import Route
from diana.daemons.steps import Step, deidentify, server_anonymize
from diana.daemons.transfer import transfer
from diana.dixel import Dixel
from diana.exceptions import ConfigError, InvalidItem
from diana.ledger.receipts import Receipt, ReceiptBook
from diana.ledger.store import Store
from diana.utils.dicom import DicomEventType, DicomLevel, DixelView, Query, Ref
from diana.utils.endpoint import Endpoint, Factory, Trigger
from diana.utils.endpoint.serializable import encode

DeidOptions = Mapping[str, Any] | str | None

EVENTS = {
    "instances": DicomEventType.INSTANCE_ADDED,
    "series": DicomEventType.SERIES_ADDED,
    "studies": DicomEventType.STUDY_ADDED,
    "files": DicomEventType.FILE_ADDED,
}


def say(item: Any, suffix: str | None = None) -> None:
    """Write an item to stdout as JSON, with a suffix; it is meant for trying out a route. A reader may leave."""
    text = item if isinstance(item, str) else json.dumps(item, indent=2, default=encode)
    with suppress(BrokenPipeError):
        sys.stdout.write(f"{text}{suffix or ''}\n")
        sys.stdout.flush()


def index_item(
    item: Mapping[str, Any] | Ref | Dixel | str,
    level: DicomLevel,
    source: Endpoint,
    dest: Endpoint,
    index: str | None = None,
    token: str | None = None,
) -> str:
    """
    Put the tags of an item, without its file, into an index; return its id there.

    ``index`` and ``token`` go to destinations that take them.
    """
    options = {key: value for key, value in (("index", index), ("token", token)) if value is not None}
    return dest.put(source.get(_address(item, level), view=DixelView.TAGS), **options)


def upload_item(
    item: Mapping[str, Any], source: Endpoint, dest: Endpoint, anonymizing: bool = False, *, deid: DeidOptions = None
) -> Receipt:
    """
    Send the file (or every member of the ZIP) that ``item["fn"]`` names, and return the receipt.

    With ``anonymizing`` each instance is de-identified here before it leaves, by ``deid`` (see ``steps.deidentify``);
    the original is never sent. Raises ConfigError without a key.
    """
    steps: list[Step] = [deidentify(deid)] if anonymizing else []
    return transfer(source, dest, _address(item, DicomLevel.INSTANCES), steps, route="upload")


def send_item(
    oid: Mapping[str, Any] | Ref | Dixel | str,
    level: DicomLevel,
    source: Any,
    dest: Endpoint | str,
    remove_src: bool = True,
    anonymize: bool = False,
    remove_anon: bool = True,
    *,
    deid: DeidOptions = None,
    on_server: bool = False,
) -> Receipt:
    """
    Send an item of an Orthanc to an endpoint, or to one of the Orthanc's own peers by name, and return the receipt.

    With ``anonymize`` each instance is de-identified here on its way, by ``deid`` (see ``steps.deidentify``); with
    ``on_server`` the source does it, see ``steps.server_anonymize``, and the result is checked. No copy stays there,
    so that ``remove_anon`` has nothing left to do. ``remove_src`` deletes the item at the source, after a *verified*
    receipt only: never after sending to a peer by name, which cannot be read back. Raises ConfigError without a key.
    """
    ref = _address(oid, level)
    if isinstance(dest, str):
        if anonymize:
            raise ConfigError("anonymizing needs the destination as an endpoint, not the name of a peer")
        source.psend(ref, dest)
        return Receipt("unverifiable", source.name, dest, level=int(level), reason="a peer by name cannot be read back")
    steps = _deid_steps(source, deid, on_server) if anonymize else []
    receipt = transfer(source, dest, ref, steps, route="send")
    if remove_src and receipt.state == "verified":
        source.delete(ref)
    return receipt


def put_item(item: Dixel | Ref | str, source: Endpoint, dest: Endpoint, **kwargs: Any) -> str:
    """Get an instance with its file from one endpoint and put it into another; return its id there."""
    view = DixelView.TAGS | DixelView.FILE
    ref = source.ref(item, DicomLevel.INSTANCES)
    return dest.put(source.get(ref, view=view if view in source.views else source.views), **kwargs)


def pull_and_save_item(
    item: Dixel, source: Endpoint, dest: Endpoint, anonymize: bool = False, *, deid: DeidOptions = None
) -> str:
    """
    Fetch a study or series with all its instances into an endpoint; return the id of the receipt's item.

    With ``anonymize`` each instance is de-identified before it is saved, by ``deid`` (see ``steps.deidentify``). Raises
    ConfigError without a key, and the receipt's reason as InvalidItem when not everything arrived.
    """
    steps: list[Step] = [deidentify(deid)] if anonymize else []
    receipt = transfer(source, dest, item, steps, route="pull_and_save", tries=3)
    if receipt.state not in ("verified", "unverifiable"):
        raise InvalidItem(f"{source.name} to {dest.name}: {receipt.state}; {receipt.reason}")
    return receipt.id


def query_and_index(
    query: Mapping[str, Any],
    level: DicomLevel,
    source: Any,
    domain: str,
    dest: Endpoint,
    token: str | None = None,
    index: str | None = None,
) -> list[str]:
    """Ask a modality behind an Orthanc, put every answer into an index, and return the ids there."""
    options = {key: value for key, value in (("index", index), ("token", token)) if value is not None}
    return [dest.put(found, **options) for found in source.rfind(Query(query, level), domain, level)]


@frozen
class Handler:
    """Say what a handler's name means: its event and either an action or a transfer with steps."""

    evtype: DicomEventType
    action: Callable[..., Any] | None = None
    anonymize: bool = False
    needs_dest: bool = True


def _handlers() -> dict[str, Handler]:
    found: dict[str, Handler] = {}
    for word, evtype in EVENTS.items():
        found[f"say_{word}"] = Handler(evtype, say, needs_dest=False)
        found[f"say_hello_{word}"] = Handler(evtype, partial(say, suffix=" says hello"), needs_dest=False)
        if word != "files":
            found[f"index_{word}"] = Handler(evtype, partial(_index, level=evtype.level))
            found[f"send_{word}"] = Handler(evtype)
            found[f"anon_and_send_{word}"] = Handler(evtype, anonymize=True)
    found["upload_files"] = Handler(DicomEventType.FILE_ADDED)
    found["upload_and_anonymize_files"] = Handler(DicomEventType.FILE_ADDED, anonymize=True)
    return found


def _index(item: Mapping[str, Any], level: DicomLevel, source: Endpoint, dest: Endpoint) -> str:
    return index_item(item, level, source, dest)


HANDLERS: Mapping[str, Handler] = _handlers()


def mk_route(
    hname: str,
    source_desc: Mapping[str, Any] | Endpoint,
    dest_desc: Mapping[str, Any] | Endpoint | None = None,
    *,
    book: ReceiptBook | None = None,
    deid: DeidOptions = None,
    on_server: bool = False,
) -> Trigger:
    """
    Return the trigger for a handler's name between two endpoints, given as objects or as mappings with a ``ctype``.

    Handlers that send (``upload_files``, ``send_*``, ``anon_and_send_*``) verify, and never delete at the source. Those
    that anonymize do it here, by ``deid`` (see ``steps.deidentify``), or ``on_server``, which must be an Orthanc, with
    a check of the result. Raises ConfigError for an unknown name and for a missing source, destination or key.
    """
    handler = HANDLERS.get(hname)
    if handler is None:
        near = get_close_matches(hname, HANDLERS, 1)
        raise ConfigError(f"unknown handler {hname!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    if not source_desc:
        raise ConfigError(f"{hname} needs a source")
    if not dest_desc and handler.needs_dest:
        raise ConfigError(f"{hname} needs a destination")
    source = _endpoint(source_desc)
    if not hasattr(source, "source_id"):
        raise ConfigError(f"{source.name} ({type(source).__name__}) cannot be watched")
    dest = None if dest_desc is None else _endpoint(dest_desc)
    name = hname if dest is None else f"{hname}:{dest.name}"
    if dest is None or not handler.needs_dest:
        return Trigger(handler.evtype, source, handler.action or say, name=f"{name}:{source.source_id}")
    if handler.action is not None:
        action = partial(handler.action, source=source, dest=dest)
        return Trigger(handler.evtype, source, action, name=f"{name}:{source.source_id}", dest=dest.name)
    steps = _deid_steps(source, deid, on_server) if handler.anonymize else []
    route = Route(f"{hname}:{source.name}", source, handler.evtype, [dest], steps=steps)
    return route.triggers(book or ReceiptBook(Store()))[0]


def _deid_steps(source: Any, deid: DeidOptions, on_server: bool) -> list[Step]:
    if not on_server:
        return [deidentify(deid)]
    if not hasattr(source, "anonymize"):
        raise ConfigError(f"{source.name} cannot anonymize")
    return [server_anonymize(deid, source)]


def _endpoint(described: Mapping[str, Any] | Endpoint) -> Any:
    return Factory.create(**described) if isinstance(described, Mapping) else described


def _address(item: Mapping[str, Any] | Ref | Dixel | str, level: DicomLevel) -> Ref | Dixel:
    """Return the address in what a source announced (``oid`` or ``fn``), or of an item given as it is."""
    if isinstance(item, str):
        return Ref(level, id=item)
    if isinstance(item, Mapping):
        name = item.get("oid") or item.get("fn")
        if not name:
            raise InvalidItem("the item names neither an oid nor a file")
        return Ref(level, id=str(name))
    return item
