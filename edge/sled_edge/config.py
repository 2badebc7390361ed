"""What one device is told at start: `edge.yaml`. Bad configuration stops the process; nothing here touches the network."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from sled_protocol.limits import MAX_DEVICE_ID_BYTES, MAX_DRAFT_PROBS, MAX_DRAFT_TOKENS

MAX_CONFIG_BYTES = 1_000_000


class ConfigError(ValueError):
    """The configuration cannot be used; the message is one sentence per problem, each with its field path."""


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[ipv6]:port` as (host, port).

    Raises:
        ValueError: not an address, in a sentence.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or (":" in host and not host.startswith("[")):
        raise ValueError(f"'{address}' is not host:port")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"'{address}' has no port between 0 and 65535")
    return host.strip("[]"), int(port)


def _address(value: str) -> str:
    split_address(value)
    return value


def _target(value: str) -> str:
    """A verifier's address; unlike the local one it needs a real port."""
    if split_address(value)[1] == 0:
        raise ValueError(f"'{value}' needs a port above 0")
    return value


def _device_id(value: str) -> str:
    if not value.isprintable() or len(value.encode()) > MAX_DEVICE_ID_BYTES:
        raise ValueError(f"must be printable and at most {MAX_DEVICE_ID_BYTES} bytes")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )


_Word = Annotated[str, Field(min_length=1, max_length=MAX_DEVICE_ID_BYTES)]
_Path = Annotated[Path, Field(strict=False)]


class DrafterKind(enum.StrEnum):
    """Which drafter proposes tokens."""

    LLAMACPP = "llamacpp"
    NGRAM = "ngram"
    FAKE = "fake"


class DraftingMode(enum.StrEnum):
    """How drafts are made and judged when sampling; greedy decoding makes all modes equal."""

    REJECTION = "Rejection"
    MATCH = "Match"
    POINT_MASS = "PointMass"


class OfflinePolicy(enum.StrEnum):
    """What happens to text while no verifier can be reached."""

    REFUSE = "Refuse"
    DRAFT_ONLY = "DraftOnly"


class LogLevel(enum.StrEnum):
    """Least severe log line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class TlsConfig(_Section):
    """How the verifier is trusted, and who the device is. Leaving the section out means plaintext."""

    ca_file: _Path | None = None
    """Certificate authority of the verifier; null = the system's authorities."""
    cert_file: _Path | None = None
    key_file: _Path | None = None
    server_name: _Word | None = None
    """Name the verifier's certificate must carry when it is not the address that is dialled."""

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("certFile and keyFile belong together: give both or neither")
        return self


class ModelFile(_Section):
    """A draft model on this device."""

    name: _Word
    path: _Path


class DrafterConfig(_Section):
    """The drafter and its resources."""

    kind: Annotated[DrafterKind, Field(strict=False)] = DrafterKind.NGRAM
    model: ModelFile | None = None
    threads: int = Field(1, ge=1, le=256)
    context_tokens: int = Field(2304, ge=16, le=1_048_576)

    @model_validator(mode="after")
    def _model_fits_kind(self) -> Self:
        if self.kind is DrafterKind.LLAMACPP and self.model is None:
            raise ValueError("model is missing: the llamacpp drafter needs {name, path}")
        if self.kind is not DrafterKind.LLAMACPP and self.model is not None:
            raise ValueError(f"model is given, but the {self.kind} drafter has none")
        return self


class DraftingConfig(_Section):
    """Bounds of one draft."""

    max_tokens: int = Field(8, ge=0, le=MAX_DRAFT_TOKENS)
    """Longest draft; the length of each is chosen by measurement."""
    mode: Annotated[DraftingMode, Field(strict=False)] = DraftingMode.REJECTION
    min_confidence: float = Field(0.0, ge=0.0, le=1.0, allow_inf_nan=False)
    """A draft ends after a token that the drafter is less sure of."""
    max_probs: int = Field(32, ge=1, le=MAX_DRAFT_PROBS)
    """Entries of a transmitted distribution."""


class OfflineConfig(_Section):
    """What to do while the verifier is away."""

    policy: Annotated[OfflinePolicy, Field(strict=False)] = OfflinePolicy.REFUSE
    patience_seconds: float = Field(30.0, ge=0, le=3600, allow_inf_nan=False)
    """How long a text that has begun waits for a verifier before it is broken off, with `Refuse`."""


class TokenizerConfig(_Section):
    """Where the vocabulary comes from; null = the drafter's own model, or the verifier."""

    path: _Path | None = None


class EdgeConfig(_Section):
    """The whole of `edge.yaml`; keys are camelCase, unknown keys are refused."""

    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:8080"
    device_id: Annotated[_Word, AfterValidator(_device_id)]
    device_class: _Word = "unknown"
    revision: Annotated[str, Field(max_length=MAX_DEVICE_ID_BYTES)] = ""
    """Which rollout of these settings this is; told to the verifier, which counts by it."""
    verifiers: Annotated[
        tuple[Annotated[str, AfterValidator(_target)], ...],
        Field(min_length=1, max_length=32, strict=False),
    ]
    """Replicas, tried in order; they are interchangeable."""
    tls: TlsConfig | None = None
    token_file: _Path | None = None
    """File with the bearer token, read at every connect."""
    drafter: DrafterConfig = Field(default_factory=lambda: DrafterConfig.model_validate({}))
    drafting: DraftingConfig = Field(default_factory=lambda: DraftingConfig.model_validate({}))
    offline: OfflineConfig = Field(default_factory=lambda: OfflineConfig.model_validate({}))
    sequences: int = Field(4, ge=1, le=256)
    """Generations at the same time."""
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    log_level: Annotated[LogLevel, Field(strict=False)] = LogLevel.INFO


def parse_config(text: str, source: str = "configuration") -> EdgeConfig:
    """Read `edge.yaml` from its text; `source` names it in errors.

    Raises:
        ConfigError: not YAML, not a mapping, or a field is missing, unknown or out of range.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not readable as YAML: {_one_line(str(error))}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: expected a mapping of settings at the top level")
    try:
        return EdgeConfig.model_validate(document)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise ConfigError("\n".join(f"{source}: {_sentence(p)}" for p in problems)) from error


def load_config(path: Path) -> EdgeConfig:
    """Read the configuration file.

    Raises:
        ConfigError: the file cannot be read, is too large, or `parse_config` refuses it.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return parse_config(text, str(path))


def _sentence(problem: ErrorDetails) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or "settings"
    kind = problem["type"]
    if kind == "missing":
        return f"{field} is missing"
    if kind == "extra_forbidden":
        return f"{field} is not a setting"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {message[:1].lower()}{message[1:]}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
