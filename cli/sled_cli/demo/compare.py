"""Whether a device's text is the target's own, token by token. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sled_cli.demo.client import Answer
from sled_cli.demo.reference import OwnText


@dataclass(frozen=True, slots=True)
class Difference:
    """A text that is not the target's own, and where it begins not to be."""

    answer: Answer
    sentence: str


def compare(answer: Answer, own: OwnText) -> Difference | None:
    """None when prompt and output are the same token ids to the end."""
    if answer.error:
        return Difference(answer, answer.error)
    if not answer.verified:
        return Difference(answer, "parts of it were not verified by the target")
    if answer.prompt_tokens != own.prompt_tokens:
        return Difference(answer, "the device read the prompt as other token ids")
    if not answer.tokens and own.tokens:
        return Difference(answer, "the device sent no token ids")
    shorter = min(len(answer.tokens), len(own.tokens))
    for position in range(shorter):
        if answer.tokens[position] != own.tokens[position]:
            return Difference(answer, _at(position, answer.tokens[position], own))
    if len(answer.tokens) < len(own.tokens):
        return Difference(answer, f"ends after {shorter} tokens, the target goes on")
    if len(answer.tokens) > len(own.tokens):
        return Difference(answer, f"goes on after {shorter} tokens, where the target ends")
    if (answer.finish == "stop") != own.ended:
        return Difference(answer, "same tokens, but one says that the text ends and the other not")
    return None


def _at(position: int, token: int, own: OwnText) -> str:
    near = " (its runner-up)" if own.runners_up[position] == token else ""
    return (
        f"output token {position}: the device has {token}{near}, the target "
        f"{own.tokens[position]}, {own.margins[position]:.2g} logits ahead of its runner-up"
    )
