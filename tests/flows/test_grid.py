"""Every kind of source to every kind of destination: a study arrives, is proved, and is the same there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diana.apis import CTYPES
from diana.daemons.transfer import transfer
from diana.ledger import Receipt
from tests.contract.matrix import MATRIX
from tests.fakes.grid import DESTS, SOURCES, Dest, Source
from tests.fakes.grid_hall import Files, Hall, Tree, data_set, files_of, refs_for, study, study_refs
from tests.servers import ServerPool

pytestmark = pytest.mark.live

# the archive of dcmtk loses entries of its index when several store at once
WORKERS = {"DicomNode@dcmqrscp": 1}
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@pytest.fixture(scope="module")
def hall(server_pool: ServerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    """The servers, each started once."""
    found = Hall(server_pool, tmp_path_factory.mktemp("grid"), [kind.number for kind in SOURCES])
    yield found
    found.close()


def state_of(receipts: list[Receipt]) -> tuple[set[str], set[str]]:
    """Return states and reasons."""
    return {one.state for one in receipts}, {one.reason for one in receipts}


def check_kept(kept: Tree, sent: Files, dest: Dest, number: int) -> None:
    """Compare what a destination holds with what the source sends, as far as the destination keeps it."""
    assert kept.keys() == study(number).keys()
    for uid, found in kept.items():
        if dest.keeps == "file":
            assert found == sent[uid], "other bytes arrived"
        elif dest.keeps == "dataset":
            assert data_set(found) == data_set(sent[uid]), "another data set arrived"
        elif dest.keeps == "tags":
            assert {key: str(found[key]) for key in UIDS} == {key: study(number)[uid].tags[key] for key in UIDS}
        else:
            assert found.shape == (8, 8)


@pytest.mark.parametrize("dest_kind", DESTS, ids=lambda kind: f"to-{kind.name}")
@pytest.mark.parametrize("source_kind", SOURCES, ids=lambda kind: kind.name)
def test_a_study_is_moved_and_proved(hall: Hall, source_kind: Source, dest_kind: Dest) -> None:
    number = source_kind.number
    source, dest = hall.source(source_kind), hall.dest(dest_kind)
    refs = refs_for(source, number)
    receipts = [transfer(source, dest, ref, workers=WORKERS.get(dest_kind.name, 4)) for ref in refs]
    if not dest_kind.keeps:
        assert state_of(receipts) == ({"failed"}, {f"InvalidItem: {dest.name}: the study has no report"})
        return
    expected = ({"verified"}, {""})
    if not dest_kind.reads_back:
        expected = ({"unverifiable"}, {f"{dest.name} cannot be read back"})
    assert state_of(receipts) == expected
    assert sum(one.expected or 0 for one in receipts) == 4
    if dest_kind.reads_back:
        assert sum(one.verified for one in receipts) == 4
    check_kept(dest_kind.kept(hall, dest, number), hall.sent(source_kind), dest_kind, number)


@pytest.mark.parametrize("source_kind", SOURCES, ids=lambda kind: kind.name)
def test_a_source_sends_what_it_was_given(hall: Hall, source_kind: Source) -> None:
    number = source_kind.number
    sent, given = hall.sent(source_kind), files_of(study(number))
    if not source_kind.dimse:
        assert sent == given
    assert {uid: data_set(file) for uid, file in sent.items()} == {uid: data_set(file) for uid, file in given.items()}


@pytest.mark.parametrize(
    "source_kind",
    [kind for kind in SOURCES if kind.name.partition("@")[0] in ("WadoRS", "DicomListener")],
    ids=lambda kind: kind.name,
)
def test_a_whole_study_of_a_source_that_cannot_list_is_unverifiable(hall: Hall, source_kind: Source) -> None:
    number, dest = source_kind.number, DESTS[0].make(hall)
    source = hall.source(source_kind)
    receipt = transfer(source, dest, study_refs(number)[0])
    assert (receipt.state, receipt.reason) == ("unverifiable", f"{source.name} cannot say what it has")
    assert (receipt.expected, receipt.verified) == (None, 4)


def test_the_grid_has_every_kind_of_endpoint() -> None:
    sends = {kind.name.partition("@")[0].partition("-")[0] for kind in SOURCES}
    receives = {kind.name.partition("@")[0] for kind in DESTS}
    assert sends == {name for name, row in MATRIX.items() if "pull" in row.verbs}
    assert receives == {name for name, row in MATRIX.items() if "put" in row.verbs}
    searches = {name for kind in SOURCES if kind.name.startswith("Trolley") for name in kind.name.split("-")[1:]}
    rest = set(CTYPES) - sends - receives - searches
    assert rest == {"Montage", "WadoRSMetadata"}, "reports and tags alone, nothing to move"
