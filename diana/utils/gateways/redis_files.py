"""A registry of files in a Redis server: a set of paths for each collection, and what each folder looked like."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any, Protocol

from attrs import define

from diana.exceptions import GatewayAnswerError
from diana.utils.gateways.redis_kv import RedisKV

SIDE = "files:"


class Row(Protocol):
    """What is known of a file."""

    stamp: bytes
    key: str
    reason: str


@define(eq=False)
class RedisFiles:
    """
    Keep files by collection in Redis.

    The set ``prefix + key`` holds the absolute paths of one collection, as other programs read it. Beside it, under
    ``files:prefix``, lies what tells whether a folder has changed. Each folder is changed in one transaction.
    """

    kv: RedisKV

    def folders(self, prefix: str) -> dict[str, bytes]:
        """Return the digest of each folder as it was last finished."""
        return {path: _bytes(text) for path, text in self.kv.fields(SIDE + prefix).items()}

    def raw_files(self, prefix: str, folder: str) -> dict[str, tuple[bytes, str, str]]:
        """Return stamp, key and reason of each file of one folder."""
        found = {}
        for name, text in self.kv.fields(f"{SIDE}{prefix}{folder}").items():
            try:
                stamp, key, reason = json.loads(text)
            except (ValueError, TypeError):
                raise GatewayAnswerError("the registry in Redis holds something else") from None
            found[name] = (_bytes(stamp), str(key), str(reason))
        return found

    def save_folder(
        self, prefix: str, path: str, digest: bytes | None, rows: Mapping[str, Row | None], before: Mapping[str, Row]
    ) -> None:
        """Save what changed in one folder; without a digest the folder is gone."""
        side = f"{SIDE}{prefix}{path}"
        gone: list[tuple[str, str]] = []
        come: list[tuple[str, str]] = []
        kept: dict[str, str] = {}
        for name, row in rows.items():
            known = before.get(name)
            full = os.path.join(path, name)
            if known is not None and known.key and (row is None or row.key != known.key):
                gone.append((prefix + known.key, full))
            if row is not None:
                kept[name] = json.dumps([_text(row.stamp), row.key, row.reason])
                if row.key:
                    come.append((prefix + row.key, full))
        absent = [name for name, row in rows.items() if row is None]
        folders = {} if digest is None else {path: _text(digest)}
        self.kv.change(
            remove=gone,
            add=come,
            fields={side: kept, SIDE + prefix: folders},
            drop={side: absent, SIDE + prefix: [path] if digest is None else []},
        )

    def collections(self, prefix: str = "") -> list[str]:
        """Return the keys of the collections under a prefix, sorted."""
        return sorted(key[len(prefix) :] for key in self.kv.keys(prefix, "set"))

    def collected_items(self, prefix: str, key: str) -> set[str]:
        """Return the paths of the files of a collection."""
        return self.kv.members(prefix + key)

    def close(self) -> None:
        """Close the connections; it may be used again."""
        self.kv.close()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise GatewayAnswerError("the registry in Redis holds something else") from None
