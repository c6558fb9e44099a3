"""The views of a dixel, under the name by which they are known here."""

from diana.utils.dicom.views import DixelView

__all__ = ["DixelView"]
