"""Faces over HTTP for any endpoint: DICOMweb, WADO-URI, MINT and RAD-69."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diana.server.app import make_app
    from diana.server.auth import BasicAuth, BearerAuth
    from diana.server.limits import Limits
    from diana.server.run import HttpFace, serve

__all__ = ["BasicAuth", "BearerAuth", "HttpFace", "Limits", "make_app", "serve"]


def __getattr__(name: str) -> object:
    from importlib import import_module

    homes = {"make_app": "app", "BasicAuth": "auth", "BearerAuth": "auth", "Limits": "limits"}
    home = homes.get(name, "run" if name in __all__ else "")
    if not home:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{home}"), name)
    return found
