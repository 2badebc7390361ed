"""The prefix hash of sled.v1: do both sides mean the same prompt + committed tokens? Not a defence against forgery.

Definition: BLAKE2b (RFC 7693) with an 8-byte digest and the personalisation `sled.v1.prefix`, over the token ids as
little-endian 32-bit words in order; the digest is read as a little-endian unsigned number.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

_PERSON = b"sled.v1.prefix"


class PrefixHash:
    """Incremental hash of a growing token sequence.

    Order-sensitive, independent of how the tokens were grouped into calls, and the same on every platform. Extending by n
    tokens costs O(n), whatever came before; reading the value costs O(1).
    """

    __slots__ = ("_hash", "_length")

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._hash = hashlib.blake2b(digest_size=8, person=_PERSON)
        self._length = 0
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens.

        Raises:
            ValueError: an id does not fit 32 unsigned bits; nothing was appended.
        """
        try:
            data = struct.pack(f"<{len(tokens)}I", *tokens)
        except struct.error as error:
            raise ValueError(f"token ids must be 0 to 4294967295: {error}") from error
        self._hash.update(data)
        self._length += len(tokens)

    @property
    def value(self) -> int:
        """The 64-bit hash of all tokens so far."""
        return int.from_bytes(self._hash.digest(), "little")

    @property
    def length(self) -> int:
        """How many tokens were hashed."""
        return self._length

    def copy(self) -> PrefixHash:
        """An independent continuation from the same tokens."""
        other = PrefixHash.__new__(PrefixHash)
        other._hash = self._hash.copy()
        other._length = self._length
        return other


def prefix_hash(tokens: Sequence[int]) -> int:
    """The hash of a whole sequence at once."""
    return PrefixHash(tokens).value
