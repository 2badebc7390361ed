"""A toy target model that needs no weights: for tests, demos of the plumbing, and the simulator.
Must not import a model runtime.

Its logits are a pure function of the last few tokens, so every text is known in advance and cannot
depend on the batch. It is strict: a step that breaks the `Engine` contract raises, so tests with it
find scheduler mistakes.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sled_verifier.engine.base import EngineError, EngineInfo, Logits, StepItem
from sled_verifier.engine.vocabulary import byte_vocabulary_gguf

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_CACHE_BYTES = 4 << 20
"""Rows that are kept because drafts and steps ask for the same ones; few for a large vocabulary."""


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood 2014) on uint64 [n]."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@dataclass(frozen=True)
class ToyModel:
    """A Markov chain of order `order` with pseudo-random Gumbel logits; sharper with a larger
    `scale`.

    `end_every` > 0 makes the end token (the highest id) the most probable one after about one
    context in so many.
    """

    vocab_size: int = 256
    seed: int = 0
    order: int = 3
    scale: float = 2.0
    end_every: int = 0
    _ids: NDArray[np.uint64] = field(init=False, repr=False, compare=False)
    _rows: dict[int, Logits] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = (np.arange(self.vocab_size, dtype=np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
        object.__setattr__(self, "_ids", ids)

    @property
    def end_token(self) -> int:
        """The id that ends a text when `end_every` is above 0."""
        return self.vocab_size - 1

    def logits(self, tokens: Sequence[int]) -> Logits:
        """float32 [vocab], read-only: of the token that follows `tokens`, of which only the last
        `order` count.
        """
        return self.rows([self.state(tokens)])[0]

    def state(self, tokens: Sequence[int]) -> int:
        """What of `tokens` the next one depends on; equal states have equal rows."""
        state = self.seed & _MASK
        for token in tokens[-self.order :]:
            state = ((state ^ (token + 1)) * _GOLDEN + 0x632BE59BD9B4E019) & _MASK
            state ^= state >> 29
        return state

    def rows(self, states: Sequence[int]) -> list[Logits]:
        """float32 [vocab], read-only, for each state; many at once cost little more than one."""
        found = {state: self._rows[state] for state in states if state in self._rows}
        missing = list(dict.fromkeys(state for state in states if state not in found))
        if missing:
            if (len(self._rows) + len(missing)) * 4 * self.vocab_size > _CACHE_BYTES:
                self._rows.clear()
            for state, row in zip(missing, self._compute(missing), strict=True):
                found[state] = row
                if len(self._rows) * row.nbytes < _CACHE_BYTES:
                    self._rows[state] = row
        return [found[state] for state in states]

    def _compute(self, states: Sequence[int]) -> Logits:
        words = _mix(self._ids + np.array(states, np.uint64)[:, None])
        uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        rows = -np.log(-np.log(uniform)) * self.scale
        if self.end_every:
            ends = np.array([state % self.end_every == 0 for state in states])
            rows[:, self.end_token] = np.where(ends, rows.max(axis=1) + 1, -1e4)
        logits = rows.astype(np.float32)
        logits.setflags(write=False)
        return logits

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that plain greedy decoding writes after `prompt`; end tokens do not
        stop it.
        """
        tail = list(prompt[-self.order :])
        output = []
        for _ in range(count):
            token = int(self.logits(tail).argmax())
            output.append(token)
            tail = [*tail, token][-self.order :]
        return output


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of one step: a fixed part (weights streamed once), one for each token, one for each
    sequence.
    """

    step_seconds: float = 0.0
    token_seconds: float = 0.0
    sequence_seconds: float = 0.0

    def seconds(self, tokens: int, sequences: int) -> float:
        """Duration of a step over so many tokens and sequences."""
        return self.step_seconds + tokens * self.token_seconds + sequences * self.sequence_seconds


class FakeEngine:
    """An `Engine` over a `ToyModel`.

    `cost` makes steps take time in the calling thread by `sleep`, which a simulator replaces with
    its virtual clock. `before_step` sees every step first and may raise `EngineError`, as a failing
    runtime would; `tokens` of failed slots become undefined.
    """

    def __init__(
        self,
        *,
        model: ToyModel | None = None,
        name: str = "toy",
        slots: int = 8,
        context_tokens: int = 2304,
        max_step_tokens: int = 4096,
        cost: CostModel | None = None,
        sleep: Callable[[float], None] = time.sleep,
        before_step: Callable[[Sequence[StepItem]], None] | None = None,
        tokenizer_fingerprint: bytes | None = None,
        end_tokens: tuple[int, ...] | None = None,
    ) -> None:
        self.model = model or ToyModel()
        self._cost = cost
        self._sleep = sleep
        self._before_step = before_step
        self._slots = [array("I") for _ in range(slots)]
        if end_tokens is None:
            end_tokens = (self.model.end_token,) if self.model.end_every else ()
        vocabulary = f"sled toy vocabulary of {self.model.vocab_size} tokens"
        self.info = EngineInfo(
            model_name=name,
            engine="fake",
            vocab_size=self.model.vocab_size,
            context_tokens=context_tokens,
            slots=slots,
            max_step_tokens=max_step_tokens,
            tokenizer_fingerprint=tokenizer_fingerprint
            or hashlib.sha256(vocabulary.encode()).digest(),
            end_tokens=end_tokens,
            exactness="bit-invariant",
        )
        self.steps = 0
        self.closed = False

    def step(self, items: Sequence[StepItem]) -> list[Logits]:
        """See `Engine.step`.

        Raises:
            ValueError: the caller broke the contract.
            EngineError: raised by `before_step`.
        """
        self._check(items)
        if self._before_step is not None:
            try:
                self._before_step(items)
            except EngineError as error:
                for slot in error.slots or [item.slot for item in items]:
                    self._slots[slot] = array("I", [0] * 7)
                raise
        states = [self._run(item) for item in items]
        known = iter(self.model.rows([state for each in states for state in each]))
        rows = [self._stack(list(islice(known, len(each)))) for each in states]
        self.steps += 1
        if self._cost is not None:
            self._sleep(self._cost.seconds(sum(len(item.tokens) for item in items), len(items)))
        return rows

    def truncate(self, slot: int, length: int) -> None:
        """See `Engine.truncate`."""
        if not 0 <= length <= len(self._slots[slot]):
            raise ValueError(
                f"slot {slot} holds {len(self._slots[slot])} tokens, not at least {length}"
            )
        del self._slots[slot][length:]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Engine.copy_prefix`."""
        if self._slots[target]:
            raise ValueError(f"slot {target} is not empty")
        if not 0 < length <= len(self._slots[source]):
            raise ValueError(f"slot {source} does not hold {length} tokens")
        self._slots[target] = self._slots[source][:length]

    def tokenizer_gguf(self) -> bytes:
        """A vocabulary of single bytes, as far as it reaches, and unused ids after them."""
        return byte_vocabulary_gguf(self.model.vocab_size)

    def close(self) -> None:
        """See `Engine.close`."""
        self.closed = True

    def held(self, slot: int) -> tuple[int, ...]:
        """The tokens whose keys and values a slot holds; for tests."""
        return tuple(self._slots[slot])

    def _check(self, items: Sequence[StepItem]) -> None:
        if self.closed:
            raise ValueError("the engine is closed")
        if len({item.slot for item in items}) != len(items):
            raise ValueError("a step has two items of one slot")
        if sum(len(item.tokens) for item in items) > self.info.max_step_tokens:
            raise ValueError("a step has more than max_step_tokens tokens")
        for item in items:
            held = len(self._slots[item.slot])
            if item.start_position != held:
                raise ValueError(f"slot {item.slot} holds {held} tokens, not {item.start_position}")
            if not 0 <= item.logit_rows <= len(item.tokens) or not item.tokens:
                raise ValueError(f"slot {item.slot}: more logit rows than tokens, or none at all")
            if held + len(item.tokens) > self.info.context_tokens:
                raise ValueError(f"slot {item.slot} would leave the context")
            if max(item.tokens) >= self.info.vocab_size:
                raise ValueError(f"slot {item.slot}: a token is outside the vocabulary")

    def _run(self, item: StepItem) -> list[int]:
        """Take in an item's tokens; the states whose rows it asks for."""
        held = self._slots[item.slot]
        held.extend(item.tokens)
        ends = range(len(held) - item.logit_rows + 1, len(held) + 1)
        return [self.model.state(held[max(0, end - self.model.order) : end]) for end in ends]

    def _stack(self, rows: Sequence[Logits]) -> Logits:
        return np.array(rows, np.float32).reshape(len(rows), self.info.vocab_size)
