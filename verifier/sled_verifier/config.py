"""What one replica is told at start: `verifier.yaml`. Bad configuration stops the process; nothing
here opens a socket.
"""

from __future__ import annotations

import enum
import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from sled_protocol.limits import (
    MAX_DEADLINE_MS,
    MAX_NAME_BYTES,
    MAX_SEQUENCES_PER_STREAM,
    WIRE_MAX_DRAFT_TOKENS,
)
from sled_verifier.limits import Limits
from sled_verifier.refusal import ConfigError
from sled_verifier.tenants import Tenant

MAX_CONFIG_BYTES = 1_000_000


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


def is_loopback(address: str) -> bool:
    """True when only this machine can reach `host:port`."""
    host = split_address(address)[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(value: str) -> str:
    split_address(value)
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("has characters that cannot be printed")
    return value


_Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_BYTES), AfterValidator(_printable)]
_Address = Annotated[str, AfterValidator(_address)]
_Path = Annotated[Path, Field(strict=False)]


class _Section(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )


class EngineKind(enum.StrEnum):
    """What runs the target model."""

    LLAMACPP = "llamacpp"
    VLLM = "vllm"
    TORCH = "torch"
    OPENAI = "openai"
    FAKE = "fake"


class LogLevel(enum.StrEnum):
    """Least severe log line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class ModelConfig(_Section):
    """The target model: the name it is served under, and its file or folder (none for the fake
    engine).
    """

    name: _Name
    path: _Path | None = None
    """A GGUF file for `llamacpp`, a Hugging Face folder for `vllm` and `torch`."""
    vocabulary: _Path | None = None
    """A GGUF file of the same model, for its vocabulary, when `path` is none; default: the only one in
    the folder. `openai` needs it and no `path`."""


class FakeConfig(_Section):
    """The toy model behind `kind: fake`, and what its steps cost."""

    vocab_size: int = Field(256, ge=2, le=1_000_000)
    seed: int = Field(0, ge=0)
    end_every: int = Field(0, ge=0)
    """The end token is due after one context in so many; 0 = never."""
    step_seconds: float = Field(0.0, ge=0, le=60, allow_inf_nan=False)
    token_seconds: float = Field(0.0, ge=0, le=60, allow_inf_nan=False)
    sequence_seconds: float = Field(0.0, ge=0, le=60, allow_inf_nan=False)


class VllmConfig(_Section):
    """What only `kind: vllm` takes."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """float32 without quantisation is exact; the others state `approximate`."""
    quantization: str | None = None
    """vLLM's name of a quantisation, where the model folder does not name it."""
    tensor_parallel_size: int = Field(1, ge=1, le=64)
    kv_cache_gib: int | None = Field(None, ge=1, le=65_536)
    """Memory for keys and values on a processor; on a GPU vLLM takes what `gpu_memory_utilization` leaves."""
    adapters: dict[str, _Path] = Field(default_factory=dict)
    """LoRA adapters by name, each a folder; `tenants` says whose sequences use which."""
    max_adapter_rank: Literal[8, 16, 32, 64, 128, 256] = 16
    """The largest rank among them."""
    arguments: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further arguments of vLLM's engine, by its own names."""


class TorchConfig(_Section):
    """What only `kind: torch` takes."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """float32 is exact; the others state `approximate`."""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d{1,3})?)$")] = "cpu"


class OpenAIConfig(_Section):
    """The model server that `kind: openai` asks: vLLM or SGLang."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$", max_length=1024)]
    """Its root without credentials, with or without `/v1`; `engine.slots` is the number of questions at once."""
    timeout_seconds: float = Field(60.0, gt=0, le=3600, allow_inf_nan=False)
    """How long one answer may take before the round is refused."""
    api_key_file: _Path | None = None
    """A file with the key that the server wants, sent as a bearer token."""

    @property
    def is_plaintext(self) -> bool:
        """True when other machines can read what is sent."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not is_loopback(f"[{parts.hostname}]:0")


class EngineConfig(_Section):
    """The engine and its resources."""

    kind: Annotated[EngineKind, Field(strict=False)] = EngineKind.LLAMACPP
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=1024)
    context_tokens: int = Field(2304, ge=64, le=1_048_576)
    """Tokens one sequence may hold, prompt and output together."""
    slots: int = Field(8, ge=1, le=4096)
    """Sequences whose keys and values are in memory at once."""
    library: _Path | None = None
    """Another llama.cpp shared library than the one that is installed."""
    vllm: VllmConfig | None = None
    torch: TorchConfig | None = None
    openai: OpenAIConfig | None = None
    fake: FakeConfig | None = None

    @model_validator(mode="after")
    def _section_of_the_kind(self) -> Self:
        for kind in (EngineKind.VLLM, EngineKind.TORCH, EngineKind.OPENAI, EngineKind.FAKE):
            if getattr(self, kind.value) is not None and self.kind is not kind:
                raise ValueError(f"{kind} is given, but the kind is {self.kind}")
        if self.kind is EngineKind.OPENAI and self.openai is None:
            raise ValueError("openai is missing: it says where the model server is")
        return self


class BatchingConfig(_Section):
    """Bounds of queue, steps and sequences; meanings as in `limits.Limits`."""

    step_tokens: int = Field(256, ge=4, le=65_536)
    """Tokens of one step over all sequences."""
    prefill_chunk_tokens: int = Field(48, ge=1, le=65_536)
    """Prompt tokens of one step while devices are decoding; 48 suits a CPU, about 192 a GPU."""
    max_queue: int = Field(256, ge=1, le=65_536)
    """Drafts that may wait; a further one is refused as QUEUE_FULL."""
    max_sequences_per_device: int = Field(4, ge=1, le=MAX_SEQUENCES_PER_STREAM)
    max_sequences: int = Field(1024, ge=1, le=1_000_000)
    max_draft_tokens: int = Field(16, ge=0, le=WIRE_MAX_DRAFT_TOKENS)
    idle_seconds: float = Field(300.0, gt=0, le=86_400, allow_inf_nan=False)
    """A sequence without a frame for this long is forgotten."""
    measure_seconds: float = Field(2.0, ge=0, le=600, allow_inf_nan=False)
    """Spent at the start on learning what steps cost; what it leaves open, real steps teach."""
    load_aware: bool = True
    """False verifies every draft in full and recommends no shorter ones, whatever the load."""
    default_deadline_ms: int = Field(10_000, ge=1, le=MAX_DEADLINE_MS)
    """How long a draft may wait when the device names no deadline."""

    @model_validator(mode="after")
    def _rounds_and_prompts_fit_a_step(self) -> Self:
        least = 2 * (self.max_draft_tokens + 1)
        if self.step_tokens < least:
            raise ValueError(
                f"stepTokens is {self.step_tokens}; "
                f"allowed: at least twice maxDraftTokens + 1, {least}"
            )
        return self

    def limits(self) -> Limits:
        """The same as the scheduler takes them."""
        values = self.model_dump(exclude={"default_deadline_ms", "measure_seconds", "load_aware"})
        return Limits(**values, default_deadline_seconds=self.default_deadline_ms / 1000)


class TlsConfig(_Section):
    """Certificate of this replica, read again when the files change; with a client CA, devices need
    certificates too.
    """

    cert_file: _Path
    key_file: _Path
    client_ca_file: _Path | None = None


class AuthConfig(_Section):
    """Who may call: lines `device-id:token` or `*:token`, read again when the file changes."""

    tokens_file: _Path


class TenantConfig(_Section):
    """Devices that share this replica with others, and what they get; the first tenant that has a
    device counts. Names are proof only with device tokens (`auth`).
    """

    devices: _Name
    """Pattern of device ids, with * and ?."""
    weight: float = Field(1.0, ge=1, le=100, allow_inf_nan=False)
    """Under load their drafts are ordered as if their deadlines were so many times nearer."""
    adapter: str = ""
    """Name of the LoRA adapter that their target has; only for `kind: vllm`."""

    def value(self) -> Tenant:
        """The same as the service takes it."""
        return Tenant(self.devices, self.weight, self.adapter)


class VerifierConfig(_Section):
    """The whole of `verifier.yaml`; keys are camelCase, unknown keys are refused."""

    listen: _Address = "127.0.0.1:7000"
    """gRPC: where devices connect."""
    metrics_listen: _Address = "127.0.0.1:7001"
    """/metrics, /healthz and /readyz over plain HTTP."""
    replica: _Name = "verifier"
    model: ModelConfig
    engine: EngineConfig = Field(default_factory=lambda: EngineConfig.model_validate({}))
    batching: BatchingConfig = Field(default_factory=lambda: BatchingConfig.model_validate({}))
    tls: TlsConfig | None = None
    auth: AuthConfig | None = None
    tenants: list[TenantConfig] = Field(default_factory=list)
    insecure: bool = False
    """True accepts plaintext on an address that other machines can reach."""
    peers: _Address | None = None
    """`host:port` that leads to `metricsListen` of every replica, this one included. Where one
    has more than its share of the devices, it asks some to connect again; omitted, devices stay.
    """
    drain_seconds: float = Field(20.0, ge=0, le=3600, allow_inf_nan=False)
    """How long a stopping replica lets rounds in flight finish."""
    log_level: Annotated[LogLevel, Field(strict=False)] = LogLevel.INFO

    @model_validator(mode="after")
    def _model_has_a_file(self) -> Self:
        kind = self.engine.kind
        if kind is EngineKind.OPENAI:
            if self.model.vocabulary is None:
                raise ValueError("model.vocabulary is missing: the openai engine needs a file")
        elif kind is not EngineKind.FAKE and self.model.path is None:
            raise ValueError(f"model.path is missing: the {kind} engine needs a file")
        return self

    @model_validator(mode="after")
    def _keys_stay_secret(self) -> Self:
        server = self.engine.openai
        if server and server.api_key_file and server.is_plaintext and not self.insecure:
            raise ValueError(
                "engine.openai.apiKeyFile would be sent in plaintext; use https, a server on this "
                "machine, or accept it with `insecure: true`"
            )
        return self

    @model_validator(mode="after")
    def _adapters_are_there(self) -> Self:
        known = self.engine.vllm.adapters if self.engine.vllm else {}
        for tenant in self.tenants:
            if tenant.adapter and tenant.adapter not in known:
                raise ValueError(f"tenants: '{tenant.adapter}' is not among engine.vllm.adapters")
        return self

    @model_validator(mode="after")
    def _plaintext_stays_here(self) -> Self:
        if self.tls is None and not self.insecure and not is_loopback(self.listen):
            raise ValueError(
                f"listen is {self.listen}, which other machines can reach, and tls is not set; "
                "set tls, listen on 127.0.0.1, or accept plaintext with `insecure: true`"
            )
        return self

    @model_validator(mode="after")
    def _queue_and_steps_fit_the_context(self) -> Self:
        if self.batching.max_draft_tokens + 2 >= self.engine.context_tokens:
            raise ValueError("engine.contextTokens must be above batching.maxDraftTokens + 2")
        return self


def parse_config(text: str, source: str = "configuration") -> VerifierConfig:
    """Read `verifier.yaml` from its text; `source` names it in errors.

    Raises:
        ConfigError: not YAML, not a mapping, or a field is missing, unknown or out of range.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{source}: not readable as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: expected a mapping of settings at the top level")
    try:
        return VerifierConfig.model_validate(document)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise ConfigError("\n".join(f"{source}: {_sentence(p)}" for p in problems)) from error


def load_config(path: Path) -> VerifierConfig:
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
