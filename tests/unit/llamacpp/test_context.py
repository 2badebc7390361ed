"""Slots, rollback, copies and limits on the tiny model. The bits themselves:
tests/integration/exactness.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sled_llamacpp import Chunk, Context, ContextError, DecodeAborted, Model, ModelLoadError
from sled_llamacpp.gguf_header import read_gguf_header
from sled_testkit.tiny_model import VOCAB_SIZE

Row = NDArray[np.float32]


@pytest.fixture
def context(tiny: Model) -> Iterator[Context]:
    with Context(tiny, slots=6, context_tokens=600, threads=1) as made:
        yield made


def tokens(seed: int, count: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(VOCAB_SIZE), k=count))


def alone(context: Context, prefix: tuple[int, ...]) -> Row:
    """Logits of all rows when the prefix is read one token at a time into an empty slot."""
    rows = [context.decode([Chunk(0, (token,), 1)])[0][0] for token in prefix]
    context.truncate(0, 0)
    return np.stack(rows)


def test_shapes_and_lengths(context: Context) -> None:
    first, second = context.decode([Chunk(0, (1, 2, 3), 2), Chunk(4, (9,) * 60, 0)])
    assert first.shape == (2, VOCAB_SIZE)
    assert second.shape == (0, VOCAB_SIZE)
    assert first.dtype == np.float32
    assert [context.length(slot) for slot in range(6)] == [3, 0, 0, 0, 60, 0]


def test_rows_stay_valid_after_the_next_call(context: Context) -> None:
    (rows,) = context.decode([Chunk(0, (1, 2, 3), 3)])
    before = rows.copy()
    context.decode([Chunk(0, (4, 5, 6), 3)])
    assert np.array_equal(rows, before)


@pytest.mark.parametrize("chunk", [1, 7, 48, 49, 64, 130])
def test_chunking_changes_no_bit(context: Context, chunk: int) -> None:
    prefix = tokens(1, 130)
    expected = alone(context, prefix)
    parts = [prefix[i : i + chunk] for i in range(0, len(prefix), chunk)]
    rows = [context.decode([Chunk(3, part, len(part))])[0] for part in parts]
    assert np.array_equal(np.concatenate(rows), expected)


def test_neighbours_change_no_bit(context: Context) -> None:
    prefix = tokens(2, 40)
    expected = alone(context, prefix)
    crowd = [Chunk(slot, tokens(slot, 5 + 7 * slot), 1) for slot in (0, 1, 3, 5)]
    rows = context.decode([*crowd, Chunk(4, prefix, 40)])[-1]
    assert np.array_equal(rows, expected)


def test_a_single_wanted_row_has_the_bits_of_all_rows(context: Context) -> None:
    prefix = tokens(3, 20)
    every = context.decode([Chunk(0, prefix, 20)])[0]
    last = context.decode([Chunk(1, prefix, 1)])[0]
    assert np.array_equal(last[0], every[-1])


def test_rollback_leaves_no_trace(context: Context) -> None:
    prefix = tokens(4, 30)
    expected = alone(context, prefix)
    context.decode([Chunk(2, prefix[:20], 0)])
    for seed in range(5):
        context.decode([Chunk(2, tokens(100 + seed, 9), 9)])
        context.truncate(2, 20)
    assert np.array_equal(context.decode([Chunk(2, prefix[20:], 10)])[0], expected[20:])


def test_companions_in_an_idle_slot_leave_no_trace(context: Context) -> None:
    prefix = tokens(5, 12)
    expected = alone(context, prefix)
    context.decode([Chunk(1, prefix[:6], 0)])
    context.decode([Chunk(0, (1, 2), 1), Chunk(2, (3, 4), 1)])
    assert context.length(1) == 6
    assert np.array_equal(context.decode([Chunk(1, prefix[6:], 6)])[0], expected[6:])


def test_a_copied_prefix_is_the_prefix_bit_for_bit(context: Context) -> None:
    prefix = tokens(6, 50)
    expected = alone(context, prefix)
    context.decode([Chunk(1, prefix[:40] + tokens(7, 20), 0)])
    context.copy_prefix(1, 5, 40)
    assert context.length(5) == 40
    context.truncate(1, 0)
    context.decode([Chunk(1, tokens(8, 70), 0)])
    assert np.array_equal(context.decode([Chunk(5, prefix[40:], 10)])[0], expected[40:])


def test_copying_nothing_leaves_the_target_empty(context: Context) -> None:
    context.decode([Chunk(1, (1, 2, 3), 0)])
    context.copy_prefix(1, 2, 0)
    assert context.length(2) == 0


def test_a_full_slot_still_takes_companions(context: Context) -> None:
    prefix = tokens(9, 599)
    context.decode([Chunk(0, prefix, 0)])
    (rows,) = context.decode([Chunk(0, (7,), 1)])
    assert context.length(0) == 600
    assert np.isfinite(rows).all()
    context.decode([Chunk(1, tokens(10, 48), 0), Chunk(2, tokens(11, 48), 0)])
    assert context.length(0) == 600


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([Chunk(0, (), 0)], "0 tokens"),
        ([Chunk(0, (1,), 2)], "2 logit rows of 1 tokens"),
        ([Chunk(0, (1,), -1)], "logit rows"),
        ([Chunk(6, (1,), 1)], "slot 6 does not exist"),
        ([Chunk(-1, (1,), 1)], "slot -1 does not exist"),
        ([Chunk(0, (VOCAB_SIZE,), 1)], "outside"),
        ([Chunk(0, (-1,), 1)], "outside"),
        ([Chunk(0, (1,) * 601, 1)], "cannot take 601 more"),
        ([Chunk(0, (1,), 1), Chunk(0, (2,), 1)], "twice"),
    ],
)
def test_bad_chunks_are_refused_and_nothing_is_done(
    context: Context, chunks: list[Chunk], reason: str
) -> None:
    with pytest.raises(ContextError, match=reason):
        context.decode([Chunk(5, (1, 2), 0), *chunks])
    assert context.length(5) == 0


def test_wrong_rollbacks_and_copies_are_refused(context: Context) -> None:
    context.decode([Chunk(0, (1, 2, 3), 0), Chunk(1, (4,), 0)])
    for wrong in (-1, 4):
        with pytest.raises(ContextError, match=r"holds 3 tokens"):
            context.truncate(0, wrong)
    with pytest.raises(ContextError, match=r"not an empty slot"):
        context.copy_prefix(0, 1, 2)
    with pytest.raises(ContextError, match=r"not an empty slot"):
        context.copy_prefix(2, 2, 0)
    with pytest.raises(ContextError, match=r"holds 3 tokens, not 4"):
        context.copy_prefix(0, 2, 4)


@pytest.mark.parametrize(
    ("sizes", "field"),
    [
        ({"slots": 0}, "slots"),
        ({"slots": 257}, "slots"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"context_tokens": 4097}, "context_tokens"),
        ({"threads": 0}, "threads"),
    ],
)
def test_sizes_out_of_range_are_named(tiny: Model, sizes: dict[str, int], field: str) -> None:
    good = {"slots": 1, "context_tokens": 100, "threads": 1}
    with pytest.raises(ContextError, match=f"{field} is"):
        Context(tiny, **good | sizes)


def test_a_vocabulary_makes_no_context(tiny: Model, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(read_gguf_header(tiny.path).vocabulary)
    with (
        Model(path, vocab_only=True) as bare,
        pytest.raises(ContextError, match=r"without weights"),
    ):
        Context(bare, slots=1, context_tokens=10, threads=1)


def test_abort_empties_the_slots_and_the_context_goes_on(context: Context) -> None:
    context.decode([Chunk(0, (1, 2), 0), Chunk(1, (1, 2), 0)])
    stopper = threading.Thread(target=context.abort)
    stopper.start()
    stopper.join()
    with pytest.raises(DecodeAborted) as caught:
        context.decode([Chunk(0, (3,), 1), Chunk(2, (4,), 1)])
    assert caught.value.slots == (0, 2)
    assert [context.length(slot) for slot in (0, 1, 2)] == [0, 2, 0]
    assert context.decode([Chunk(1, (3,), 1)])[0].shape == (1, VOCAB_SIZE)
    expected = alone(context, (5, 6, 7))
    assert np.array_equal(context.decode([Chunk(0, (5, 6, 7), 3)])[0], expected)


def test_a_closed_context_and_model_say_so(tiny_path: Path) -> None:
    model = Model(tiny_path)
    context = Context(model, slots=1, context_tokens=10, threads=1)
    context.close()
    context.close()
    with pytest.raises(ContextError, match=r"closed"):
        context.decode([Chunk(0, (1,), 1)])
    model.close()
    model.close()
    with pytest.raises(ModelLoadError, match=r"closed"):
        Context(model, slots=1, context_tokens=10, threads=1)


def test_closing_the_model_closes_its_contexts(tiny_path: Path) -> None:
    model = Model(tiny_path)
    context = Context(model, slots=1, context_tokens=10, threads=1)
    model.close()
    with pytest.raises(ContextError, match=r"closed"):
        context.truncate(0, 0)


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    pytest.fail("no VmRSS")


def test_opening_and_closing_keeps_no_memory(tiny_path: Path) -> None:
    """A leaked cache would show: 40 caches of 8 × 2,304 cells are 180 MB; 24 are allowed."""

    def once() -> None:
        with (
            Model(tiny_path) as model,
            Context(model, slots=8, context_tokens=2048, threads=1) as context,
        ):
            context.decode([Chunk(slot, (1, 2, 3), 1) for slot in range(8)])

    for _ in range(5):
        once()
    before = resident_bytes()
    for _ in range(40):
        once()
    assert resident_bytes() - before < 24 * 1024 * 1024
