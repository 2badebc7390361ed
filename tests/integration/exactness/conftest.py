"""The target alone and in a crowd, once per model: the references are the dear part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sled_cli.models import ModelStore
from sled_llamacpp import Model
from sled_testkit.exactness import Reference, decode_alone, long_text, prompts
from sled_verifier.engine.llamacpp import LlamaCppEngine

OUTPUT_TOKENS = 18
CONTEXT_TOKENS = 2304


@dataclass(frozen=True, slots=True)
class Subject:
    """One model: sixteen sequences decoded alone, and an engine that holds all of them at once."""

    name: str
    references: tuple[Reference, ...]
    crowd_engine: LlamaCppEngine


@pytest.fixture(scope="session", params=["smollm2-135m-f32", "smollm2-135m-q4_1"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    name: str = request.param
    path = ModelStore().fetch(f"catalog://{name}")
    with Model(path, vocab_only=True) as model:
        tokens = model.vocabulary.encode(long_text(), special=False)
    alone = LlamaCppEngine(path, model_name=name, slots=1, context_tokens=CONTEXT_TOKENS)
    references = tuple(decode_alone(alone, p, OUTPUT_TOKENS) for p in prompts(tokens))
    alone.close()
    engine = LlamaCppEngine(path, model_name=name, slots=16, context_tokens=CONTEXT_TOKENS)
    yield Subject(name, references, engine)
    engine.close()


@pytest.fixture
def empty_engine(subject: Subject) -> Iterator[LlamaCppEngine]:
    yield subject.crowd_engine
    for slot in range(subject.crowd_engine.info.slots):
        subject.crowd_engine.truncate(slot, 0)
