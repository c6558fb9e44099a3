"""Which parts of a dixel are asked for."""

from __future__ import annotations

from enum import Flag

from diana.exceptions import InvalidItem


class DixelView(Flag):
    """
    Combine the parts of a dixel: ``DixelView.TAGS in view`` asks for one.

    META is what the endpoint knows about the item, METAKV its user metadata, TAGS the DICOM elements, FILE the
    bytes, PIXELS the array.
    """

    META = 1
    METAKV = 2
    TAGS = 4
    FILE = 8
    PIXELS = 16
    TAGS_FILE = 12

    def __str__(self) -> str:
        if self is DixelView.TAGS_FILE:
            return "tags_file"
        return "|".join(str(part.name).lower() for part in self.parts())

    def parts(self) -> list[DixelView]:
        """Return the single views of a combination, in order of value."""
        singles = (DixelView.META, DixelView.METAKV, DixelView.TAGS, DixelView.FILE, DixelView.PIXELS)
        return [part for part in singles if part in self]

    @classmethod
    def from_label(cls, label: DixelView | str) -> DixelView:
        """Return the view of a member or of words joined by ``|`` or ``,`` in any case. Raises InvalidItem."""
        if isinstance(label, DixelView):
            return label
        if not isinstance(label, str):
            raise InvalidItem("a view is a DixelView or words such as 'tags|file'")
        view = cls(0)
        for word in label.replace(",", "|").split("|"):
            try:
                view |= cls[word.strip().upper()]
            except KeyError:
                raise InvalidItem("no view of that name; use meta, metakv, tags, file, pixels") from None
        return view
