"""De-identification: PS3.15 Basic Profile with its options, keyed, and checked before anything is released."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diana.utils.lazy import lazy_names

if TYPE_CHECKING:
    from diana.deid.audit import Audit
    from diana.deid.engine import Deidentifier
    from diana.deid.key import Key
    from diana.deid.options import Option
    from diana.deid.pseudonyms import Subject
    from diana.deid.recipe import Recipe, Rule
    from diana.deid.registry import Registry
    from diana.deid.result import Quarantined, Refused, Result, Step

__all__ = [
    "Audit", "Deidentifier", "Key", "Option", "Quarantined", "Recipe", "Refused", "Registry", "Result", "Rule", "Step",
    "Subject",
]  # fmt: skip

__getattr__ = lazy_names(
    __name__,
    {
        "Audit": ".audit",
        "Deidentifier": ".engine",
        "Key": ".key",
        "Option": ".options",
        "Quarantined": ".result",
        "Recipe": ".recipe",
        "Refused": ".result",
        "Registry": ".registry",
        "Result": ".result",
        "Rule": ".recipe",
        "Step": ".result",
        "Subject": ".pseudonyms",
    },
)
