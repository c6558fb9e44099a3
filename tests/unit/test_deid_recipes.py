"""Recipes from files: our own, Orthanc's, deid's and CTP's; scripts of pixel rules."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from diana.deid.ctp_scripts import from_ctp
from diana.deid.foreign_recipes import from_deid, from_orthanc, sham_recipe, to_orthanc
from diana.deid.options import Option
from diana.deid.pixel_rules import Rectangle
from diana.deid.pixel_scripts import ctp_signatures, deid_filters, load_pixel_rules
from diana.deid.pixels import classify
from diana.deid.recipe import Recipe, Rule
from diana.deid.recipe_files import load, parse, to_document
from diana.dixel import Dixel
from diana.exceptions import ConfigError
from tests.helpers import REPO

EXAMPLES = sorted((REPO / "conf/deid").glob("*.yml"))
RECIPES = [path for path in EXAMPLES if path.name not in ("pixels.yml", "report-patterns.yml")]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_examples_are_recipes(path: Path) -> None:
    assert isinstance(load(path), Recipe)


def test_the_examples_say_what_their_presets_say() -> None:
    assert load(REPO / "conf/deid/basic.yml") == Recipe.preset("basic")
    assert load(REPO / "conf/deid/research.yml").options == Recipe.preset("research").options
    teaching = load(REPO / "conf/deid/teaching.yml")
    assert (len(teaching.pixel_rules), teaching.vocabulary) == (3, ("thymoma", "sarcoidosis"))
    assert load(REPO / "conf/deid/sham-compat.yml").mode == "profile"


def test_a_recipe_adds_to_its_preset() -> None:
    found = parse(
        """
        preset: research
        name: ours
        without: [safe private]
        options: [Clean_Descriptors]
        rules:
          - {tags: "(0010,xx20)", action: keep, when: {Modality: CT}}
          - {tags: StationName, action: replace, value: 5}
        safe_private: [{creator: ACME, group: "0029", element: "1a"}]
        pixel_rules: [{name: n, action: mask, blank: [[0, 0, 5, 5]], contains: {Manufacturer: acme}}]
        """
    )
    assert found.options == {Option.MODIFIED_DATES, Option.PATIENT_CHARACTERISTICS, Option.CLEAN_DESCRIPTORS}
    assert [rule.tags for rule in found.rules] == ["(0010,xx20)", "StationName"]
    assert found.rules[1].value == "5"
    assert (found.safe_private[0].group, found.safe_private[0].element) == (0x29, 0x1A)
    assert (found.name, found.age_cap) == ("ours", 0)
    tags = {"Manufacturer": "ACME Inc", "Rows": "9", "Columns": "9"}
    assert classify(tags, found.pixel_rules).rectangles == (Rectangle(0, 0, 5, 5),)
    assert to_document(found)["rules"][0]["when"] == {"Modality": "CT"}


def test_all_problems_of_a_recipe_are_told_at_once_with_lines_and_nearest_names() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(
            "preset: resarch\nmod: strict\noptions: [full dates, modified-dates, cleen-descriptors]\nrules:\n"
            "  - {tags: PatientNam, action: remove}\n  - {tags: PatientID, action: kep}\n"
            "  - {tags: StationName, action: keep, when: {Modalty: CT}}\n  - {action: remove}\n"
            "safe_private: [{creator: '', group: '0028'}]\npixel_rules: [{name: a, action: mask, blank: [[1, 2, 3]]}]\n"
            "age_cap: old\nremove_times: 1\n",
            "r.yml",
        )
    told = str(caught.value)
    for one in (
        *("'research'", "line 2: unknown key 'mod', did you mean 'mode'", "did you mean 'clean-descriptors'"),
        *("line 5: rule 1", "'PatientName'", "line 6: rule 2: unknown action, did you mean 'keep'", "'Modality'"),
        *("exclude each other", "must name tags", "odd number", "private creator", "[x, y, width, height]"),
        *("age_cap is a whole number", "remove_times is true or false"),
    ):
        assert one in told, one
    assert all(problem.startswith("r.yml") for problem in caught.value.problems)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
)


@pytest.mark.parametrize(
    "text",
    [BOMB, "rules: &a [*a]", "a: !!python/name:os.system", "rules: " + "[" * 5000, "- a", "rules: 3", "rules: [3]"],
)
def test_hostile_recipes_are_config_errors(text: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ConfigError):
        parse(text, "r.yml")
    assert time.monotonic() - begin < 20


def test_huge_rectangles_in_recipes_are_refused() -> None:
    with pytest.raises(ConfigError, match="16777216"):
        parse("pixel_rules: [{name: a, action: mask, blank: [[0, 0, 99999999999, 5]]}]")
    many = ", ".join("[0, 0, 1, 1]" for _ in range(300))
    with pytest.raises(ConfigError, match="more than 256"):
        parse(f"pixel_rules: [{{name: a, action: mask, blank: [{many}]}}]")


@pytest.mark.parametrize("name", ["../x.yml", "/etc/passwd", "a/b.yml", ""])
def test_pixel_rules_come_only_from_beside_the_recipe(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r.yml"
    path.write_text(f"pixel_rules: '{name}'\n")
    with pytest.raises(ConfigError, match="beside the recipe"):
        load(path)


ORTHANC: dict[str, Any] = {
    "Replace": {"PatientName": "A^B", "0010-0020": "X1", "StudyDate": None},
    "Keep": ["StudyDescription", "SOPClassUID"],
    "Remove": ["0008,0080", "(0029,1010)"],
    "Force": True,
    "DicomVersion": "2021b",
}


def test_a_map_of_orthanc_becomes_a_recipe_and_back(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps(ORTHANC))
    found = load(path)
    assert {(rule.tags, rule.action, rule.value) for rule in found.rules} == {
        ("PatientName", "replace", "A^B"),
        ("PatientID", "replace", "X1"),
        ("StudyDate", "empty", ""),
        ("StudyDescription", "keep", ""),
        ("InstitutionName", "remove", ""),
        ("(0029,1010)", "remove", ""),
    }
    back = to_orthanc(found)
    assert back["Replace"] == {"PatientName": "A^B", "PatientID": "X1", "StudyDate": ""}
    assert back["Keep"] == ["StudyDescription"]
    assert back["Remove"] == ["InstitutionName", "0029,1010"]
    assert back["KeepPrivateTags"] is False
    assert from_orthanc(back).rules


def test_options_become_lists_of_what_is_kept_for_orthanc() -> None:
    kept = to_orthanc(Recipe(options=["patient-characteristics"]))["Keep"]
    assert {"PatientSex", "PatientAge", "PatientWeight"} <= set(kept)
    assert "PatientName" not in kept


def test_what_a_server_cannot_do_is_told_rule_by_rule() -> None:
    with pytest.raises(ConfigError) as caught:
        to_orthanc(
            Recipe(options=["modified-dates"], age_cap=90, rules=[Rule("PatientID", "hash"), Rule("(0010,xx20)")])
        )
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({"Replac": {}, "Keep": ["PatientNam"], "KeepPrivateTags": True}, 3),
        ({"Keep": "PatientName", "Replace": []}, 2),
        (
            {
                "Replace": {"RequestAttributesSequence": [{"A": 1}]},
                "Remove": ["ReferencedStudySequence[0].PatientName"],
            },
            2,
        ),
    ],
)
def test_maps_with_problems_are_refused_as_a_whole(body: dict[str, Any], problems: int) -> None:
    with pytest.raises(ConfigError) as caught:
        from_orthanc(body)
    assert len(caught.value.problems) == problems


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '{"Replace": '])
def test_broken_json_is_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load(path)


def test_the_sham_map_is_a_recipe_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tags = {
        "PatientName": "Quillfeather^Ottoline", "PatientID": "1", "PatientBirthDate": "19500213", "PatientSex": "F",
        "AccessionNumber": "A1", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4",
        "SOPInstanceUID": "1.2.3.4.5",
        "StudyDate": "20190302", "StudyTime": "101112",
    }  # fmt: skip
    with caplog.at_level(logging.WARNING):
        found = sham_recipe(Dixel(tags=tags))
    assert "guessed" in caplog.text
    assert "Quill" not in caplog.text
    actions = {rule.tags: rule.action for rule in found.rules}
    assert actions["PatientName"] == actions["SOPInstanceUID"] == "replace"
    assert actions["StudyDescription"] == "keep"
    assert (found.name, found.mode) == ("sham-compat", "profile")


DEID = """FORMAT dicom

%filter whitelist
LABEL clean by its own word # somebody
  contains BurnedInAnnotation No

%filter graylist
LABEL banner
  contains Modality US
  + contains Manufacturer ACME|Omega
  + equals Rows 600|768 || missing Rows
  ctpcoordinates 0,0,100,20
  coordinates 10,30,20,50

LABEL regions
  present SequenceOfUltrasoundRegions
  keepcoordinates from:SequenceOfUltrasoundRegions

%filter blacklist
LABEL saved
  contains ImageType SAVE
  contains SeriesDescription SAVE
  + notequals Modality CT

%header
ADD PatientIdentityRemoved YES
REMOVE endswith:Time
KEEP StudyTime
REMOVE contains:InstanceUID
BLANK (0008,0080)
REPLACE PatientID ANON 1
JITTER StudyDate -31
REMOVE select:group:0032
"""


def test_a_recipe_of_deid_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deid.dicom"
    path.write_text(DEID)
    found = load(path)
    last = {rule.tags: (rule.action, rule.value) for rule in found.rules}
    assert last["StudyTime"] == ("keep", "")
    assert last["SeriesTime"] == ("remove", "")
    assert last["SOPInstanceUID"] == last["StudyInstanceUID"] == ("uid", "")
    assert last["ReferencedSOPInstanceUID"] == ("remove", "")
    assert last["InstitutionName"] == ("empty", "")
    assert last["PatientID"] == ("replace", "ANON 1")
    assert last["StudyDate"] == ("shift", "-31")
    assert last["(0032,xxxx)"] == ("remove", "")
    assert [(rule.name, rule.action) for rule in found.pixel_rules] == [
        ("clean by its own word", "pass"),
        ("banner", "mask"),
        ("regions", "mask"),
        ("saved", "review"),
    ]
    tags = {"Modality": "US", "Manufacturer": "omega", "Rows": "768", "Columns": "1024"}
    decision = classify(tags, found.pixel_rules)
    assert decision.rectangles == (Rectangle(0, 0, 100, 20), Rectangle(10, 30, 10, 20))
    assert classify({**tags, "Rows": "500"}, found.pixel_rules).action == "pass"
    assert (
        classify({**tags, "Rows": "500", "BurnedInAnnotation": "NO"}, found.pixel_rules).rule == "clean by its own word"
    )
    assert classify({"ImageType": "A\\screen save"}, found.pixel_rules).action == "review"
    assert classify({"SeriesDescription": "save", "Modality": "CT"}, found.pixel_rules).action == "pass"


def test_a_blank_image_with_kept_regions_keeps_the_regions() -> None:
    rules = deid_filters(
        "%filter graylist\nLABEL all\n coordinates all\nLABEL regions\n present SequenceOfUltrasoundRegions\n"
        " keepcoordinates from:SequenceOfUltrasoundRegions\n"
    )
    tags = {"SequenceOfUltrasoundRegions": "", "Rows": "10", "Columns": "10"}
    assert classify(tags, rules).rectangles == (Rectangle(0, 0, 10, 10),)
    assert classify(tags, rules, [Rectangle(0, 5, 10, 5)]).rectangles == (Rectangle(0, 0, 10, 5),)


def test_a_typing_error_in_a_filter_only_tightens(caplog: pytest.LogCaptureFixture) -> None:
    rules = deid_filters(
        "%filter graylist\nLABEL a\n contains Manfacturer ACME\n + equals Rows 5\n coordinates 0,0,2,2\n"
        "%filter whitelist\nLABEL b\n equals Modality CT\n + equals Bogus x\n"
    )
    assert "did you mean 'Manufacturer'" in caplog.text
    assert classify({"Rows": "5", "Columns": "5"}, rules).action == "mask"
    assert classify({"Rows": "4", "Modality": "CT"}, rules[1:]).rule == ""


DEID_PROBLEMS = [
    "REPLACE PatientID func:make", "REPLACE PatientID var:x", "ADD IssuerOfPatientID X", "REMOVE ALL",
    "REMOVE except:Manufacturer", "JITTER StudyDate var:j", "REPLACE PatientID", "SCRUB PatientID",
    "REMOVE PatientsNam",
    "REMOVE startswith:Zzz",
]  # fmt: skip


def test_what_deid_can_do_and_we_cannot_is_refused_line_by_line() -> None:
    with pytest.raises(ConfigError) as caught:
        from_deid("%header\n" + "\n".join(DEID_PROBLEMS) + "\n%labels\n", "deid.x")
    lines = {problem.split(": ")[1] for problem in caught.value.problems}
    assert lines == {f"line {number}" for number in range(2, len(DEID_PROBLEMS) + 3)}


@pytest.mark.parametrize(
    "lines", ["coordinates 1,2,3", "coordinates 9,9,3,3", "coordinates from:Other", "contain Modality CT",
              "equals Modality",
              "contains Modality (a+)+$", "contains Modality ["]
)  # fmt: skip
def test_filters_with_problems_are_refused(lines: str) -> None:
    with pytest.raises(ConfigError, match="line 3"):
        deid_filters(f"%filter graylist\nLABEL a\n {lines}\n")


CTP = """A library of places.

GE
  { Modality.equals("CT") * [0008,0070].containsIgnoreCase("ge medical") *
    ( [0008,103e].startsWith("AAA") + [0008,103E].matches(".*Report") ) * !(0028,0301).equals("NO") }
  (0,0,512,80) (10,90,20,30)

empty
  { [0028,0010].isGreaterThan("500") * StationName.equals("") + false.}
  (1,2,3,4)
"""


def test_a_pixel_script_of_ctp_is_read(tmp_path: Path) -> None:
    path = tmp_path / "DicomPixelAnonymizer.script"
    path.write_text(CTP)
    rules = load_pixel_rules(path)
    tags = {
        "Modality": "CT",
        "Manufacturer": "GE Medical Systems",
        "SeriesDescription": "Dose Report",
        "Columns": "512",
    }
    decision = classify({**tags, "Rows": "512"}, rules)
    assert decision.rectangles[:2] == (Rectangle(0, 0, 512, 80), Rectangle(10, 90, 20, 30))
    assert len(decision.rectangles) == 3
    for other in ({"Modality": "ct"}, {"SeriesDescription": "Report 2"}, {"BurnedInAnnotation": "NO"}):
        assert classify({**tags, "Rows": "400", **other}, rules).action == "pass"
    assert classify({"Rows": "501", "Columns": "9", "StationName": "x"}, rules).action == "pass"


@pytest.mark.parametrize(
    "script",
    [
        "{ Modality.equals(\"CT\") }", "{ Modality.equals(\"CT\") (0,0,1,1)", "} (0,0,1,1)", "nothing here",
        "{ Modality.sounds(\"CT\") } (0,0,1,1)", "{ Modalty.equals(\"CT\") } (0,0,1,1)",
        "{ ( Modality.equals(\"CT\") } (0,0,1,1)",
        "{ * } (0,0,1,1)", "{ Modality.equals(\"CT\") Rows.equals(\"1\") } (0,0,1,1)",
        "{ Modality.equals(\"CT\") } (0,0,0,1)",
        "{ Modality.matches(\"(a+)+$\") } (0,0,1,1)", "{ " + "!" * 100 + "Modality.equals(\"CT\") } (0,0,1,1)",
        "{ " + "(" * 5000 + " } (0,0,1,1)", "{ 0029[ACME]10.equals(\"x\") } (0,0,1,1)",
        "{ Modality.equals(\"CT\") } (0,0,999999999,1)",
    ],
)  # fmt: skip
def test_pixel_scripts_with_problems_are_refused(script: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ConfigError):
        ctp_signatures(script)
    assert time.monotonic() - begin < 20


ELEMENTS = """<script>
 <p t="DATEINC">-3210</p>
 <p t="PROJECTNAME">Project</p>
 <e en="T" t="00080012" n="InstanceCreationDate">@incrementdate(this,@DATEINC)</e>
 <e en="T" t="00080018" n="SOPInstanceUID">@hashuid(@UIDROOT,this)</e>
 <e en="T" t="00080050" n="AccessionNumber">@hash(this,16)</e>
 <e en="T" t="00100010" n="PatientName">@hashname(this,6,2)</e>
 <e en="T" t="00100020" n="PatientID">@lookup(this,ptid)</e>
 <e en="T" t="00080080" n="InstitutionName">@param(@PROJECTNAME)</e>
 <e en="T" t="00080090" n="ReferringPhysicianName">@always()@empty()</e>
 <e en="T" t="0008103e" n="SeriesDescription">@keep()</e>
 <e en="T" t="0013[CTP]10" n="">@remove()</e>
 <e en="T" t="00081030" n="StudyDescription">fixed text</e>
 <e en="T" t="00120063" n="m">@always()@append(){x}</e>
 <e en="F" t="00080021" n="SeriesDate">@if(this,exists){@remove()}{}</e>
 <k en="T" t="0018">Keep group 0018</k>
 <k en="F" t="0020">Keep group 0020</k>
 <r en="T" t="overlays">Remove overlays</r>
 <r en="T" t="privategroups">Remove private groups</r>
</script>
"""


def test_an_element_script_of_ctp_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dicom-anonymizer.script"
    path.write_text(ELEMENTS)
    rules = load(path).rules
    assert [(rule.tags, rule.action, rule.value, rule.creator) for rule in rules] == [
        ("(0018,xxxx)", "keep", "", ""),
        ("(0008,0012)", "shift", "-3210", ""),
        ("(0008,0018)", "uid", "", ""),
        ("(0008,0050)", "hash", "", ""),
        ("(0010,0010)", "pseudonym", "", ""),
        ("(0010,0020)", "pseudonym", "", ""),
        ("(0008,0080)", "replace", "Project", ""),
        ("(0008,0090)", "empty", "", ""),
        ("(0008,103E)", "keep", "", ""),
        ("(0013,xx10)", "remove", "", "CTP"),
        ("(0008,1030)", "replace", "fixed text", ""),
        ("(60xx,xxxx)", "remove", "", ""),
    ]


def test_what_ctp_can_do_and_we_cannot_is_refused_line_by_line() -> None:
    with pytest.raises(ConfigError) as caught:
        from_ctp(
            '<script>\n<e en="T" t="00080012">@if(this,exists){@remove()}{}</e>\n'
            '<e t="00100021">@encrypt(this,@K)</e>\n'
            '<e t="0010002">@keep()</e>\n<e t="00100030">@incrementdate(this,@NONE)</e>\n'
            '<r t="unspecifiedelements">x</r>\n<e t="00100040">@hashuid(@R,PatientID)</e>\n<x/></script>',
            "s.script",
        )
    assert len(caught.value.problems) == 7
    assert "s.script: line 2: 00080012" in str(caught.value)
    assert "'encrypt'" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE s [<!ENTITY a "b"><!ENTITY c "&a;&a;">]><script>&c;</script>',
        '<!DOCTYPE s [<!ENTITY a SYSTEM "file:///etc/passwd">]><script>&a;</script>',
        "<script>" + "<e>" * 5000, "<other/>", "", "not xml",
    ],
)  # fmt: skip
def test_hostile_scripts_are_config_errors(text: str) -> None:
    with pytest.raises(ConfigError):
        from_ctp(text)


def test_a_file_that_is_absent_large_or_binary_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.script")
    large = tmp_path / "large.script"
    with large.open("wb") as out:
        out.truncate(1 << 30)
    with pytest.raises(ConfigError, match="larger than"):
        load(large)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(binary)
