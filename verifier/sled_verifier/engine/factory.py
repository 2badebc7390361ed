"""From configuration to a loaded engine; each runtime is imported only when it is asked for."""

from __future__ import annotations

from sled_verifier.config import EngineKind, FakeConfig, VerifierConfig
from sled_verifier.engine.base import Engine, EngineError
from sled_verifier.refusal import ConfigError


def build_engine(config: VerifierConfig) -> Engine:
    """Load the target model; takes seconds and memory, so call it in the thread that will own the
    engine.

    Raises:
        ConfigError: the runtime is not installed, or it cannot use the model or the settings.
    """
    kind = config.engine.kind
    try:
        return _fake(config) if kind is EngineKind.FAKE else _llamacpp(config)
    except EngineError as error:
        raise ConfigError(f"engine: {error}") from error
    except ImportError as error:
        raise ConfigError(
            f"engine.kind: {kind} needs a package that is not installed ({error.name}); "
            "install sled-inference[verifier]"
        ) from error


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
