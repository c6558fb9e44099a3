"""Fingerprints of a dixel's parts, to prove that nothing changed and to find what is there twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any  # tag values may be of any type

from attrs import frozen

from diana.utils.endpoint.serializable import encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diana.dixel.dixel import Dixel


@frozen
class DixelHashes:
    """
    Hold the SHA-256, in hex, of a dixel's metadata, tags, file and pixels; None where a part is absent.

    A dixel with children has the hash of its children's hashes for file and pixels. It does not depend on their order,
    and a child that is there twice counts twice. The digests are those of the content alone and do not hide it: whoever
    guesses a short content can confirm the guess.
    """

    meta: str
    tags: str
    file: str | None = None
    pixels: str | None = None

    @classmethod
    def of(cls, dixel: Dixel) -> DixelHashes:
        """Return the hashes of a dixel's parts, reading a file on disk in pieces."""
        below = [cls.of(child) for child in dixel.children]
        file = None if dixel.blob is None else dixel.blob.digest("sha256")
        pixels = None if dixel.pixels is None else _of_array(dixel.pixels)
        return cls(
            meta=_of_mapping(dixel.meta),
            tags=_of_mapping(dixel.tags),
            file=file or collection_hash(child.file for child in below),
            pixels=pixels or collection_hash(child.pixels for child in below),
        )


def collection_hash(hashes: Iterable[str | None]) -> str | None:
    """
    Return one hash for many, in any order; None when there is none at all.

    An absent member counts, so that an incomplete collection differs from a complete one.
    """
    members = sorted(one or "-" for one in hashes)
    if all(one == "-" for one in members):
        return None
    return sha256("\n".join(members).encode("ascii")).hexdigest()


def _of_mapping(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, default=encode, sort_keys=True)
    return sha256(text.encode("utf-8")).hexdigest()


def _of_array(pixels: NDArray[Any]) -> str:
    """Return the hash of shape, type and values, the same for every memory layout and byte order."""
    plain = pixels.astype(pixels.dtype.newbyteorder("<"), order="C", copy=False)
    digest = sha256(f"{plain.shape} {plain.dtype.str}\n".encode("ascii"))
    digest.update(plain.tobytes())
    return digest.hexdigest()
