"""The prompts of a demonstration: YAML, checked. Sends nothing."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sled_cli.errors import BadInput
from sled_cli.up.yamlfile import MAX_FILE_BYTES, read_documents

MAX_PROMPTS = 1000


class Prompt(BaseModel):
    """One chat that is sent to every device."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=40)]
    user: Annotated[str, Field(min_length=1, max_length=20_000)]
    system: str | None = None
    kind: str = ""

    def messages(self) -> list[dict[str, str]]:
        """As the OpenAI API takes them."""
        user = {"role": "user", "content": self.user.strip()}
        if self.system is None:
            return [user]
        return [{"role": "system", "content": self.system.strip()}, user]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]


def own_prompts() -> tuple[Prompt, ...]:
    """The project's own prompts."""
    return parse_prompts(files(__package__).joinpath("prompts.yaml").read_text("utf-8"), "prompts")


def read_prompts(file: Path) -> tuple[Prompt, ...]:
    """The prompts of a file of the same form.

    Raises:
        BadInput: the file cannot be read, or is not of that form.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise BadInput(f"{file}: larger than {MAX_FILE_BYTES} bytes")
        return parse_prompts(file.read_text("utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: cannot be read: {error}") from error


def parse_prompts(text: str, source: str) -> tuple[Prompt, ...]:
    """Read prompts from YAML; `source` names it in errors.

    Raises:
        BadInput: not YAML, or a field is missing, unknown or wrong; two prompts of one name.
    """
    documents = list(read_documents(text, source))
    if len(documents) != 1:
        raise BadInput(f"{source}: expected one document with the key 'prompts'")
    try:
        prompts = _File.model_validate(documents[0][1]).prompts
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "document"
        raise BadInput(f"{source}: {field}: {problem['msg']}") from error
    names = [prompt.name for prompt in prompts]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise BadInput(f"{source}: two prompts have the name '{double}'")
    return prompts
