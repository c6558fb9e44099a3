"""What every part of the contract suite stands on: attributes, hooks, choice of tests, helpers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

import pytest

from diana.dixel import Dixel
from diana.exceptions import DianaError, InvalidItem, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, DixelView, Ref
from diana.utils.endpoint import Endpoint, Factory
from tests.contract import samples
from tests.planted import PLANTED_PASSWORDS

Test = TypeVar("Test", bound=Callable[..., Any])


def needs(
    *verbs: str, files: bool = False, views: DixelView | None = None, uids: bool = False
) -> Callable[[Test], Test]:
    """Mark a test with what it needs: verbs, items with DICOM files, any of some views, addressing by UID."""

    def mark(test: Test) -> Test:
        test.contract_needs = (verbs, files, views, uids)  # type: ignore[attr-defined]
        return test

    return mark


class ContractBase:
    """
    Choose and feed the tests for the backend of the fixture ``endpoint``.

    Attributes: ``deviations`` (test name: reason, strict xfail); ``has_files`` (items are instances with DICOM files,
    so that other bytes under a UID conflict, and studies and series exist above them); ``by_uid`` (items can be
    addressed by Refs made of UIDs alone); ``secrets`` (texts that must never show); ``absent_id`` (an id that is never
    there); ``threads`` and ``check_seconds`` (how long ``check`` may take, an unreachable server included).
    """

    deviations: ClassVar[Mapping[str, str]] = {}
    has_files: ClassVar[bool] = True
    by_uid: ClassVar[bool] = True
    secrets: ClassVar[Sequence[str]] = PLANTED_PASSWORDS
    absent_id: ClassVar[str] = "00000000-00000000-00000000-00000000-00000000"
    threads: ClassVar[int] = 8
    check_seconds: ClassVar[float] = 15

    @pytest.fixture
    def endpoint(self) -> Endpoint:
        """A fresh endpoint."""
        raise NotImplementedError("a contract class gives a fixture 'endpoint'")

    @pytest.fixture
    def broken(self) -> Endpoint | None:
        """An endpoint whose server cannot be reached or whose storage is gone; None: there is no such thing."""
        return None

    def make_item(self, n: int = 0) -> Dixel:
        """Return the n-th distinct item that the endpoint takes; the same n gives an equal one."""
        return samples.instance(n) if self.has_files else samples.study(n)

    def changed(self, item: Dixel) -> Dixel:
        """Return an item with the same UIDs and other bytes."""
        number = int(str(item.tags["AccessionNumber"]).removeprefix("GEN"))
        return samples.instance(number, ImageComments="other bytes")

    def absent_item(self) -> Dixel:
        """Return an item that is never put."""
        return self.make_item(900)

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        """Bring an item there and return its id; endpoints that cannot put say how."""
        return endpoint.put(item)

    def reopened(self, endpoint: Endpoint) -> Endpoint | None:
        """Return another endpoint over the same storage, as after a restart; None: the storage does not outlive it."""
        return Factory.copy(endpoint)  # type: ignore[no-any-return]

    def query_for(self, item: Dixel) -> dict[str, Any]:
        """Return a query that finds one item and no other."""
        return {item.level.uid_keyword: item.tags[item.level.uid_keyword]}

    def nothing_query(self) -> dict[str, Any]:
        """Return a query that finds nothing."""
        return {"StudyInstanceUID": samples.uid(999)}

    update_data: ClassVar[Mapping[str, Any]] = {"Note": "seen"}

    def shows_update(self, endpoint: Endpoint, oid: str, level: DicomLevel) -> bool:
        """Tell whether ``update_data`` is there."""
        views = endpoint.views & (DixelView.META | DixelView.METAKV | DixelView.TAGS)
        found = endpoint.get(oid, level=level, view=views)
        return {**found.tags, **found.meta}.items() >= dict(self.update_data).items()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        unknown = sorted(name for name in cls.deviations if not hasattr(cls, name))
        if unknown:
            raise TypeError(f"{cls.__name__}.deviations names no test: {unknown}")

    @pytest.fixture(autouse=True)
    def _choose(self, request: pytest.FixtureRequest, endpoint: Endpoint) -> Iterator[None]:
        verbs, files, views, uids = getattr(request.function, "contract_needs", ((), False, None, False))
        kind = type(endpoint).__name__
        lacking = [verb for verb in verbs if not endpoint.can(verb)]
        if lacking:
            pytest.skip(f"{kind} cannot {', '.join(lacking)}")
        if files and not self.has_files:
            pytest.skip(f"{kind} keeps no DICOM files")
        if uids and not self.by_uid:
            pytest.skip(f"{kind} has names of its own")
        if views is not None and not views & endpoint.views:
            pytest.skip(f"{kind} has no view {views}")
        name = request.function.__name__
        if name in self.deviations:
            request.applymarker(pytest.mark.xfail(reason=self.deviations[name], strict=True))
        yield
        endpoint.close()

    def _at_once(self, work: Callable[[Any], Any], items: Any) -> list[Any]:
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(work, items, timeout=60))

    @staticmethod
    def _consumed(answer: Any) -> Any:
        return list(answer) if inspect.isgenerator(answer) else answer

    @staticmethod
    def _any_view(endpoint: Endpoint) -> DixelView:
        """Return tags when the endpoint has them, else the first view it has."""
        return DixelView.TAGS if DixelView.TAGS in endpoint.views else endpoint.views.parts()[0]

    @staticmethod
    def _uid_ref(item: Dixel) -> Ref:
        return Ref.from_tags(item.tags, item.level)

    @staticmethod
    def _files(items: Any) -> dict[str, bytes | None]:
        return {str(item.tags["SOPInstanceUID"]): item.file for item in items}

    @staticmethod
    def _down(broken: Endpoint | None) -> Endpoint:
        if broken is None:
            pytest.skip("nothing of it can be unreachable")
        return broken

    def _raises_trouble(self, call: Callable[[], Any]) -> None:
        """Expect an error of the tree that does not say absent, cannot, or bad item, and shows no secret."""
        with pytest.raises(DianaError) as caught:
            call()
        assert not isinstance(caught.value, ItemNotFound | Unsupported | InvalidItem), repr(caught.value)
        assert not any(secret in str(caught.value) for secret in self.secrets)
