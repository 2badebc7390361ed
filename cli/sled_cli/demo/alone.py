"""Loads the target of a replica as that replica does, and has it write every prompt alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sled_cli.demo.prompts import Prompt
from sled_cli.demo.reference import OwnText, write_alone
from sled_cli.errors import CliError
from sled_cli.up.process import SHARED_MACHINE


@dataclass(frozen=True, slots=True)
class OwnTexts:
    """What the target wrote, by the name of the prompt, and how long it took."""

    texts: Mapping[str, OwnText]
    seconds: float
    exactness: str
    """What sameness rests on: `bit-invariant`, `fp32` or `approximate`."""

    @property
    def tokens(self) -> int:
        """Output tokens of all texts."""
        return sum(len(text.tokens) for text in self.texts.values())


class Interrupted(CliError):
    """The comparison was asked to stop."""


def own_texts(
    config: Mapping[str, Any],
    prompts: Sequence[Prompt],
    max_tokens: int,
    on_text: Callable[[Prompt, OwnText], None],
    stop: threading.Event,
) -> OwnTexts:
    """Run the target of the verifier that `config` (its `verifier.yaml`) configures; takes long.

    Raises:
        CliError: it cannot be loaded, it failed, or `stop` was set.
    """
    # Read when the runtime is loaded, which the imports below do. They are here because
    # `sled --help` must not wait for numpy and gRPC.
    for name, value in SHARED_MACHINE.items():
        os.environ.setdefault(name, value)
    from sled_edge.tokenizer import LlamaCppTokenizer
    from sled_llamacpp import LlamaCppError
    from sled_verifier.config import VerifierConfig
    from sled_verifier.engine.base import EngineError
    from sled_verifier.engine.factory import build_engine
    from sled_verifier.refusal import ConfigError

    def on_token() -> None:
        if stop.is_set():
            raise Interrupted("interrupted")

    alone = {**config, "engine": {**config["engine"], "slots": 1}}
    try:
        with closing(build_engine(VerifierConfig.model_validate(alone))) as engine:
            tokenizer = LlamaCppTokenizer.from_bytes(engine.tokenizer_gguf())
            with closing(tokenizer):
                texts: dict[str, OwnText] = {}
                started = time.monotonic()
                for prompt in prompts:
                    ids = tokenizer.encode(tokenizer.chat_prompt(prompt.messages()), special=True)
                    texts[prompt.name] = write_alone(engine, ids, max_tokens, on_token)
                    on_text(prompt, texts[prompt.name])
                return OwnTexts(texts, time.monotonic() - started, engine.info.exactness)
    except (ConfigError, EngineError, LlamaCppError) as error:
        raise CliError(f"the target alone: {error}") from error
