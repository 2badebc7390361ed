"""One demonstration from start to verdict: fleet, prompts, the target alone, the comparison.

Everything that a person reads goes through the console; processes' logs go to files.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from sled_cli.demo.alone import OwnTexts, own_texts
from sled_cli.demo.board import Board, DeviceLine, VerifierLine
from sled_cli.demo.compare import Difference, compare
from sled_cli.demo.display import comparison_progress, display_for
from sled_cli.demo.prompts import Prompt
from sled_cli.demo.record import write_record
from sled_cli.demo.runner import Runner
from sled_cli.demo.summary import Figures, by_device, figures, saved, shown_differences, verdict
from sled_cli.up.command import stop_on_signals
from sled_cli.up.configs import verifier_config
from sled_cli.up.fleet import Fleet
from sled_cli.up.fleet_plan import FleetPlan
from sled_cli.up.logs import FileLog
from sled_cli.up.probe import HttpProbe
from sled_cli.up.process import LocalLauncher
from sled_cli.up.specs import Paths, fleet_state, process_specs
from sled_cli.up.state import StateFolder
from sled_cli.watch.verifier import VerifierWatch

CURL: Final = """\
curl {url}/v1/chat/completions -H 'content-type: application/json' \\
  -d '{{"messages": [{{"role": "user", "content": "Name three colours."}}], "max_tokens": 48}}'"""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for."""

    prompts: tuple[Prompt, ...]
    max_tokens: int
    keep: bool
    results: Path | None
    command: str


class Show:
    """Runs once."""

    def __init__(
        self, plan: FleetPlan, paths: Paths, folder: StateFolder, request: Request, console: Console
    ) -> None:
        self._plan = plan
        self._paths = paths
        self._folder = folder
        self._request = request
        self._console = console
        self._stop = asyncio.Event()
        self._stop_thread = threading.Event()
        self._staying = False
        self._board = Board(
            (DeviceLine(d.name, d.draft_name, len(request.prompts)) for d in plan.devices),
            (VerifierLine(v.name, v.spec.model.name) for v in plan.verifiers),
        )

    async def run(self) -> bool:
        """True when every text is the target's own.

        Raises:
            CliError: the fleet or the target alone failed.
            KeyboardInterrupt: a signal came before the verdict.
        """
        specs = process_specs(self._plan, self._paths, self._folder)
        probe = HttpProbe()
        fleet = Fleet(
            specs,
            LocalLauncher(),
            probe,
            on_line=FileLog(self._folder.path),
            on_change=lambda: self._publish(fleet),
        )
        stop_on_signals(self._stop, fleet.hurry)
        work = asyncio.create_task(self._work(fleet))
        signalled = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({work, signalled}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not self._staying:
                self._stop_thread.set()
                work.cancel()
                await asyncio.wait({work})
                raise KeyboardInterrupt
            return await work
        finally:
            signalled.cancel()
            await probe.close()

    async def _work(self, fleet: Fleet) -> bool:
        async with fleet:
            self._say(f"starting {_in_words(self._plan)}; logs are in {self._folder.path}")
            await fleet.start()
            seconds = await self._ask(fleet)
            if self._request.keep:
                identical = await self._judge(seconds)
                self._staying = True
                await fleet.until(_until(self._stop))
                return identical
        return await self._judge(seconds)

    async def _ask(self, fleet: Fleet) -> float:
        """Have every device answer; returns how many seconds that took."""
        count = len(self._request.prompts)
        self._say(
            f"{count} prompts to each of {len(self._plan.devices)} devices at once, at most "
            f"{self._request.max_tokens} tokens each, greedy"
        )
        urls = {device.name: device.url for device in self._plan.devices}
        watches = {
            v.name: VerifierWatch(v.address, self._folder.token_file if v.tokens else None)
            for v in self._plan.verifiers
        }
        try:
            with display_for(self._board, self._console) as display:
                runner = Runner(self._board, urls, watches)
                await fleet.until(
                    runner.run(self._request.prompts, self._request.max_tokens, display)
                )
            return self._board.seconds
        finally:
            for watch in watches.values():
                await watch.close()

    async def _judge(self, seconds: float) -> bool:
        """Compare all texts with the target's own and report."""
        own = {}
        for server, verifier in {v.server: v for v in self._plan.verifiers}.items():
            path = None if verifier.model is None else self._paths[verifier.model]
            config = verifier_config(verifier, path, self._folder.tokens_file)
            self._say(f"\nthe target alone: {verifier.spec.model.name}, one text at a time")
            own[server] = await asyncio.to_thread(self._write_alone, config)
        result, differences = self._compare(own, seconds)
        self._report(result, differences, {texts.exactness for texts in own.values()})
        if self._request.results is not None:
            write_record(self._request.results, result, self._request.command)
        return not differences

    def _write_alone(self, config: Mapping[str, object]) -> OwnTexts:
        prompts = self._request.prompts
        with comparison_progress(self._console, len(prompts)) as advance:
            return own_texts(config, prompts, self._request.max_tokens, advance, self._stop_thread)

    def _compare(
        self, own: Mapping[str, OwnTexts], seconds: float
    ) -> tuple[Figures, list[Difference]]:
        server_of = {device.name: device.server or "" for device in self._plan.devices}
        judged = (
            compare(answer, own[server_of[answer.device]].texts[answer.prompt])
            for answer in self._board.answers
        )
        differences = [difference for difference in judged if difference is not None]
        alone_seconds = sum(texts.seconds for texts in own.values())
        rate = sum(texts.tokens for texts in own.values()) / max(alone_seconds, 1e-9)
        return figures(self._board, differences, seconds, rate), differences

    def _report(self, result: Figures, differences: list[Difference], exactness: set[str]) -> None:
        self._say("")
        for sentence in (*saved(result), *by_device(self._board)):
            self._say(sentence)
        if differences:
            self._say("\nNot the target's own text:")
        for sentence in shown_differences(differences):
            self._say(f"  {sentence}")
        self._say(
            "Each text was compared with the target's own greedy output, token id by token id; the "
            f"target's arithmetic here is {' and '.join(sorted(exactness))}."
        )
        if self._request.keep:
            curl = CURL.format(url=self._plan.devices[0].url)
            self._say(f"\nThe fleet stays up until Ctrl-C. Ask a device:\n\n{curl}\n")
        self._say(verdict(result))

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _publish(self, fleet: Fleet) -> None:
        self._folder.write_state(fleet_state(self._plan, fleet.keepers, fleet.ready, self._folder))


def _in_words(plan: FleetPlan) -> str:
    verifiers = ", ".join(f"{v.name} ({v.spec.model.name})" for v in plan.verifiers)
    devices = ", ".join(f"{d.name} ({d.draft_name})" for d in plan.devices)
    return f"verifier {verifiers} and devices {devices}"


async def _until(event: asyncio.Event) -> None:
    await event.wait()
