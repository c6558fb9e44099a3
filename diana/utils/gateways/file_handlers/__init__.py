"""Files in a folder, by name: DICOM, texts, pictures, ZIP archives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.utils.gateways.file_handlers.dcm_file import DcmFileHandler
    from diana.utils.gateways.file_handlers.image_file import ImageFileHandler
    from diana.utils.gateways.file_handlers.text_file import TextFileHandler
    from diana.utils.gateways.file_handlers.zip_file import ZipFileHandler

__all__ = ["DcmFileHandler", "ImageFileHandler", "TextFileHandler", "ZipFileHandler"]

__getattr__ = lazy_names(
    __name__,
    {
        "DcmFileHandler": ".dcm_file",
        "ImageFileHandler": ".image_file",
        "TextFileHandler": ".text_file",
        "ZipFileHandler": ".zip_file",
    },
)
