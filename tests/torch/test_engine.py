"""The torch engine keeps the Engine contract: ragged steps, rollback, shared prefixes, and errors with a sentence."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sled_testkit.torch_models import CONTEXT_TOKENS, VOCAB_SIZE, own_greedy
from sled_testkit.verifier_device import greeted
from sled_testkit.verifier_process import fake_config, verifier_process
from sled_verifier.engine.base import EngineError, Logits, StepItem
from sled_verifier.engine.gguf_vocabulary import read_vocabulary
from sled_verifier.engine.torch_engine import TorchEngine
from sled_verifier.engine.vocabulary import byte_vocabulary_gguf

NOISE = 1e-3
"""Of logits of about 100: rounding of float32."""


def build(folder: Path, **options: object) -> TorchEngine:
    settings = {"model_name": "tiny", "threads": 1, "context_tokens": 200, "slots": 4}
    return TorchEngine(folder, folder / "vocabulary.gguf", **{**settings, **options})


@pytest.fixture
def engine(tiny_llama: Path) -> Iterator[TorchEngine]:
    engine = build(tiny_llama)
    yield engine
    engine.close()


def tokens_of(count: int, seed: int = 0) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(VOCAB_SIZE) for _ in range(count))


def alone(engine: TorchEngine, tokens: tuple[int, ...]) -> Logits:
    """All rows of logits of these tokens, in one step of an otherwise empty slot."""
    (rows,) = engine.step([StepItem(3, 0, tokens, len(tokens))])
    engine.truncate(3, 0)
    return rows


def same(found: Logits, expected: Logits) -> bool:
    return bool(np.abs(found - expected).max() < NOISE)


def test_what_it_says_of_itself(engine: TorchEngine, tmp_path: Path) -> None:
    info = engine.info
    assert (info.engine, info.exactness, info.vocab_size) == ("torch", "fp32", VOCAB_SIZE)
    (tmp_path / "sent.gguf").write_bytes(engine.tokenizer_gguf())
    sent = read_vocabulary(tmp_path / "sent.gguf")
    assert (sent.size, sent.fingerprint) == (VOCAB_SIZE, info.tokenizer_fingerprint)
    assert engine.blocks_used == 0


def test_rows_of_a_ragged_step_are_those_of_each_sequence_alone(engine: TorchEngine) -> None:
    texts = [tokens_of(n, seed=n) for n in (40, 1, 19)]
    expected = [alone(engine, text) for text in texts]
    engine.step([StepItem(0, 0, texts[0][:33], 0), StepItem(2, 0, texts[2][:2], 1)])
    found = engine.step(
        [
            StepItem(2, 2, texts[2][2:], 5),
            StepItem(0, 33, texts[0][33:], 7),
            StepItem(1, 0, texts[1], 1),
        ]
    )
    assert [len(rows) for rows in found] == [5, 7, 1]
    assert same(found[0], expected[2][-5:])
    assert same(found[1], expected[0][-7:])
    assert same(found[2], expected[1])


def test_a_truncated_slot_goes_on_as_if_nothing_had_been_there(engine: TorchEngine) -> None:
    text = tokens_of(50)
    expected = alone(engine, text)
    engine.step([StepItem(0, 0, text[:21], 0)])
    engine.step([StepItem(0, 21, tokens_of(30, seed=9), 30)])
    engine.truncate(0, 18)
    (rows,) = engine.step([StepItem(0, 18, text[18:], 32)])
    assert same(rows, expected[18:])


def test_a_shared_prefix_takes_no_memory_until_it_is_written(engine: TorchEngine) -> None:
    text, other = tokens_of(60), tokens_of(12, seed=5)
    expected = alone(engine, (*text[:40], *other))
    engine.step([StepItem(0, 0, text, 0)])
    used = engine.blocks_used
    engine.copy_prefix(0, 1, 40)
    assert engine.blocks_used == used
    engine.truncate(0, 44)
    engine.step([StepItem(0, 44, tokens_of(9, seed=6), 0)])
    (rows,) = engine.step([StepItem(1, 40, other, 12)])
    assert same(rows, expected[40:])
    (first,) = engine.step([StepItem(0, 53, text[:1], 1)])
    assert same(first, alone(engine, (*text[:44], *tokens_of(9, seed=6), text[0]))[-1:])


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        ([StepItem(0, 3, (1,), 1)], "slot 0 holds 5 tokens, not 3"),
        ([StepItem(0, 5, (1,), 1), StepItem(0, 6, (1,), 1)], "two items of one slot"),
        ([StepItem(0, 5, (VOCAB_SIZE,), 1)], "outside the vocabulary"),
        ([StepItem(0, 5, (), 0)], "unusable number of rows"),
        ([StepItem(0, 5, (1,), 2)], "unusable number of rows"),
        ([StepItem(0, 5, (1,) * 196, 1)], "would leave the context"),
        ([StepItem(0, 5, (1,) * 150, 1), StepItem(1, 0, (1,) * 150, 1)], "allowed: 256"),
    ],
)
def test_a_step_that_breaks_the_contract_changes_nothing(
    engine: TorchEngine, items: list[StepItem], sentence: str
) -> None:
    engine.step([StepItem(0, 0, (1, 2, 3, 4, 5), 0)])
    with pytest.raises(EngineError, match=sentence):
        engine.step(items)
    assert engine.step([StepItem(0, 5, (1,), 1)])[0].shape == (1, VOCAB_SIZE)


def test_mistakes_with_slots_are_engine_errors(engine: TorchEngine) -> None:
    with pytest.raises(EngineError, match="cannot truncate"):
        engine.truncate(0, 1)
    with pytest.raises(EngineError, match="cannot copy"):
        engine.copy_prefix(0, 1, 1)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.step([StepItem(0, 0, (1,), 1)])


def test_half_precision_says_that_it_is_approximate(tiny_llama: Path) -> None:
    engine = build(tiny_llama, dtype="bfloat16")
    assert engine.info.exactness == "approximate"
    assert engine.step([StepItem(0, 0, (1, 2), 2)])[0].dtype == np.float32


def test_what_cannot_be_loaded_is_refused_with_a_sentence(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"limit is {CONTEXT_TOKENS}"):
        build(tiny_llama, context_tokens=CONTEXT_TOKENS + 1)
    with pytest.raises(EngineError, match="cannot be loaded"):
        TorchEngine(tmp_path, tiny_llama / "vocabulary.gguf", model_name="none")
    with pytest.raises(EngineError, match="vocabulary file cannot be used"):
        TorchEngine(tiny_llama, tiny_llama / "config.json", model_name="none")
    other = tmp_path / "other.gguf"
    other.write_bytes(byte_vocabulary_gguf(VOCAB_SIZE - 1))
    with pytest.raises(EngineError, match="256 token ids and the vocabulary file 255"):
        TorchEngine(tiny_llama, other, model_name="none", context_tokens=64)


async def test_a_process_serves_it_to_devices(tiny_llama: Path, tmp_path: Path) -> None:
    """From verifier.yaml to the text over real gRPC."""
    config = fake_config(
        model={"name": "tiny", "path": str(tiny_llama)},
        engine={"kind": "torch", "contextTokens": 200, "slots": 2, "threads": 1},
    )
    prompts = [list(tokens_of(9 + n, seed=n)) for n in range(4)]
    texts = own_greedy(tiny_llama, prompts, 24)

    async def generate(device: object, sequence: int) -> list[int]:
        prompt, text = prompts[sequence - 1], texts[sequence - 1]
        await device.open(sequence, prompt)
        output: list[int] = []
        while len(output) < len(text):
            draft = text[len(output) : len(output) + 4]
            draft[-1] = (draft[-1] + sequence % 2) % VOCAB_SIZE
            verdict = await device.round(sequence, prompt, output, draft)
            output += [*draft[: verdict.accepted], verdict.next_token]
        return output[: len(text)]

    async with verifier_process(config, tmp_path) as process, greeted(process.address) as device:
        assert device.welcome is not None
        assert device.welcome.model.engine == "batched/torch"
        assert device.welcome.model.exactness == "fp32"
        written = await asyncio.gather(*(generate(device, n) for n in (1, 2, 3, 4)))
    assert written == texts
