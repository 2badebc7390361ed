from __future__ import annotations

from typing import Any

import pytest

from sled_edge.api.ask import sampling_params
from sled_edge.api.body import field_path, parse
from sled_edge.api.openai.requests import (
    CHAT_UNSUPPORTED,
    COMPLETION_UNSUPPORTED,
    ChatRequest,
    CompletionRequest,
)
from sled_edge.api.refusal import Reason, Refusal
from sled_edge.api.tgi.requests import PARAMETERS_UNSUPPORTED, GenerateRequest
from sled_edge.api.unsupported import Unsupported

USER = {"role": "user", "content": "x"}


def chat(**fields: Any) -> ChatRequest:
    return parse(ChatRequest, {"messages": [USER], **fields})


def test_openai_defaults_are_documented_ones() -> None:
    wishes = chat().wishes()
    assert wishes.temperature == 1.0
    assert wishes.max_tokens is None
    assert wishes.stops == ()
    assert not chat().streams


def test_nulls_are_the_same_as_nothing() -> None:
    names = ("stop", "temperature", "max_tokens", "seed", "stream", "stream_options", "model")
    assert chat(**dict.fromkeys(names)) == chat()


def test_max_completion_tokens_wins_over_its_old_name() -> None:
    assert chat(max_tokens=3, max_completion_tokens=5).wishes().max_tokens == 5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": True}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"top_p": 0}, "top_p"),
        ({"min_p": 1}, "min_p"),
        ({"seed": 2**64}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [USER, {"role": "user", "content": None}]}, "messages[1].content"),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
            "messages[0].tool_calls",
        ),
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages[0].role"),
    ],
)
def test_a_bad_field_is_named_and_its_value_is_not_quoted(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(Refusal) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("prompt", "parsed"),
    [("a", "a"), (["a"], "a"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2)), ([], ())],
)
def test_a_prompt_is_one_text_or_one_list_of_tokens(prompt: Any, parsed: Any) -> None:
    assert parse(CompletionRequest, {"prompt": prompt}).prompt == parsed


@pytest.mark.parametrize("prompt", [None, 1, ["a", "b"], [[1], [2]], [1, "a"], [True], [1.5]])
def test_other_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(Refusal) as caught:
        parse(CompletionRequest, {"prompt": prompt})
    assert caught.value.param == "prompt"


def test_field_paths_read_like_json() -> None:
    assert field_path(("messages", 0, "content", 1)) == "messages[0].content[1]"


@pytest.mark.parametrize(
    ("harmless", "value", "fine"),
    [
        ((None, 0), 0, True),
        ((None, 0), False, False),
        ((None, 0), 0.0, False),
        ((None, {"type": "text"}), {"type": "text"}, True),
        ((None, {"type": "text"}), {"type": "json_object"}, False),
        ((None,), None, True),
    ],
)
def test_unsupported_fields_pass_only_when_they_change_nothing(
    harmless: tuple[object, ...], value: object, fine: bool
) -> None:
    fields = Unsupported({"f": harmless}, {"f": "Try g."})
    if fine:
        fields.check({"f": value, "g": 1})
        return
    with pytest.raises(Refusal, match=r"p\.f is not offered here\. Try g\.") as caught:
        fields.check({"f": value}, "p.")
    assert caught.value.reason is Reason.UNSUPPORTED_PARAMETER
    assert caught.value.param == "p.f"


def test_no_field_is_both_offered_and_unsupported() -> None:
    for model, fields in (
        (ChatRequest, CHAT_UNSUPPORTED),
        (CompletionRequest, COMPLETION_UNSUPPORTED),
        (GenerateRequest, PARAMETERS_UNSUPPORTED),
    ):
        assert not set(model.model_fields) & set(fields.names)


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({}, 0.0),
        ({"temperature": 1.0}, 0.0),
        ({"top_p": 1.0}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"temperature": 0.5}, 0.5),
        ({"top_k": 3}, 1.0),
        ({"top_p": 0.5}, 1.0),
        ({"do_sample": True, "temperature": 2.0}, 2.0),
    ],
)
def test_tgi_samples_when_asked_or_implied(parameters: dict[str, Any], temperature: float) -> None:
    body = parse(GenerateRequest, {"inputs": "x", "parameters": parameters})
    assert body.options.wishes().temperature == temperature


def test_tgi_needs_no_parameters() -> None:
    wishes = parse(GenerateRequest, {"inputs": "x"}).options.wishes()
    assert (wishes.temperature, wishes.stops, wishes.keep_stop) == (0.0, (), True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "inputs"),
        ({"inputs": ""}, "inputs"),
        ({"inputs": ["x"]}, "inputs"),
        ({"inputs": "x", "parameters": {"top_p": 0}}, "parameters.top_p"),
        ({"inputs": "x", "parameters": {"stop": "x"}}, "parameters.stop"),
        ({"inputs": "x", "parameters": {"seed": -1}}, "parameters.seed"),
        ({"inputs": "x", "parameters": []}, "parameters"),
    ],
)
def test_bad_tgi_fields_are_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(GenerateRequest, body)
    assert caught.value.param == param


def test_seeds_are_kept_drawn_or_not_needed() -> None:
    assert sampling_params(chat(seed=5).wishes()).seed == 5
    assert sampling_params(chat(seed=-1).wishes()).seed == 2**64 - 1
    assert sampling_params(chat(temperature=0).wishes()).seed == 0
    drawn = {sampling_params(chat().wishes()).seed for _ in range(4)}
    assert len(drawn) == 4  # equal by chance with probability below 4e-19


def test_top_k_minus_one_is_off() -> None:
    assert sampling_params(chat(top_k=-1).wishes()).top_k == 0
