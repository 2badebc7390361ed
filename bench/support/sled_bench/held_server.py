"""A verifier as `sled-verifier` makes it, its target held to the texts of a trace.

    python -m sled_bench.held_server VERIFIER_YAML TRACE OUT

Each line on standard input is a JSON object, the policy from now on: `trim`, `meet_deadlines`, `foretell` and `static` (wait for so
many rounds, as the paper's static batching does; 0 = as SLED does); it is answered by a line. At the end of the input what
was counted is written to OUT. Runs in the environment that has the engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from sled_bench.held import Held, HeldEngine, hold_vllm
from sled_bench.trace import read
from sled_verifier.config import EngineKind, VerifierConfig, load_config
from sled_verifier.engine.factory import build_engine, load_control, vllm_settings
from sled_verifier.gathering import Hold
from sled_verifier.load_control import LoadSettings
from sled_verifier.server import VerifierServer
from sled_verifier.vllm.backend import VllmBackend

STATIC_SECONDS = 0.25
"""How long static batching waits for a batch that does not fill."""


async def held_target(config: VerifierConfig, held: Held) -> HeldEngine | VllmBackend:
    """The configured target, held."""
    if config.engine.kind is not EngineKind.VLLM:
        return HeldEngine(await asyncio.to_thread(build_engine, config), held)
    from sled_verifier.vllm.internals import VllmRuntime
    from sled_verifier.vllm.launch import load_runtime

    def make() -> Any:
        runtime = load_runtime(vllm_settings(config))
        if not isinstance(runtime, VllmRuntime):
            raise TypeError("not vLLM's own runtime")
        runtime._engine.collective_rpc(hold_vllm, args=(held,))
        return runtime

    return await VllmBackend.load(
        make,
        config.batching.limits(),
        control=load_control(config),
        measure_seconds=config.batching.measure_seconds,
    )


async def serve(config: VerifierConfig, held: Held) -> None:
    """Serve until the input ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with VerifierServer(config, await held_target(config, held)) as server:
        held.places, held.margins = 0, []
        print(f"ready on {server.address}", flush=True)
        while line := await reader.readline():
            change(server.backend, json.loads(line))
            print("changed", flush=True)


def change(backend: Any, policy: dict[str, Any]) -> None:
    """Put another policy in force."""
    keeper = backend._roster if isinstance(backend, VllmBackend) else backend._scheduler
    keeper.control.settings = LoadSettings(
        policy["trim"], policy["meet_deadlines"], policy["foretell"]
    )
    vars(keeper).pop("hold", None)
    if policy["static"]:
        keeper.hold = lambda now: static_hold(keeper, policy["static"])


def static_hold(keeper: Any, rounds: int) -> Hold | None:
    """Wait for a full batch."""
    if not keeper._queue:
        return None
    first = min(waiting.arrived for waiting in keeper._queue)
    return Hold(first + STATIC_SECONDS, rounds)


def main() -> None:
    config, trace, out = map(Path, sys.argv[1:])
    held = Held.to(read(trace))
    status = 0
    # Whatever goes wrong at the end, what was counted is kept.
    try:
        asyncio.run(serve(load_config(config), held))
    except Exception:
        traceback.print_exc()
        status = 1
    out.write_text(json.dumps({"places": held.places, "margins": held.margins}))
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
