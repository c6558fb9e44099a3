"""A folder of pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Final  # arrays hold any number type

from attrs import define, evolve, field

from diana.apis._deid_folder import DeidFolder
from diana.apis._folder_index import walk
from diana.dixel import Dixel, DixelView, ShamDixel
from diana.dixel.convert import element_values
from diana.exceptions import Conflict, InvalidItem, ItemNotFound
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.gateways.file_handlers import paths
from diana.utils.gateways.file_handlers.dcm_file import parse, pixel_array
from diana.utils.gateways.file_handlers.image_file import ImageFileHandler

SUFFIX: Final = ".png"
NUMBERS: Final = re.compile(r"(.+)-([0-9]{4,})-([0-9]{4,})\Z")


@define(eq=False, slots=False)
class ImageDir(DeidFolder):
    """
    Hold the picture of each instance as ``<accession number>-<series>-<instance>.png``; that name is its id.

    Series and studies are put by their children; their ids are the beginning of the names. Pixel values are rescaled
    (PS3.3 C.11.1) and brought to 8 bits, MONOCHROME1 is inverted, frames are laid side by side. An accession number
    that is no plain name is replaced by its hash. With ``anonymizing`` an instance is de-identified by ``deid`` (see
    ``diana.deid.setup.Setup``; a key is needed) before its picture is made, so that one with text burned in is masked
    or held back, and the name begins with the new StudyInstanceUID, or a keyed hash of the accession number. With the
    preset *sham* the name is that of the ShamDixel, and the pixels stay.
    """

    views: ClassVar[DixelView] = DixelView.META | DixelView.FILE | DixelView.PIXELS

    name: str = field(default="ImageDir", kw_only=True)
    max_size: int = field(default=1024, kw_only=True)
    gateway: ImageFileHandler = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.gateway = ImageFileHandler(self.path, self.subpath_width, self.subpath_depth, self.name)

    def _put(self, dixel: Dixel) -> str:
        if not isinstance(dixel, Dixel):
            raise InvalidItem(f"{self.name}: takes dixels")
        self._is_there()
        if dixel.level == DicomLevel.INSTANCES:
            return self._put_one(dixel)
        count = sum(1 for instance in dixel.instances() if self._put_one(instance))
        if not count:
            raise InvalidItem(f"{self.name}: the {dixel.level.singular.lower()} has no instances")
        return self._address(dixel).id

    def _put_one(self, instance: Dixel) -> str:
        fn = self._address(instance).id
        shown = instance if self._is_plain else self._released(instance)
        picture = self.gateway.encoded(fn, self._values(shown), self.max_size)
        if self.gateway.exists(fn):
            with self.gateway.open(fn) as stream:
                if stream.read() != picture:
                    raise Conflict(f"{self.name}: another picture has this series and instance number")
        else:
            self.gateway.write(fn, lambda out: out.write(picture))
        return fn

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        names = self._names(ref)
        if not names:
            raise ItemNotFound(f"{self.name}: no such picture")
        found = Dixel(meta={"ID": ref.id, "Images": len(names)}, level=ref.level)
        if ref.level == DicomLevel.INSTANCES:
            found.meta["FileName"] = names[0]
        elif view & ~DixelView.META:
            raise InvalidItem(f"{self.name}: file and pixels belong to instances")
        if DixelView.FILE in view:
            found.blob = self.gateway.blob(names[0])
        if DixelView.PIXELS in view:
            found.pixels = self.gateway.get(names[0])
        return found

    def _exists(self, ref: Ref) -> bool:
        return bool(self._names(ref))

    def _delete(self, ref: Ref) -> bool:
        gone = [self.gateway.delete(fn) for fn in self._names(ref)]
        return any(gone)

    def ref(self, item: Any, level: DicomLevel | str | None = None) -> Ref:
        """Return the address of a dixel, a ref or an id; the level of a plain id follows from its form."""
        found = super().ref(item, level)
        if isinstance(item, str) and level is None:
            depth = DicomLevel.INSTANCES if item.endswith(SUFFIX) else DicomLevel.STUDIES
            return evolve(found, level=depth)
        return found

    def _address(self, dixel: Dixel) -> Ref:
        """Return the ref whose id is the name, or the beginning of the names."""
        known = str(dixel.meta.get("ID") or "")
        first = dixel.tags.get("AccessionNumber") or dixel.tags.get("StudyInstanceUID")
        if not first and known:
            return Ref(dixel.level, id=known)
        if dixel.level < DicomLevel.STUDIES or not first:
            raise InvalidItem(f"{self.name}: a picture is named by accession number or StudyInstanceUID")
        named = self._named(dixel)
        if dixel.level == DicomLevel.INSTANCES:
            match = NUMBERS.match(named.image_base_fn)
            if match is None:
                raise InvalidItem(f"{self.name}: an image name needs numbers of series and instance from 0 on")
            return Ref(dixel.level, id=f"{paths.safe_part(match[1])}-{match[2]}-{match[3]}{SUFFIX}")
        start = paths.safe_part(str(named.sid() or named.tags.get("StudyInstanceUID") or first))
        if dixel.level == DicomLevel.STUDIES:
            return Ref(dixel.level, id=start)
        try:
            return Ref(dixel.level, id=f"{start}-{int(named.tags['SeriesNumber']):04}")
        except (KeyError, TypeError, ValueError):
            raise InvalidItem(f"{self.name}: a series is named by its SeriesNumber") from None

    @property
    def _is_plain(self) -> bool:
        """Tell whether pixels stay as they are."""
        return not self.anonymizing or self._key is None

    def _named(self, dixel: Dixel) -> Dixel:
        """Return a dixel with the tags that the name is made of."""
        if not self.anonymizing:
            return dixel
        if self._key is None:
            return ShamDixel.from_dixel(dixel)
        from diana.deid.reports import short_number, study_name

        tags: dict[str, Any] = {"StudyInstanceUID": study_name(self._key, dixel.tags)}
        for number, uid in (("SeriesNumber", "SeriesInstanceUID"), ("InstanceNumber", "SOPInstanceUID")):
            tags[number] = dixel.tags.get(number)
            if tags[number] in (None, "") and dixel.tags.get(uid):
                tags[number] = short_number(self._key, str(dixel.tags[uid]))
        return Dixel(tags=tags, level=dixel.level)

    def _names(self, ref: Ref) -> list[str]:
        """Return the names of the pictures that a ref means."""
        paths.checked(ref.id)
        if not self._is_there():
            return []
        if ref.level == DicomLevel.INSTANCES:
            return [ref.id] if ref.id.endswith(SUFFIX) and self.gateway.exists(ref.id) else []
        with self.gateway.errors():
            return sorted(fn for fn in self._all() if self._is_below(fn, ref))

    def _all(self) -> Iterator[str]:
        for relative, entries in walk(self.path):
            for entry in entries:
                yield self.gateway.name_of(f"{relative}/{entry.name}" if relative else entry.name)

    @staticmethod
    def _is_below(fn: str, ref: Ref) -> bool:
        match = NUMBERS.match(fn.removesuffix(SUFFIX))
        if match is None or not fn.endswith(SUFFIX):
            return False
        return ref.id == (match[1] if ref.level == DicomLevel.STUDIES else f"{match[1]}-{match[2]}")

    def _values(self, instance: Dixel) -> Any:
        """Return the pixel values to show. Raises InvalidItem when the instance has neither pixels nor a file."""
        if instance.pixels is None:
            instance = self._decoded(instance)
        values = instance.get_pixels()
        if instance.tags.get("PhotometricInterpretation") == "MONOCHROME1" and values.size:
            values = ~values if values.dtype.itemsize == 1 else values.max() - values.astype("float64")
        return values

    def _decoded(self, instance: Dixel) -> Dixel:
        if instance.blob is None:
            raise InvalidItem(f"{self.name}: the instance has neither pixels nor a file")
        with instance.blob.open() as stream:
            ds = parse(stream, pixels=True)
        found = Dixel(tags=element_values(ds), level=DicomLevel.INSTANCES)
        found.pixels = pixel_array(ds)
        if found.pixels.ndim >= 3 and found.pixels.shape[-1] == 3:
            found.tags["SamplesPerPixel"] = 3
        return found
