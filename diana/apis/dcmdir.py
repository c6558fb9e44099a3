"""A folder of DICOM files."""

from __future__ import annotations

import fnmatch
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final  # tag values may be of any type

from attrs import define, field

from diana.apis import _folder_find as search
from diana.apis._deid_folder import DeidFolder
from diana.apis._folder_index import HEX, IDS, OWN_FOLDER, walk
from diana.dixel import Dixel, DixelView
from diana.dixel.convert import element_values
from diana.exceptions import Conflict, DianaError, IncompleteTransfer, InvalidItem, ItemNotFound, Unsupported
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.dicom.dictionary import tag_of
from diana.utils.dicom.header import DEFAULT_TAGS, read_header
from diana.utils.dicom.ref import OID_PATTERN, is_uid
from diana.utils.gateways.file_handlers import paths
from diana.utils.gateways.file_handlers.dcm_file import DcmFileHandler, parse, pixel_array
from diana.utils.gateways.file_handlers.zip_file import Member, ZipFileHandler

log = logging.getLogger(__name__)

STYLES: Final = ("UNSTRUCTURED", "ORTHANC")
FIXED: Final = IDS[1:]


@define(eq=False, slots=False)
class DcmDir(DeidFolder):
    """
    Hold DICOM files below one folder; the id of an instance is its file name.

    A name lies in ``path`` itself, or in ``subpath_depth`` sub-folders cut from its characters, ``subpath_width`` each.
    ``put`` keeps ``meta["FileName"]`` when that is a plain name inside the folder, and otherwise calls the file
    ``<SOPInstanceUID>.dcm``. Whatever lies in the folder can be found, by name, by UIDs, by Orthanc ids at any level,
    or by its header; hidden files, links and what is not DICOM are passed by. ``recurse_style`` ORTHANC looks only
    into ``hh/hh``, as in Orthanc's storage. A ZIP archive can be pulled by its name. With ``anonymizing`` what is put
    is de-identified first, by ``deid`` (see ``diana.deid.setup.Setup``; a key is needed). Without ``durable`` a put
    does not wait for the disk, and a loss of power may take the last seconds of what was put.

    With ``index`` the headers are kept in an SQLite file, so that ``find`` and addresses by UID do not read the folder.
    Answers are those that reading gives: before each, what anybody added, changed, moved or removed is taken in. On a
    local disk of Linux the kernel says what that is. Elsewhere all files are looked at (inode, size, times), but not
    before ten times as long as the last look took, a minute at most; what this object puts or deletes is seen at once.
    The file holds what the headers say of patients; its mode is 0600. It lies in ``.diana`` in the folder, or in
    ``index_folder``, or, when the folder cannot be written or is on a network, in the user's cache. It may be removed
    at any time, and is made anew when it is damaged.
    """

    views: ClassVar[DixelView] = DixelView.META | DixelView.TAGS | DixelView.FILE | DixelView.PIXELS
    needs: ClassVar[DicomLevel] = DicomLevel.PATIENTS
    skips: ClassVar[bool] = True  # find takes ``offset``

    recurse_style: str = field(default="UNSTRUCTURED")
    name: str = field(default="DcmDir", kw_only=True)
    durable: bool = field(default=True, kw_only=True)
    index: bool = field(default=False, kw_only=True)
    index_folder: str = field(default="", kw_only=True, converter=os.fspath)
    gateway: DcmFileHandler = field(init=False, repr=False)
    _lookup: search.FolderLookup = field(init=False, repr=False)

    @recurse_style.validator
    def _known_style(self, attribute: object, value: str) -> None:
        if value not in STYLES:
            raise InvalidItem(f"recurse_style is one of {', '.join(STYLES)}")

    def __attrs_post_init__(self) -> None:
        layout = (self.path, self.subpath_width, self.subpath_depth, self.name)
        self.gateway = DcmFileHandler(*layout, durable=self.durable)
        self._lookup = self._make_lookup()

    def _make_lookup(self) -> search.FolderLookup:
        if not self.index:
            return search.FolderLookup(self.path, self.name, self.gateway.name_of, orthanc=self._orthanc)
        from diana.apis._folder_lookup import IndexedLookup

        return IndexedLookup(
            self.path, self.name, self.gateway.name_of, orthanc=self._orthanc, folder=self.index_folder
        )

    def use_index(self) -> None:
        """Switch the index on, and keep it up to date in a thread until ``close``."""
        from diana.apis._folder_lookup import IndexedLookup

        if not self.index:
            self.index = True
            self._lookup = self._make_lookup()
        if isinstance(self._lookup, IndexedLookup):
            self._lookup.keep()

    def close(self) -> None:
        """Close the index; the endpoint may be used again."""
        self._lookup.close()

    @property
    def _orthanc(self) -> bool:
        return self.recurse_style == "ORTHANC"

    @property
    def zips(self) -> ZipFileHandler:
        """Return the handler of the ZIP archives in the folder."""
        return ZipFileHandler(self.path, self.subpath_width, self.subpath_depth, self.name)

    def ref(self, item: Any, level: DicomLevel | str | None = None) -> Ref:
        """Return the address of a dixel, a ref or an id; an id without level is a file name, unless it is an oid."""
        if isinstance(item, os.PathLike):
            item = os.fspath(item)
        if isinstance(item, str) and level is None and not OID_PATTERN.match(item):
            level = DicomLevel.INSTANCES
        return super().ref(item, level)

    def get_zipped(self, fn: str) -> list[Dixel]:
        """Return the instances in a ZIP archive; see ``pull`` for one at a time. Raises like it."""
        return list(self._pull_zip(paths.checked(fn)))

    def put_zipped(self, fn: str, items: Iterable[Dixel]) -> str:
        """Write instances into a new ZIP archive, replacing one of that name; return the name."""
        self._is_there()
        self.zips.zip(fn, ((self._member_name(one), self._blob(one)) for one in map(self._released, items)))
        return fn

    def files(self, rex: str = "*.dcm") -> list[str]:
        """Return the names, sorted, that match a pattern; without those in folders that are not of the layout."""
        self._is_there()
        depth, found = self.subpath_depth, []
        for relative, entries in walk(self.path):
            if (relative.count("/") + 1 if relative else 0) == depth:
                below = [f"{relative}/{entry.name}" if relative else entry.name for entry in entries]
                found += [one for one in map(self.gateway.name_of, below) if fnmatch.fnmatchcase(one, rex)]
        return sorted(found)

    def subdirs(self) -> Iterator[str]:
        """Yield the folders that hold files, one by one, by ``recurse_style``."""
        return self.orthanc_subdirs(self.path) if self._orthanc else self.unstructured_subdirs(self.path)

    @staticmethod
    def unstructured_subdirs(base_dir: str) -> Iterator[str]:
        """Yield a folder and every folder below it; links are not followed."""
        for folder, below, _ in os.walk(base_dir):
            below[:] = [one for one in below if one != OWN_FOLDER]
            yield folder

    @staticmethod
    def orthanc_subdirs(base_dir: str = ".", low: int = 0, high: int = 65535) -> Iterator[str]:
        """Yield the folders ``base/hh/hh`` of Orthanc's storage that exist, from number ``low`` to ``high``."""
        for first in range(max(0, low) >> 8, (min(65535, high) >> 8) + 1):
            outer = os.path.join(base_dir, f"{first:02x}")
            if not os.path.isdir(outer):
                continue
            for name in sorted(filter(HEX.match, os.listdir(outer))):
                if low <= (first << 8 | int(name, 16)) <= high and os.path.isdir(os.path.join(outer, name)):
                    yield os.path.join(outer, name)

    def _put(self, dixel: Dixel) -> str:
        dixel = self._released(self._instance(dixel))
        blob = self._blob(dixel)
        self._is_there()
        fn = self._new_name(dixel)
        try:
            self.gateway.put(fn, blob, replace=False)
        except FileExistsError:
            raise Conflict(f"{self.name}: other bytes are stored under the same name") from None
        self._lookup.touched(self.gateway.located(fn))
        return fn

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        names = self._present(ref)
        if ref.level == DicomLevel.INSTANCES:
            return self._read(names[0], view)
        if DixelView.FILE in view or DixelView.PIXELS in view:
            raise InvalidItem(f"{self.name}: file and pixels belong to instances; pull a {ref.level.singular.lower()}")
        group = search.Group(ref.level)
        for name in names:
            group.add(self._header(name))
        return group.dixel()

    def _find(self, query: Query, *, offset: int = 0) -> Iterator[Dixel]:
        if not self._is_there() or (query.limit is not None and query.limit < 1):
            return iter(())
        if type(offset) is not int or offset < 0:
            raise InvalidItem(f"{self.name}: an offset is a whole number from 0")
        return self._lookup.find(query, min(offset, sys.maxsize))

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        if ref.id.lower().endswith(".zip") and not OID_PATTERN.match(ref.id):
            self._is_there()
            yield from self._pull_zip(ref.id)
            return
        names = self._present(ref)
        lost = 0
        for name in names:
            try:
                found = self._header(name, whole=True)
            except (ItemNotFound, InvalidItem):
                if len(names) == 1:
                    raise
                lost += 1
                continue
            yield found
        if lost:
            raise IncompleteTransfer(f"{self.name}: {lost} of {len(names)} files were changed or removed meanwhile")

    def _pull_zip(self, fn: str) -> Iterator[Dixel]:
        bad: list[str] = []
        count = 0
        for member in self.zips.unzip(fn):
            found = self._from_member(member, fn, bad)
            if found is not None:
                count += 1
                yield found
        if bad:
            raise IncompleteTransfer(f"{self.name}: members of the archive cannot be read: {'; '.join(bad[:20])}")
        if not count:
            raise InvalidItem(f"{self.name}: the archive holds no DICOM instance")

    def _from_member(self, member: Member, fn: str, bad: list[str]) -> Dixel | None:
        """Return an instance, or None for what is not DICOM; add what should be readable and is not to ``bad``."""
        if member.blob is None:
            bad.append(f"number {member.index} ({member.problem})")
            return None
        try:
            with member.blob.open() as stream:
                if DcmFileHandler.is_dicom(stream):
                    header = read_header(stream)
                    if header.instance:
                        found = Dixel.from_header(header, file=member.blob)
                        found.meta.update(Archive=fn, Member=member.index)
                        return found
        except InvalidItem as error:
            bad.append(f"number {member.index} ({error})")
        member.blob.close()
        return None

    def _exists(self, ref: Ref) -> bool:
        return bool(self._located(ref))

    def _update(self, ref: Ref, data: Mapping[str, Any] | Dixel) -> str:
        name = self._present(ref)[0]
        if ref.level != DicomLevel.INSTANCES:
            raise Unsupported(f"{self.name}: update takes one instance")
        self.gateway.put(
            name,
            self._blob(self._released(self._instance(data))) if isinstance(data, Dixel) else self._edited(name, data),
        )
        self._lookup.touched(self.gateway.located(name))
        return name

    def _delete(self, ref: Ref) -> bool:
        gone = False
        for name in self._located(ref):
            place = self.gateway.located(name)
            gone |= self.gateway.delete(name)
            self._lookup.touched(place)
        return gone

    def _digest(self, ref: Ref) -> str:
        if ref.level != DicomLevel.INSTANCES:
            raise InvalidItem(f"{self.name}: a digest belongs to an instance")
        return self.gateway.blob(self._present(ref)[0]).digest()

    def _address(self, dixel: Dixel) -> Ref:
        if dixel.level == DicomLevel.INSTANCES and paths.is_safe(dixel.meta.get("FileName")):
            return Ref.from_tags(dixel.tags, dixel.level, id=dixel.meta["FileName"])
        return dixel.ref

    def _instance(self, dixel: object) -> Dixel:
        if not isinstance(dixel, Dixel) or dixel.level != DicomLevel.INSTANCES:
            raise InvalidItem(f"{self.name}: takes instances, one at a time")
        return dixel

    def _blob(self, dixel: Dixel) -> Blob:
        if dixel.blob is None:
            raise InvalidItem(f"{self.name}: the instance has no file")
        return dixel.blob

    def _new_name(self, dixel: Dixel) -> str:
        """Return the name to store under. Raises InvalidItem when the bytes are no DICOM instance."""
        own = self._member_name(dixel)
        fn = dixel.meta.get("FileName")
        keeps = isinstance(fn, str) and not self.anonymizing and paths.is_safe(fn) and not fn.lower().endswith(".zip")
        return str(fn) if keeps else own

    def _member_name(self, dixel: Dixel) -> str:
        """Return the name of an instance inside an archive: never one that comes from elsewhere."""
        blob = self._blob(self._instance(dixel))
        with blob.open() as stream:
            uid = read_header(stream, IDS).instance
        if not uid:
            raise InvalidItem(f"{self.name}: the file has no SOP Instance UID")
        return paths.uid_name(uid, "" if is_uid(uid) else blob.digest("sha256")[:32])

    def _present(self, ref: Ref) -> list[str]:
        names = self._located(ref)
        if not names:
            raise ItemNotFound(f"{self.name}: no such {ref.level.singular.lower()}")
        return names

    def _located(self, ref: Ref) -> list[str]:
        """Return the names of the files that a ref means, ``[]`` when there are none."""
        if not self._is_there():
            return []
        oid = ref.id if OID_PATTERN.match(ref.id) else ""
        wanted = {
            key: value for key, value in ref.tags().items() if key != "PatientID" or ref.level == DicomLevel.PATIENTS
        }
        if ref.level == DicomLevel.INSTANCES:
            direct = self._direct(ref, oid)
            if direct:
                return [direct]
        if ref.id and not oid and not wanted and is_uid(ref.id):
            wanted = {ref.level.uid_keyword: ref.id}
        if ref.level.uid_keyword in wanted:
            oid = ""
        elif not oid:
            if ref.id:
                return []
            raise InvalidItem(f"{self.name}: the ref does not name a {ref.level.singular.lower()}")
        with self.gateway.errors():
            return [self.gateway.name_of(name) for name in self._lookup.files(ref.level, wanted, oid)]

    def _direct(self, ref: Ref, oid: str) -> str:
        """Return the name under which an instance should be, when it is there."""
        guesses = [ref.id] if ref.id and not oid else []
        if ref.instance and is_uid(ref.instance):
            guesses.append(f"{ref.instance}.dcm")
        for guess in guesses:
            try:
                with self.gateway.open(guess) as stream:
                    if not ref.instance or read_header(stream.fileno(), IDS).instance == ref.instance:
                        return guess
            except ItemNotFound:
                continue
            except InvalidItem:
                if not ref.instance:
                    raise
        return ""

    def _header(self, name: str, *, whole: bool = False) -> Dixel:
        """Return what the header of a file says, with the file itself when ``whole``."""
        blob = self.gateway.blob(name)
        with blob.open() as stream:
            header = read_header(stream.fileno(), DEFAULT_TAGS)
        return Dixel.from_header(header, name, blob if whole else None)

    def _read(self, name: str, view: DixelView) -> Dixel:
        blob = self.gateway.blob(name)
        if DixelView.TAGS not in view and DixelView.PIXELS not in view:
            with blob.open() as stream:
                found = Dixel.from_header(read_header(stream.fileno(), IDS), name)
        else:
            with blob.open() as stream:
                ds = parse(stream, pixels=DixelView.PIXELS in view)
            found = self._from_data_set(ds, name)
            if DixelView.PIXELS in view:
                found.pixels = pixel_array(ds)
        if DixelView.FILE in view:
            found.blob = blob
        return found

    @staticmethod
    def _from_data_set(ds: Any, name: str) -> Dixel:
        """Return an instance whose ids are those in the file: no PatientID stays none."""
        if ds.get("PatientID"):
            return Dixel.from_pydicom(ds, name)
        tags = element_values(ds)
        if not tags.get("SOPInstanceUID"):
            raise InvalidItem("the file has no SOP Instance UID")
        found = Dixel(meta={"FileName": name}, tags=tags, level=DicomLevel.INSTANCES)
        found.simplify_tags()
        return found

    def _edited(self, name: str, data: Mapping[str, Any]) -> Any:
        """Return the data set of a file with other values for some DICOM keywords."""
        unknown = sorted(str(key) for key in data if tag_of(str(key)) is None or key in FIXED)
        if unknown:
            raise InvalidItem(f"{self.name}: cannot be changed in a file: {', '.join(unknown)}")
        with self.gateway.open(name) as stream:
            ds = parse(stream, pixels=True)
        try:
            for key, value in data.items():
                setattr(ds, key, value)
        except DianaError:
            raise
        except Exception as error:  # noqa: BLE001  # pydicom raises any type for a value that its VR cannot hold
            raise InvalidItem(f"{self.name}: a value does not fit its element ({type(error).__name__})") from None
        return ds
