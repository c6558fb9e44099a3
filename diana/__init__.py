"""Move DICOM between the systems of a hospital and prove that it arrived."""

__version__ = "0.1.0"
