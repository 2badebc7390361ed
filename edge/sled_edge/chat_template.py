"""A model's own chat template, rendered in a sandbox: the template comes from a file that others
wrote.

Must not know tokens or models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_PROMPT_CHARACTERS: Final = 4 * 1024 * 1024
MAX_TEMPLATE_CHARACTERS: Final = 256 * 1024

PLAIN_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "assistant:"
)
"""For models without a template: one line `role: content` per message, then `assistant:`."""


class ChatTemplateError(ValueError):
    """The messages do not fit the model's template, or the template cannot be used; the message
    says which.
    """


class ChatTemplate:
    """Renders messages as the model was trained to read them.

    `source` None takes PLAIN_TEMPLATE. `bos` and `eos` are the texts of those tokens. Bounded: no
    access beyond the messages, template and output limited in size.

    Raises:
        ChatTemplateError: the template is too large or no valid Jinja.
    """

    def __init__(self, source: str | None, *, bos: str = "", eos: str = "") -> None:
        text = PLAIN_TEMPLATE if source is None else source
        if len(text) > MAX_TEMPLATE_CHARACTERS:
            raise ChatTemplateError(
                f"the chat template has {len(text)} characters; allowed: {MAX_TEMPLATE_CHARACTERS}"
            )
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        self.builtin = source is None
        self._special = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = environment.from_string(text)
        except TemplateError as error:
            raise ChatTemplateError(f"the model's chat template is not valid: {error}") from error

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt, ending where the assistant speaks.

        Raises:
            ChatTemplateError: the template refuses these messages, fails on them, or the result is
                too long.
        """
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                **self._special,
            ):
                parts.append(part)
                size += len(part)
                if size > MAX_PROMPT_CHARACTERS:
                    raise ChatTemplateError(
                        f"the prompt has more than {MAX_PROMPT_CHARACTERS} characters"
                    )
        except (TemplateError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
            # What a template can trip over: its own refusal, the sandbox, and messages of another
            # shape than it expects.
            raise ChatTemplateError(f"the model's chat template failed: {error}") from error
        return "".join(parts)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which models have not been trained on.
    return json.dumps(value, ensure_ascii=False, indent=indent)
