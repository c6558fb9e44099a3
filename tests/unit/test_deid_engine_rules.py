"""The engine: tables, rules of a recipe, the check of the output, reports, and what is explained."""

from __future__ import annotations

import json
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from diana.deid import Deidentifier, Recipe, Rule
from diana.deid import tables as table_files
from diana.deid.pseudonyms import new_uid
from diana.deid.result import Quarantined
from diana.exceptions import ConfigError
from diana.utils.blob import Blob
from tests.fakes.deid_engine import KEY, deid, item, sequence, treated, with_options
from tests.fakes.deid_files import CT, make_ds, read, to_bytes


@pytest.mark.parametrize("name", sorted(table_files.PINNED))
def test_shipped_table_is_the_pinned_one(name: str) -> None:
    data = (Path(table_files.__file__).parent / "data" / f"{name}.json").read_bytes()
    assert sha256(data).hexdigest() == table_files.PINNED[name]


@pytest.mark.parametrize("name", ["ps3_15_e1_1", "ps3_15_e3_10_1", "ps3_16_cid_7050", "ps3_3_types_for_e1_1"])
def test_shipped_table_equals_the_shared_one(name: str, shared_dir: Path) -> None:
    ours = (Path(table_files.__file__).parent / "data" / f"{name}.json").read_bytes()
    assert ours == (shared_dir / "data" / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", ["ps3_15_e1_1", "ps3_15_e3_10_1", "ps3_3_text_types"])
def test_rows_have_the_checksum_that_the_table_names(name: str) -> None:
    table = table_files.load(name)
    rows = json.dumps(table.get("rows") or table["types"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert sha256(rows.encode()).hexdigest() == table["content_sha256"]


def test_table_has_657_rows_of_edition_2026d() -> None:
    assert len(table_files.load("ps3_15_e1_1")["rows"]) == 657
    assert table_files.edition() == "2026d"


def test_every_row_has_a_vr() -> None:
    assert not [
        row.tag for row in table_files.rows() if "x" not in row.tag and int(row.tag, 16) not in table_files.vrs()
    ]


def test_both_date_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        with_options("full-dates", "modified-dates")


def test_recipe_names_all_problems_at_once() -> None:
    rules = [Rule("PatientNam", "remove"), Rule("(0010,0010)", "vanish"), Rule(action="keep")]
    with pytest.raises(ConfigError) as caught:
        Recipe(mode="lax", rules=rules)
    assert len(caught.value.problems) == 4


def test_rules_of_the_recipe_come_last() -> None:
    rules = [
        Rule("SliceThickness", "remove"),
        Rule("(0018,0060)", "replace", value="100"),
        Rule("InstitutionName", "replace", value="Site 3"),
        Rule("StationName", "hash"),
        Rule("Rows", "remove", when={"Modality": "MR"}),
    ]
    result = deid(make_ds(), Recipe(rules=rules))
    assert result.blob is not None
    ds = read(result.blob.read())
    assert "SliceThickness" not in ds
    assert (str(ds.KVP), ds.InstitutionName, ds.Rows) == ("100", "Site 3", 8)
    assert len(ds.StationName) == 10


def test_last_rule_that_fits_wins() -> None:
    rules = [Rule("(0018,xxxx)", "remove"), Rule("KVP", "keep")]
    ds = treated(make_ds(), Recipe(rules=rules))
    assert "SliceThickness" not in ds
    assert ds.KVP == 120


def test_loosening_rule_drops_the_claim() -> None:
    result = deid(make_ds(), Recipe(rules=[Rule("DeviceSerialNumber", "keep")]))
    assert result.blob is not None
    ds = read(result.blob.read())
    assert ds.DeviceSerialNumber == "SN445566"
    assert (result.claim, result.codes, ds.PatientIdentityRemoved) == (False, (), "NO")
    assert "DeidentificationMethodCodeSequence" not in ds


def test_tightening_rule_keeps_the_claim() -> None:
    assert deid(make_ds(), Recipe(rules=[Rule("KVP", "remove")])).claim


def test_name_that_an_option_lets_stand_is_quarantined() -> None:
    result = deid(make_ds(InstitutionName="Quersfeld Clinic"), with_options("institution"))
    assert (result.state, result.reason, result.blob) == ("quarantined", "leak", None)
    assert "uersfeld" not in result.text


def test_quarantine_of_the_registry_is_passed_on() -> None:
    class Strict:
        def subject(self, issuer: str, patient_id: str) -> Any:
            raise Quarantined("unknown-patient", "the registry does not know the patient")

    result = Deidentifier(Recipe(), KEY, Strict()).apply(Blob(to_bytes(make_ds())))
    assert (result.state, result.reason) == ("quarantined", "unknown-patient")


def test_engine_can_be_pickled() -> None:
    engine = pickle.loads(pickle.dumps(Deidentifier(Recipe.preset("research"), KEY)))
    assert engine.apply(Blob(to_bytes(make_ds()))).done


def test_explain_names_each_element_without_values() -> None:
    steps = list(Deidentifier(Recipe(), KEY).explain(Blob(to_bytes(make_ds()))))
    by_path = {step.path: step for step in steps}
    assert (by_path["(0010,0010)"].action, by_path["(0008,0060)"].action) == ("subject", "term")
    assert by_path["(0008,1030)"].action == "remove"
    assert by_path["(0008,0080)"].rule.startswith("E.1-1: X/Z/D")
    assert "uersfeld" not in str(steps)


def test_teaching_preset_keeps_cleaned_descriptions() -> None:
    ds = treated(make_ds(), Recipe.preset("teaching"))
    assert ds.SeriesDescription.startswith("Thorax axial")
    assert not ds.StudyTime
    assert "Quersfeld" not in str(ds)


def report() -> Any:
    """Return a structured report with text, a name, a code, a number and a reference."""

    def content(kind: str, **values: Any) -> Any:
        name = item(CodeValue="121071", CodingSchemeDesignator="DCM", CodeMeaning="Finding")
        return item(RelationshipType="CONTAINS", ValueType=kind, ConceptNameCodeSequence=sequence([name]), **values)

    ds = make_ds(PixelData=None, Rows=None, Columns=None, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    image = item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID="1.2.77")
    code = item(CodeValue="818981001", CodingSchemeDesignator="SCT", CodeMeaning="Abdomen")
    ds.ValueType = "CONTAINER"
    ds.ContentSequence = sequence(
        [
            content("TEXT", TextValue="Mrs Quersfeld coughs"),
            content("PNAME", PersonName="Doktor^Wunderlich"),
            content("CODE", ConceptCodeSequence=sequence([code])),
            content("IMAGE", ReferencedSOPSequence=sequence([image])),
        ]
    )
    return ds


def test_report_keeps_only_its_references() -> None:
    ds = treated(report())
    assert [one.ValueType for one in ds.ContentSequence] == ["IMAGE"]
    assert ds.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == new_uid(KEY, "1.2.77")


def test_report_without_references_becomes_a_line_of_dummy_text() -> None:
    before = report()
    before.ContentSequence = before.ContentSequence[:2]
    ds = treated(before)
    assert [one.ValueType for one in ds.ContentSequence] == ["TEXT"]
    assert "Quersfeld" not in str(ds)


def test_clean_structured_content_keeps_codes_and_drops_texts() -> None:
    ds = treated(report(), with_options("clean-structured-content"))
    assert [one.ValueType for one in ds.ContentSequence] == ["TEXT", "PNAME", "CODE", "IMAGE"]
    assert ds.ContentSequence[2].ConceptCodeSequence[0].CodeMeaning == "Abdomen"
    assert ds.ContentSequence[0].TextValue == "ANONYMIZED"
    assert "Wunderlich" not in str(ds)
