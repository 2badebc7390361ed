"""From configuration to a loaded engine; each runtime is imported only when it is asked for."""

from __future__ import annotations

import asyncio
from typing import Final

from sled_verifier.config import EngineKind, FakeConfig, TorchConfig, VerifierConfig, VllmConfig
from sled_verifier.engine.base import Engine, EngineError
from sled_verifier.load_control import LoadControl, LoadSettings
from sled_verifier.openai.backend import OpenAIBackend
from sled_verifier.refusal import ConfigError
from sled_verifier.vllm.backend import VllmBackend
from sled_verifier.vllm.settings import VllmSettings


async def load_target(config: VerifierConfig) -> Engine | VllmBackend | OpenAIBackend:
    """Load the target model without blocking the event loop: an engine for the batched backend, or a
    backend that batches by itself.

    Raises:
        ConfigError: the runtime is not installed, or it cannot use the model or the settings.
    """
    if config.engine.kind is EngineKind.OPENAI:
        return await _openai(config)
    if config.engine.kind is not EngineKind.VLLM:
        return await asyncio.to_thread(build_engine, config)
    from sled_verifier.vllm.launch import load_runtime

    try:
        settings = vllm_settings(config)
        return await VllmBackend.load(
            lambda: load_runtime(settings),
            config.batching.limits(),
            control=load_control(config),
            measure_seconds=config.batching.measure_seconds,
        )
    except EngineError as error:
        raise ConfigError(f"engine: {error}") from error


def may_use_gpu(config: VerifierConfig) -> bool:
    """Whether the target may run on a GPU of this machine: llama.cpp's own library does not."""
    engine = config.engine
    if engine.kind is EngineKind.LLAMACPP:
        return engine.library is not None
    if engine.kind is EngineKind.TORCH:
        return engine.torch is not None and engine.torch.device != "cpu"
    return engine.kind is EngineKind.VLLM


def load_control(config: VerifierConfig) -> LoadControl:
    """The load policy as configured."""
    on = config.batching.load_aware
    return LoadControl(
        config.batching.max_draft_tokens, LoadSettings(trim=on, meet_deadlines=on, foretell=on)
    )


def build_engine(config: VerifierConfig) -> Engine:
    """Load the target model; takes seconds and memory, so call it in the thread that will own the
    engine.

    Raises:
        ConfigError: the runtime is not installed, or it cannot use the model or the settings.
    """
    kind = config.engine.kind
    if kind not in _BUILDERS:
        raise ConfigError(
            f"engine.kind: {kind} batches by itself; it is no engine of the batched backend"
        )
    try:
        return _BUILDERS[kind](config)
    except EngineError as error:
        raise ConfigError(f"engine: {error}") from error
    except ImportError as error:
        raise _not_installed(kind, error) from error


def _not_installed(kind: EngineKind, error: ImportError) -> ConfigError:
    return ConfigError(
        f"engine.kind: {kind} needs a package that is not installed ({error.name}); "
        f"install sled-inference[{_EXTRAS.get(kind, 'verifier')}]"
    )


async def _openai(config: VerifierConfig) -> OpenAIBackend:
    own, vocabulary = config.engine.openai, config.model.vocabulary
    if own is None or vocabulary is None:
        raise ConfigError("engine.openai or model.vocabulary is missing")
    try:
        from sled_verifier.openai.launch import ServerSettings, load_backend

        settings = ServerSettings(
            url=own.url,
            model_name=config.model.name,
            vocabulary=vocabulary,
            context_tokens=config.engine.context_tokens,
            places=config.engine.slots,
            timeout_seconds=own.timeout_seconds,
            api_key_file=own.api_key_file,
        )
        return await load_backend(settings, config.batching.limits())
    except EngineError as error:
        raise ConfigError(f"engine: {error}") from error
    except ImportError as error:
        raise _not_installed(EngineKind.OPENAI, error) from error


def _llamacpp(config: VerifierConfig) -> Engine:
    from sled_verifier.engine.llamacpp import LlamaCppEngine

    if config.model.path is None:
        raise ConfigError("model.path is missing")
    engine = config.engine
    return LlamaCppEngine(
        config.model.path,
        model_name=config.model.name,
        threads=engine.threads,
        context_tokens=engine.context_tokens,
        slots=engine.slots,
        max_step_tokens=config.batching.step_tokens,
        library=engine.library,
    )


def _torch(config: VerifierConfig) -> Engine:
    from sled_verifier.engine.gguf_vocabulary import find_vocabulary
    from sled_verifier.engine.torch_engine import TorchEngine

    folder = config.model.path
    if folder is None:
        raise ConfigError("model.path is missing")
    engine, own = config.engine, config.engine.torch or TorchConfig.model_validate({})
    return TorchEngine(
        folder,
        config.model.vocabulary or find_vocabulary(folder),
        model_name=config.model.name,
        threads=engine.threads,
        context_tokens=engine.context_tokens,
        slots=engine.slots,
        max_step_tokens=config.batching.step_tokens,
        dtype=own.dtype,
        device=own.device,
    )


def vllm_settings(config: VerifierConfig) -> VllmSettings:
    """What the vLLM backend is told.

    Raises:
        ConfigError: the model has no path.
        EngineError: a value is out of range, or the vocabulary is not to be found.
    """
    from sled_verifier.engine.gguf_vocabulary import find_vocabulary

    folder = config.model.path
    if folder is None:
        raise ConfigError("model.path is missing")
    engine, batching = config.engine, config.batching
    own = engine.vllm or VllmConfig.model_validate({})
    return VllmSettings(
        model_path=folder,
        vocabulary_path=config.model.vocabulary or find_vocabulary(folder),
        model_name=config.model.name,
        dtype=own.dtype,
        threads=engine.threads,
        context_tokens=engine.context_tokens,
        slots=engine.slots,
        step_tokens=batching.step_tokens,
        prefill_chunk_tokens=batching.prefill_chunk_tokens,
        max_draft_tokens=batching.max_draft_tokens,
        kv_cache_gib=own.kv_cache_gib,
        quantization=own.quantization,
        tensor_parallel_size=own.tensor_parallel_size,
        adapters=own.adapters,
        max_adapter_rank=own.max_adapter_rank,
        engine_arguments=own.arguments,
    )


def _fake(config: VerifierConfig) -> Engine:
    from sled_verifier.engine.fake import CostModel, FakeEngine, ToyModel

    fake = config.engine.fake or FakeConfig.model_validate({})
    return FakeEngine(
        model=ToyModel(fake.vocab_size, seed=fake.seed, end_every=fake.end_every),
        name=config.model.name,
        slots=config.engine.slots,
        context_tokens=config.engine.context_tokens,
        max_step_tokens=config.batching.step_tokens,
        cost=CostModel(fake.step_seconds, fake.token_seconds, fake.sequence_seconds),
    )


_BUILDERS: Final = {
    EngineKind.LLAMACPP: _llamacpp,
    EngineKind.TORCH: _torch,
    EngineKind.FAKE: _fake,
}
_EXTRAS: Final = {EngineKind.TORCH: "verifier-torch", EngineKind.OPENAI: "verifier-openai"}
