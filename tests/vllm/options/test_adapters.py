"""LoRA adapters by sequence: many fleets share one base model, in the same steps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sled_testkit.text_device import TextDevice, draft_request, open_request
from sled_testkit.vllm import Lab, loaded, plain_greedy, random_adapter, random_model
from sled_verifier.refusal import Refusal
from sled_verifier.vllm.settings import VllmSettings

Texts = list[list[int]]
TOKENS = 40
CHOSEN = ("", "one", "two") * 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: random_adapter(folder / name, seed) for seed, name in enumerate(("one", "two"))}


@pytest.fixture(scope="module")
def prompts() -> Texts:
    """Three times three; the sequences of three differ in their adapter only."""
    rng = random.Random(9)
    return [prompt for _ in range(3) for prompt in [[rng.randrange(256) for _ in range(40)]] * 3]


@pytest.fixture(scope="module")
def references(model: tuple[Path, Path], adapters: dict[str, Path], prompts: Texts) -> Texts:
    folders = [adapters.get(name) for name in CHOSEN]
    return plain_greedy(model[0], prompts, TOKENS, adapters=folders)


@pytest.fixture(scope="module")
def lab(model: tuple[Path, Path], adapters: dict[str, Path], references: Texts) -> Iterator[Lab]:
    settings = VllmSettings(
        model_path=model[0],
        vocabulary_path=model[1],
        model_name="random",
        dtype="float32",
        context_tokens=256,
        slots=12,
        step_tokens=256,
        max_draft_tokens=8,
        kv_cache_gib=1,
        adapters=adapters,
        max_adapter_rank=8,
    )
    with loaded(settings) as lab:
        yield lab


async def test_each_sequence_has_the_text_of_its_own_adapter(
    lab: Lab, prompts: Texts, references: Texts
) -> None:
    assert len({tuple(text) for text in references[:3]}) == 3
    async with lab.backend() as backend:
        devices = [
            TextDevice(
                backend, prompts[n], references[n], draft_tokens=n % 6, seed=n, adapter=CHOSEN[n]
            )
            for n in range(len(CHOSEN))
        ]
        for device in devices:
            await device.open()
        assert await asyncio.gather(*(d.write(TOKENS) for d in devices)) == references


async def test_an_unknown_adapter_is_refused(lab: Lab, prompts: Texts) -> None:
    async with lab.backend() as backend:
        key = (await backend.open(open_request(prompts[0], adapter="three"))).key
        with pytest.raises(Refusal, match="no adapter 'three'"):
            await backend.verify(key, draft_request(prompts[0], []))
