"""Real weights, real processes, real gRPC: every drafter's text is the target's own, whatever happens to link and verifier."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sled_cli.models.store import ModelStore
from sled_edge.config import DraftingMode
from sled_edge.drafter.base import Drafter
from sled_edge.drafter.llamacpp import LlamaCppDrafter
from sled_edge.drafter.ngram import NgramDrafter
from sled_edge.generation import GenerationRequest
from sled_edge.link_backoff import LinkTiming
from sled_edge.link_grpc import Credentials, GrpcDialer
from sled_edge.offline import OfflineTiming
from sled_edge.tokenizer import LlamaCppTokenizer
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_testkit.edge import collect, fixed, resilient, running_loop, settings
from sled_testkit.edge_faults import CuttingDialer
from sled_testkit.real_verifier import VerifierProcess
from sled_verifier.engine.base import StepItem
from sled_verifier.engine.llamacpp import LlamaCppEngine

pytestmark = pytest.mark.models

OUTPUT_TOKENS = 40
PROMPTS = (
    "Count from one to thirty in words, separated by commas: one, two, three,",
    "The recipe needs flour, sugar and butter. First mix the flour with the sugar. Then",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Once there was a lighthouse keeper who",
)


@pytest.fixture(scope="module")
def models() -> dict[str, Path]:
    store = ModelStore()
    return {name: store.fetch(f"catalog://smollm2-135m-{name}") for name in ("f32", "q4_1", "q4_0")}


@pytest.fixture(scope="module")
def prompts_and_references(
    models: dict[str, Path],
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of the prompts, and the target's own greedy continuation of each, alone in a batch of one."""
    engine = LlamaCppEngine(models["f32"], model_name="target", slots=1, context_tokens=1024)
    tokenizer = LlamaCppTokenizer.from_path(models["f32"])
    prompts = [tokenizer.encode(text, special=False) for text in PROMPTS]
    references = [_alone(engine, prompt) for prompt in prompts]
    engine.close()
    return prompts, references


def _alone(engine: LlamaCppEngine, prompt: Sequence[int]) -> list[int]:
    engine.truncate(0, 0)
    position = 0
    for start in range(0, len(prompt) - 1, 32):
        chunk = tuple(prompt[start : min(start + 32, len(prompt) - 1)])
        engine.step([StepItem(0, position, chunk, 0)])
        position += len(chunk)
    output: list[int] = []
    token = prompt[-1]
    while len(output) < OUTPUT_TOKENS:
        row = engine.step([StepItem(0, position, (token,), 1)])[0][0]
        position += 1
        token = int(row.argmax())
        if token in engine.info.end_tokens:
            break
        output.append(token)
    return output


@pytest.fixture(scope="module")
def verifier(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VerifierProcess]:
    process = VerifierProcess(tmp_path_factory.mktemp("verifier"), models["f32"])
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        assert process.stop() == 0


def _drafter(kind: str, models: dict[str, Path]) -> Drafter:
    if kind == "ngram":
        return NgramDrafter()
    return LlamaCppDrafter(models[kind], name=kind, threads=1, context_tokens=1024, sequences=8)


def _request(prompt: Sequence[int], sampling: SamplingParams | None = None) -> GenerationRequest:
    return GenerationRequest(tuple(prompt), OUTPUT_TOKENS, sampling or SamplingParams())


@pytest.mark.parametrize(
    ("kind", "draft_tokens", "cuts"),
    [
        ("ngram", 4, ()),
        ("q4_1", 8, ()),
        ("q4_0", 16, ()),
        ("ngram", 16, (5, 9, 22, 40)),
        ("q4_1", 5, (6, 7, 13, 14, 27, 35)),
        ("q4_0", 3, (4, 11, 19, 33, 52)),
    ],
)
async def test_text_is_the_targets_own_across_cut_links(
    kind: str,
    draft_tokens: int,
    cuts: tuple[int, ...],
    models: dict[str, Path],
    verifier: VerifierProcess,
    prompts_and_references: tuple[list[list[int]], list[list[int]]],
) -> None:
    prompts, references = prompts_and_references
    dialer = CuttingDialer(GrpcDialer(Credentials()), cuts)
    link = resilient(dialer, [verifier.address])
    options = settings(max_draft_tokens=draft_tokens, sequences=len(prompts))
    async with running_loop(link, _drafter(kind, models), options, fixed(draft_tokens)) as loop:
        texts = await asyncio.gather(*(collect(loop, _request(prompt)) for prompt in prompts))
    assert [text.tokens for text in texts] == references
    assert dialer.cut_streams == len(cuts)
    assert all(all(text.verified) for text in texts)


async def test_a_killed_verifier_costs_no_token(
    models: dict[str, Path],
    tmp_path: Path,
    prompts_and_references: tuple[list[list[int]], list[list[int]]],
) -> None:
    prompts, references = prompts_and_references
    process = VerifierProcess(tmp_path, models["f32"])
    process.start()
    try:
        process.wait_ready()
        link = resilient(GrpcDialer(Credentials()), [process.address], LinkTiming())
        # Some of the texts have not begun when the verifier dies; they too wait for its return.
        patient = OfflineTiming(fresh_patience_seconds=60.0, running_patience_seconds=60.0)
        options = settings(max_draft_tokens=4, sequences=len(prompts) + 1, offline=patient)
        async with running_loop(link, _drafter("q4_1", models), options, fixed(4)) as loop:
            running = [asyncio.create_task(collect(loop, _request(p))) for p in prompts]
            generation = loop.generate(_request(prompts[0]))
            first = await anext(generation)
            process.kill()
            process.start()
            rest = [token async for delta in generation for token in delta.tokens]
            texts = await asyncio.gather(*running)
        assert [*first.tokens, *rest] == references[0]
        assert [text.tokens for text in texts] == references
        assert process.starts == 2
    finally:
        process.stop()


async def test_match_mode_samples_the_same_text_whoever_drafts(
    models: dict[str, Path],
    verifier: VerifierProcess,
    prompts_and_references: tuple[list[list[int]], list[list[int]]],
) -> None:
    prompt = prompts_and_references[0][1]
    sampling = SamplingParams(temperature=0.9, top_p=0.95, seed=11, mode=AcceptanceMode.MATCH)
    texts = []
    for kind, draft_tokens in (("ngram", 2), ("q4_1", 6), ("q4_0", 11)):
        link = resilient(GrpcDialer(Credentials()), [verifier.address])
        options = settings(max_draft_tokens=draft_tokens, mode=DraftingMode.MATCH)
        async with running_loop(link, _drafter(kind, models), options, fixed(draft_tokens)) as loop:
            texts.append((await collect(loop, _request(prompt, sampling))).tokens)
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) > 5
