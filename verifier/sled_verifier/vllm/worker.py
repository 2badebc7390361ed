"""The part of `internals` that runs in every worker of vLLM: the devices' distributions, for vLLM's rejection sampler."""

from __future__ import annotations

from types import MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.platforms import current_platform
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample import rejection_sampler

from sled_protocol.distribution import DraftDistribution

DraftTable = dict[str, tuple[tuple[NDArray[np.int64], NDArray[np.float32]], ...]]
"""Request id -> for each draft token the ids and probabilities of its distribution."""


class DraftProbsExtension:
    """Methods that vLLM adds to each worker."""

    model_runner: Any

    def sled_install(self) -> None:
        """Put this class between model runner and rejection sampler."""
        self.sled_table: DraftTable = {}
        runner = self.model_runner
        worker = self

        def draft_probs(runner: Any, metadata: Any) -> Any:
            return dense_draft_probs(worker.sled_table, runner.input_batch, metadata)

        def no_proposal(runner: Any, *args: Any, **kwargs: Any) -> list[list[int]]:
            return [[] for _ in runner.input_batch.req_ids]

        if current_platform.is_cpu():
            rejection_sampler.expand_batch_to_tokens = expand_on_cpu
            judge_greedy_quickly(runner.rejection_sampler)
        runner._get_spec_decode_draft_probs = MethodType(draft_probs, runner)
        runner.propose_draft_token_ids = MethodType(no_proposal, runner)

    def sled_set_table(self, table: DraftTable) -> None:
        """The distributions of the next step's drafts; a request that is missing has point masses."""
        self.sled_table = table


def judge_greedy_quickly(sampler: Any) -> None:
    """Let a rejection sampler take a short way where all sequences are greedy and nothing changes their logits.

    vLLM 0.32 copies the logits of all draft tokens three times before it compares them, and its argmax reads them one by one: on
    a processor that is a tenth of a small model's step. The answer is the same.
    """
    judge = sampler.forward

    def forward(metadata: Any, draft_probs: Any, logits: torch.Tensor, sampling: Any) -> Any:
        plain = sampling.no_penalties and sampling.max_num_logprobs is None
        if not sampling.all_greedy or not plain:
            return judge(metadata, draft_probs, logits, sampling)
        return greedy_judgement(metadata, logits)

    sampler.forward = forward


def greedy_judgement(metadata: Any, logits: torch.Tensor) -> SamplerOutput:
    """Accepted draft tokens and one more of each sequence, from logits [draft tokens + sequences, vocabulary]."""
    chosen = logits.max(dim=-1).indices
    output = torch.full(
        (len(metadata.num_draft_tokens), metadata.max_spec_len + 1),
        rejection_sampler.PLACEHOLDER_TOKEN_ID,
        dtype=torch.int32,
    )
    rejection_sampler._rejection_greedy_sample(
        output,
        metadata.cu_num_draft_tokens,
        metadata.draft_token_ids,
        chosen[metadata.target_logits_indices],
        chosen[metadata.bonus_logits_indices].to(torch.int32).unsqueeze(-1),
        None,
        metadata.max_spec_len,
        None,
        None,
    )
    return SamplerOutput(sampled_token_ids=output, logprobs_tensors=None)


def expand_on_cpu(
    x: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    num_tokens: int,
    replace_from: int = 0,
    replace_to: int = 0,
) -> torch.Tensor:
    """One entry per sequence -> one per draft token, as vLLM's `expand_batch_to_tokens`.

    vLLM 0.32 writes the result into a converted copy on a processor and returns memory that nobody
    has set: temperature, top-k and top-p of draft tokens would be noise.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1)).long()
    return torch.where(x == replace_from, replace_to, x).to(x.dtype).repeat_interleave(counts)


def dense_draft_probs(table: DraftTable, batch: Any, metadata: Any) -> torch.Tensor | None:
    """float32 [draft tokens of the step, vocabulary] for the rejection sampler; None when all are
    point masses.

    In a step that has both kinds, a point mass is a row with a single 1.
    """
    counts = list(zip(batch.req_ids, metadata.num_draft_tokens, strict=True))
    if not any(count and request_id in table for request_id, count in counts):
        return None
    drafted = metadata.draft_token_ids
    rows: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float32]] = []
    point_rows: list[int] = []
    start = 0
    for request_id, count in counts:
        known = table.get(request_id, ())
        for index in range(count):
            if index < len(known):
                ids, probs = known[index]
                rows.append(np.full(len(ids), start + index))
                columns.append(ids)
                values.append(probs)
            else:
                point_rows.append(start + index)
        start += count
    device = drafted.device
    dense = torch.zeros((start, batch.vocab_size), dtype=torch.float32, device=device)
    where = tuple(torch.from_numpy(np.concatenate(x)).to(device) for x in (rows, columns))
    dense[where] = torch.from_numpy(np.concatenate(values)).to(device)
    if point_rows:
        points = torch.tensor(point_rows, device=device)
        dense[points, drafted[points].long()] = 1.0
    return dense


def entries(draft: DraftDistribution) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """A distribution as `DraftTable` has it."""
    return draft.token_ids.astype(np.int64), draft.probs().astype(np.float32)
