"""Classification of pixels, masking, streams of JPEG and JPEG 2000, readers of text."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from diana.deid.jpeg import strip_comments
from diana.deid.masks import decoded_frames, mask
from diana.deid.pixel_rules import PixelRule, Rectangle, Test, builtin_rules, keys_of
from diana.deid.pixels import Classifier, TextBox, classify, examine, outside, text_in, text_reader, ultrasound_regions
from diana.exceptions import ConfigError, InvalidItem
from diana.utils.blob import Blob
from tests.unit.deid_samples import NATIVE, blob, data, image

RED = np.random.default_rng(7).integers(1, 255, (24, 32, 3), dtype=np.uint8)
GREY = np.random.default_rng(8).integers(1, 4000, (24, 32), dtype=np.uint16)
BOX = Rectangle(2, 3, 7, 5)
INSIDE = (slice(3, 8), slice(2, 9))


def region(left: int, top: int, right: int, bottom: int) -> Dataset:
    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    return item


CASES: list[tuple[str, dict[str, Any]]] = [
    ("pass", {}),
    ("pass", {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]}),
    ("review", {"BurnedInAnnotation": "YES"}),
    ("pass", {"BurnedInAnnotation": "NO", "SOPClassUID": SecondaryCaptureImageStorage}),
    ("review", {"SOPClassUID": SecondaryCaptureImageStorage}),
    ("review", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}),
    ("review", {"SeriesDescription": "Dose Report 1"}),
    ("review", {"ImageType": ["ORIGINAL", "PRIMARY", "DOSE_INFO"]}),
    ("review", {"ConversionType": "DF"}),
    ("review", {"SecondaryCaptureDeviceManufacturer": "Vidar Systems"}),
    ("refuse", {"ConversionType": "SD"}),
    ("refuse", {"Modality": "SM", "ImageType": ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]}),
    ("review", {"Modality": "US"}),
    ("pass", {"Modality": "US", "BurnedInAnnotation": "NO"}),
    ("review", {"Modality": "XC"}),
]


@pytest.mark.parametrize(("action", "tags"), CASES)
def test_the_rules_that_ship_classify(action: str, tags: dict[str, Any]) -> None:
    assert examine(blob(image(**tags))).action == action


def test_colour_of_a_grey_modality_is_for_review() -> None:
    assert examine(blob(image(RED))).action == "review"


def test_an_object_without_pixels_passes() -> None:
    assert examine(blob(image(PixelData=None, BurnedInAnnotation="YES"))).action == "pass"


@pytest.mark.parametrize("syntax", NATIVE)
def test_ultrasound_is_masked_outside_its_regions(syntax: str) -> None:
    ds = image(GREY, syntax=syntax, Modality="US", BurnedInAnnotation="NO")
    ds.SequenceOfUltrasoundRegions = [region(4, 6, 15, 20), region(20, 6, 400, 23)]
    given = blob(ds)
    assert ultrasound_regions(given) == (Rectangle(4, 6, 12, 15), Rectangle(20, 6, 381, 18))
    decision = examine(given)
    assert decision.action == "mask"
    made = pixel_array(io.BytesIO(mask(given, decision.rectangles).read()))
    kept = np.zeros(GREY.shape, bool)
    kept[6:21, 4:16] = kept[6:24, 20:32] = True
    assert (made[kept] == GREY[kept]).all()
    assert (made[~kept] == 0).all()


def test_regions_that_cover_everything_are_no_proof() -> None:
    ds = image(GREY, Modality="US")
    ds.SequenceOfUltrasoundRegions = [region(0, 0, 31, 23)]
    assert examine(blob(ds)).action == "review"


@pytest.mark.parametrize("bad", [region(9, 9, 3, 3), Dataset(), region(0, 0, 0xFFFFFFFF, 2)])
def test_regions_without_sense_are_none(bad: Dataset) -> None:
    ds = image(GREY, Modality="US")
    ds.SequenceOfUltrasoundRegions = [bad]
    assert ultrasound_regions(blob(ds)) == ()
    assert examine(blob(ds)).action == "review"


def test_what_is_outside_covers_all_but_the_kept() -> None:
    kept = [Rectangle(2, 2, 5, 5), Rectangle(4, 4, 10, 3), Rectangle(-5, 9, 8, 400), Rectangle(50, 50, 5, 5)]
    image_of = np.ones((12, 16), int)
    for one in outside(kept, 16, 12):
        image_of[one.y : one.y + one.height, one.x : one.x + one.width] -= 1
    wanted = np.zeros((12, 16), int)
    wanted[2:7, 2:7] = wanted[4:7, 4:14] = wanted[9:12, 0:3] = 1
    assert (image_of == wanted).all()


def test_the_first_rule_decides_and_masks_add_up() -> None:
    ct = Test("Modality", "equals", "CT")
    rules = (
        PixelRule("one", "mask", ct, (Rectangle(0, 0, 4, 4),)),
        PixelRule("never", "refuse", ct),
        PixelRule("two", "mask", ct, (Rectangle(6, 6, 100, 100), Rectangle(90, 90, 5, 5))),
    )
    decision = classify({"Modality": "CT", "Rows": "8", "Columns": "8"}, rules)
    assert (decision.action, decision.rule) == ("mask", "one")
    assert decision.rectangles == (Rectangle(0, 0, 4, 4), Rectangle(6, 6, 2, 2))
    assert classify({"Modality": "CT"}, rules).action == "review"
    assert classify({"Modality": "MR"}, rules).action == "pass"


def test_one_classifier_serves_many_files_and_a_users_rule_goes_first() -> None:
    classifier = Classifier((PixelRule("ours", "pass", Test("StationName", "equals", "clean")),))
    given = {"BurnedInAnnotation": "YES"}
    assert [classifier.examine(blob(image(**given, StationName=name))).action for name in ("CLEAN", "X", "CLEAN")] == [
        "pass",
        "review",
        "pass",
    ]


def test_reasons_hold_no_values() -> None:
    decision = examine(blob(image(SeriesDescription="Dose Report of QUILLFEATHER")))
    assert "QUILL" not in repr(decision)


def test_what_rules_ask_is_known() -> None:
    assert {"Modality", "SOPClassUID", "Rows", "Columns"} <= set(keys_of(builtin_rules()))


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("kind", ["<u1", "<u2", "<i2", "<u4"])
@pytest.mark.parametrize("frames", [0, 3])
def test_native_pixels_are_masked_in_place(syntax: str, kind: str, frames: int) -> None:
    shape = (frames, 24, 32) if frames else (24, 32)
    pixels = np.random.default_rng(1).integers(1, 120, shape).astype(kind)
    given = image(pixels, syntax=syntax, frames=frames)
    made = mask(blob(given), [BOX])
    assert len(made) == len(data(given))
    found = dcmread(io.BytesIO(made.read()))
    assert found.file_meta.TransferSyntaxUID == syntax
    result = pixel_array(found)
    assert (result[(..., *INSIDE)] == 0).all()
    result[(..., *INSIDE)] = pixels[(..., *INSIDE)]
    assert (result == pixels).all()


def test_colour_is_masked_in_both_planar_configurations() -> None:
    for planar in (0, 1):
        ds = image(RED, PlanarConfiguration=planar)
        if planar:
            ds.PixelData = np.moveaxis(RED, -1, 0).tobytes()
        result = pixel_array(io.BytesIO(mask(blob(ds), [BOX]).read()))
        assert (result[INSIDE] == 0).all()
        result[INSIDE] = RED[INSIDE]
        assert (result == RED).all()


def test_bits_are_masked_across_frames_that_do_not_end_with_a_byte() -> None:
    frames = np.random.default_rng(3).integers(0, 2, (11, 5, 7), dtype=np.uint8)
    frames[:, 1:3, 2:5] = 1
    packed = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    ds = image(frames, frames=11, BitsAllocated=1, BitsStored=1, HighBit=0)
    ds.PixelData = packed + bytes(len(packed) % 2)
    result = pixel_array(io.BytesIO(mask(blob(ds), [Rectangle(2, 1, 3, 2)]).read()))
    assert not result[:, 1:3, 2:5].any()
    result[:, 1:3, 2:5] = 1
    assert (result == frames).all()


def test_black_is_black_in_every_photometric_interpretation() -> None:
    inverse = image(GREY, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    assert (pixel_array(io.BytesIO(mask(blob(inverse), [BOX]).read()))[INSIDE] == 4095).all()
    luminance = image(RED, PhotometricInterpretation="YBR_FULL")
    raw = pixel_array(io.BytesIO(mask(blob(luminance), [BOX]).read()), raw=True)
    assert (raw[INSIDE] == (0, 128, 128)).all()
    shared = image(RED, PhotometricInterpretation="YBR_FULL_422", Modality="US")
    shared.PixelData = bytes(range(256)) * 6
    whole = pixel_array(io.BytesIO(mask(blob(shared), [Rectangle(0, 0, 99, 99)]).read()), raw=True)
    assert (whole == (0, 128, 128)).all()


def test_pixels_beyond_the_last_frame_are_zeroed() -> None:
    ds = image(GREY)
    ds.PixelData = ds.PixelData + b"QUILLFEATHER"
    made = mask(blob(ds), [BOX])
    assert b"QUILL" not in made.read()
    assert len(made) == len(data(ds))


@pytest.mark.parametrize(
    ("syntax", "pixels"),
    [
        (RLELossless, GREY),
        (RLELossless, RED),
        (DeflatedExplicitVRLittleEndian, GREY),
    ],
)
def test_other_syntaxes_are_written_natively(syntax: str, pixels: np.ndarray[Any, Any]) -> None:
    ds = image(pixels, BurnedInAnnotation="YES")
    if syntax == DeflatedExplicitVRLittleEndian:
        ds.file_meta.TransferSyntaxUID = syntax
    else:
        ds.compress(syntax, generate_instance_uid=False)
    made = dcmread(io.BytesIO(mask(blob(ds), [BOX]).read()))
    assert made.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert made.BurnedInAnnotation == "YES"
    assert "ExtendedOffsetTable" not in made
    result = pixel_array(made)
    assert (result[INSIDE] == 0).all()
    result[INSIDE] = pixels[INSIDE]
    assert (result == pixels).all()


def test_jpeg_2000_is_written_natively_with_its_image() -> None:
    images, out = pytest.importorskip("PIL.Image"), io.BytesIO()
    images.fromarray(RED).save(out, "JPEG2000", no_jp2=True, mct=1)
    ds = image(RED, PhotometricInterpretation="YBR_RCT", PixelData=encapsulate([out.getvalue()]))
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = bytes(8), bytes(8)
    made = dcmread(io.BytesIO(mask(blob(ds), [BOX]).read()))
    assert made.PhotometricInterpretation == "RGB"
    assert "ExtendedOffsetTable" not in made
    result = pixel_array(made)
    result[INSIDE] = RED[INSIDE]
    assert (result == RED).all()


def test_frames_that_are_compressed_are_masked_one_by_one() -> None:
    frames = np.stack([GREY, GREY[::-1], GREY // 2])
    ds = image(frames, frames=3)
    ds.compress(RLELossless, generate_instance_uid=False)
    made = dcmread(io.BytesIO(mask(blob(ds), [BOX]).read()))
    result = pixel_array(made)
    assert (result[(slice(None), *INSIDE)] == 0).all()
    assert (result[:, 10:] == frames[:, 10:]).all()


def test_a_large_object_is_masked_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diana.deid.masks.IN_MEMORY", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = mask(blob(image(GREY)), [BOX])
    assert made.path is not None
    assert (pixel_array(made.path)[INSIDE] == 0).all()
    made.close()
    assert not list(tmp_path.iterdir())


BROKEN: list[dict[str, Any]] = [
    {"Rows": 0},
    {"Rows": 65535, "Columns": 65535, "BitsAllocated": 64, "BitsStored": 64, "HighBit": 63},
    {"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11},
    {"BitsStored": 17},
    {"HighBit": 3},
    {"SamplesPerPixel": 2},
    {"NumberOfFrames": 2},
    {"NumberOfFrames": 99999999},
    {"PixelData": None},
]


@pytest.mark.parametrize("tags", BROKEN, ids=str)
def test_what_cannot_be_masked_is_refused(tags: dict[str, Any]) -> None:
    with pytest.raises(InvalidItem):
        mask(blob(image(GREY, **tags)), [BOX])


def test_failed_masking_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diana.deid.masks.IN_MEMORY", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InvalidItem):
        mask(Blob(data(image(GREY))[:-40]), [BOX])
    assert not list(tmp_path.iterdir())


def test_huge_and_empty_rectangles_are_clipped_or_refused() -> None:
    given = blob(image(GREY))
    assert not pixel_array(io.BytesIO(mask(given, [Rectangle(-5, -5, 1 << 23, 1 << 23)]).read())).any()
    with pytest.raises(InvalidItem, match="no rectangle"):
        mask(given, [Rectangle(1000, 1000, 5, 5)])
    assert Rectangle(0, 0, 1 << 30, 1).problems()
    assert Rectangle(0, 0, 0, 1).problems()


def test_eight_bits_in_big_endian_words_are_unswapped() -> None:
    grey = RED[..., 0]
    ds = image(grey, syntax=ExplicitVRBigEndian)
    ds.PixelData = grey.reshape(-1, 2)[:, ::-1].tobytes()
    ds["PixelData"].VR = "OW"
    made = dcmread(io.BytesIO(mask(blob(ds), [BOX]).read()))
    result = np.frombuffer(made.PixelData, np.uint8).reshape(-1, 2)[:, ::-1].reshape(grey.shape)
    assert (result[INSIDE] == 0).all()
    assert (result[10:] == grey[10:]).all()


def jpeg(comment: bytes = b"QUILLFEATHER", **options: Any) -> bytes:
    images = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    images.fromarray(RED).save(out, "JPEG", comment=comment, exif=b"Exif\0\0QUILLFEATHER", **options)
    return out.getvalue()


def jpeg_2000(**options: Any) -> bytes:
    images = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    images.fromarray(np.tile(RED, (8, 8, 1))).save(out, "JPEG2000", comment="QUILLFEATHER", **options)
    return out.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}], ids=str)
def test_comments_leave_a_jpeg_and_the_image_stays(options: dict[str, Any]) -> None:
    images = pytest.importorskip("PIL.Image")
    given = jpeg(**options)
    made = strip_comments(given + b"QUILL tail")
    assert b"QUILL" in given
    assert b"QUILL" not in made
    assert made.startswith(b"\xff\xd8\xff\xe0")
    assert made.endswith(b"\xff\xd9")
    assert np.array_equal(images.open(io.BytesIO(made)), images.open(io.BytesIO(given)))
    assert strip_comments(made) is made


@pytest.mark.parametrize(
    "options", [{}, {"no_jp2": True}, {"no_jp2": True, "tile_size": (64, 64)}, {"tile_size": (64, 64)}], ids=str
)
def test_comments_leave_a_jpeg_2000_and_the_image_stays(options: dict[str, Any]) -> None:
    images = pytest.importorskip("PIL.Image")
    given = jpeg_2000(**options)
    made = strip_comments(given)
    assert b"QUILL" in given
    assert b"QUILL" not in made
    assert np.array_equal(images.open(io.BytesIO(made)), images.open(io.BytesIO(given)))
    assert strip_comments(made) == made


def test_a_comment_in_a_tile_part_goes_and_its_length_follows() -> None:
    images = pytest.importorskip("PIL.Image")
    given = jpeg_2000(no_jp2=True)
    at = given.index(b"\xff\x90") + 12
    comment = b"\xff\x64\x00\x10\x00\x01QUILLFEATHER"
    length = int.from_bytes(given[at - 6 : at - 2], "big") + len(comment)
    planted = given[: at - 6] + length.to_bytes(4, "big") + given[at - 2 : at] + comment + given[at:]
    assert strip_comments(planted) == strip_comments(given)
    assert np.array_equal(images.open(io.BytesIO(strip_comments(planted))), images.open(io.BytesIO(given)))


def test_the_colour_transform_of_adobe_stays() -> None:
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x02"
    given = b"\xff\xd8" + adobe + jpeg()[2:]
    assert adobe in strip_comments(given)
    assert b"QUILL" not in strip_comments(given)


@pytest.mark.parametrize("make", [jpeg, jpeg_2000, lambda: jpeg_2000(no_jp2=True)])
def test_broken_streams_are_refused_or_read(make: Any) -> None:
    given = make()
    for cut in range(2, min(len(given), 400)):
        try:
            assert isinstance(strip_comments(given[:cut]), bytes)
        except InvalidItem:
            continue
    with pytest.raises(InvalidItem):
        strip_comments(b"\xff\xd8\xff\xe1\xff\xff")
    assert strip_comments(b"") == b""
    assert strip_comments(b"\x01\x02QUILL") == b"\x01\x02QUILL"


def test_masked_jpegs_say_rgb() -> None:
    pytest.importorskip("PIL.Image")
    ds = image(RED, PhotometricInterpretation="YBR_FULL_422", LossyImageCompression="01")
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PixelData = encapsulate([jpeg(subsampling=0, quality=95)])
    ds["PixelData"].VR = "OB"
    assert len(list(generate_frames(ds.PixelData, number_of_frames=1))) == 1
    made = dcmread(io.BytesIO(mask(blob(ds), [BOX]).read()))
    assert (made.PhotometricInterpretation, made.PlanarConfiguration, made.LossyImageCompression) == ("RGB", 0, "01")
    assert (pixel_array(made)[INSIDE] == 0).all()


def test_a_reader_of_text_is_asked_for_the_first_frames() -> None:
    asked = []

    def reader(frame: np.ndarray[Any, Any]) -> list[TextBox]:
        asked.append(frame.shape)
        return [TextBox(BOX, "QUILLFEATHER"), TextBox(Rectangle(0, 0, 1, 1), "?", 0.1)]

    given = blob(image(np.stack([GREY] * 5), frames=5))
    assert text_in(given, reader) == (BOX,)
    assert asked == [(24, 32)] * 3
    assert "QUILL" not in repr(reader(GREY)[0])
    assert sum(1 for _ in decoded_frames(given)) == 5


def test_a_failing_reader_of_text_is_an_invalid_item() -> None:
    def reader(frame: np.ndarray[Any, Any]) -> list[TextBox]:
        raise RuntimeError("QUILLFEATHER")

    with pytest.raises(InvalidItem) as caught:
        text_in(blob(image(GREY)), reader)
    assert "QUILL" not in str(caught.value)


def test_without_an_installed_reader_of_text_there_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"diana\.ocr"):
        text_reader("none such")
