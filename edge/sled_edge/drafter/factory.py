"""The configured drafter, its runtime imported only when it is the one. Must not start threads or touch the network."""

from __future__ import annotations

from sled_edge.config import DrafterKind, EdgeConfig
from sled_edge.drafter.base import Drafter


class DrafterUnusable(RuntimeError):
    """The configured drafter cannot be built; the message is a sentence for a person."""


def build_drafter(config: EdgeConfig) -> Drafter:
    """Build the drafter of `config`; loading a model takes seconds, so call it on the thread that will own it.

    Raises:
        DrafterUnusable: the model or its runtime cannot be loaded.
    """
    kind = config.drafter.kind
    if kind is DrafterKind.LLAMACPP:
        return _llamacpp(config)
    if kind is DrafterKind.NGRAM:
        from sled_edge.drafter.ngram import NgramDrafter

        return NgramDrafter()
    return _fake()


def _llamacpp(config: EdgeConfig) -> Drafter:
    model = config.drafter.model
    if model is None:
        raise DrafterUnusable("drafter.model is missing: the llamacpp drafter needs {name, path}")
    if not model.path.is_file():
        raise DrafterUnusable(f"drafter.model.path: there is no file {model.path}")
    try:
        from sled_edge.drafter.llamacpp import LlamaCppDrafter
        from sled_llamacpp import LlamaCppError
    except ImportError as error:
        raise DrafterUnusable(f"the llamacpp drafter is not installed: {error}") from error
    try:
        return LlamaCppDrafter(
            model.path,
            name=model.name,
            threads=config.drafter.threads,
            context_tokens=config.drafter.context_tokens,
            sequences=config.sequences,
            max_probs=config.drafting.max_probs,
        )
    except LlamaCppError as error:
        raise DrafterUnusable(f"drafter.model: {error}") from error


def _fake() -> Drafter:
    from sled_edge.drafter.fake import FakeDrafter
    from sled_edge.fake_link import ToyTarget

    return FakeDrafter(ToyTarget().logits)
