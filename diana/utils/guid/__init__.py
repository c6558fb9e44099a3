"""Make reproducible identities of persons who do not exist."""

from diana.utils.guid.mint import GUIDGender, GUIDMint

__all__ = ["GUIDGender", "GUIDMint"]
