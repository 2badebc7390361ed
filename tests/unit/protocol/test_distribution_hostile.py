"""What a broken or malicious device may send as draft_probs: one named error, in bounded time and memory."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest

from sled_protocol.distribution import (
    DraftDistribution,
    MalformedDistribution,
    pack,
    unpack,
)
from sled_protocol.limits import MAX_DRAFT_PROBS_BYTES

VOCAB = 50_000


def random_blob(rng, count):
    records = []
    for _ in range(count):
        ids = sorted(rng.sample(range(VOCAB), rng.randint(1, 40)))
        codes = bytes(rng.randrange(256) for _ in ids)
        records.append(DraftDistribution(np.array(ids, np.uint32), np.frombuffer(codes, np.uint8)))
    return pack(records)


def mutate(rng, blob):
    data = bytearray(blob)
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(5)
        at = rng.randrange(len(data)) if data else 0
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at] = rng.choice((0x00, 0x01, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 9)))
        else:
            del data[at : at + rng.randint(1, 5)]
    return bytes(data)


def read_or_refuse(blob, max_entries, count):
    """What `unpack` gives; None when it refuses. Any other exception is the test's failure."""
    try:
        return unpack(blob, VOCAB, max_entries, count)
    except MalformedDistribution:
        return None


def test_twenty_thousand_mutations_are_read_or_refused_and_what_is_read_is_canonical():
    rng = random.Random(20_000)
    blobs = [(count, random_blob(rng, count)) for count in range(1, 9) for _ in range(5)]
    read = refused = 0
    for _ in range(20_000):
        count, blob = rng.choice(blobs)
        mutated = mutate(rng, blob)
        found = read_or_refuse(mutated, 40, count)
        if found is None:
            refused += 1
            continue
        read += 1
        assert len(found) == (count if mutated else 0)
        # One distribution has one spelling, so what was read must pack to the same bytes.
        assert pack(found) == mutated
        for distribution in found:
            ids = distribution.token_ids.astype(np.int64)
            assert int(ids[-1]) < VOCAB
            assert bool((np.diff(ids) > 0).all())
            assert distribution.total_weight > 0
    assert read > 100
    assert refused > 5_000


def test_random_bytes_never_raise_anything_else():
    rng = random.Random(7)
    for _ in range(5_000):
        read_or_refuse(rng.randbytes(rng.randint(0, 200)), 64, rng.randint(0, 16))


@pytest.mark.parametrize(
    ("blob", "count", "sentence"),
    [
        (b"\x01", 1, "ends within"),
        (b"\x02\xff\xff\x05", 1, "ends within"),
        (b"\x01\xff", 1, "ends within"),
        (b"\x01\xff\x85", 1, "ends within"),
        (b"\x01\xff\x05\x00", 1, "after the record of the last"),
        (b"\x01\xff\x05", 0, "after the record of the last"),
        (b"\x01\xff\x05", 2, "ends within"),
        (b"\x00", 1, "0 entries"),
        (b"\x29" + bytes(80), 1, "41 entries"),
        (b"\xff\xff\xff\x7f", 1, "268435455 entries"),
        (b"\xff\xff\xff\xff\x0f", 1, "too long"),
        (b"\x01\xff\x85\x00", 1, "shortest form"),
        (b"\x01\xff\xff\xff\xff\x7f", 1, "outside the vocabulary"),
        (b"\x01\xff\xd0\x86\x03", 1, "outside the vocabulary"),
        (b"\x02\xff\xff\xcf\x86\x03\x00", 1, "outside the vocabulary"),
        (bytes(MAX_DRAFT_PROBS_BYTES + 1), 1, "allowed"),
    ],
)
def test_each_defect_has_its_sentence(blob, count, sentence):
    with pytest.raises(MalformedDistribution, match=sentence):
        unpack(blob, VOCAB, 40, count)


def test_last_id_of_the_vocabulary_is_allowed():
    assert unpack(b"\x01\xff\xcf\x86\x03", VOCAB, 40, 1)[0].token_ids.tolist() == [VOCAB - 1]


def test_entry_limit_of_the_server_holds():
    blob = pack([DraftDistribution(np.arange(33, dtype=np.uint32), np.zeros(33, np.uint8))])
    assert len(unpack(blob, VOCAB, 33, 1)) == 1
    with pytest.raises(MalformedDistribution, match="33 entries; allowed: 1 to 32"):
        unpack(blob, VOCAB, 32, 1)


def test_memory_is_bounded_whatever_the_counts_claim():
    blobs = [
        b"\xff\xff\xff\x7f" + bytes(MAX_DRAFT_PROBS_BYTES - 4),
        b"\x40" + b"\xff" * (MAX_DRAFT_PROBS_BYTES - 1),
        bytes(64 * 1024 * 1024),
    ]
    tracemalloc.start()
    try:
        for blob in blobs:
            with pytest.raises(MalformedDistribution):
                unpack(blob, VOCAB, 64, 1_000_000_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The blobs themselves were made before tracing began.
    assert peak_bytes < 256 * 1024
