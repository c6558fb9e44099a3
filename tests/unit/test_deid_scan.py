"""The leak scan: what of an input is found in an output, and what is not taken for it."""

from __future__ import annotations

import base64
import hashlib
import random
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from diana.deid.scan import Hit, Identifiers, identifiers
from diana.utils.blob import Blob
from tests.unit.deid_samples import NATIVE, data, image

UIDS = {
    "StudyInstanceUID": "1.2.826.0.1.3680043.9.7777.1",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.9.7777.2",
    "SOPInstanceUID": "1.2.826.0.1.3680043.9.7777.3",
}
INPUT = UIDS | {
    "PatientName": "Quillfeather^Ottoline^B",
    "PatientID": "MRN-0012345",
    "PatientBirthDate": "19500213",
    "StudyDate": "20190302",
    "AccessionNumber": "ACC998877",
    "ReferringPhysicianName": "Grimthorpe^Karl",
    "InstitutionName": "Saint Elsewhere Hospital",
    "StationName": "CTSTAT77",
    "StudyDescription": "Follow up of Mrs Q, lives by the mill",
    "PatientTelephoneNumbers": "+1 555 867-5309",
    "PatientAddress": "12 Nowhere Lane^Foxholt",
    "Manufacturer": "ACME MEDICAL SYSTEMS",
}


@pytest.fixture(scope="module")
def known() -> Identifiers:
    return of(**INPUT)


def of(**tags: object) -> Identifiers:
    """Return the identifiers of an object of another patient."""
    return identifiers(data(source(**tags)))


def source(**tags: object) -> Dataset:
    ds = image(**{**UIDS, "PatientID": "MRN-0012345", "PatientName": "Quillfeather^Ottoline", **tags})
    ds.file_meta.MediaStorageSOPInstanceUID = UIDS["SOPInstanceUID"]
    return ds


def kinds(hits: list[Hit]) -> set[str]:
    return {hit.kind for hit in hits}


def test_a_clean_output_has_no_hit(known: Identifiers) -> None:
    assert known.hits(data(image())) == []


@pytest.mark.parametrize("syntax", NATIVE)
def test_the_input_itself_is_full_of_hits(known: Identifiers, syntax: str) -> None:
    found = known.hits(data(image(syntax=syntax, **INPUT)))
    assert {"name", "id", "birth", "date", "uid", "phone", "address", "institution"} <= kinds(found)
    assert {"(0010,0010)", "(0010,0020)", "(0020,000D)", "(0008,0080)"} <= {hit.where for hit in found}


def test_neither_repr_nor_hits_show_values(known: Identifiers) -> None:
    found = known.hits(data(image(**INPUT)))
    told = f"{known!r} {found!r}".lower()
    assert not any(word in told for word in ("quill", "0012345", "1950", "foxholt", "elsewhere", "7777"))


PLANTED = [
    ("name", "quillfeather"),
    ("name", "seen: Ottoline, 4th"),
    ("name", "QUILLFEATHER OTTOLINE"),
    ("name", "B. OttolineQuillfeather"),
    ("name", "Dr Grimthorpe"),
    ("id", "mrn-0012345"),
    ("id", "MRN0012345/7"),
    ("id", "no. 0012345"),
    ("id", "acc998877"),
    ("birth", "born 13.02.1950"),
    ("birth", "2/13/1950"),
    ("birth", "13 Feb 1950"),
    ("birth", "February 13, 1950"),
    ("birth", "1950-02-13"),
    ("date", "exam 20190302_1"),
    ("date", "2. März 2019"),
    ("date", "02/03/19"),
    ("uid", "see 1.2.826.0.1.3680043.9.7777.1 there"),
    ("phone", "call 555-867-5309"),
    ("phone", "15558675309"),
    ("address", "12 nowhere lane"),
    ("institution", "at saint elsewhere hospital"),
    ("text", "follow up of mrs q, lives by the mill"),
]


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize(("kind", "text"), PLANTED, ids=[text for _, text in PLANTED])
def test_what_is_planted_in_text_is_found(known: Identifiers, kind: str, text: str, syntax: str) -> None:
    ds = image(syntax=syntax, SpecificCharacterSet="ISO_IR 192")
    ds.ImageComments = text
    found = known.hits(data(ds))
    assert kind in kinds(found)
    assert {hit.where for hit in found} == {"(0020,4000)"}


HARMLESS = {
    "numbers with the same digits": {"ImagePositionPatient": [-12345.0, 20190302.5, 99.8877]},
    "a longer number": {"ImageComments": "90012345998"},
    "another word with the start of a name": {"ImageComments": "grim thorpes quill feathers otto line"},
    "manufacturer": {"Manufacturer": "ACME MEDICAL SYSTEMS"},
    "another date in a date": {"ContentDate": "20190303"},
    "a longer UID": {"FrameOfReferenceUID": "1.2.826.0.1.3680043.9.7777.11"},
    "codes": {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "BodyPartExamined": "CHEST"},
}


@pytest.mark.parametrize("tags", HARMLESS.values(), ids=HARMLESS)
def test_what_only_resembles_is_no_hit(known: Identifiers, tags: dict[str, object]) -> None:
    assert known.hits(data(image(**tags))) == []


def test_a_moved_date_may_equal_another_date_of_the_input_but_not_its_own(known: Identifiers) -> None:
    assert known.hits(data(image(SeriesDate="20190302"))) == []
    assert kinds(known.hits(data(image(StudyDate="20190302")))) == {"date"}


def test_a_birth_date_counts_in_every_date(known: Identifiers) -> None:
    assert kinds(known.hits(data(image(ContentDate="19500213")))) == {"birth"}


@pytest.mark.parametrize("name", ["CHEST^Brown", "Head^Neck", "ANONYMOUS", "Test^Phantom", "X^Y"])
def test_names_that_are_common_words_do_not_stop_everything(name: str) -> None:
    known = of(PatientName=name, StudyDescription="CHEST")
    assert known.hits(data(image(BodyPartExamined="CHEST", ImageComments="head, brown fat, phantom X"))) == []


def test_common_names_count_together_in_either_order() -> None:
    known = of(PatientName="Brown^Rose")
    for text in ("Mrs Rose Brown", "BROWN, ROSE", "brown^rose"):
        assert kinds(known.hits(data(image(ImageComments=text)))) == {"name"}


def test_short_names_count_together_and_under_their_own_tag() -> None:
    known = of(PatientName="Ng^Wu", PatientID="17")
    assert kinds(known.hits(data(image(ImageComments="ng wu")))) == {"name"}
    assert known.hits(data(image(ImageComments="wu 17"))) == []
    assert kinds(known.hits(data(image(PatientID="17")))) == {"id"}


# ruff: noqa: RUF001
SCRIPTS = [
    ("ISO_IR 100", "Jäger^Jürgen"),
    ("ISO_IR 101", "Wałęsa^Błażej"),
    ("ISO_IR 110", "Bērziņš^Jānis"),
    ("ISO_IR 144", "Люкceмбypг^Пётр"),
    ("ISO_IR 127", "قباني^لنزار"),
    ("ISO_IR 126", "Διονυσιος^Γιώργος"),
    ("ISO_IR 138", "שרון^דבורה"),
    ("ISO_IR 148", "Çavuşoğlu^Işıl"),
    ("ISO_IR 166", "นามสกุล^สมชาย"),
    ("ISO 2022 IR 6\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    ("ISO 2022 IR 6\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동"),
    ("GB18030", "王^小东"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
]


@pytest.mark.parametrize(("charset", "name"), SCRIPTS, ids=[charset for charset, _ in SCRIPTS])
def test_names_are_found_in_their_own_character_set_and_in_unicode(charset: str, name: str) -> None:
    sets = charset.split("\\")
    given = source(SpecificCharacterSet=sets if len(sets) > 1 else charset)
    given.PatientName = name
    known = identifiers(data(given))
    word = max((part for group in name.split("=") for part in group.split("^")), key=len)
    same = image(SpecificCharacterSet=sets if len(sets) > 1 else charset)
    same.OperatorsName = name
    assert "name" in kinds(known.hits(data(same)))
    plain = data(image(SpecificCharacterSet="ISO_IR 192", ImageComments=f"x {word} y"))
    assert "name" in kinds(known.hits(plain))
    for codec in ("utf-16-le", "utf-16-be"):
        ds = image()
        ds.add_new(0x00091001, "OB", b"\0\1" + word.encode(codec) + b"\0\2")
        assert "name" in kinds(known.hits(data(ds))), codec
    assert known.hits(data(image())) == []


@pytest.mark.parametrize("text", ["MUELLER", "Muller", "müller", "MÜLLER"])
def test_umlauts_are_found_in_every_spelling(text: str) -> None:
    known = of(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    assert kinds(known.hits(data(image(SpecificCharacterSet="ISO_IR 192", ImageComments=f"s. {text}")))) == {"name"}


def test_an_accent_more_does_not_hide_a_name() -> None:
    known = of(PatientName="Quillfeather^Andre")
    assert kinds(known.hits(data(image(SpecificCharacterSet="ISO_IR 192", ImageComments="André")))) == {"name"}


DISGUISED = {
    "utf-16 little": "Ottoline".encode("utf-16-le"),
    "utf-16 big": "QUILLFEATHER".encode("utf-16-be"),
    "base64": base64.b64encode(b"x\0MRN-0012345\0yy"),
    "hexadecimal": b"MRN-0012345".hex().upper().encode(),
    "md5": hashlib.md5(b"MRN-0012345").hexdigest().encode(),
    "sha1": hashlib.sha1(b"Quillfeather^Ottoline^B").hexdigest().encode(),
    "sha256": hashlib.sha256(b"ACC998877").hexdigest().encode(),
}


@pytest.mark.parametrize("value", DISGUISED.values(), ids=DISGUISED)
def test_what_is_disguised_is_found_in_private_bytes(known: Identifiers, value: bytes) -> None:
    ds = image()
    ds.add_new(0x00091001, "OB", b"\1\2" + value + bytes(len(value) % 2))
    assert {hit.where for hit in known.hits(data(ds))} == {"(0009,1001)"}


def test_hits_in_nested_items_have_their_path(known: Identifiers) -> None:
    inner, outer, ds = Dataset(), Dataset(), image()
    inner.TextValue = "Quillfeather"
    outer.ContentSequence = Sequence([Dataset(), inner])
    ds.ContentSequence = Sequence([outer])
    assert {hit.where for hit in known.hits(data(ds))} == {"(0040,A730)[0].(0040,A730)[1].(0040,A160)"}


def test_preamble_meta_and_tail_are_searched(known: Identifiers) -> None:
    clean = bytearray(data(image()))
    clean[4:16] = b"Quillfeather"
    assert {hit.where for hit in known.hits(bytes(clean))} == {"outside"}
    assert known.hits(data(image()) + b"Quillfeather")[0].where in ("outside", "pixel data")
    ds = image()
    ds.file_meta.SourceApplicationEntityTitle = "OTTOLINE"
    assert {hit.where for hit in known.hits(data(ds))} == {"(0002,0016)"}


def test_whole_values_are_found_inside_pixels(known: Identifiers, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(
        data(image(Rows=2048, Columns=1024, PixelData=bytes((1 << 20) - 5) + b"MRN-0012345" + bytes(3 << 20)))
    )
    assert kinds(known.hits(Blob(path))) == {"id"}
    assert known.hits(Blob(path))[0].where == "pixel data"


def test_deflated_data_sets_are_looked_into(known: Identifiers) -> None:
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    found = known.hits(data(image(syntax=DeflatedExplicitVRLittleEndian, ImageComments="Quillfeather")))
    assert {hit.where for hit in found} == {"(0020,4000)"}
    assert identifiers(data(image(syntax=DeflatedExplicitVRLittleEndian, **INPUT))).hits(data(image(**INPUT)))


def test_text_that_was_kept_on_purpose_may_stay_but_no_names(known: Identifiers) -> None:
    kept = data(image(StudyDescription=INPUT["StudyDescription"], InstitutionName=INPUT["InstitutionName"]))
    assert kinds(known.hits(kept)) == {"text", "institution"}
    assert known.hits(kept, allowed={0x00081030, 0x00080080}) == []
    named = data(image(StudyDescription="for Quillfeather"))
    assert kinds(known.hits(named, allowed={0x00081030})) == {"name"}


def test_a_text_is_searched_too(known: Identifiers) -> None:
    assert kinds(known.in_text("Frau QUILLFEATHER, *13.02.1950")) == {"name", "birth"}
    assert known.in_text("an unremarkable chest in 2019") == []


def test_values_are_those_that_are_given_only() -> None:
    known = Identifiers.of([(0x00100010, "PN", b"Quillfeather^Ottoline ")], "ISO_IR 100")
    assert kinds(known.hits(data(image(**INPUT)))) == {"name"}
    assert identifiers(data(image(**INPUT)), without=("name",)).hits(data(image(ImageComments="Quillfeather"))) == []


@pytest.mark.parametrize("seed", range(40))
def test_broken_bytes_neither_raise_nor_hide(known: Identifiers, seed: int) -> None:
    rng = random.Random(seed)
    broken = bytearray(data(image(ImageComments="x Quillfeather y", PatientComments="more")))
    place = broken.index(b"Quillfeather")
    for _ in range(rng.randrange(1, 12)):
        at = rng.randrange(len(broken))
        if not place - 2 <= at < place + 14:
            broken[at] = rng.randrange(256)
    broken = broken[: rng.randrange(place + 14, len(broken))]
    assert "name" in kinds(known.hits(bytes(broken)))
    identifiers(bytes(broken[: rng.randrange(len(broken))]))


@pytest.mark.parametrize("junk", [b"", b"DICM", bytes(132), bytes(128) + b"DICM", b"\xfe\xff\x00\xe0" * 5000])
def test_what_is_no_dicom_neither_raises_nor_hits(known: Identifiers, junk: bytes) -> None:
    assert known.hits(junk) == []
    assert len(identifiers(junk)) == 0


def test_hits_are_bounded(known: Identifiers) -> None:
    assert len(known.hits(data(image(ImageComments="Quillfeather " * 600)))) <= 100
