"""Where the device's vocabulary comes from: a file of its own, or the verifier. Must not interpret texts itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from sled_edge.config import EdgeConfig
from sled_edge.generation import GenerationError, Tokenizer
from sled_edge.link import Link, Target
from sled_edge.link_backoff import LinkTiming, jittered
from sled_edge.link_transport import Dialer, StreamEnded
from sled_edge.log import fields

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""How often the fetcher looks whether a verifier is connected."""

FromBytes = Callable[[bytes], Tokenizer]


class TokenizerUnusable(RuntimeError):
    """The vocabulary cannot be loaded; the message is a sentence for a person."""


class DeferredTokenizer:
    """Stands in for a tokenizer that is still to come; satisfies `sled_edge.generation.Tokenizer`.

    Until `resolve` every use raises `GenerationError("unavailable")`, and the facts are those of an empty vocabulary.
    """

    def __init__(self) -> None:
        self._tokenizer: Tokenizer | None = None
        self.fingerprint = b""
        self.vocab_size = 0
        self.end_tokens: tuple[int, ...] = ()

    @property
    def resolved(self) -> bool:
        """True once there is a vocabulary."""
        return self._tokenizer is not None

    def resolve(self, tokenizer: Tokenizer, fingerprint: bytes) -> None:
        """From now on be `tokenizer`; `fingerprint` is what verifiers are told."""
        self._tokenizer = tokenizer
        self.fingerprint = fingerprint
        self.vocab_size = tokenizer.vocab_size
        self.end_tokens = tokenizer.end_tokens

    def encode(self, text: str, *, special: bool) -> list[int]:
        """See `Tokenizer.encode`."""
        return self._ready().encode(text, special=special)

    def piece(self, token: int) -> bytes:
        """See `Tokenizer.piece`."""
        return self._ready().piece(token)

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> str:
        """See `Tokenizer.chat_prompt`."""
        return self._ready().chat_prompt(messages)

    def _ready(self) -> Tokenizer:
        if self._tokenizer is None:
            raise GenerationError("unavailable", "the vocabulary has not been fetched yet", 1.0)
        return self._tokenizer


def local_vocabulary(config: EdgeConfig) -> Path | None:
    """The GGUF file on this device that has the vocabulary, or None when it must be fetched."""
    if config.tokenizer.path is not None:
        return config.tokenizer.path
    return None if config.drafter.model is None else config.drafter.model.path


def load_tokenizer(path: Path) -> Tokenizer:
    """The vocabulary of a local GGUF file.

    Raises:
        TokenizerUnusable: no such file, not a vocabulary, or the runtime is missing.
    """
    if not path.is_file():
        raise TokenizerUnusable(f"tokenizer: there is no file {path}")
    from sled_edge.tokenizer import LlamaCppTokenizer
    from sled_llamacpp import LlamaCppError

    try:
        return LlamaCppTokenizer.from_path(path)
    except LlamaCppError as error:
        raise TokenizerUnusable(f"tokenizer: {path}: {error}") from error


def tokenizer_from_bytes(data: bytes) -> Tokenizer:
    """A vocabulary that a verifier sent.

    Raises:
        TokenizerUnusable: not a vocabulary, or the runtime is missing.
    """
    from sled_edge.tokenizer import LlamaCppTokenizer
    from sled_llamacpp import LlamaCppError

    try:
        return LlamaCppTokenizer.from_bytes(data)
    except LlamaCppError as error:
        raise TokenizerUnusable(f"the verifier's tokenizer cannot be used: {error}") from error


class TokenizerFetcher:
    """Fetches the vocabulary from whichever verifier is connected, until it has one."""

    def __init__(
        self,
        link: Link,
        dialer: Dialer,
        deferred: DeferredTokenizer,
        build: FromBytes,
        timing: LinkTiming,
        uniform: Callable[[], float],
    ) -> None:
        self._link = link
        self._dialer = dialer
        self._deferred = deferred
        self._build = build
        self._timing = timing
        self._uniform = uniform

    async def run(self) -> None:
        """Try until it works; ends then. To be cancelled at shutdown."""
        failures = 0
        while not self._deferred.resolved:
            target = self._link.state().target
            if target is None:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            try:
                await self._fetch(target)
            except (StreamEnded, TokenizerUnusable) as error:
                log.warning("no tokenizer yet", extra=fields(detail=str(error)))
                await asyncio.sleep(self._pause(failures))
                failures += 1

    async def _fetch(self, target: Target) -> None:
        data = await self._dialer.tokenizer(target.endpoint)
        tokenizer = await asyncio.to_thread(self._build, data)
        if target.vocab_size and tokenizer.vocab_size != target.vocab_size:
            raise TokenizerUnusable(
                f"the verifier's tokenizer has {tokenizer.vocab_size} tokens, "
                f"its model {target.vocab_size}"
            )
        self._deferred.resolve(tokenizer, target.tokenizer_fingerprint)
        log.info("tokenizer fetched", extra=fields(bytes=len(data), model=target.model_name))

    def _pause(self, failures: int) -> float:
        timing = self._timing
        base = max(timing.backoff_base_seconds, LOOK_SECONDS)
        return jittered(failures, base, timing.slow_seconds, self._uniform)
