"""Draft distributions as they cross the wire: a few token ids with quantised weights. Must not know models or sampling rules.

Quantise, sample, verify (arXiv 2507.00605): the drafter samples from the very distribution that it sends, so compression
costs a little acceptance and never exactness. A distribution is a list of token ids and a one-byte code for each. A code
stands for an integer weight, sixteen codes to the octave; the probability of a token is its weight over the sum of the
weights, so both sides hold the same rational numbers on every platform.

A blob holds one record for each draft token, in order, and nothing else. All numbers are LEB128 varints in their shortest
form:

    count            1 to 64
    code * count     one byte each, in the order of the ids
    id delta * count the first id, then the distance to the previous id minus one

An empty blob means that every draft token is a point mass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sled_protocol.limits import MAX_DRAFT_PROBS, MAX_DRAFT_PROBS_BYTES, MAX_VOCAB_SIZE
from sled_protocol.selection import largest_ids

CODES_PER_OCTAVE: Final = 16
MAX_CODE: Final = 255
_SMALLEST_WEIGHT: Final = 64


def _weight(code: int) -> int:
    """floor(64 * 2 ** (code / 16)) in integers only: nested integer square roots are the exact sixteenth root."""
    power = _SMALLEST_WEIGHT**CODES_PER_OCTAVE << code
    for _ in range(4):
        power = math.isqrt(power)
    return power


WEIGHTS: Final[NDArray[np.uint32]] = np.array([_weight(code) for code in range(256)], np.uint32)
"""Weight of each code. The sum of 64 weights stays below 2 ** 28."""
WEIGHTS.setflags(write=False)


class MalformedDistribution(ValueError):
    """A packed or given draft distribution is none; the message is one sentence without token text."""


@dataclass(frozen=True, slots=True, eq=False)
class DraftDistribution:
    """A probability distribution over at most 64 tokens, exact in integers.

    `token_ids` uint32 [n] strictly ascending; `codes` uint8 [n]. Built by `quantise`, `point_mass` or `unpack`.

    Raises:
        MalformedDistribution: shapes differ, no or too many entries, or ids not strictly ascending.
    """

    token_ids: NDArray[np.uint32]
    codes: NDArray[np.uint8]
    weights: NDArray[np.uint32] = field(init=False)
    """uint32 [n], above 0: the probability of entry i is weights[i] / total_weight."""
    total_weight: int = field(init=False)

    def __post_init__(self) -> None:
        ids = np.ascontiguousarray(self.token_ids, dtype=np.uint32)
        codes = np.ascontiguousarray(self.codes, dtype=np.uint8)
        if ids.ndim != 1 or ids.shape != codes.shape:
            raise MalformedDistribution("a distribution needs as many codes as token ids")
        if not 1 <= ids.size <= MAX_DRAFT_PROBS:
            raise MalformedDistribution(
                f"a distribution has {ids.size} entries; allowed: 1 to {MAX_DRAFT_PROBS}"
            )
        if bool((ids[1:] <= ids[:-1]).any()):
            raise MalformedDistribution("token ids must ascend without repeats")
        weights = WEIGHTS[codes]
        for name, value in (("token_ids", ids), ("codes", codes), ("weights", weights)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "total_weight", int(weights.sum(dtype=np.uint64)))

    def probability(self, token: int) -> float:
        """Probability of a token; 0 for every token that is not listed."""
        index = int(np.searchsorted(self.token_ids, token))
        if index == self.token_ids.size or int(self.token_ids[index]) != token:
            return 0.0
        return int(self.weights[index]) / self.total_weight

    def sample(self, u: float) -> int:
        """The token that `u`, uniform in [0, 1) with 53 bits, selects by inverse transform in order of ids.

        Integer arithmetic: the same `u` selects the same token on every platform.
        """
        ticket = int(u * 2.0**53) * self.total_weight >> 53
        cumulative = np.cumsum(self.weights, dtype=np.int64)
        return int(self.token_ids[int(np.searchsorted(cumulative, ticket, side="right"))])

    def probs(self) -> NDArray[np.float64]:
        """float64 [n], aligned with `token_ids`."""
        return self.weights / float(self.total_weight)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DraftDistribution):
            return NotImplemented
        return np.array_equal(self.token_ids, other.token_ids) and np.array_equal(
            self.codes, other.codes
        )

    def __hash__(self) -> int:
        return hash((self.token_ids.tobytes(), self.codes.tobytes()))


def point_mass(token: int) -> DraftDistribution:
    """All probability on one token; for a draft that mixes point masses with sampled tokens."""
    return DraftDistribution(np.array([token], np.uint32), np.array([MAX_CODE], np.uint8))


def quantise(
    probs: NDArray[np.float64], max_entries: int, coverage: float = 0.99
) -> DraftDistribution:
    """The closest distribution that fits the wire.

    Keeps the most probable tokens of `probs` (dense float64 [vocab], need not sum to 1; lowest id wins ties) until
    `coverage` of the whole mass or `max_entries` is reached; the largest gets the largest code, the others one relative to
    it, and what lies more than 16 octaves below it is dropped. The last hundredth of the mass would cost a fifth of the
    bytes for no measurable acceptance.

    Raises:
        ValueError: `probs` is not a row of finite non-negative numbers with a positive sum, or `max_entries` is not 1 to 64.
    """
    if not 1 <= max_entries <= MAX_DRAFT_PROBS:
        raise ValueError(f"max_entries is {max_entries}; allowed: 1 to {MAX_DRAFT_PROBS}")
    total = float(probs.sum())
    if probs.ndim != 1 or not 0 < total < math.inf or float(probs.min()) < 0:
        raise ValueError("probs must be one row of finite non-negative numbers with a positive sum")
    ids = largest_ids(probs, max_entries)
    kept = probs[ids]
    order = np.argsort(-kept, kind="stable")
    cumulative = np.cumsum(kept[order])
    enough = int(np.searchsorted(cumulative, coverage * total)) + 1
    order = np.sort(order[:enough])
    ids, kept = ids[order], kept[order]
    ids, kept = ids[kept > 0], kept[kept > 0]
    codes = MAX_CODE + np.rint(CODES_PER_OCTAVE * np.log2(kept / kept.max()))
    listed = codes >= 0
    return DraftDistribution(ids[listed].astype(np.uint32), codes[listed].astype(np.uint8))


def pack(distributions: Sequence[DraftDistribution]) -> bytes:
    """The blob for `sled.v1.Draft.draft_probs`; empty for no distributions."""
    blob = bytearray()
    for distribution in distributions:
        _put_varint(blob, distribution.token_ids.size)
        blob += distribution.codes.tobytes()
        previous = -1
        for token in distribution.token_ids.tolist():
            _put_varint(blob, token - previous - 1)
            previous = token
    return bytes(blob)


def unpack(
    blob: bytes, vocab_size: int, max_entries: int, count: int
) -> tuple[DraftDistribution, ...]:
    """The distributions of `count` draft tokens; none for an empty blob (every token is a point mass).

    Safe on hostile input: memory and time are bounded by the blob's length, which is bounded too.

    Raises:
        MalformedDistribution: the blob is not exactly `count` records within the limits, in their shortest form.
    """
    if not blob:
        return ()
    if len(blob) > MAX_DRAFT_PROBS_BYTES:
        raise MalformedDistribution(
            f"draft_probs has {len(blob)} bytes; allowed: {MAX_DRAFT_PROBS_BYTES}"
        )
    found = []
    offset = 0
    for index in range(count):
        distribution, offset = _record(blob, offset, index, vocab_size, max_entries)
        found.append(distribution)
    if offset != len(blob):
        raise MalformedDistribution(
            f"draft_probs has {len(blob) - offset} bytes after the record of the last draft token"
        )
    return tuple(found)


def _record(
    blob: bytes, offset: int, index: int, vocab_size: int, max_entries: int
) -> tuple[DraftDistribution, int]:
    """Read the record of draft token `index` at `offset`; returns it and the offset after it."""
    entries, offset = _varint(blob, offset, index)
    allowed = min(max_entries, MAX_DRAFT_PROBS)
    if not 1 <= entries <= allowed:
        raise MalformedDistribution(
            f"draft_probs of token {index} has {entries} entries; allowed: 1 to {allowed}"
        )
    if offset + entries > len(blob):
        raise MalformedDistribution(f"draft_probs ends within the record of token {index}")
    codes = np.frombuffer(blob, np.uint8, entries, offset)
    offset += entries
    ids = []
    token = -1
    for _ in range(entries):
        delta, offset = _varint(blob, offset, index)
        token += delta + 1
        if token >= min(vocab_size, MAX_VOCAB_SIZE):
            raise MalformedDistribution(
                f"draft_probs of token {index} names an id outside the vocabulary of {vocab_size}"
            )
        ids.append(token)
    return DraftDistribution(np.array(ids, np.uint32), codes), offset


def _put_varint(blob: bytearray, value: int) -> None:
    while value >= 0x80:
        blob.append(value & 0x7F | 0x80)
        value >>= 7
    blob.append(value)


def _varint(blob: bytes, offset: int, index: int) -> tuple[int, int]:
    """Read one varint of at most four bytes: enough for every id below `MAX_VOCAB_SIZE`."""
    value = 0
    for shift in (0, 7, 14, 21):
        if offset >= len(blob):
            raise MalformedDistribution(f"draft_probs ends within the record of token {index}")
        byte = blob[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if shift and not byte:
                break
            return value, offset
    raise MalformedDistribution(
        f"draft_probs of token {index} has a number that is too long or not in its shortest form"
    )
