"""The part of `internals` that guides output: vLLM's grammars, told of drafts and of output from elsewhere.

A drafted token that the grammar forbids is judged, not left out: it has no probability, so it is
rejected, and what replaces it comes from the same residual as after any other rejection. Leaving it
out would replace it by a plain sample, and sampled text with draft distributions would be biased.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from vllm.sampling_params import SamplingParams as VllmSampling
from vllm.sampling_params import StructuredOutputsParams
from vllm.tokenizers import get_tokenizer
from vllm.v1.request import RequestStatus
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

from sled_speculation.sampling import Guide

_log = logging.getLogger(__name__)

Tokens = Mapping[str, Sequence[int]]
"""By request id."""


def parameters(guide: Guide) -> StructuredOutputsParams:
    """A guide in vLLM's words."""
    if guide.json_schema is None:
        return StructuredOutputsParams(json_object=True)
    return StructuredOutputsParams(json=guide.json_schema)


def has_tokenizer(folder: Path) -> bool:
    """Whether vLLM can load a tokenizer from a model folder; grammars are over its tokens' texts."""
    if not any(folder.glob("tokenizer*")):
        return False
    try:
        get_tokenizer(str(folder))
    except Exception as error:
        # Tokenizers fail in many libraries' ways; all that is lost is guided output.
        _log.warning("no guided output: the tokenizer does not load", extra={"error": str(error)})
        return False
    return True


def prepare(manager: Any) -> bool:
    """Make ready for grammars; False when there will be none. Otherwise the first guided sequence would
    find out, in a step that everybody shares.
    """
    config = manager.vllm_config
    if config.model_config.skip_tokenizer_init:
        return False
    try:
        manager.backend = XgrammarBackend(
            config, tokenizer=manager.tokenizer, vocab_size=config.model_config.get_vocab_size()
        )
    except Exception as error:
        _log.warning("no guided output: xgrammar takes no such tokenizer", exc_info=error)
        return False
    return True


def possible(manager: Any, sampling: VllmSampling) -> bool:
    """Whether the engine can follow a guide. Schemas come from clients: whatever they make fail here is
    theirs, and nobody else's.
    """
    config = manager.vllm_config
    try:
        sampling._validate_structured_outputs(
            config.model_config, config.structured_outputs_config, manager.tokenizer
        )
    except Exception as error:
        _log.info("a schema is refused", extra={"error": type(error).__name__})
        return False
    return True


def compiling(request: Any) -> bool:
    """True while a request waits for its grammar and for nothing else."""
    return bool(request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR)


def failed(output: Any) -> bool:
    """True when vLLM gave a request up because of its grammar: it could not be compiled, or allows no
    token at all, so that what was chosen broke it.
    """
    return bool(output.outputs[0].finish_reason == "error")


class GuidedDrafts:
    """One step's drafts against the grammars of their requests."""

    def __init__(self) -> None:
        self._possible: dict[str, int] = {}

    def forget(self) -> None:
        """A new step begins."""
        self._possible.clear()

    def judgeable(self, manager: Any, request: Any, draft: Sequence[int]) -> list[int]:
        """The draft up to its first token that the grammar forbids; that one is certain to be rejected."""
        if not request.use_structured_output:
            return list(draft)
        possible = len(manager.validate_tokens(request, list(draft)))
        self._possible[request.request_id] = possible
        return list(draft[: possible + 1])

    def without_forbidden(self, output: Any) -> Any:
        """A step as vLLM's grammars can follow it: of its drafts only what they allow."""
        allowed = copy.copy(output)
        allowed.scheduled_spec_decode_tokens = {
            request_id: tokens[: self._possible.get(request_id, len(tokens))]
            for request_id, tokens in output.scheduled_spec_decode_tokens.items()
        }
        return allowed

    def with_forbidden(self, masks: Any, allowed: Tokens, drafted: Tokens) -> Any:
        """Masks for all drafted tokens: the place after a forbidden one gets the mask before it, and is
        never reached.
        """
        if masks is None:
            return None
        repeats = []
        for request_id in masks.structured_output_request_ids:
            kept = len(allowed.get(request_id, ()))
            repeats += [1] * kept + [1 + len(drafted.get(request_id, ())) - kept]
        masks.grammar_bitmask = np.repeat(masks.grammar_bitmask, repeats, axis=0)
        return masks


def replay(manager: Any, request: Any, output: Sequence[int]) -> None:
    """Let a request's grammar begin after `output`, which was written before vLLM took it in.

    What its grammar does not allow fails the request as a grammar that cannot be compiled does.
    """
    structured = request.structured_output_request
    structured.grammar = manager.executor.submit(
        _advanced, structured._grammar, request.request_id, list(output)
    )


def _advanced(compiled: Future[Any], request_id: str, output: list[int]) -> Any:
    grammar = compiled.result()
    if not grammar.accept_tokens(request_id, output):
        raise ValueError("the output so far is not what the grammar allows")
    return grammar
