"""From a client's wishes, already typed, to one generation. Must not know either dialect's JSON."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sled_edge.api.refusal import Reason, Refusal
from sled_edge.api.settings import ApiSettings
from sled_edge.generation import GenerationRequest, TokenGenerator, Tokenizer
from sled_edge.link import CANNOT_GUIDE
from sled_edge.metrics import EdgeMetrics
from sled_edge.text import InvalidStop, check_stops
from sled_speculation.sampling import Guide, InvalidSampling, SamplingParams

ANY_MODEL = "tgi"
"""Model name that TGI clients send whatever is served."""
SEED_BITS = 64
MAX_QUOTED_CHARACTERS = 300

_N = TypeVar("_N", int, float)


@dataclass(frozen=True, slots=True)
class Ask:
    """A generation as the API runs it: what the loop is asked, and where the text ends."""

    request: GenerationRequest
    stops: tuple[str, ...] = ()
    keep_stop: bool = False


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client said about the output; None where it said nothing."""

    max_tokens: int | None = None
    max_tokens_param: str = "max_tokens"
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stops: tuple[str, ...] = ()
    keep_stop: bool = False
    ignore_end_tokens: bool = False
    model: str | None = None
    guide: Guide | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """What all handlers share."""

    generator: TokenGenerator
    tokenizer: Tokenizer
    metrics: EdgeMetrics
    settings: ApiSettings
    started_unix_seconds: int
    _tokenizing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def encode(self, text: str, param: str) -> tuple[int, ...]:
        """Token ids of a prompt, off the event loop, one prompt at a time.

        Raises:
            Refusal: there is no token in it.
        """
        async with self._tokenizing:
            tokens = await asyncio.to_thread(self.tokenizer.encode, text, special=True)
        if not tokens:
            raise Refusal(Reason.INVALID_REQUEST, "The prompt is empty.", param=param)
        return tuple(tokens)

    async def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """Token ids of a chat, in the model's own template.

        Raises:
            Refusal: the template does not take these messages.
        """
        async with self._tokenizing:
            try:
                text = await asyncio.to_thread(self.tokenizer.chat_prompt, messages)
            except ValueError as error:
                raise Refusal(
                    Reason.INVALID_REQUEST,
                    f"messages: {str(error)[:MAX_QUOTED_CHARACTERS]}.",
                    param="messages",
                ) from error
        return await self.encode(text, "messages")

    def check_tokens(self, tokens: Sequence[int], param: str) -> tuple[int, ...]:
        """Token ids that a client sent itself.

        Raises:
            Refusal: none at all, or one outside the vocabulary.
        """
        if not tokens:
            raise Refusal(Reason.INVALID_REQUEST, "The prompt is empty.", param=param)
        bad = next((i for i, t in enumerate(tokens) if not 0 <= t < self.tokenizer.vocab_size), -1)
        if bad >= 0:
            raise Refusal(
                Reason.INVALID_REQUEST,
                f"Token {bad} of the prompt is {tokens[bad]}; "
                f"allowed: 0 to {self.tokenizer.vocab_size - 1}.",
                param=param,
            )
        return tuple(tokens)

    def text_of(self, prompt: str | Sequence[int]) -> str:
        """A prompt's text, for clients that want it back before the output."""
        if isinstance(prompt, str):
            return prompt
        return b"".join(map(self.tokenizer.piece, prompt)).decode("utf-8", errors="replace")

    def ask(self, prompt: tuple[int, ...], wishes: Wishes, default_max_tokens: int) -> Ask:
        """Check wishes against model, context and ranges, and fill in what was not said.

        Raises:
            Refusal: unknown model, no room in the context, a value outside its range, or a guide that cannot be kept to.
        """
        self._check_guide(wishes)
        try:
            check_stops(wishes.stops)
        except InvalidStop as error:
            raise Refusal(Reason.INVALID_REQUEST, f"stop: {error}.", param="stop") from error
        request = GenerationRequest(
            prompt_tokens=prompt,
            max_tokens=self._room(len(prompt), wishes, default_max_tokens),
            sampling=sampling_params(wishes),
            model=self._model(wishes.model),
            ignore_end_tokens=wishes.ignore_end_tokens,
        )
        return Ask(request, wishes.stops, wishes.keep_stop)

    def _check_guide(self, wishes: Wishes) -> None:
        if wishes.guide is None:
            return
        name = "response_format"
        if self.generator.guides() is False:
            raise Refusal(
                Reason.UNSUPPORTED_PARAMETER,
                f"{name} is not offered here: {CANNOT_GUIDE}.",
                param=name,
            )
        if wishes.ignore_end_tokens:
            raise Refusal(
                Reason.INVALID_REQUEST,
                f"{name} holds up to the end token, so it is not allowed with ignore_eos.",
                param=name,
            )

    def _room(self, prompt_tokens: int, wishes: Wishes, default_max_tokens: int) -> int:
        context = self.generator.context_tokens()
        wanted = wishes.max_tokens
        if context <= 0:  # not known before a verifier was reached; the verifier checks for itself
            return default_max_tokens if wanted is None else wanted
        room = context - prompt_tokens
        if room < 1 or (wanted is not None and wanted > room):
            output = "" if wanted is None else f" and {wanted} output tokens were asked for"
            raise Refusal(
                Reason.CONTEXT_LENGTH_EXCEEDED,
                f"The context holds {context} tokens; the prompt has {prompt_tokens}{output}.",
                param="prompt" if room < 1 else wishes.max_tokens_param,
            )
        return min(default_max_tokens, room) if wanted is None else wanted

    def _model(self, wanted: str | None) -> str:
        served = self.generator.model_name()
        if not wanted or wanted == ANY_MODEL:
            return ""
        if served and wanted != served:
            raise model_not_found(served)
        return wanted


def model_not_found(served: str) -> Refusal:
    """The refusal for any model but `served`."""
    return Refusal(
        Reason.MODEL_NOT_FOUND, f"There is no such model here; served is '{served}'.", param="model"
    )


def sampling_params(wishes: Wishes) -> SamplingParams:
    """Sampling as the loop takes it; a missing seed is drawn at random, greedy needs none.

    Raises:
        Refusal: a value is outside its range.
    """
    seed = wishes.seed
    if seed is None:
        seed = 0 if wishes.temperature == 0 else secrets.randbits(SEED_BITS)
    try:
        return SamplingParams(
            temperature=wishes.temperature,
            repetition_penalty=_or(wishes.repetition_penalty, 1.0),
            top_k=max(0, _or(wishes.top_k, 0)),  # -1 is how some clients say off
            top_p=_or(wishes.top_p, 1.0),
            min_p=_or(wishes.min_p, 0.0),
            seed=seed % 2**SEED_BITS,
            guide=wishes.guide,
        )
    except InvalidSampling as error:
        message = str(error)
        raise Refusal(
            Reason.INVALID_SAMPLING, f"{message}.", param=message.partition(" ")[0]
        ) from error


def _or(value: _N | None, default: _N) -> _N:
    return default if value is None else value
