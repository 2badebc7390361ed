from __future__ import annotations

from pathlib import Path

import pytest

from sled_cli.demo.profile import PROFILES, example_folder
from sled_cli.demo.prompts import own_prompts, parse_prompts, read_prompts
from sled_cli.errors import BadInput


def test_the_projects_own_prompts_are_enough_and_varied() -> None:
    prompts = own_prompts()
    assert len(prompts) >= 12
    assert len({prompt.kind for prompt in prompts}) >= 6
    assert {m["role"] for prompt in prompts for m in prompt.messages()} == {"system", "user"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected one document"),
        ("prompts: []", "prompts: "),
        ("prompts: [{name: a}]", "prompts.0.user: Field required"),
        ("prompts: [{name: a, user: b, extra: c}]", "prompts.0.extra: "),
        ("prompts: [{name: a, user: 3}]", "prompts.0.user: "),
        ("prompts: [{name: a, user: b}, {name: a, user: c}]", "two prompts have the name 'a'"),
        ("[]", "document: "),
    ],
)
def test_a_wrong_file_is_refused_with_its_field(text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_prompts(text, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ")
    assert sentence in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_prompts(tmp_path / "none.yaml")


def test_every_profile_has_its_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for profile in PROFILES.values():
        assert (example_folder(profile) / "server.yaml").is_file()
    elsewhere = tmp_path / "examples" / "quickstart"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert example_folder(PROFILES["quickstart"]) == elsewhere
