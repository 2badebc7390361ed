"""Chat templates come from files that others wrote."""

from __future__ import annotations

import pytest

from sled_edge.chat_template import (
    MAX_PROMPT_CHARACTERS,
    MAX_TEMPLATE_CHARACTERS,
    ChatTemplate,
    ChatTemplateError,
)

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Was ist 1 < 2 & 3?"},
]


def test_the_plain_form() -> None:
    template = ChatTemplate(None)
    assert template.builtin
    expected = "system: Be brief.\nuser: Was ist 1 < 2 & 3?\nassistant:"
    assert template.render(MESSAGES) == expected


def test_what_templates_of_the_field_use() -> None:
    template = ChatTemplate(
        """
        {{- bos_token }}
        {%- for message in messages %}
            {%- if message.role == 'system' %}{% continue %}{% endif %}
            {{- '[' + message['role'] | upper + '] ' + message['content'] | trim + eos_token }}
        {%- endfor %}
        {%- if add_generation_prompt %}{{ '[ASSISTANT]' }}{% endif %}
        {%- if not tools is defined %}{{ {'a': 'ü<'} | tojson }}{% endif %}
        """,
        bos="<s>",
        eos="</s>",
    )
    text = template.render(MESSAGES)
    assert text.strip() == '<s>[USER] Was ist 1 < 2 & 3?</s>[ASSISTANT]{"a": "ü<"}'


def test_block_lines_leave_no_blank_lines() -> None:
    template = ChatTemplate(
        "{% for m in messages %}\n  {% if m.content %}\nx\n  {% endif %}\n{% endfor %}"
    )
    assert template.render(MESSAGES) == "x\nx\n"


def test_a_templates_own_refusal_is_passed_on() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ChatTemplateError, match=r"roles must alternate"):
        template.render(MESSAGES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__.os }}",
        "{% for i in range(10000000) %}{% endfor %}",
        "{{ undefined_name.content }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{{ messages[0]['content'].missing.deep }}",
        "{% include 'other' %}",
    ],
)
def test_a_hostile_or_broken_template_is_an_error_of_its_own(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source).render(MESSAGES)


def test_a_template_that_writes_without_end_is_stopped() -> None:
    source = "{% for i in range(90000) %}{{ 'x' * 1000 }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match=f"more than {MAX_PROMPT_CHARACTERS}"):
        ChatTemplate(source).render(MESSAGES)


@pytest.mark.parametrize("source", ["{% for %}", "{{ unclosed", "{% endif %}"])
def test_a_template_that_is_no_jinja_is_refused_at_start(source: str) -> None:
    with pytest.raises(ChatTemplateError, match=r"not valid"):
        ChatTemplate(source)


def test_a_huge_template_is_refused_at_start() -> None:
    with pytest.raises(ChatTemplateError, match=r"allowed"):
        ChatTemplate("x" * (MAX_TEMPLATE_CHARACTERS + 1))


def test_messages_are_not_changed() -> None:
    before = [dict(message) for message in MESSAGES]
    ChatTemplate("{% set m = messages %}{{ m[0].role }}").render(MESSAGES)
    assert before == MESSAGES
