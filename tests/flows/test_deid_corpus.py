"""A corpus with a known identifier in every place that can hold one, and real files that are odd or broken."""

from __future__ import annotations

import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from diana.deid import Deidentifier, Key, Recipe
from diana.deid.options import Option
from diana.deid.pseudonyms import new_uid
from diana.deid.recipe_files import parse
from diana.deid.result import Result
from diana.utils.blob import Blob
from tests.fakes.deid_files import odd_files, read
from tests.fakes.planted import NAMES, Planted, Planter, inflated, left
from tests.helpers import which

KEY = Key(b"c" * 32)
RECIPES = {
    "basic": Recipe.preset("basic"),
    "research": Recipe.preset("research"),
    "full dates": Recipe(name="full", options=("full-dates",)),
    "profile mode": Recipe(name="profile", mode="profile"),
}


@pytest.fixture(scope="module")
def corpus() -> list[Planted]:
    return list(Planter().corpus())


@pytest.fixture(scope="module", params=list(RECIPES))
def outputs(request: pytest.FixtureRequest, corpus: list[Planted]) -> tuple[Recipe, list[tuple[Planted, Result]]]:
    recipe = RECIPES[request.param]
    engine = Deidentifier(recipe, KEY)
    return recipe, [(planted, engine.apply(Blob(planted.data))) for planted in corpus]


def test_corpus_plants_thousands_in_six_character_sets(corpus: list[Planted]) -> None:
    assert sum(len(one.texts) + len(one.dates) + len(one.names) for one in corpus) > 20_000
    assert {one.charset for one in corpus} == set(NAMES)
    assert len(NAMES) == 6


def test_search_finds_what_is_planted(corpus: list[Planted]) -> None:
    for planted in corpus[:6]:
        assert len(left(planted.data, planted, frozenset())) > 500


def test_every_object_is_done_and_nothing_planted_is_left(
    outputs: tuple[Recipe, list[tuple[Planted, Result]]],
) -> None:
    recipe, pairs = outputs
    kept = frozenset(option.column for option in recipe.options)
    for planted, result in pairs:
        assert result.done, (planted.label, result.reason, result.text)
        assert result.blob is not None
        assert left(result.blob.read(), planted, kept) == [], planted.label


def test_every_reference_is_kept_under_its_new_uid(outputs: tuple[Recipe, list[tuple[Planted, Result]]]) -> None:
    _, pairs = outputs
    lost = []
    for planted, result in pairs:
        assert result.blob is not None
        data = inflated(result.blob.read())
        lost += [(planted.label, uid) for uid in planted.references if new_uid(KEY, uid).encode() not in data]
    assert lost == []


def test_technical_attributes_of_the_corpus_stay(outputs: tuple[Recipe, list[tuple[Planted, Result]]]) -> None:
    for _, result in outputs[1]:
        assert result.blob is not None
        ds = read(result.blob.read())
        assert (ds.Manufacturer, ds.SliceThickness, ds.ConvolutionKernel) == ("Example Systems", "1.5", "B31f")


def passing(preset: str) -> Deidentifier:
    """Return an engine for which no pixels are suspect: the rules that ship hold back many of the odd files."""
    rules = parse("pixel_rules:\n  - {name: all, action: pass, when: {SOPClassUID: '*'}}\n").pixel_rules
    return Deidentifier(evolve(Recipe.preset(preset), pixel_rules=rules), KEY)


@pytest.fixture(scope="module")
def odd() -> list[Path]:
    shared = Path(__file__).resolve().parents[3] / "shared"
    return list(odd_files(shared if shared.is_dir() else None))


@pytest.mark.parametrize("preset", ["basic", "research", "teaching"])
def test_odd_and_broken_files_are_done_or_refused_with_a_reason(preset: str, odd: list[Path]) -> None:
    engine = Deidentifier(Recipe.preset(preset), KEY)
    states: Counter[str] = Counter()
    for path in odd:
        result = engine.apply(Blob(path))
        assert result.done or (result.reason and result.text), path.name
        assert "cannot be understood" not in result.text, path.name
        states[result.state] += 1
        if result.blob is not None:
            result.blob.close()
    assert states["done"] > 80


def test_sound_odd_files_are_done(odd: list[Path]) -> None:
    """Everything that is whole, has a standard class and is no directory goes through when its pixels may pass."""
    engine = passing("basic")
    reasons = Counter(engine.apply(Blob(path)).reason for path in odd)
    assert set(reasons) <= {"", "broken", "dicomdir", "not-dicom", "no-uid"}
    assert reasons[""] > 5 * (reasons["broken"] + reasons["no-uid"])


def test_no_new_error_of_dciodvfy(odd: list[Path], tmp_path: Path) -> None:
    program = which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    engine = passing("basic")
    chosen = [path for path in odd if path.stat().st_size < 300_000][::2]
    new: dict[str, set[str]] = {}
    for path in chosen:
        result = engine.apply(Blob(path))
        if result.blob is None or b"1.2.840.10008.1.2.1.99" in result.blob.read()[:400]:
            continue  # dciodvfy does not read deflated data sets
        made = tmp_path / "made.dcm"
        made.write_bytes(result.blob.read())
        found = errors(program, made) - errors(program, path)
        if found:
            new[path.name] = found
    assert new == {}


def errors(program: str, path: Path) -> set[str]:
    """Return the errors of dciodvfy without the UIDs in them."""
    done = subprocess.run([program, str(path)], capture_output=True, text=True, errors="replace")
    lines = (done.stdout + done.stderr).splitlines()
    return {re.sub(r"UID \S+$|<[^<>]*>|[0-9.]{8,}", "", line) for line in lines if line.startswith("Error")}


def mutants(paths: list[Path], count: int, seed: int) -> Iterator[bytes]:
    """Yield files that were cut, or in which some bytes were changed."""
    rng = random.Random(seed)
    small = [path.read_bytes() for path in paths if 200 < path.stat().st_size < 20_000]
    for _ in range(count):
        data = bytearray(rng.choice(small))
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.choice((1, 3, 20))):
            if len(data) > 140:
                data[rng.randrange(130, len(data))] = rng.choice((0, 1, 8, 255, rng.randrange(256)))
        yield bytes(data)


@pytest.mark.parametrize("preset", ["basic", "research"])
def test_damaged_files_never_crash(preset: str, odd: list[Path]) -> None:
    engine = passing(preset)
    for data in mutants(odd, 1500, 7):
        result = engine.apply(Blob(data))
        assert result.state in ("done", "refused", "quarantined")
        assert result.done or result.reason


def test_options_of_the_presets() -> None:
    assert RECIPES["basic"].options == frozenset()
    assert Option.MODIFIED_DATES in RECIPES["research"].options
