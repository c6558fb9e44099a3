"""What a folder endpoint needs to de-identify what is put into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any  # options are YAML

from attrs import define, field

from diana.apis._folder_endpoint import FolderEndpoint
from diana.utils.endpoint.serializable import SECRET

if TYPE_CHECKING:
    from diana.deid.key import Key
    from diana.deid.setup import LocalDeid
    from diana.dixel import Dixel


@define(eq=False, slots=False)
class DeidFolder(FolderEndpoint):
    """Release, with ``anonymizing``, only what is de-identified by ``deid``: a preset, or options of ``Setup``."""

    deid: Mapping[str, Any] | str | None = field(default=None, kw_only=True, repr=False, metadata=SECRET)
    _local: LocalDeid | None = field(init=False, default=None, repr=False)

    @property
    def _deid(self) -> LocalDeid:
        """Return what de-identifies, made when first asked for. Raises ConfigError without a key."""
        if self._local is None:
            from diana.deid.setup import LocalDeid, Setup

            self._local = LocalDeid(Setup.from_options(self.deid))
        return self._local

    @property
    def _key(self) -> Key | None:
        """Return the key of names and pseudonyms, None for the preset *sham*. Raises ConfigError without a key."""
        return self._deid.key

    def _released(self, dixel: Dixel) -> Dixel:
        """
        Return what may be stored: the instance as it is, or de-identified.

        Raises ConfigError without a key, Quarantined or Refused for what may not be released.
        """
        return self._deid(dixel) if self.anonymizing else dixel
