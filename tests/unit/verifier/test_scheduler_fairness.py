"""Many devices in virtual time: exact texts, nobody starved, prompts and rounds out of each other's
way.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

import pytest

from sled_testkit.verifier_simulation import SimulatedDevice, Simulation
from sled_verifier.engine.fake import CostModel
from sled_verifier.limits import Limits


def short_prompt(rng: random.Random) -> list[int]:
    return [rng.randrange(64) for _ in range(rng.randrange(1, 40))]


def long_prompt(rng: random.Random) -> list[int]:
    return [rng.randrange(64) for _ in range(1800)]


def worst_share(devices: Sequence[SimulatedDevice]) -> float:
    outputs = [device.output_tokens for device in devices]
    return min(outputs) / statistics.median(outputs)


@pytest.mark.parametrize("slots", [64, 24, 8])
def test_64_devices_share_whatever_slots_there_are(slots: int) -> None:
    """With fewer slots than devices they take turns: eviction, rebuilding, and still a fair
    share.
    """
    devices = [SimulatedDevice(n, short_prompt) for n in range(64)]
    simulation = Simulation(devices, slots=slots)
    simulation.run(60 if slots < 64 else 20)
    assert worst_share(devices) >= 0.5, sorted(d.output_tokens for d in devices)
    assert min(device.texts for device in devices) > 0
    counters = simulation.scheduler.residency.counters
    assert (counters.evictions > 0) == (slots < 64)
    if slots >= 24:
        assert not any(device.refusals for device in devices)


def test_short_deadlines_take_nothing_from_patient_devices() -> None:
    devices = [
        SimulatedDevice(n, short_prompt, deadline_seconds=0.5 if n % 2 else None) for n in range(64)
    ]
    Simulation(devices, slots=64, cost=CostModel(0.05, 0.001)).run(30)
    assert worst_share(devices) >= 0.5


def test_a_long_prompt_does_not_delay_the_rounds_of_others() -> None:
    """Devices that only ever send long prompts, faster than they can be computed, add no more than
    their chunk to any round; and a short prompt passes theirs (one alone takes three seconds),
    except those that waited long.
    """
    cost = CostModel(step_seconds=0.01, token_seconds=0.001)
    devices = [SimulatedDevice(n, short_prompt, text_tokens=400) for n in range(4)]
    hogs = [SimulatedDevice(4 + n, long_prompt, text_tokens=1) for n in range(4)]
    simulation = Simulation([*devices, *hogs], slots=8, cost=cost)
    simulation.run(5)
    for device in devices:
        device.longest_wait_seconds = device.longest_first_wait_seconds = 0.0
    simulation.run(60)
    chunk = Limits().prefill_chunk_tokens
    longest_step = cost.seconds(8 * 5 + chunk, 8)
    for device in devices:
        assert device.longest_wait_seconds <= 2 * longest_step
        assert device.longest_first_wait_seconds <= 3.0
    assert min(hog.texts for hog in hogs) > 0


def test_prompts_are_not_starved_by_rounds_that_could_fill_every_step() -> None:
    devices = [
        SimulatedDevice(n, short_prompt, draft_tokens=16, text_tokens=10_000, think_seconds=0)
        for n in range(40)
    ]
    newcomer = SimulatedDevice(40, long_prompt)
    simulation = Simulation([*devices, newcomer], slots=41, context_tokens=20_000)
    simulation.run(10)
    assert newcomer.texts > 0


def test_the_same_simulation_twice_is_the_same() -> None:
    runs = []
    for _ in range(2):
        devices = [SimulatedDevice(n, short_prompt) for n in range(20)]
        Simulation(devices, slots=6).run(5)
        runs.append([device.output_tokens for device in devices])
    assert runs[0] == runs[1]
