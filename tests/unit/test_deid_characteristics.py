"""What an object says of its own private elements counts, and is true of the output."""

from __future__ import annotations

from typing import Any

import pytest

from diana.deid import Deidentifier, Key, Recipe, Rule
from diana.deid.recipe import SafePrivate
from diana.deid.result import Result
from diana.utils.blob import Blob
from tests.fakes.deid_files import EXPLICIT, make_ds, read, to_bytes
from tests.unit.test_deid_engine import item, sequence

KEY = Key(b"k" * 32)
SAFE = Recipe(options=("safe-private",))
CREATOR = "ACME TUBE"
SYNTAXES = [EXPLICIT, "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"]


def said(status: str, *, group: int = 0x0099, creator: str = CREATOR, **more: Any) -> Any:
    return item(
        PrivateGroupReference=group, PrivateCreatorReference=creator, BlockIdentifyingInformationStatus=status, **more
    )


def with_private(*described: Any) -> Any:
    """Return an image with private elements 01 (DS), 02 (LO), 03 (DA), 04 (LO with a name), 05 (SQ)."""
    ds = make_ds()
    block = ds.private_block(0x0099, CREATOR, create=True)
    block.add_new(0x01, "DS", "1.25")
    block.add_new(0x02, "LO", "FINE")
    block.add_new(0x03, "DA", "20230401")
    block.add_new(0x04, "LO", "for Herr Unbekannt, Max")
    inner = item(PatientName="Somebody^Else", KVP="80")
    inner.private_block(0x0099, CREATOR, create=True).add_new(0x01, "DS", "2.5")
    block.add_new(0x05, "SQ", sequence([inner]))
    if described:
        ds.PrivateDataElementCharacteristicsSequence = sequence(described)
    return ds


def deid(ds: Any, recipe: Recipe = SAFE, syntax: str = EXPLICIT) -> Result:
    return Deidentifier(recipe, KEY).apply(Blob(to_bytes(ds, syntax)))


def treated(ds: Any, recipe: Recipe = SAFE, syntax: str = EXPLICIT) -> Any:
    result = deid(ds, recipe, syntax)
    assert result.done, (result.reason, result.text)
    assert result.blob is not None
    return read(result.blob.read())


def left(ds: Any) -> list[int]:
    return sorted(one.tag.element & 0xFF for one in ds if one.tag.group == 0x0099 and one.tag.element > 0xFF)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_block_that_is_said_to_be_safe_stays(syntax: str) -> None:
    definition = [item(PrivateDataElement=number, PrivateDataElementValueRepresentation=vr)
                  for number, vr in ((1, "DS"), (2, "LO"), (3, "DA"), (4, "LO"))]  # fmt: skip
    described = said("SAFE", PrivateDataElementDefinitionSequence=sequence(definition))
    ds = treated(with_private(described), syntax=syntax)
    assert left(ds)[:2] == [1, 2]
    assert 3 not in left(ds)  # a date is a date
    assert 4 not in left(ds)  # what does not look as if a device wrote it
    assert ds[0x00990010].value == CREATOR
    (told,) = ds.PrivateDataElementCharacteristicsSequence
    assert (told.PrivateGroupReference, told.PrivateCreatorReference) == (0x0099, CREATOR)
    assert told.BlockIdentifyingInformationStatus == "SAFE"
    numbers = [one.PrivateDataElement for one in told.PrivateDataElementDefinitionSequence]
    assert numbers == [1, 2]


def test_a_sequence_in_a_safe_block_is_walked() -> None:
    ds = treated(with_private(said("SAFE")))
    (inner,) = ds[0x00991005].value
    assert inner.PatientName != "Somebody^Else"
    assert (inner.KVP, inner[0x00991001].value) == (80, 2.5)


def test_of_a_mixed_block_the_elements_that_are_named_stay() -> None:
    ds = treated(with_private(said("MIXED", NonidentifyingPrivateElements=[1, 3])))
    assert left(ds) == [1]
    (told,) = ds.PrivateDataElementCharacteristicsSequence
    assert told.BlockIdentifyingInformationStatus == "SAFE"
    assert "NonidentifyingPrivateElements" not in told


def test_dates_in_a_safe_block_are_treated_as_dates() -> None:
    ds = treated(with_private(said("SAFE")), Recipe(options=("safe-private", "modified-dates")))
    assert ds[0x00991003].value not in ("", "20230401")
    assert treated(with_private(said("SAFE")), Recipe(options=("safe-private", "full-dates")))[0x00991003]


def test_the_actions_for_identifying_elements_are_taken() -> None:
    actions = [
        item(IdentifyingPrivateElements=[1], DeidentificationAction="Z"),
        item(IdentifyingPrivateElements=[2], DeidentificationAction="D"),
        item(IdentifyingPrivateElements=[5], DeidentificationAction="X"),
    ]
    described = said("SAFE", DeidentificationActionSequence=sequence(actions))
    ds = treated(with_private(described))
    assert left(ds) == [1, 2]
    assert ds[0x00991001].value in ("", None)
    assert ds[0x00991002].value not in ("", "FINE")
    (told,) = ds.PrivateDataElementCharacteristicsSequence
    assert "DeidentificationActionSequence" not in told


@pytest.mark.parametrize(
    "described",
    [
        (),
        (said("UNSAFE"),),
        (said("UNSAFE"), said("SAFE")),
        (said("SAFE", group=0x0097),),
        (said("SAFE", creator="ACME OTHER"),),
        (said("SAFE", group=0x0098),),
        (said("MIXED"),),
        (said(""),),
        (said("PERHAPS"),),
    ],
)
def test_what_is_not_said_to_be_safe_goes_and_is_no_longer_described(described: tuple[Any, ...]) -> None:
    ds = treated(with_private(*described))
    assert left(ds) == []
    assert "PrivateDataElementCharacteristicsSequence" not in ds
    assert 0x00990010 not in ds


def test_without_the_option_nothing_private_stays_nor_its_description() -> None:
    for recipe in (Recipe(), Recipe(mode="profile")):
        ds = treated(with_private(said("SAFE")), recipe)
        assert left(ds) == []
        assert "PrivateDataElementCharacteristicsSequence" not in ds


def test_what_is_said_to_be_safe_and_is_not_is_quarantined() -> None:
    ds = with_private(said("SAFE"))
    ds.private_block(0x0099, CREATOR).add_new(0x02, "LO", "PID-990817")
    result = deid(ds)
    assert not result.done or b"990817" not in (result.blob.read() if result.blob else b"")
    ds.private_block(0x0099, CREATOR).add_new(0x02, "OB", b"Quersfeld Annegret")
    assert (deid(ds).state, deid(ds).reason) == ("quarantined", "leak")


def test_a_creator_that_could_be_a_person_is_not_believed() -> None:
    ds = make_ds()
    ds.private_block(0x0099, "Unbekannt^Max", create=True).add_new(0x01, "DS", "1.25")
    ds.PrivateDataElementCharacteristicsSequence = sequence([said("SAFE", creator="Unbekannt^Max")])
    assert left(treated(ds)) == []


def test_a_recipe_that_vouches_wins_and_a_rule_is_told_as_unsafe() -> None:
    vouched = Recipe(options=("safe-private",), safe_private=(SafePrivate(CREATOR, 0x0099, 1, "DS"),))
    assert left(treated(with_private(said("UNSAFE")), vouched)) == [1]
    ruled = Recipe(options=("safe-private",), rules=[Rule("(0099,xx02)", "keep", creator=CREATOR)])
    ds = treated(with_private(said("MIXED", NonidentifyingPrivateElements=1)), ruled)
    assert left(ds) == [1, 2]
    (told,) = ds.PrivateDataElementCharacteristicsSequence
    assert told.BlockIdentifyingInformationStatus == "MIXED"
    assert told.NonidentifyingPrivateElements == 1


def test_a_rule_about_the_description_is_followed() -> None:
    recipe = Recipe(options=("safe-private",), rules=[Rule("PrivateDataElementCharacteristicsSequence", "remove")])
    ds = treated(with_private(said("SAFE")), recipe)
    assert "PrivateDataElementCharacteristicsSequence" not in ds
    assert left(ds)


def test_it_is_explained() -> None:
    steps = list(Deidentifier(SAFE, KEY).explain(Blob(to_bytes(with_private(said("SAFE"))))))
    assert [one.action for one in steps if one.path == "(0008,0300)"] == ["walk"]
    assert any("says safe" in one.rule for one in steps)
