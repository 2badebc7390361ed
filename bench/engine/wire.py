"""Bytes on the uplink for each draft token, and what compressing draft distributions costs in acceptance.

Frames are those that a device sends. A draft token's own bytes are its id, the drafter's confidence and,
with a temperature, its distribution; what a frame takes besides (position, hash, deadline, gRPC's
framing) is shared by its tokens and told apart. Distributions are real: a draft model's and its
target's, along texts that the target itself sampled. How often a draft token is accepted under the rejection rule is
the overlap of the two, sum(min(target, draft)), which needs no sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sled_bench.trace import DRAFT_TOKENS
from sled_cli.demo.prompts import own_prompts
from sled_edge.link import RoundDraft
from sled_edge.link_frames import draft_frame
from sled_llamacpp import Chunk, Context, Model
from sled_protocol.distribution import DraftDistribution, quantise
from sled_protocol.limits import DEFAULT_DRAFT_PROBS, MAX_DRAFT_PROBS
from sled_speculation.sampling import SamplingParams
from sled_speculation.transforms import TokenSet, target_probs

FRAMING_BYTES = 5
"""gRPC's, of each message."""
DEADLINE_SECONDS = 10.0
HASH = 2**63 + 1
TEXT_TOKENS = 64
CONTEXT = 512

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Written:
    """A text that the target sampled at temperature 1, and its logits [tokens, vocab] for each of the tokens."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logits: Logits


def written(target: Path, count: int, threads: int) -> list[Written]:
    """Texts after the project's own prompts."""
    rng = np.random.default_rng(7)
    params, seen = SamplingParams(temperature=1.0), TokenSet()
    texts = []
    with (
        Model(target) as model,
        Context(model, slots=1, context_tokens=CONTEXT, threads=threads, exact=False) as context,
    ):
        for prompt in own_prompts()[:count]:
            chat = f"<|im_start|>user\n{prompt.user.strip()}<|im_end|>\n<|im_start|>assistant\n"
            ids = model.vocabulary.encode(chat, special=True, add_bos=False)
            context.truncate(0, 0)
            fed, tokens, rows = tuple(ids), [], []
            for _ in range(TEXT_TOKENS):
                rows.append(context.decode([Chunk(0, fed, 1)])[0][0].copy())
                probs = target_probs(rows[-1], params, seen)
                tokens.append(int(rng.choice(probs.size, p=probs)))
                fed = (tokens[-1],)
            texts.append(Written(tuple(ids), tuple(tokens), np.array(rows)))
    return texts


def greedy_bytes(texts: Sequence[Written]) -> dict[str, float]:
    """Of drafts of DRAFT_TOKENS tokens of these texts, with confidences."""
    own = whole = count = 0
    for text in texts:
        for at in range(0, TEXT_TOKENS, DRAFT_TOKENS):
            tokens = text.tokens[at : at + DRAFT_TOKENS]
            size = _frame_bytes(RoundDraft(at, HASH, tokens, (), 0.2, (0.9,) * len(tokens)))
            own += size - _frame_bytes(RoundDraft(at, HASH, draft_seconds=0.2))
            whole += size
            count += len(tokens)
    return {
        "bytes_per_greedy_draft_token": own / count,
        "bytes_per_greedy_draft_token_with_frame": whole / count,
    }


def sampled(texts: Sequence[Written], drafter: Path, threads: int) -> dict[str, float]:
    """Of drafts at temperature 1, with the acceptance of full and of compressed distributions."""
    params, seen = SamplingParams(temperature=1.0), TokenSet()
    full = compressed = widest = 0.0
    sizes: list[int] = []
    with (
        Model(drafter) as model,
        Context(model, slots=1, context_tokens=CONTEXT, threads=threads, exact=False) as context,
    ):
        for text in texts:
            context.truncate(0, 0)
            fed = (*text.prompt, *text.tokens[:-1])
            rows = context.decode([Chunk(0, fed, len(text.tokens))])[0]
            for draft_row, target_row in zip(rows, text.logits, strict=True):
                draft_probs = target_probs(draft_row, params, seen)
                probs = target_probs(target_row, params, seen)
                sent = quantise(draft_probs, DEFAULT_DRAFT_PROBS)
                full += float(np.minimum(probs, draft_probs).sum())
                compressed += _overlap(probs, sent)
                widest += _overlap(probs, quantise(draft_probs, MAX_DRAFT_PROBS))
                sizes.append(_sampled_bytes(sent))
    count = len(sizes)
    return {
        "bytes_per_sampled_draft_token": sum(sizes) / count,
        "bytes_per_sampled_draft_token_p95": float(np.quantile(sizes, 0.95)),
        "full_distribution_bytes": 2.0 * draft_probs.size,
        "sampled_acceptance_full_percent": 100 * full / count,
        "sampled_acceptance_compressed_percent": 100 * compressed / count,
        "sampled_acceptance_ratio": compressed / full,
        f"sampled_acceptance_ratio_{MAX_DRAFT_PROBS}_entries": widest / full,
        "sampled_positions": count,
    }


def _overlap(probs: NDArray[np.float64], sent: DraftDistribution) -> float:
    return float(np.minimum(probs[sent.token_ids], sent.probs()).sum())


def _sampled_bytes(sent: DraftDistribution) -> int:
    token = int(sent.token_ids[int(sent.codes.argmax())])
    empty = RoundDraft(900, HASH, draft_seconds=0.2)
    drafts = RoundDraft(900, HASH, (token,) * DRAFT_TOKENS, (sent,) * DRAFT_TOKENS, 0.2)
    return round((_frame_bytes(drafts) - _frame_bytes(empty)) / DRAFT_TOKENS)


def _frame_bytes(draft: RoundDraft) -> int:
    return draft_frame(3, draft, DEADLINE_SECONDS).ByteSize() + FRAMING_BYTES
