"""What OpenAI clients may send, typed; fields that change the text and are not offered are refused.

Unknown fields are ignored, as clients send many; nulls are the same as leaving a field out.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sled_edge.api.ask import Wishes
from sled_edge.api.unsupported import Unsupported
from sled_protocol.limits import MAX_SCHEMA_BYTES
from sled_speculation.sampling import Guide

MAX_MESSAGES = 4096
_FORMATS = ("text", "json_object", "json_schema")

_COMMON: dict[str, tuple[object, ...]] = {
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0, 0.0),
    "frequency_penalty": (None, 0, 0.0),
    "n": (None, 1),
    "best_of": (None, 1),
    "use_beam_search": (None, False),
    "length_penalty": (None, 1, 1.0),
    "min_tokens": (None, 0),
    "stop_token_ids": (None, []),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "logits_processors": (None, []),
    "include_stop_str_in_output": (None, False),
    "skip_special_tokens": (None, True),
    "truncate_prompt_tokens": (None,),
    "prompt_logprobs": (None,),
    "structured_outputs": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "grammar": (None,),
    "json_schema": (None,),
}
_HINTS = {
    "presence_penalty": "The target offers repetition_penalty instead.",
    "frequency_penalty": "The target offers repetition_penalty instead.",
    "n": "Send one request per text.",
}

CHAT_UNSUPPORTED = Unsupported(
    _COMMON
    | {
        "tools": (None, []),
        "tool_choice": (None, "none", "auto"),
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "logprobs": (None, False),
        "top_logprobs": (None, 0),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "reasoning_effort": (None, "none"),
        "verbosity": (None, "medium"),
        "web_search_options": (None,),
        "chat_template": (None,),
        "chat_template_kwargs": (None, {}),
        "add_generation_prompt": (None, True),
        "continue_final_message": (None, False),
        "echo": (None, False),
        "documents": (None, []),
    },
    _HINTS,
)

COMPLETION_UNSUPPORTED = Unsupported(
    _COMMON
    | {
        "logprobs": (None, False),
        "suffix": (None, ""),
        "response_format": (None, {"type": "text"}),
    },
    _HINTS,
)


def _stop_list(value: object) -> object:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(stop, str) for stop in value):
        return tuple(value)
    raise ValueError("must be a string or a list of strings")


def _content_text(value: object) -> object:
    """A message's text: a string, or parts of type text, one line each."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of text parts")
    texts = [part.get("text") for part in value if _is_text_part(part)]
    if len(texts) < len(value) or not all(isinstance(text, str) for text in texts):
        raise ValueError("every part must have type text and a text: the target reads only text")
    return "\n".join(str(text) for text in texts)


def _is_text_part(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "text"


def _no_calls(value: object) -> None:
    if value:
        raise ValueError("tools are not offered here")


def _guide(value: object) -> object:
    """A response format as a guide; None where any text will do."""
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("type") not in _FORMATS:
        raise ValueError(f"must be an object whose type is {', '.join(_FORMATS)}")
    if value["type"] == "text":
        return None
    if value["type"] == "json_object":
        return Guide()
    form = value.get("json_schema")
    schema = form.get("schema") if isinstance(form, dict) else None
    if not isinstance(schema, dict):
        raise ValueError("json_schema.schema must be a JSON Schema, an object")
    text = json.dumps(schema, separators=(",", ":"))
    if len(text) > MAX_SCHEMA_BYTES:
        raise ValueError(
            f"json_schema.schema has {len(text)} bytes as compact JSON; allowed: {MAX_SCHEMA_BYTES}"
        )
    return Guide(text)


def _one_prompt(value: object) -> object:
    """A prompt as a string or a tuple of token ids; lists of one prompt are unwrapped."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        if all(type(token) is int for token in value):
            return tuple(value)
        if all(isinstance(prompt, str | list) for prompt in value):
            raise ValueError("one prompt per request: send a request for each")
    raise ValueError("must be a string or a list of token ids")


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class StreamOptions(_Body):
    """How a stream ends."""

    include_usage: bool | None = None


class Message(_Body):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_content_text)]
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None


class _Sampling(_Body):
    """What chat and completions share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    min_p: float | None = Field(None, ge=0, lt=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: Annotated[tuple[str, ...], BeforeValidator(_stop_list)] = ()
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None

    @property
    def streams(self) -> bool:
        """True when the reply is to be streamed."""
        return bool(self.stream)

    @property
    def wants_usage(self) -> bool:
        """True when a stream is to end with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def wishes(self) -> Wishes:
        """The request without its dialect; temperature is 1 when not said, as OpenAI documents."""
        return Wishes(
            max_tokens=self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stops=self.stop,
            ignore_end_tokens=bool(self.ignore_eos),
            model=self.model,
        )


class ChatRequest(_Sampling):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    response_format: Annotated[Guide | None, BeforeValidator(_guide)] = None

    def wishes(self) -> Wishes:
        """As the shared ones; `max_completion_tokens` wins over its old name `max_tokens`."""
        wishes = replace(super().wishes(), guide=self.response_format)
        if self.max_completion_tokens is None:
            return wishes
        name = "max_completion_tokens"
        return replace(wishes, max_tokens=self.max_completion_tokens, max_tokens_param=name)


class CompletionRequest(_Sampling):
    """POST /v1/completions."""

    prompt: Annotated[str | tuple[int, ...], BeforeValidator(_one_prompt)]
    echo: bool | None = None
