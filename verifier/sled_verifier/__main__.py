"""`sled-verifier --config FILE`: one replica as a process. Signals, exit codes and the order of
things; nothing else.

Exit codes: 0 stopped as asked, 1 failed while running, 2 unusable configuration, 128 + n cut short
by a second signal n.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sled_protocol.limits import MAX_NAME_BYTES
from sled_verifier.config import EngineKind, VerifierConfig, load_config
from sled_verifier.engine.factory import load_target, may_use_gpu
from sled_verifier.gpu.base import GpuError, GpuReader
from sled_verifier.gpu.nvml import open_nvml
from sled_verifier.logs import configure_logging
from sled_verifier.refusal import ConfigError
from sled_verifier.server import VerifierServer
from sled_verifier.vllm.preload import restart_for_vllm

_log = logging.getLogger("sled_verifier")

EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sled-verifier",
        description="Verify the drafts of many devices with one target model.",
        epilog="SIGTERM or SIGINT drains: rounds in flight are answered, devices are told to go "
        "elsewhere. A second signal stops at once.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="verifier.yaml")
    parser.add_argument(
        "--replica", metavar="NAME", help="replaces replica, where one configuration serves many"
    )
    parser.add_argument(
        "--check", action="store_true", help="only say whether the configuration is usable"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        config = _named(load_config(options.config), options.replica)
        if options.check:
            print(f"{options.config}: usable")
            return 0
        if arguments is None and config.engine.kind is EngineKind.VLLM:
            restart_for_vllm(sys.argv[1:], config.engine.threads)
        configure_logging(config.log_level)
        return asyncio.run(_serve(config))
    except ConfigError as error:
        print(f"sled-verifier: {error}", file=sys.stderr)
        return EXIT_BAD_CONFIG


def _named(config: VerifierConfig, replica: str | None) -> VerifierConfig:
    """The configuration with the name that only this process knows."""
    if replica is None:
        return config
    if not replica.isprintable() or not 0 < len(replica.encode()) <= MAX_NAME_BYTES:
        raise ConfigError(f"--replica must be printable, 1 to {MAX_NAME_BYTES} bytes long")
    return config.model_copy(update={"replica": replica})


async def _serve(config: VerifierConfig) -> int:
    stop = _watch_signals()
    loading = asyncio.ensure_future(load_target(config))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        _log.info("stopped while loading the model")
        # The loader thread cannot be interrupted, and nothing it holds outlives the process.
        os._exit(0)
    stopping.cancel()
    async with VerifierServer(config, loading.result(), gpus=_gpus(config)) as server:
        print(
            f"sled-verifier {config.replica}: {config.model.name} ready on {server.address}, "
            f"metrics on {server.metrics_address}",
            flush=True,
        )
        failed = asyncio.ensure_future(server.backend.failed.wait())
        asked = asyncio.ensure_future(stop.wait())
        await asyncio.wait((failed, asked), return_when=asyncio.FIRST_COMPLETED)
        for task in (failed, asked):
            task.cancel()
        if server.backend.failed.is_set():
            return EXIT_FAILED
        await server.drain("the replica is shutting down")
    _log.info("stopped")
    if server.backend.stuck:
        os._exit(EXIT_FAILED)
    return 0


def _gpus(config: VerifierConfig) -> GpuReader | None:
    """A reader for the metrics; None, and one log line, where there is nothing to read."""
    if not may_use_gpu(config):
        return None
    try:
        return open_nvml()
    except GpuError as error:
        _log.info("no GPU metrics", extra={"why": str(error)})
        return None


def _watch_signals() -> asyncio.Event:
    """An event that the first signal sets; the second one ends the process at once."""
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


if __name__ == "__main__":
    sys.exit(main())
