"""What the endpoints over a folder have in common."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import define, field

from diana.exceptions import GatewayConnectionError, GatewayRefused
from diana.utils.endpoint import Endpoint
from diana.utils.gateways.file_handlers import paths


@define(eq=False, slots=False)
class FolderEndpoint(Endpoint):
    """Keep files below ``path``, in ``subpath_depth`` folders cut from their names, ``subpath_width`` letters each."""

    path: str = field(default=".", converter=os.fspath)
    subpath_width: int = 2
    subpath_depth: int = 0
    anonymizing: bool = False

    @property
    def local_folder(self) -> Path | None:
        """Return the folder."""
        return Path(self.path)

    def _is_there(self) -> bool:
        """Tell whether the folder exists; False for one not made yet. Raises GatewayConnectionError."""
        return paths.check_root(self.name, Path(self.path))

    def _check(self) -> None:
        if not self._is_there():
            raise GatewayConnectionError(f"{self.name}: the folder does not exist")
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            raise GatewayRefused(f"{self.name}: the folder cannot be read and written")
