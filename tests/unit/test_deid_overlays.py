"""Overlays that lie in unused bits of the pixels go with their group."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from diana.deid import Deidentifier, Key, Option, Recipe, Rule
from diana.deid.result import Result
from diana.utils.blob import Blob
from tests.fakes.deid_files import EXPLICIT, make_ds, read, to_bytes

KEY = Key(b"k" * 32)
SYNTAXES = [EXPLICIT, "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]
IMAGE = [(at * 37) % 4096 for at in range(64)]


def with_overlay(*positions: int, allocated: int = 16, image: list[int] | None = None, big: bool = False) -> Any:
    """Return an image of 12 bits with overlays in higher ones."""
    ds = make_ds()
    drawn = [value | sum((at % 3 == 0) << bit for bit in positions) for at, value in enumerate(image or IMAGE)]
    for number, bit in enumerate(positions):
        group = 0x6000 + 2 * number
        ds.add_new((group, 0x0010), "US", 8)
        ds.add_new((group, 0x0011), "US", 8)
        ds.add_new((group, 0x0040), "CS", "G")
        ds.add_new((group, 0x0050), "SS", [1, 1])
        ds.add_new((group, 0x0100), "US", allocated)
        ds.add_new((group, 0x0102), "US", bit)
    ds.PixelData = struct.pack(f"{'>' if big else '<'}64H", *drawn)
    ds["PixelData"].VR = "OW"
    return ds


def deid(ds: Any, recipe: Recipe | None = None, syntax: str = EXPLICIT) -> Result:
    return Deidentifier(recipe or Recipe(), KEY).apply(Blob(to_bytes(ds, syntax)))


def pixels(result: Result) -> bytes:
    assert result.done, (result.reason, result.text)
    assert result.blob is not None
    return bytes(read(result.blob.read()).PixelData)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("positions", [(12,), (13, 15)])
def test_the_bits_of_overlays_are_cleared_and_no_others(syntax: str, positions: tuple[int, ...]) -> None:
    big = syntax == "1.2.840.10008.1.2.2"
    image = [value | 1 << 14 for value in IMAGE]
    result = deid(with_overlay(*positions, image=image, big=big), syntax=syntax)
    assert pixels(result) == struct.pack(f"{'>' if big else '<'}64H", *image)
    assert result.actions["7FE00010"] == {"clear": 1}


def test_bits_that_no_overlay_claims_stay() -> None:
    ds = make_ds(PixelData=struct.pack("<64H", *(value | 0xF000 for value in IMAGE)))
    assert pixels(deid(ds)) == ds.PixelData
    ds.add_new(0x60003000, "OW", bytes(8))
    ds.add_new(0x60000100, "US", 1)
    ds.add_new(0x60000102, "US", 0)
    result = deid(ds)
    assert pixels(result) == ds.PixelData
    assert "7FE00010" not in result.actions


def test_an_overlay_in_the_stored_bits_is_for_a_person_to_look_at() -> None:
    result = deid(with_overlay(11))
    assert (result.state, result.reason) == ("quarantined", "pixel-review")
    assert deid(with_overlay(0, allocated=16)).reason == "pixel-review"


def test_an_overlay_that_a_rule_keeps_is_not_touched() -> None:
    ds = with_overlay(12)
    assert pixels(deid(ds, Recipe(rules=[Rule("(60xx,xxxx)", "keep")]))) == ds.PixelData


def test_compressed_pixels_are_for_a_person_to_look_at() -> None:
    from pydicom.encaps import encapsulate

    ds = with_overlay(12)
    ds.PixelData = encapsulate([struct.pack("<16I", 1, 64, *[0] * 14) + bytes(80)])
    ds["PixelData"].is_undefined_length = True
    result = deid(ds, syntax="1.2.840.10008.1.2.5")
    assert (result.state, result.reason) == ("quarantined", "pixel-review")


@pytest.mark.parametrize("preset", ["basic", "research", "teaching"])
def test_every_preset_clears_them(preset: str) -> None:
    assert pixels(deid(with_overlay(12), Recipe.preset(preset))) == struct.pack("<64H", *IMAGE)


def test_what_is_masked_is_cleared_too() -> None:
    pytest.importorskip("numpy")
    from diana.deid.pixel_rules import PixelRule, Rectangle

    rule = PixelRule("corner", "mask", blank=(Rectangle(0, 0, 1, 1),))
    recipe = Recipe(options=(Option.CLEAN_PIXEL_DATA,), pixel_rules=(rule,))
    assert pixels(deid(with_overlay(12), recipe)) == struct.pack("<64H", 0, *IMAGE[1:])


def test_large_pixels_are_cleared_piece_by_piece(tmp_path: Path) -> None:
    ds = with_overlay(12)
    ds.Rows, ds.Columns, ds.NumberOfFrames = 512, 512, 40
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.PixelData = struct.pack("<H", 0x1FFF) * (512 * 512 * 40)
    ds["PixelData"].VR = "OW"
    path = tmp_path / "x.dcm"
    path.write_bytes(to_bytes(ds))
    result = Deidentifier(Recipe(), KEY, folder=tmp_path).apply(Blob(path))
    assert pixels(result) == struct.pack("<H", 0x0FFF) * (512 * 512 * 40)
    assert result.blob is not None
    result.blob.close()


def test_it_is_explained() -> None:
    steps = list(Deidentifier(Recipe(), KEY).explain(Blob(to_bytes(with_overlay(12)))))
    assert [one.action for one in steps if one.path == "(7FE0,0010)"][-1] == "clear"
