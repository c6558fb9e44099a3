"""DICOM objects in which every place that can hold an identifier holds one, each of them known and unique."""

from __future__ import annotations

import datetime as dt
import json
import re
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from attrs import define, field

TABLE = Path(__file__).resolve().parents[2] / "diana" / "deid" / "data" / "ps3_15_e1_1.json"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG = "1.2.840.10008.1.2.2"
CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "EMR": "1.2.840.10008.5.1.4.1.1.4.1",
    "SR": "1.2.840.10008.5.1.4.1.1.88.33",
    "RTPLAN": "1.2.840.10008.5.1.4.1.1.481.5",
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
    "PR": "1.2.840.10008.5.1.4.1.1.11.1",
}
NAMES = {
    "ISO_IR 100": "Übelgrün{n}^Plänted{n}",
    "ISO_IR 144": "Иванов{n}^Пётр{n}",
    "ISO_IR 192": "Ünïcøde{n}^Łukasz{n}",
    "GB18030": "王小东{n}^明亮{n}",
    "ISO 2022 IR 6\\ISO 2022 IR 87": "Yamada{n}^Tarou{n}=山田{n}^太郎{n}=やまだ{n}^たろう{n}",
    "ISO 2022 IR 6\\ISO 2022 IR 149": "Hong{n}^Gildong{n}=洪{n}^吉洞{n}=홍{n}^길동{n}",
}
CODECS = (
    "utf-8",
    "latin-1",
    "iso8859-5",
    "gb18030",
    "shift_jis",
    "euc_jp",
    "euc_kr",
    "iso2022_jp",
    "utf-16-le",
    "utf-16-be",
)
MARK = re.compile(rb"(?i)PLANT[0-9]{5}|1\.2\.826\.0\.1\.3680043\.9\.99[0-9]{5}")
DATE_OPTIONS = frozenset(("retain_longitudinal_full_dates", "retain_longitudinal_modified_dates"))
FIRST_DATE = dt.date(1903, 5, 7)
EARLIER = dt.date(1750, 5, 7)  # of days that no date is moved to


@define
class Planted:
    """
    Hold one object with what was planted in it.

    ``texts`` maps the planted text to where it is; ``dates`` those that a date option keeps or moves; ``names`` are in
    other scripts; ``references`` are UIDs of other objects that must be found again under their new UID.
    """

    label: str
    charset: str
    data: bytes = field(repr=False)
    texts: dict[str, str] = field(factory=dict, repr=False)
    dates: dict[str, str] = field(factory=dict, repr=False)
    names: dict[str, str] = field(factory=dict, repr=False)
    references: list[str] = field(factory=list, repr=False)
    options: dict[str, frozenset[str]] = field(factory=dict, repr=False)


def rows() -> list[dict[str, Any]]:
    """Return the rows of Table E.1-1 with single tags."""
    return [
        row
        for row in json.loads(TABLE.read_text("utf-8"))["rows"]
        if re.fullmatch(r"\([0-9A-F]{4},[0-9A-F]{4}\)", row["tag"])
    ]


class Planter:
    """Make objects; every value is used once."""

    def __init__(self) -> None:
        from diana.deid.tables import vrs

        self.number = 0
        self.vrs = vrs()
        self.rows = rows()

    def corpus(self) -> Iterator[Planted]:
        """Yield all objects."""
        charsets = list(NAMES)
        syntaxes = [EXPLICIT, IMPLICIT, BIG, DEFLATED]
        for at, kind in enumerate(CLASSES):
            for depth in (0, 1, 2):
                syntax = syntaxes[(at + depth) % 4]
                yield self.make(kind, depth, syntax, charsets[(at * 3 + depth) % len(charsets)])
        for at, charset in enumerate(charsets):
            yield self.make("CT", at % 3, syntaxes[at % 2], charset)

    def make(self, kind: str, depth: int, syntax: str, charset: str) -> Planted:
        """Return an object of a kind with every row planted at a depth: 0 the top level."""
        made = Planted(f"{kind} depth {depth} {syntax} {charset}", charset, b"")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = self._base(kind, charset, made)
            target = ds
            for level in range(depth):
                target = self._nest(target, level)
            for row in self.rows:
                self._plant(target, row, made)
            self._private(target, made)
            if kind == "SR":
                self._content(ds, made)
            elif kind in ("EMR", "SEG"):
                self._groups(ds, made)
            if kind not in ("SR", "RTPLAN", "PR"):
                self._overlay(ds, made)
            made.data = self._saved(ds, syntax, made)
        return made

    def _base(self, kind: str, charset: str, made: Planted) -> Any:
        from pydicom.dataset import Dataset, FileMetaDataset

        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.SpecificCharacterSet = charset.split("\\")
        ds.SOPClassUID = CLASSES[kind]
        ds.Modality = {"EMR": "MR"}.get(kind, kind)
        ds.Manufacturer = "Example Systems"
        ds.ConvolutionKernel = "B31f"
        ds.SliceThickness = "1.5"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = self.uid(made), self.uid(made), self.uid(made)
        ds.FrameOfReferenceUID = self.uid(made)
        ds.PatientName = self.name(made, "(0010,0010)")
        ds.PatientID = self.text(made, "(0010,0020)")
        self._refer(ds, made)
        if kind not in ("SR", "RTPLAN", "PR"):
            ds.Rows = ds.Columns = 16
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.PixelData = bytes(range(256)) * 2
            ds["PixelData"].VR = "OW"
        return ds

    def _refer(self, ds: Any, made: Planted) -> None:
        """Add references to other objects in sequences that the profile keeps."""
        from pydicom.dataset import Dataset
        from pydicom.sequence import Sequence

        def one() -> Any:
            item = Dataset()
            item.ReferencedSOPClassUID = CLASSES["CT"]
            item.ReferencedSOPInstanceUID = self.uid(made)
            made.references.append(item.ReferencedSOPInstanceUID)
            return item

        ds.ReferencedImageSequence = Sequence([one(), one()])
        ds.SourceImageSequence = Sequence([one()])
        series = Dataset()
        series.SeriesInstanceUID = self.uid(made)
        made.references.append(series.SeriesInstanceUID)
        series.ReferencedInstanceSequence = Sequence([one(), one()])
        ds.ReferencedSeriesSequence = Sequence([series])

    def _nest(self, target: Any, level: int) -> Any:
        """Return a new item in a sequence that the profile keeps."""
        from pydicom.dataset import Dataset
        from pydicom.sequence import Sequence

        item = Dataset()
        target.add_new((0x00289110, 0x00081250)[level], "SQ", Sequence([item]))  # Pixel Measures, Related Series
        return item

    def _plant(self, target: Any, row: dict[str, Any], made: Planted) -> None:
        tag = int(row["tag"].strip("()").replace(",", ""), 16)
        group = tag >> 16
        if group in (0x0000, 0x0002, 0x0004) or tag in target or tag in (0x0040A730, 0x00420011) or group == 0xFFFC:
            return
        vr = self.vrs[tag]
        options = frozenset(row["options"])
        if vr == "SQ":
            from pydicom.sequence import Sequence

            target.add_new(tag, "SQ", Sequence([self._item(row["tag"], made, refers=row["basic_profile"] == "X/Z/U*")]))
            return
        value = self._value(vr, row["tag"], made, options)
        if value is not None:
            target.add_new(tag, vr, value)

    def _item(self, where: str, made: Planted, *, refers: bool) -> Any:
        from pydicom.dataset import Dataset

        item = Dataset()
        if refers:
            item.ReferencedSOPClassUID = CLASSES["CT"]
            item.ReferencedSOPInstanceUID = self.uid(made)
            return item
        item.PersonName = self.text(made, where + ".PN")
        item.CodeValue = self.text(made, where + ".code")
        item.CodingSchemeDesignator = "99LOCAL"
        item.CodeMeaning = self.text(made, where + ".meaning")
        item.InstitutionName = self.text(made, where + ".institution")
        item.ReferencedSOPInstanceUID = self.uid(made)
        return item

    def _value(self, vr: str, where: str, made: Planted, options: frozenset[str]) -> Any:
        dated = bool(options & DATE_OPTIONS)
        if vr in ("DA", "DT", "TM"):
            number = self._next()
            date = (FIRST_DATE if dated else EARLIER) + dt.timedelta(days=number)
            text = {
                "DA": f"{date:%Y%m%d}",
                "DT": f"{date:%Y%m%d}1234{number % 60:02}.{number:06}",
                "TM": f"0915{number % 60:02}.{number:06}",
            }[vr]
            (made.dates if dated else made.texts)[text] = where
            made.options[text] = options
            return text
        if vr == "UI":
            return self.uid(made)
        if vr in ("IS", "DS", "AS", "US", "UL", "FL", "FD", "SS"):
            return {"AS": "042Y", "IS": "12", "DS": "12.5"}.get(vr, 1)
        if vr in ("OB", "UN", "OW"):
            return self.text(made, where, options).encode() + b"\0" * (0 if not 10 % 2 else 1)
        if vr == "PN":
            return self.name(made, where)
        return self.text(made, where, options)

    def _private(self, target: Any, made: Planted) -> None:
        """Plant in private elements: safe looking creators, nested ones, and one without a creator."""
        from pydicom.dataset import Dataset
        from pydicom.sequence import Sequence

        target.add_new(0x00190010, "LO", "PLANTING SYSTEMS")
        target.add_new(0x00191001, "LO", self.text(made, "private"))
        target.add_new(0x00191002, "UN", self.text(made, "private UN").encode())
        inner = Dataset()
        inner.PatientName = self.text(made, "private.PN")
        inner.ReferencedSOPInstanceUID = self.uid(made)
        target.add_new(0x00191003, "SQ", Sequence([inner]))
        target.add_new(0x00271001, "LO", self.text(made, "private without creator"))
        target.add_new(0x20010010, "LO", "Philips Imaging DD 001")
        target.add_new(0x200110EE, "LO", self.text(made, "private beside safe"))
        target.add_new(0x20011064, "SH", self.text(made, "private in a safe place") + "^")

    def _content(self, ds: Any, made: Planted) -> None:
        """Plant in a content tree."""
        from pydicom.dataset import Dataset
        from pydicom.sequence import Sequence

        def item(kind: str) -> Any:
            one = Dataset()
            one.RelationshipType, one.ValueType = "CONTAINS", kind
            name = Dataset()
            name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "121071", "DCM", "Finding"
            one.ConceptNameCodeSequence = Sequence([name])
            return one

        text, person, uid, image, box = item("TEXT"), item("PNAME"), item("UIDREF"), item("IMAGE"), item("CONTAINER")
        text.TextValue = self.text(made, "content text")
        person.PersonName = self.text(made, "content name")
        uid.UID = self.uid(made)
        reference = Dataset()
        reference.ReferencedSOPClassUID = CLASSES["CT"]
        reference.ReferencedSOPInstanceUID = self.uid(made)
        made.references.append(reference.ReferencedSOPInstanceUID)
        image.ReferencedSOPSequence = Sequence([reference])
        box.ContinuityOfContent = "SEPARATE"
        deep = item("TEXT")
        deep.TextValue = self.text(made, "content text below")
        box.ContentSequence = Sequence([deep, image])
        ds.ValueType = "CONTAINER"
        ds.ContinuityOfContent = "SEPARATE"
        ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
        ds.ContentSequence = Sequence([text, person, uid, box])

    def _groups(self, ds: Any, made: Planted) -> None:
        """Plant in functional groups."""
        from pydicom.dataset import Dataset
        from pydicom.sequence import Sequence

        frame = Dataset()
        content = Dataset()
        content.FrameAcquisitionDateTime = self._value("DT", "frame", made, DATE_OPTIONS)
        content.FrameComments = self.text(made, "frame comments")
        content.StackID = "1"
        frame.FrameContentSequence = Sequence([content])
        source = Dataset()
        source.ReferencedSOPClassUID = CLASSES["MR"]
        source.ReferencedSOPInstanceUID = self.uid(made)
        made.references.append(source.ReferencedSOPInstanceUID)
        derivation = Dataset()
        derivation.SourceImageSequence = Sequence([source])
        frame.DerivationImageSequence = Sequence([derivation])
        ds.NumberOfFrames = "1"
        ds.PerFrameFunctionalGroupsSequence = Sequence([frame])

    def _overlay(self, ds: Any, made: Planted) -> None:
        ds.add_new(0x60000010, "US", 16)
        ds.add_new(0x60000011, "US", 16)
        ds.add_new(0x60000022, "LO", self.text(made, "overlay description"))
        ds.add_new(0x60000040, "CS", "G")
        ds.add_new(0x60000050, "SS", [1, 1])
        ds.add_new(0x60000100, "US", 1)
        ds.add_new(0x60000102, "US", 0)
        ds.add_new(0x60001500, "LO", self.text(made, "overlay label"))
        ds.add_new(0x60003000, "OW", self.text(made, "overlay data").encode() * 3 + b"\0\0")
        ds.add_new(0x60004000, "LT", self.text(made, "overlay comments"))
        ds.add_new(0x50002500, "LO", self.text(made, "curve label"))

    def _saved(self, ds: Any, syntax: str, made: Planted) -> bytes:
        from pydicom.filewriter import dcmwrite

        ds.file_meta.TransferSyntaxUID = syntax
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.SourceApplicationEntityTitle = self.text(made, "file meta")
        ds.file_meta.PrivateInformationCreatorUID = self.uid(made)
        ds.file_meta.PrivateInformation = self.text(made, "file meta private").encode()
        ds.preamble = self.text(made, "preamble").encode().ljust(128, b"\0")
        out = BytesIO()
        dcmwrite(out, ds, enforce_file_format=True, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG)
        return out.getvalue() + self.text(made, "tail").encode()

    def text(self, made: Planted, where: str, options: frozenset[str] = frozenset()) -> str:
        """Return a new planted text."""
        text = f"PLANT{self._next():05}"
        made.texts[text] = where
        made.options[text] = options
        return text

    def name(self, made: Planted, where: str) -> str:
        """Return a new name in the scripts of the object's character set."""
        name = NAMES[made.charset].format(n=self._next())
        made.names.update(dict.fromkeys(re.split(r"[\^=]", name), where))
        return name

    def uid(self, made: Planted) -> str:
        """Return a new planted UID."""
        uid = f"1.2.826.0.1.3680043.9.99{self._next():05}"
        made.texts[uid] = "uid"
        return uid

    def _next(self) -> int:
        self.number += 1
        return self.number


def left(data: bytes, planted: Planted, kept: frozenset[str]) -> list[str]:
    """Return where planted values are left in an output; ``kept`` are columns of the options that keep some."""
    data = inflated(data)
    texts = {one.decode().upper() for one in MARK.findall(data)}
    wide = {one.decode().upper() for half in (data[0::2], data[1::2]) for one in MARK.findall(half)}
    places = [
        f"{where} {text}"
        for text, where in planted.texts.items()
        if not planted.options.get(text, frozenset()) & kept and (text in texts | wide or _is_date_left(text, data))
    ]
    places += [
        f"{where} {text}" for text, where in planted.dates.items() if not kept & DATE_OPTIONS and text.encode() in data
    ]
    for name, where in planted.names.items():
        for codec in CODECS:
            try:
                needle = name.encode(codec)
            except UnicodeError:
                continue
            if len(needle) >= 4 and needle in data:
                places.append(f"{where} {codec}")
    return places


def _is_date_left(text: str, data: bytes) -> bool:
    return text[:1].isdigit() and "." not in text[:5] and text.encode() in data


def inflated(data: bytes) -> bytes:
    """Return a file with its data set inflated when it is deflated."""
    if DEFLATED.encode() not in data[:1000]:
        return data
    at = 144 + int.from_bytes(data[140:144], "little")
    return data[:at] + zlib.decompressobj(-15).decompress(data[at:])
