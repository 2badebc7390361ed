"""A draft model on llama.cpp: one context, one slot per sequence, only the new tokens computed each
round.

Must not know the network or the target. Logits need not be independent of the batch here: any draft
is a valid draft.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sled_edge.drafter.base import DrafterInfo, KeepDrafting, Proposal
from sled_edge.drafter.slots import SlotTable
from sled_llamacpp import Chunk, Context, DecodeError, Library, Model
from sled_llamacpp.microbatch import Rules
from sled_protocol.distribution import DraftDistribution
from sled_protocol.limits import MAX_DRAFT_PROBS
from sled_speculation.drafting import draft_token
from sled_speculation.sampling import SamplingParams
from sled_speculation.transforms import TokenSet, UnusableLogits

_PREFILL_ROWS: Final = 128
"""Tokens of a prompt per forward pass: enough to keep the cores busy, few enough for a small
device.
"""

_log = logging.getLogger(__name__)


class LlamaCppDrafter:
    """Drafts with a GGUF model. Implements `sled_edge.drafter.base.Drafter`.

    Args:
        path: the GGUF file.
        name: name of the draft model, for metrics and the wire.
        threads: compute threads.
        context_tokens: longest prefix that is drafted after; longer ones get empty proposals.
        sequences: sequences whose caches are kept; a further one takes the slot used least
            recently.
        max_probs: entries of a transmitted distribution.
        library: another llama.cpp shared object than the wheel's.

    Raises:
        sled_llamacpp.LlamaCppError: the library, the file or the sizes cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        threads: int = 1,
        context_tokens: int = 2304,
        sequences: int = 4,
        max_probs: int = MAX_DRAFT_PROBS,
        library: str | os.PathLike[str] | None = None,
    ) -> None:
        if not 1 <= max_probs <= MAX_DRAFT_PROBS:
            raise ValueError(f"max_probs is {max_probs}; allowed: 1 to {MAX_DRAFT_PROBS}")
        self._max_probs = max_probs
        self._model = Model(path, library=Library.load(library))
        try:
            self._context = Context(
                self._model,
                slots=sequences,
                context_tokens=context_tokens,
                threads=threads,
                exact=False,
                rules=Rules(max_rows=_PREFILL_ROWS),
            )
        except BaseException:
            self._model.close()
            raise
        self._slots = SlotTable(sequences)
        self._end_tokens = frozenset(self._model.vocabulary.end_tokens)
        self.info = DrafterInfo(
            name=name,
            kind="llamacpp",
            generates=True,
            tokenizer_fingerprint=self._model.vocabulary.fingerprint(),
        )

    @property
    def model(self) -> Model:
        """The loaded draft model, whose vocabulary the device's tokeniser may share; closed with
        the drafter.
        """
        return self._model

    def propose(
        self,
        sequence: int,
        prefix: Sequence[int],
        max_tokens: int,
        sampling: SamplingParams,
        keep_drafting: KeepDrafting,
    ) -> Proposal:
        """See `Drafter.propose`. Ends after an end token. A failed pass is logged and gives what
        was drafted so far.
        """
        started = time.perf_counter()
        room = min(max_tokens, self._context.context_tokens - len(prefix) + 1)
        if room <= 0 or not prefix:
            return Proposal(())
        draft = _Draft(prefix, sampling, self._max_probs)
        try:
            logits = self._read(sequence, prefix)
            while draft.take(logits):
                last = draft.tokens[-1]
                if len(draft.tokens) >= room or last in self._end_tokens:
                    break
                if not keep_drafting(draft.confidences):
                    break
                logits = self._append(sequence, (last,))
        except DecodeError as error:
            _log.warning("drafting failed: %s", error)
            self._slots.reset(error.slots)
        return draft.proposal(time.perf_counter() - started)

    def forget(self, sequence: int) -> None:
        """See `Drafter.forget`. The slot's tokens stay until another sequence needs it, in case
        that one begins alike.
        """
        self._slots.release(sequence)

    def close(self) -> None:
        """See `Drafter.close`."""
        self._context.close()
        self._model.close()

    def _read(self, sequence: int, prefix: Sequence[int]) -> NDArray[np.float32]:
        """Bring the sequence's slot to exactly `prefix`; return the logits [vocab] after its last
        token.
        """
        slot, common = self._slots.take(sequence, prefix)
        keep = min(common, len(prefix) - 1)
        self._context.truncate(slot, keep)
        self._slots.truncate(slot, keep)
        return self._append(sequence, tuple(prefix[keep:]))

    def _append(self, sequence: int, tokens: tuple[int, ...]) -> NDArray[np.float32]:
        slot = self._slots.slot_of(sequence)
        logits = self._context.decode([Chunk(slot, tokens, 1)])[0]
        self._slots.extend(slot, tokens)
        row: NDArray[np.float32] = logits[0]
        return row


class _Draft:
    """The draft of one round while it grows."""

    def __init__(self, prefix: Sequence[int], sampling: SamplingParams, max_probs: int) -> None:
        self._sampling = sampling
        self._max_probs = max_probs
        self._start = len(prefix)
        # Only the repetition penalty looks at it.
        self._seen = TokenSet(prefix if sampling.repetition_penalty != 1 else ())
        self.tokens: list[int] = []
        self.confidences: list[float] = []
        self._distributions: list[DraftDistribution] = []

    def take(self, logits: NDArray[np.float32]) -> bool:
        """Add the next token; False when the draft model's logits are unusable."""
        try:
            token, distribution, confidence = draft_token(
                logits,
                self._sampling,
                self._seen,
                self._start + len(self.tokens),
                self._max_probs,
                round_start=self._start,
            )
        except UnusableLogits as error:
            _log.warning("drafting ended: %s", error)
            return False
        self.tokens.append(token)
        self.confidences.append(confidence)
        if distribution is not None:
            self._distributions.append(distribution)
        self._seen.add(token)
        return True

    def proposal(self, seconds: float) -> Proposal:
        return Proposal(
            tuple(self.tokens), tuple(self._distributions), tuple(self.confidences), seconds
        )
