"""A runtime without vLLM that keeps the same contract on the toy model: for tests of the backend.

It is strict: an order that breaks the contract raises, so tests with it find book-keeping mistakes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sled_speculation.acceptance import verify_draft
from sled_speculation.sampling import SamplingParams
from sled_speculation.transforms import TokenSet
from sled_verifier.engine.base import EngineError, EngineInfo
from sled_verifier.engine.fake import ToyModel
from sled_verifier.engine.vocabulary import byte_vocabulary_gguf
from sled_verifier.vllm.runtime import Output, StepOrder, StepReport, Trial


@dataclass(slots=True)
class _Held:
    tokens: list[int]
    sampling: SamplingParams
    computed: int = 0
    ready: bool = False


class FakeRuntime:
    """A `DraftingRuntime` over a `ToyModel`; prompts are computed `chunk_tokens` a step.

    `before_step` sees every order first and may raise `EngineError`. `preempt` is asked for each
    trial whether memory runs out under it. `trim_tokens`: how many draft tokens of a trial are
    verified at most. With `guides` it takes guides in, and passes over them.
    """

    def __init__(
        self,
        *,
        model: ToyModel | None = None,
        slots: int = 4,
        context_tokens: int = 256,
        chunk_tokens: int = 16,
        trim_tokens: int | None = None,
        before_step: Callable[[StepOrder], None] | None = None,
        preempt: Callable[[int], bool] | None = None,
        guides: bool = False,
    ) -> None:
        self.model = model or ToyModel()
        self.steps = 0
        self.closed = False
        self.refuse_keys: set[int] = set()
        self.unguidable_keys: set[int] = set()
        self._chunk = chunk_tokens
        self._trim = trim_tokens
        self._before_step = before_step
        self._preempt = preempt or (lambda key: False)
        self._held: dict[int, _Held] = {}
        vocab = self.model.vocab_size
        self.info = EngineInfo(
            model_name="toy",
            engine="vllm",
            vocab_size=vocab,
            context_tokens=context_tokens,
            slots=slots,
            max_step_tokens=4096,
            tokenizer_fingerprint=hashlib.sha256(b"bytes %d" % vocab).digest(),
            end_tokens=(self.model.end_token,),
            exactness="fp32",
            guides=guides,
        )

    @property
    def held(self) -> frozenset[int]:
        """Sequences that are taken in."""
        return frozenset(self._held)

    def run(self, order: StepOrder) -> StepReport:
        """See `DraftingRuntime.run`."""
        if self._before_step is not None:
            self._before_step(order)
        refused = self._admit(order)
        outputs: list[Output] = []
        ran: list[tuple[int, int]] = []
        short = False
        for trial in order.trials:
            held = self._held.get(trial.key)
            if held is None or not held.ready:
                raise EngineError(f"sequence {trial.key} is not ready for a trial")
            if self._preempt(trial.key):
                held.ready, held.computed, short = False, 0, True
                continue
            outputs.append(self._judge(held, trial))
            ran.append((trial.key, len(trial.draft_tokens) + 1))
        tried = {trial.key for trial in order.trials}
        for key, held in list(self._held.items()):
            if key in tried or held.ready:
                continue
            step = min(self._chunk, len(held.tokens) - held.computed)
            held.computed += step
            ran.append((key, step))
            if held.computed == len(held.tokens):
                outputs.append(self._choose(key, held))
        self.steps += bool(ran)
        computing = frozenset(key for key, held in self._held.items() if not held.ready)
        return StepReport(
            tuple(outputs),
            tuple(ran),
            computing,
            0.0,
            short_of_memory=short,
            refused=refused,
            unguidable=tuple(s.key for s in order.start if s.key in self.unguidable_keys),
        )

    def tokenizer_gguf(self) -> bytes:
        """See `DraftingRuntime.tokenizer_gguf`."""
        return byte_vocabulary_gguf(self.model.vocab_size)

    def close(self) -> None:
        """See `DraftingRuntime.close`."""
        self.closed = True

    def _admit(self, order: StepOrder) -> tuple[tuple[int, str], ...]:
        for key in order.stop:
            self._held.pop(key, None)
        for start in order.start:
            if start.key in self._held:
                raise EngineError(f"sequence {start.key} is taken in already")
            if len(start.tokens) >= self.info.context_tokens:
                raise EngineError(f"sequence {start.key} does not fit the context")
            if start.key not in self.refuse_keys | self.unguidable_keys:
                self._held[start.key] = _Held(list(start.tokens), start.sampling)
        if len(self._held) > self.info.slots:
            raise EngineError("more sequences than slots")
        refused = (start.key for start in order.start if start.key in self.refuse_keys)
        return tuple((key, "the fake was told to refuse it") for key in refused)

    def _judge(self, held: _Held, trial: Trial) -> Output:
        draft = trial.draft_tokens[: self._trim]
        logits = np.stack(
            [self.model.logits([*held.tokens, *draft[:n]]) for n in range(len(draft) + 1)]
        )
        judgement = verify_draft(
            logits,
            draft,
            trial.distributions[: len(draft)],
            held.sampling,
            TokenSet(held.tokens),
            len(held.tokens),
        )
        return self._append(trial.key, held, judgement.output(draft), len(draft))

    def _choose(self, key: int, held: _Held) -> Output:
        logits = self.model.logits(held.tokens)[None]
        seen = TokenSet(held.tokens)
        judgement = verify_draft(logits, (), (), held.sampling, seen, len(held.tokens))
        held.ready = True
        return self._append(key, held, (judgement.next_token,), None)

    def _append(
        self, key: int, held: _Held, tokens: tuple[int, ...], verified: int | None
    ) -> Output:
        held.tokens.extend(tokens)
        ended = len(held.tokens) >= self.info.context_tokens
        if ended:
            del self._held[key]
        return Output(key, tokens, verified, ended)
