from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from sled_edge.api.ask import Ask, Service
from sled_edge.api.refusal import Reason, Refusal
from sled_edge.api.run import Finish, Run, Step, Verified
from sled_edge.fake_generation import FakeGenerator, say
from sled_edge.generation import Delta, FinishReason, GenerationRequest

Make = Callable[..., Service]
MANY = 10_000


def ask(stops: tuple[str, ...] = (), max_tokens: int = 1000, *, keep_stop: bool = False) -> Ask:
    return Ask(GenerationRequest((1,), max_tokens), stops, keep_stop)


async def all_steps(run: Run) -> list[Step]:
    async with aclosing(run.steps()) as steps:
        return [step async for step in steps]


@pytest.mark.parametrize("seed", range(100))
async def test_text_and_usage_do_not_depend_on_how_rounds_fell(service_of: Make, seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("ab日😀") for _ in range(rng.randint(0, 40))).encode()
    if rng.random() < 0.3:
        text += b"\xf0\x9f"
    stops = tuple(
        "".join(rng.choice("ab日😀") for _ in range(rng.randint(2, 4)))
        for _ in range(rng.randint(0, 2))
    )
    max_tokens = rng.choice([3, 20, MANY])
    seen = set()
    for rounds in ((1,), (MANY,), tuple(rng.randint(1, 9) for _ in range(5))):
        service = service_of(FakeGenerator(say(text), round_tokens=rounds, context=2 * MANY))
        run = Run(service, ask(stops, max_tokens))
        steps = await all_steps(run)
        whole = "".join(step.text for step in steps)
        seen.add((whole, run.completion_tokens, run.finish))
        assert [step.finish for step in steps[:-1]] == [None] * (len(steps) - 1)
    assert len(seen) == 1


async def test_the_generation_is_closed_before_the_last_step_is_handed_out(
    service_of: Make,
) -> None:
    generator = FakeGenerator(say("one. two three"), round_tokens=(2,))
    run = Run(service_of(generator), ask((".",)))
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            if step.finish is not None:
                assert generator.active == 0
    assert run.finish is Finish.STOP_STRING


async def test_closing_the_steps_closes_the_generation(service_of: Make) -> None:
    generator = FakeGenerator(say("abcdefgh"))
    run = Run(service_of(generator), ask())
    async with aclosing(run.steps()) as steps:
        await anext(steps)
        assert generator.active == 1
    assert generator.active == 0
    assert run.finish is None


async def test_held_back_text_stays_marked_until_it_is_out(service_of: Make) -> None:
    generator = FakeGenerator(say("a😀bc"), round_tokens=(2,), unverified_rounds=frozenset({0}))
    run = Run(service_of(generator), ask())
    steps = await all_steps(run)
    assert [(step.text, step.verified) for step in steps[:3]] == [
        ("a", False),
        ("", False),
        ("😀b", False),
    ]
    assert [step.verified for step in steps[3:]] == [True, True]
    assert run.unverified_tokens == 2
    assert run.verified is Verified.PARTIAL


async def test_a_replacement_at_the_end_carries_its_mark(service_of: Make) -> None:
    generator = FakeGenerator(say(b"\xf0\x9f"), unverified_rounds=frozenset({0}))
    steps = await all_steps(Run(service_of(generator), ask()))
    assert (steps[-1].rest, steps[-1].verified) == ("\ufffd", False)


async def test_an_empty_text_is_one_step(service_of: Make) -> None:
    run = Run(service_of(FakeGenerator(say(""))), ask())
    steps = await all_steps(run)
    assert [step.finish for step in steps] == [Finish.END_TOKEN]
    assert run.verified is Verified.TRUE


class Learning(FakeGenerator):
    """Notes whether it was let run past its last delta."""

    learnt = False

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        yield Delta((97,), finish=FinishReason.LENGTH)
        Learning.learnt = True


async def test_a_loop_may_run_past_its_last_delta(service_of: Make) -> None:
    await all_steps(Run(service_of(Learning()), ask()))
    assert Learning.learnt


class Wordless(FakeGenerator):
    """Ends without a last delta."""

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        yield Delta((97,))


async def test_a_loop_that_ends_without_a_reason_is_an_internal_failure(service_of: Make) -> None:
    run = Run(service_of(Wordless()), ask())
    with pytest.raises(Refusal) as caught:
        await all_steps(run)
    assert caught.value.reason is Reason.INTERNAL


async def test_a_deadline_frees_the_generation(service_of: Make) -> None:
    generator = FakeGenerator(hold_after_rounds=0)
    run = Run(service_of(generator, request_seconds=0.01), ask())
    with pytest.raises(Refusal) as caught:
        await asyncio.wait_for(all_steps(run), 10)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert generator.active == 0
