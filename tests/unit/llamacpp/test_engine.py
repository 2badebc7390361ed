"""LlamaCppEngine against the Engine contract, on the tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sled_llamacpp import Context, Model
from sled_llamacpp.gguf_header import read_gguf_header
from sled_testkit.tiny_model import CONTEXT_TOKENS, END_TOKEN, VOCAB_SIZE, write_tiny_model
from sled_verifier.engine.base import Engine, EngineError, StepItem
from sled_verifier.engine.llamacpp import LlamaCppEngine
from sled_verifier.engine.llamacpp_exactness import exactness_of


def make(path: Path, **changes: int) -> LlamaCppEngine:
    sizes = {"threads": 1, "context_tokens": 100, "slots": 3, "max_step_tokens": 64} | changes
    return LlamaCppEngine(path, model_name="tiny", **sizes)


@pytest.fixture
def engine(tiny_path: Path) -> Iterator[Engine]:
    made = make(tiny_path)
    yield made
    made.close()


def test_info(engine: Engine, tiny: Model) -> None:
    info = engine.info
    assert (info.model_name, info.engine) == ("tiny", "llamacpp")
    assert (info.vocab_size, info.context_tokens, info.slots) == (VOCAB_SIZE, 100, 3)
    assert info.max_step_tokens == 64
    assert info.end_tokens == (END_TOKEN,)
    assert info.tokenizer_fingerprint == tiny.vocabulary.fingerprint()
    assert info.exactness == "bit-invariant"


def test_a_step_gives_the_rows_asked_for(engine: Engine) -> None:
    first, second, third = engine.step(
        [StepItem(0, 0, (1, 2, 3), 3), StepItem(1, 0, (4,), 0), StepItem(2, 0, (1, 2, 3), 1)]
    )
    assert [rows.shape for rows in (first, second, third)] == [
        (3, VOCAB_SIZE),
        (0, VOCAB_SIZE),
        (1, VOCAB_SIZE),
    ]
    assert np.array_equal(first[2], third[0])


def test_truncate_and_copy(engine: Engine) -> None:
    (rows,) = engine.step([StepItem(0, 0, (1, 2, 3, 4), 4)])
    engine.truncate(0, 2)
    engine.copy_prefix(0, 1, 2)
    again, copy = engine.step([StepItem(0, 2, (3, 4), 2), StepItem(1, 2, (3,), 1)])
    assert np.array_equal(again, rows[2:])
    assert np.array_equal(copy[0], rows[2])


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([StepItem(0, 1, (1,), 1)], r"slot 0 holds 0 tokens, not 1"),
        ([StepItem(0, 0, (1,) * 65, 1)], r"a step of 65 tokens; allowed: 64"),
        ([StepItem(3, 0, (1,), 1)], r"slot 3 does not exist"),
        ([StepItem(0, 0, (VOCAB_SIZE,), 1)], r"token id outside"),
        ([StepItem(0, 0, (1,), 1), StepItem(0, 0, (1,), 1)], r"twice"),
    ],
)
def test_bad_steps_are_engine_errors_that_name_their_slots(
    engine: Engine, items: list[StepItem], reason: str
) -> None:
    with pytest.raises(EngineError, match=reason) as caught:
        engine.step(items)
    assert caught.value.slots == tuple(item.slot for item in items)


def test_an_aborted_step_empties_its_slots(tiny_path: Path) -> None:
    engine = make(tiny_path)
    engine.step([StepItem(0, 0, (1, 2), 1)])
    engine.abort()
    with pytest.raises(EngineError) as caught:
        engine.step([StepItem(0, 2, (3,), 1)])
    assert caught.value.slots == (0,)
    assert engine.step([StepItem(0, 0, (1,), 1)])[0].shape == (1, VOCAB_SIZE)
    engine.close()


def test_the_tokenizer_file_is_the_vocabulary(engine: Engine, tiny_path: Path) -> None:
    assert engine.tokenizer_gguf() == read_gguf_header(tiny_path).vocabulary


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"context_tokens": CONTEXT_TOKENS + 1}, "context_tokens"), ({"slots": 0}, "slots")],
)
def test_impossible_sizes_are_engine_errors(
    tiny_path: Path, changes: dict[str, int], reason: str
) -> None:
    with pytest.raises(EngineError, match=reason):
        make(tiny_path, **changes)


def test_missing_and_damaged_files_are_engine_errors(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"absent.gguf"):
        make(tmp_path / "absent.gguf")
    broken = write_tiny_model(tmp_path / "broken.gguf")
    broken.write_bytes(broken.read_bytes()[:-5000])
    with pytest.raises(EngineError, match=r"broken.gguf could not be loaded"):
        make(broken)


def test_a_missing_library_is_an_engine_error(tiny_path: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no llama.cpp library"):
        LlamaCppEngine(tiny_path, model_name="tiny", library=tmp_path / "absent.so")


def test_other_weight_types_are_approximate(tiny: Model) -> None:
    with Context(tiny, slots=1, context_tokens=50, threads=1) as context:
        assert exactness_of(frozenset({"F32", "Q4_K"}), context) == "approximate"
        assert exactness_of(frozenset({"F32", "Q8_0"}), context) == "bit-invariant"
        assert context.length(0) == 0


def test_a_machine_that_does_not_hold_the_rules_is_approximate(tiny: Model) -> None:
    """A context without the rules stands for a processor whose kernels differ."""
    with Context(tiny, slots=2, context_tokens=50, threads=1, exact=False) as context:
        assert exactness_of(frozenset({"F32"}), context) == "approximate"
        assert [context.length(slot) for slot in (0, 1)] == [0, 0]


@pytest.mark.parametrize(("slots", "context_tokens"), [(1, 1), (2, 3), (2, 24)])
def test_the_check_fits_into_the_smallest_context(
    tiny: Model, slots: int, context_tokens: int
) -> None:
    with Context(tiny, slots=slots, context_tokens=context_tokens, threads=1) as context:
        assert exactness_of(frozenset({"F32"}), context) == "bit-invariant"
