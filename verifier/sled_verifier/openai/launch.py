"""From configuration to a backend over a server that was found, recognised and tried. The only place that knows how
servers introduce themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sled_verifier.engine.base import EngineError, EngineInfo
from sled_verifier.engine.gguf_vocabulary import GgufVocabulary, encode_with, read_vocabulary
from sled_verifier.limits import Limits
from sled_verifier.openai.backend import OpenAIBackend
from sled_verifier.openai.client import HttpServer, HttpTarget
from sled_verifier.openai.dialects import DIALECTS, Dialect
from sled_verifier.openai.target import TargetError, TargetServer

_log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""How long the server may still be starting."""
RETRY_SECONDS = 1.0
SENTENCE = "Many devices draft, and 1 server verifies what 256 of them wrote."
TRIALS = 3
TRIAL_TOKENS = 5


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the target runs, and how much may be asked of it."""

    url: str
    model_name: str
    vocabulary: Path
    context_tokens: int
    places: int
    """Questions at once."""
    timeout_seconds: float = 60.0
    api_key_file: Path | None = None
    start_seconds: float = START_SECONDS


async def load_backend(settings: ServerSettings, limits: Limits) -> OpenAIBackend:
    """Find the server, recognise it, and try whether its choices along a draft are what it writes alone.

    Raises:
        EngineError: it does not answer in time, is of a kind that cannot be exact, serves another model, another
            vocabulary or a shorter context, or failed the trial; the message says which.
    """
    words = await asyncio.to_thread(read_vocabulary, settings.vocabulary)
    server = HttpServer(
        settings.url,
        timeout_seconds=settings.timeout_seconds,
        connections=settings.places,
        token=_api_key(settings.api_key_file),
        longest=settings.context_tokens,
    )
    try:
        models = await _list_models(server, settings.start_seconds)
        card = _card(models, settings.model_name)
        dialect = await _dialect(server, card)
        _check_context(card, settings.context_tokens)
        target = HttpTarget(server, dialect, str(card["id"]))
        await _check_vocabulary(server, card, settings.vocabulary)
        await try_out(target, words.size)
    except TargetError as error:
        await server.close()
        raise EngineError(error.message) from error
    except BaseException:
        await server.close()
        raise
    info = _info(settings, words, dialect)
    _log.info("found the model server", extra={"server": dialect.name, "model": str(card["id"])})
    return OpenAIBackend(target, info, words.gguf, limits)


async def try_out(target: TargetServer, vocab_size: int) -> None:
    """Let the server write a few tokens one by one, then verify them with a wrong one among them. In half
    precision a near-tie may fall either way, so one of a few trials has to come out.

    Raises:
        EngineError: its choices along a draft are not what it wrote.
        TargetError: it does not answer.
    """
    for trial in range(TRIALS):
        prompt = [(7 + trial + 31 * place) % vocab_size for place in range(TRIAL_TOKENS)]
        if await _comes_out(target, prompt, vocab_size):
            return
    raise EngineError("the model server's log-probabilities of a prompt are not what it writes")


async def _comes_out(target: TargetServer, prompt: list[int], vocab_size: int) -> bool:
    text: list[int] = []
    for _ in range(TRIAL_TOKENS):
        text.extend(await target.choices([*prompt, *text], ()))
    found = await target.choices(prompt, text[:-1])
    wrong = [*text[:-1]]
    wrong[-1] = (wrong[-1] + 1) % vocab_size
    spoilt = await target.choices(prompt, wrong)
    return list(found) == text and list(spoilt[:-1]) == text[:-1]


async def _list_models(server: HttpServer, start_seconds: float) -> list[dict[str, Any]]:
    until = time.monotonic() + start_seconds
    while True:
        try:
            listed = await server.get("/v1/models")
            break
        except TargetError as error:
            if time.monotonic() + RETRY_SECONDS >= until:
                raise EngineError(error.message) from error
        await asyncio.sleep(RETRY_SECONDS)
    models = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(models, list) or not all(
        isinstance(model, dict) and "id" in model for model in models
    ):
        raise EngineError("the model server's list of models cannot be read")
    return models


def _card(models: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """The model of this name; else the only one that is no adapter."""
    named = [model for model in models if model["id"] == name]
    base = [model for model in models if not model.get("parent")]
    if not named and len(base) != 1:
        names = ", ".join(sorted(str(model["id"]) for model in models)) or "none"
        raise EngineError(f"the model server has no model '{name}'; it has: {names}"[:500])
    return named[0] if named else base[0]


async def _dialect(server: HttpServer, card: dict[str, Any]) -> Dialect:
    dialect = DIALECTS.get(str(card.get("owned_by")))
    if dialect is not None:
        return dialect
    if await _is_tgi(server):
        raise EngineError(
            "text-generation-inference cannot verify drafts: it takes text instead of token ids and says the "
            "probabilities of a prompt's tokens without the most probable ones"
        )
    kinds = " or ".join(sorted(DIALECTS))
    raise EngineError(f"the model server is not known to be exact; it must be {kinds}")


async def _is_tgi(server: HttpServer) -> bool:
    try:
        described = await server.get("/info")
    except TargetError:
        return False
    return isinstance(described, dict) and "max_total_tokens" in described


def _check_context(card: dict[str, Any], context_tokens: int) -> None:
    longest = card.get("max_model_len")
    if isinstance(longest, int) and context_tokens > longest:
        raise EngineError(
            f"context_tokens is {context_tokens}; the model server's limit is {longest}"
        )


async def _check_vocabulary(server: HttpServer, card: dict[str, Any], vocabulary: Path) -> None:
    """The ids of a sentence must be that sentence to the server. Only letters and digits are compared: the two
    sides treat spaces and what begins a text differently.
    """
    ids = await asyncio.to_thread(encode_with, vocabulary, SENTENCE)
    try:
        answer = await server.post("/detokenize", {"model": card["id"], "tokens": ids})
    except TargetError as error:
        _log.warning("the server's vocabulary cannot be compared", extra={"why": error.message})
        return
    text = answer.get("prompt", answer.get("text")) if isinstance(answer, dict) else None
    if not isinstance(text, str) or not _letters(text).endswith(_letters(SENTENCE)):
        raise EngineError("the model server's vocabulary is not that of model.vocabulary")


def _letters(text: str) -> str:
    return "".join(character for character in text if character.isalnum())


def _info(settings: ServerSettings, words: GgufVocabulary, dialect: Dialect) -> EngineInfo:
    return EngineInfo(
        model_name=settings.model_name,
        engine=f"openai/{dialect.name}",
        vocab_size=words.size,
        context_tokens=settings.context_tokens,
        slots=settings.places,
        max_step_tokens=settings.context_tokens,
        tokenizer_fingerprint=words.fingerprint,
        end_tokens=words.end_tokens,
        # No server says in which precision it computes.
        exactness="approximate",
    )


def _api_key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"engine.openai.apiKeyFile cannot be read: {error}") from error
    if not key or not key.isascii() or not key.isprintable():
        raise EngineError("engine.openai.apiKeyFile must hold one line of ASCII text")
    return key
