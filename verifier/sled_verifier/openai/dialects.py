"""How each kind of server is asked for its choices along a prompt, and how its answer reads. Pure: JSON values in and
out; must not send anything.

An answer is trusted only as far as it can be checked: it must speak of exactly the tokens that were sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

Json = dict[str, Any]

GREEDY: Final[Json] = {
    "temperature": 0,
    "top_p": 1,
    "top_k": -1,
    "min_p": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "ignore_eos": True,
}
"""Said in full, because a model's own `generation_config` otherwise fills in what is left out."""


class UnusableAnswer(ValueError):
    """The answer is not what this kind of server gives; the message is a sentence."""


class Dialect(Protocol):
    """One kind of server."""

    @property
    def name(self) -> str:
        """As it is called in `Model.engine`."""
        ...

    @property
    def path(self) -> str:
        """Where questions go, below the server's root."""
        ...

    def question(self, model: str, prefix: Sequence[int], draft: Sequence[int]) -> Json:
        """The body that asks for the choices along `draft` and for one token after it."""
        ...

    def choices(self, answer: Any, prefix: Sequence[int], draft: Sequence[int]) -> tuple[int, ...]:
        """What the server would have chosen: len(draft) + 1 ids.

        Raises:
            UnusableAnswer: it does not say.
        """
        ...


@dataclass(frozen=True, slots=True)
class VllmDialect:
    """vLLM's `/v1/completions` with `prompt_logprobs`: for each prompt token a table of the token itself and the most
    probable one; a table with a single entry means that they are the same.
    """

    name: str = "vllm"
    path: str = "/v1/completions"

    def question(self, model: str, prefix: Sequence[int], draft: Sequence[int]) -> Json:
        """See `Dialect.question`."""
        body = {
            "model": model,
            "prompt": [*prefix, *draft],
            "max_tokens": 1,
            "return_token_ids": True,
            **GREEDY,
        }
        return body | {"prompt_logprobs": 1} if draft else body

    def choices(self, answer: Any, prefix: Sequence[int], draft: Sequence[int]) -> tuple[int, ...]:
        """See `Dialect.choices`."""
        try:
            (choice,) = answer["choices"]
            (following,) = choice["token_ids"]
            if choice["prompt_token_ids"] != [*prefix, *draft]:
                raise UnusableAnswer("the server answered for another prompt")
            tables = choice["prompt_logprobs"][-len(draft) :] if draft else []
            along = [_best_of(table, token) for table, token in zip(tables, draft, strict=True)]
            return (*along, int(following))
        except (KeyError, TypeError, ValueError) as error:
            raise _unusable(error) from error


def _best_of(table: Json, token: int) -> int:
    others = [int(name) for name in table if int(name) != token]
    if len(others) == len(table) or len(others) > 1:
        raise UnusableAnswer("the log-probabilities are not those of the prompt")
    return others[0] if others else token


@dataclass(frozen=True, slots=True)
class SglangDialect:
    """SGLang's `/generate` with `return_logprob` from the prefix's last token on, so that its prefix cache serves
    what lies before; its top entry is the choice.
    """

    name: str = "sglang"
    path: str = "/generate"

    def question(self, model: str, prefix: Sequence[int], draft: Sequence[int]) -> Json:
        """See `Dialect.question`."""
        body: Json = {
            "input_ids": [*prefix, *draft],
            "sampling_params": {**GREEDY, "max_new_tokens": 1},
            "return_logprob": True,
            "logprob_start_len": len(prefix) + len(draft) - 1,
        }
        if draft:
            body |= {"logprob_start_len": len(prefix) - 1, "top_logprobs_num": 1}
        return body

    def choices(self, answer: Any, prefix: Sequence[int], draft: Sequence[int]) -> tuple[int, ...]:
        """See `Dialect.choices`."""
        try:
            meta = answer["meta_info"]
            following = meta["output_token_logprobs"][0][1]
            along: list[int] = []
            if draft:
                seen = [entry[1] for entry in meta["input_token_logprobs"][-len(draft) :]]
                if seen != list(draft):
                    raise UnusableAnswer("the log-probabilities are not those of the prompt")
                tops = meta["input_top_logprobs"][-len(draft) :]
                along = [int(top[0][1]) for _, top in zip(draft, tops, strict=True)]
            return (*along, int(following))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _unusable(error) from error


def _unusable(error: Exception) -> UnusableAnswer:
    if isinstance(error, UnusableAnswer):
        return error
    return UnusableAnswer(
        "the server's answer lacks what it should hold: the log-probabilities of the prompt and the ids of its tokens"
    )


DIALECTS: Final[dict[str, Dialect]] = {"vllm": VllmDialect(), "sglang": SglangDialect()}
"""By what a server writes as `owned_by` into its list of models."""
