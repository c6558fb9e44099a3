"""An imaging document source from which instances can be fetched by IHE RAD-69."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar  # Any: objects of the trolley, responses of other libraries

from attrs import define, field

from diana.apis._streams import side_by_side
from diana.apis._web import CHECK_SECONDS, WebEndpoint
from diana.apis._web_pull import ROOM, with_view
from diana.apis.trolley_parts.downloader import Downloader
from diana.apis.trolley_parts.objects import references
from diana.dixel import Dixel, DixelView
from diana.exceptions import ConfigError, DianaError, GatewayAnswerError, IncompleteTransfer, InvalidItem
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.gateways.rad69 import Rad69 as Gateway
from diana.utils.gateways.rad69 import (
    Rad69ServerBusy,
    Rad69ServerError,
    Wanted,
    XDSMissingDocumentError,
    explain,
    ignorable,
    read_answer,
)
from diana.utils.gateways.rad69_message import REPOSITORY
from diana.utils.gateways.web_auth import split_last

if TYPE_CHECKING:
    from pydicom import Dataset

    from diana.utils.endpoint.endpoint import Item

log = logging.getLogger(__name__)

__all__ = ["Rad69", "Rad69ServerBusy", "Rad69ServerError", "XDSMissingDocumentError"]

WORKERS = 4


@define(eq=False)
class Rad69(Downloader, WebEndpoint):
    """
    Fetch instances by RAD-69 from the service at ``url``. Study, series and SOP Instance UID must be known.

    ``request_per_series`` makes one request for each series, otherwise one for everything. ``errors_to_ignore`` are
    error classes that are logged and passed over; what they are about is missing then. With ``use_async`` the
    instances are shared out among ``max_workers`` requests at a time, in no particular order. ``mtom`` sends requests
    as multipart messages, ``repository`` and ``home`` are the ids that go with each document.
    """

    views: ClassVar[DixelView] = DixelView.TAGS | DixelView.FILE | DixelView.PIXELS
    needs: ClassVar[DicomLevel] = DicomLevel.INSTANCES

    request_per_series: bool = True
    errors_to_ignore: Sequence[type[BaseException]] | None = field(default=None, metadata={"secret": True})
    use_async: bool = False
    max_workers: int | None = WORKERS
    repository: str = field(default=REPOSITORY, kw_only=True)
    home: str = field(default="", kw_only=True)
    mtom: bool = field(default=False, kw_only=True)
    name: str = field(default="Rad69", kw_only=True)
    gateway: Gateway = field(init=False, repr=False)

    def _connect(self) -> None:
        if not all(isinstance(one, type) and issubclass(one, Exception) for one in self.errors_to_ignore or ()):
            raise ConfigError(f"{self.name}: errors_to_ignore is a list of error classes")
        base, last = split_last(self.url)
        client = self.client(base, explain=explain)
        self.gateway = Gateway(client, last, self.name, repository=self.repository, home=self.home, mtom=self.mtom)

    def close(self) -> None:
        """Close kept connections; the endpoint may be used again."""
        self.gateway.client.close()

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        (found,) = self._fetch([self._wanted(ref)])
        return with_view(found, view)

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        return self._fetch([self._wanted(ref)])

    def _check(self) -> None:
        self.gateway.check(within=CHECK_SECONDS)

    def _wanted(self, ref: Ref) -> Wanted:
        study, series, instance = self.uids(ref)
        if not instance:
            raise InvalidItem(f"{self.name}: RAD-69 fetches instances; name one")
        return Wanted(study, series, instance)

    def pull_many(self, items: Iterable[Item], *, workers: int | None = None) -> Iterator[Dixel]:
        """
        Yield several instances with their files, by few requests; ``workers`` of them at a time, else as configured.

        A request that fails does not stop the others. Raises at the end: what the only request raised, else
        IncompleteTransfer with the list of what is missing.
        """
        wanted = list(dict.fromkeys(self._wanted(self.ref(item)) for item in items))
        if workers is None:
            workers = (self.max_workers or WORKERS) if self.use_async else 1
        return self._pulled(self._piles(wanted, workers), workers)

    def _piles(self, wanted: list[Wanted], workers: int) -> list[list[Wanted]]:
        """Return what goes into each request: a series or everything, cut so that each worker has something."""
        groups: dict[str, list[Wanted]] = {}
        for one in wanted:
            groups.setdefault(one.series if self.request_per_series else "", []).append(one)
        if 1 < workers > len(groups):
            return self.split_instances(wanted, workers)
        return list(groups.values())

    def _pulled(self, piles: Sequence[list[Wanted]], workers: int) -> Iterator[Dixel]:
        trouble: list[DianaError] = []
        received: list[str] = []
        streams = [partial(self._noted, pile, trouble) for pile in piles]
        if sum(map(len, piles)) > 1:
            # also for a single request: it is read while its consumer works
            found = side_by_side(streams, workers=workers, room=max(ROOM, workers), drop=_drop)
        else:
            found = (dixel for stream in streams for dixel in stream())
        for dixel in found:
            received.append(str(dixel.tags["SOPInstanceUID"]))
            yield dixel
        if trouble and (len(piles) == 1 or (not received and len({type(one) for one in trouble}) == 1)):
            raise trouble[0]
        if trouble:
            came = set(received)
            missing = [one.instance for pile in piles for one in pile if one.instance not in came]
            text = f"{self.name}: {len(missing)} of {len(missing) + len(came)} instances did not come: {trouble[0]}"
            raise IncompleteTransfer(text, missing, received)

    def _noted(self, pile: Sequence[Wanted], trouble: list[DianaError]) -> Iterator[Dixel]:
        try:
            yield from self._fetch(pile)
        except DianaError as error:
            if not self._ignored(error):
                trouble.append(error)

    def _fetch(self, wanted: Sequence[Wanted]) -> Iterator[Dixel]:
        for header, blob in self.gateway.retrieve(wanted):
            yield Dixel.from_header(header, file=blob)

    def _ignored(self, error: DianaError) -> bool:
        if not ignorable(error, list(self.errors_to_ignore or ())):
            return False
        log.warning("%s: passed over: %s", self.name, error)
        return True

    # What follows are the names of the trolley's page, over data sets.

    def datasets(self, objects: Any) -> Iterator[Dataset]:
        """
        Yield the data set of each instance of some objects, threaded when ``use_async`` is set.

        Raises NonInstanceParameterError (an InvalidItem) for objects that do not say which instances they have.
        """
        if self.use_async:
            return self.datasets_async(objects, self.max_workers)
        return self.datasets_single_thread(objects)

    def datasets_single_thread(self, objects: Any) -> Iterator[Dataset]:
        """Yield the data set of each instance of some objects, one request after the other."""
        return map(_dataset, self.pull_many(self._instances(objects), workers=1))

    def datasets_async(self, objects: Any, max_workers: int | None = None) -> Iterator[Dataset]:
        """Yield the data set of each instance of some objects, by several requests at a time."""
        return map(_dataset, self.pull_many(self._instances(objects), workers=max_workers or WORKERS))

    def series_download_iterator(self, instances: Iterable[Any], index: int = 0) -> Iterator[Dataset]:
        """Do as ``download_iterator``, and log which series it is."""
        log.debug("%s: series number %d", self.name, index)
        return self.download_iterator(instances)

    def download_iterator(self, instances: Iterable[Any]) -> Iterator[Dataset]:
        """Yield the data sets that one request for some instances returns."""
        wanted = [self._wanted(ref) for ref in self._instances(instances)]
        return map(_dataset, self._pulled([wanted], 1))

    def get_dataset(self, instance: Any) -> Dataset:
        """Return the data set of one instance."""
        (found,) = self._fetch([self._wanted(ref) for ref in self._instances(instance)])
        return _dataset(found)

    @staticmethod
    def _instances(objects: Any) -> list[Ref]:
        return references(objects, DicomLevel.INSTANCES)

    def create_instance_request(self, instance: Any) -> str:
        """Return the SOAP message that asks for an instance."""
        return self.create_instances_request([instance])

    def create_instances_request(self, instances: Iterable[Any]) -> str:
        """Return the SOAP message that asks for some instances."""
        return self.gateway.request(self._wanted(ref) for ref in self._instances(instances)).decode()

    def verify_response(self, response: Any) -> None:
        """Raise for a response (of requests) that is an error, unless it is one to be passed over."""
        try:
            self.check_for_response_errors(response)
        except DianaError as error:
            self.handle_response_error(error)

    @staticmethod
    def check_for_response_errors(response: Any) -> None:
        """Raise for a response (of requests) that is not a multipart answer with status 200."""
        from diana.utils.gateways.http_errors import error_of_status

        if response.status_code != 200:
            raise error_of_status("RAD-69", int(response.status_code))
        kind = str(response.headers.get("Content-Type", ""))
        if not kind.lower().startswith("multipart/"):
            Rad69.parse_rad69_soap_error_response(response)

    @staticmethod
    def parse_rad69_soap_error_response(response: Any) -> None:
        """
        Raise what a SOAP answer without documents reports.

        XDSMissingDocumentError when everything asked for is unknown there, Rad69ServerError for other errors of the
        server, GatewayAnswerError when it reports none.
        """
        from diana.utils.gateways.rad69 import errors_of
        from diana.utils.gateways.rad69_message import parse_response

        message = parse_response(response.content, "RAD-69")
        if message.fault is not None:
            raise Rad69ServerError(f"RAD-69: SOAP fault ({message.fault})")
        if not message.problems:
            raise GatewayAnswerError("RAD-69: an answer with neither documents nor errors")
        raise errors_of(message.problems, "RAD-69")

    def parse_rad69_response(self, response: Any) -> Iterator[Dataset]:
        """Yield the data sets in a response (of requests), streamed or not."""
        from diana.utils.gateways.foreign_answer import ForeignAnswer

        answer = ForeignAnswer(response, f"{self.name}: answer")
        for header, blob in read_answer(answer, None, spill=self.spill, folder=self.folder):
            yield _dataset(Dixel.from_header(header, file=blob))

    def handle_response_error(self, error: DianaError) -> None:
        """Raise an error, unless it is of a kind in ``errors_to_ignore``."""
        if not self._ignored(error):
            raise error

    @staticmethod
    def split_instances(instances: Sequence[Any], num_bins: int) -> list[Any]:
        """Return some instances in at most so many even piles, in order, none of them empty."""
        if num_bins < 1:
            raise InvalidItem("there is at least one pile")
        size, rest = divmod(len(instances), num_bins)
        piles, at = [], 0
        for number in range(num_bins):
            end = at + size + (number < rest)
            piles.append(list(instances[at:end]))
            at = end
        return [pile for pile in piles if pile]


def _drop(dixel: Dixel) -> None:
    if dixel.blob is not None:
        dixel.blob.close()


def _dataset(dixel: Dixel) -> Dataset:
    """Return the data set of a file, and give up the file."""
    from diana.apis.trolley_parts.datasets import dataset_of_file

    try:
        return dataset_of_file(dixel)
    finally:
        _drop(dixel)
