"""`sled-edge --config FILE`: the device's side of SLED as a process. Must not do more than parse and report."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from sled_edge.config import ConfigError, EdgeConfig, load_config
from sled_edge.log import configure_logging
from sled_protocol.limits import MAX_DEVICE_ID_BYTES

EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process; returns 0 after an orderly end, 1 when it cannot start, 2 for a bad configuration."""
    options = _parser().parse_args(arguments)
    try:
        config = _named(load_config(options.config), options.device_id)
        _check_files(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_CONFIG
    if options.check:
        print(f"{options.config}: usable")
        return 0
    configure_logging(config.log_level.value)
    return _run(config)


def _run(config: EdgeConfig) -> int:
    from sled_edge.process import serve
    from sled_edge.service import StartFailed

    try:
        asyncio.run(serve(config))
    except StartFailed as error:
        print(f"sled-edge cannot start: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _named(config: EdgeConfig, device_id: str | None) -> EdgeConfig:
    """The configuration with the name that only the device knows, where one file serves many."""
    if device_id is None:
        return config
    if not device_id.isprintable() or not 0 < len(device_id.encode()) <= MAX_DEVICE_ID_BYTES:
        raise ConfigError(f"--device-id must be printable, 1 to {MAX_DEVICE_ID_BYTES} bytes long")
    return config.model_copy(update={"device_id": device_id})


def _check_files(config: EdgeConfig) -> None:
    """Every file that the configuration names must be there.

    Raises:
        ConfigError: one sentence for each that is not.
    """
    named: dict[str, Path | None] = {
        "tokenFile": config.token_file,
        "tokenizer.path": config.tokenizer.path,
        "drafter.model.path": config.drafter.model.path if config.drafter.model else None,
    }
    if config.tls is not None:
        named["tls.caFile"] = config.tls.ca_file
        named["tls.certFile"] = config.tls.cert_file
        named["tls.keyFile"] = config.tls.key_file
    missing = [f"{field}: there is no file {path}" for field, path in named.items() if _gone(path)]
    if missing:
        raise ConfigError("\n".join(missing))


def _gone(path: Path | None) -> bool:
    return path is not None and not path.is_file()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sled-edge",
        description="Drafts on this device, has a shared verifier check the drafts, and serves the "
        "exact text of the large model on a local OpenAI-compatible API.",
        epilog="Exit status: 0 after an orderly end (SIGTERM, SIGINT), 1 when it cannot start, "
        "2 when the configuration is wrong. Logs are JSON lines on stderr.",
    )
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the device's edge.yaml"
    )
    parser.add_argument(
        "--device-id",
        metavar="NAME",
        help="replaces deviceId, where one configuration serves many devices",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="check the configuration and the files it names, then exit",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
