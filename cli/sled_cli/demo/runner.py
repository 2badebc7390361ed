"""Sends every prompt to every device, all devices at once, and keeps the board up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import httpx

from sled_cli.demo.board import Board, DeviceLine
from sled_cli.demo.client import ask
from sled_cli.demo.display import Display
from sled_cli.demo.prompts import Prompt
from sled_cli.watch.device import read_device
from sled_cli.watch.verifier import VerifierWatch

LOOK_SECONDS = 0.5
METRICS_SECONDS = 10.0
STAGGER = 3


class Runner:
    """One run over all prompts.

    Args:
        urls: base address of each device, by name.
        watches: connection to each verifier, by name.
    """

    def __init__(
        self, board: Board, urls: Mapping[str, str], watches: Mapping[str, VerifierWatch]
    ) -> None:
        self._board = board
        self._urls = urls
        self._watches = watches

    async def run(self, prompts: Sequence[Prompt], max_tokens: int, display: Display) -> None:
        """Return when every device has answered every prompt, or failed to."""
        async with httpx.AsyncClient(timeout=METRICS_SECONDS, trust_env=False) as client:
            await self._look(client)
            self._board.begin()
            watching = asyncio.create_task(self._keep_looking(client, display))
            try:
                async with asyncio.TaskGroup() as group:
                    for index, device in enumerate(self._board.devices):
                        order = _rotated(prompts, index * STAGGER)
                        group.create_task(self._device(client, device, order, max_tokens, display))
            finally:
                watching.cancel()
                await asyncio.wait({watching})
            await self._look(client)

    async def _device(
        self,
        client: httpx.AsyncClient,
        device: DeviceLine,
        prompts: Sequence[Prompt],
        max_tokens: int,
        display: Display,
    ) -> None:
        def on_tokens(count: int) -> None:
            device.tokens += count

        for prompt in prompts:
            device.prompt = prompt.name
            url = self._urls[device.name]
            answer = await ask(client, device.name, url, prompt, max_tokens, on_tokens)
            self._board.answered(device, answer)
            display.answered(device, answer)

    async def _keep_looking(self, client: httpx.AsyncClient, display: Display) -> None:
        while True:
            await self._look(client)
            display.update()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, client: httpx.AsyncClient) -> None:
        devices, verifiers = self._board.devices, self._board.verifiers
        counters, stats = await asyncio.gather(
            asyncio.gather(*(read_device(client, self._urls[d.name]) for d in devices)),
            asyncio.gather(*(self._watches[v.name].read() for v in verifiers)),
        )
        for device, seen in zip(devices, counters, strict=True):
            device.counters = seen or device.counters
        for verifier, said in zip(verifiers, stats, strict=True):
            verifier.saw(said)


def _rotated(prompts: Sequence[Prompt], by: int) -> list[Prompt]:
    """Another order for each device, so that they are not at the same prompt at the same time."""
    start = by % len(prompts)
    return [*prompts[start:], *prompts[:start]]
