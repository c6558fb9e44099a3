"""RAD-69, Retrieve Imaging Document Set: plain and MTOM requests, one part for each document."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing as closed
from typing import Any, Final, cast  # Any: generators as context

from attrs import define, field

from diana.dixel import Dixel
from diana.exceptions import GatewayAnswerError, GatewayConnectionError, InvalidItem
from diana.server.archive import Archive
from diana.server.asked import Ask, Refusal, Reply, gathered, read_all
from diana.server.dicomweb_retrieve import blob_of
from diana.server.limits import Limits
from diana.server.pixels import NATIVE, transcoded
from diana.server.rad69_xml import BAD_ID, MISSING, NO_SYNTAX, Request, Wanted, answer, content_id, fault, read_request
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.gateways.multipart import Limits as PartLimits
from diana.utils.gateways.multipart import PartReader, PieceSource, boundary_of, parse_media_type
from diana.utils.gateways.multipart_write import closing, content_type, new_boundary, part_head

log = logging.getLogger(__name__)

SOAP_KIND: Final = "application/soap+xml; charset=utf-8"
XOP_KIND: Final = "application/xop+xml"
PLAIN: Final = ("application/soap+xml", "text/xml", "application/xml", XOP_KIND)
CID: Final = "diana"


@define(eq=False)
class Plan:
    """Say what of a request is here, series by series, and what is not and why."""

    here: list[Wanted] = field(factory=list)
    missing: list[tuple[str, str]] = field(factory=list)
    whole: set[tuple[str, str]] = field(factory=set)


@define(eq=False)
class Rad69Face:
    """Answer requests for documents."""

    archive: Archive
    limits: Limits

    def retrieve(self, ask: Ask) -> Reply:
        """Answer a request; whatever is wrong with it becomes a SOAP fault of the sender."""
        try:
            request = read_request(self._envelope(ask), self.limits.results)
        except GatewayAnswerError:
            return self._refused("the request is not well-formed, or is more than is taken")
        except Refusal:
            raise
        except InvalidItem as error:
            return self._refused(str(error))
        plan = self._planned(request)
        if not plan.here:
            return Reply(answer((), plan.missing, request.message), SOAP_KIND)
        boundary = new_boundary()
        kind = content_type(boundary, XOP_KIND, start=f"<root@{CID}>", start_info="application/soap+xml")
        return Reply(gathered(self._pieces(request, plan, boundary)), kind)

    @staticmethod
    def _refused(reason: str) -> Reply:
        return Reply(fault("Sender", reason), SOAP_KIND, 400)

    def _envelope(self, ask: Ask) -> bytes:
        """Return the SOAP message of a request, plain or the root part of several."""
        declared = ask.header("content-type")
        try:
            kind, parameters = parse_media_type(declared)
        except GatewayAnswerError:
            raise Refusal(415, "the Content-Type is damaged") from None
        if kind in PLAIN:
            return read_all(ask.body, self.limits.message)
        if kind != "multipart/related":
            raise Refusal(415, "a request is application/soap+xml, or multipart/related with it")
        data = read_all(ask.body, self.limits.message)
        start = parameters.get("start", "")
        try:
            boundary = boundary_of(declared, "request")
            reader = PartReader(
                PieceSource((data,)), boundary, "request", limits=PartLimits(parts=16), spill=len(data) + 1
            )
            parts = list(reader)
        except GatewayConnectionError:
            raise InvalidItem("the request has no closing boundary") from None
        root = next((one for one in parts if start and one.headers.get("content-id") == start), parts[0])
        return root.blob.read()

    def _planned(self, request: Request) -> Plan:
        plan = Plan(missing=[("", BAD_ID)] * request.bad)
        by_study: dict[str, list[Wanted]] = {}
        for one in request.wanted:
            by_study.setdefault(one.study, []).append(one)
        for study, wanted in by_study.items():
            self._plan_study(plan, Ref(DicomLevel.STUDIES, study=study), wanted, request.syntaxes)
        return plan

    def _plan_study(self, plan: Plan, ref: Ref, wanted: list[Wanted], syntaxes: tuple[str, ...]) -> None:
        known = self.archive.listing(ref)
        series: dict[str, int] = {}
        for row in (known or {}).values():
            uid = str(row.tags.get("SeriesInstanceUID") or "")
            series[uid] = series.get(uid, 0) + 1
        found: dict[str, int] = {}
        for one in wanted:
            code = self._problem(one, known, syntaxes)
            if code:
                plan.missing.append((one.instance, code))
            else:
                plan.here.append(one)
                found[one.series] = found.get(one.series, 0) + 1
        # most of a series comes faster in one go than one by one
        plan.whole.update((ref.study, uid) for uid, count in found.items() if 2 * count > max(2, series.get(uid, 0)))

    def _problem(self, one: Wanted, known: dict[str, Dixel] | None, syntaxes: tuple[str, ...]) -> str:
        """Return the code of what speaks against giving an instance, empty when nothing does."""
        if known is None:
            return "" if self._exists(one) else MISSING
        row = known.get(one.instance)
        if row is None or str(row.tags.get("SeriesInstanceUID") or one.series) != one.series:
            return MISSING
        stored = str(row.meta.get("TransferSyntaxUID") or "")
        good = not syntaxes or not stored or stored in syntaxes or bool(NATIVE.intersection(syntaxes))
        return "" if good else NO_SYNTAX

    def _exists(self, one: Wanted) -> bool:
        endpoint = self.archive.endpoint
        return not endpoint.can("exists") or endpoint.exists(_ref(one))

    def _pieces(self, request: Request, plan: Plan, boundary: str) -> Iterator[bytes]:
        files = self._files(plan)
        syntaxes = request.syntaxes or None
        root = answer(plan.here, plan.missing, request.message, cid=CID)
        head = {
            "Content-Type": f'{XOP_KIND}; charset=utf-8; type="application/soap+xml"',
            "Content-Transfer-Encoding": "binary",
            "Content-ID": f"<root@{CID}>",
        }
        with closed(cast(Any, files)):
            for number, one in enumerate(files):
                blob = blob_of(one)
                try:
                    out = transcoded(blob, syntaxes, self.limits.pixels)
                    if not number:  # announced only when the first document could be had
                        yield part_head(boundary, head, len(root), first=True)
                        yield root
                    part = {
                        "Content-Type": "application/dicom",
                        "Content-Transfer-Encoding": "binary",
                        "Content-ID": f"<{content_id(one.ref.instance, CID)}>",
                    }
                    yield part_head(boundary, part, len(out), first=False)
                    yield from out.pieces()
                finally:
                    blob.close()
        yield closing(boundary)

    def _files(self, plan: Plan) -> Iterator[Dixel]:
        """Yield the documents of a plan. Raises ItemNotFound when one is gone meanwhile."""
        groups: dict[tuple[str, str], dict[str, Wanted]] = {}
        for one in plan.here:
            groups.setdefault((one.study, one.series), {})[one.instance] = one
        for (study, series), wanted in groups.items():
            if (study, series) in plan.whole:
                ref = Ref(DicomLevel.SERIES, study=study, series=series)
                yield from self._picked(self.archive.instances(ref), wanted)
            for left in wanted.values():
                yield self.archive.one(_ref(left))

    @staticmethod
    def _picked(found: Iterator[Dixel], wanted: dict[str, Wanted]) -> Iterator[Dixel]:
        """Yield what is wanted of a series, and take it from the list."""
        with closed(cast(Any, found)):
            for one in found:
                if wanted.pop(one.ref.instance, None) is not None:
                    yield one
                else:
                    blob_of(one).close()
                if not wanted:
                    return


def _ref(one: Wanted) -> Ref:
    return Ref(DicomLevel.INSTANCES, study=one.study, series=one.series, instance=one.instance)
