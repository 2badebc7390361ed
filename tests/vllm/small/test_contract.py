"""The parts of vLLM that `internals` relies on are there and have the shape it expects."""

from __future__ import annotations

import inspect
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sled_testkit.vllm import Lab
from sled_verifier.vllm.versions import SUPPORTED, check_version, installed_version


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_installed_version_is_supported() -> None:
    check_version(installed_version())
    assert SUPPORTED


def test_scheduler_seam(lab: Lab) -> None:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.core.sched.scheduler import Scheduler

    assert parameters(Scheduler.schedule) == ["self", "throttle_prefills"]
    assert parameters(Scheduler.update_draft_token_ids) == ["self", "draft_token_ids"]
    fields = set(SchedulerOutput.__dataclass_fields__)
    assert {"num_scheduled_tokens", "scheduled_spec_decode_tokens"} <= fields
    assert "total_num_scheduled_tokens" in fields
    scheduler: Any = lab.runtime._scheduler  # type: ignore[attr-defined]  # the seam under test
    assert isinstance(scheduler.running, list)
    assert len(scheduler.waiting) == 0
    assert scheduler.requests == {}
    assert scheduler.max_num_scheduled_tokens == 256
    assert scheduler.num_spec_tokens == 8
    assert isinstance(scheduler.scheduler_config.long_prefill_token_threshold, int)
    assert scheduler.cache_config.enable_prefix_caching


def test_request_seam() -> None:
    from vllm.v1.request import Request, RequestStatus

    assert RequestStatus.RUNNING.name == "RUNNING"
    for name in ("num_tokens", "num_output_tokens", "num_tokens_with_spec"):
        assert isinstance(inspect.getattr_static(Request, name), property)
    assert "self.spec_token_ids" in inspect.getsource(Request.__init__)
    assert "self.num_computed_tokens" in inspect.getsource(Request.__init__)


def test_rejection_sampler_seam() -> None:
    from vllm.v1.spec_decode.metadata import SpecDecodeMetadata
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    seam = parameters(GPUModelRunner._get_spec_decode_draft_probs)
    assert seam == ["self", "spec_decode_metadata"]
    assert "self._get_spec_decode_draft_probs(" in inspect.getsource(GPUModelRunner._sample)
    assert callable(GPUModelRunner.propose_draft_token_ids)
    fields = set(SpecDecodeMetadata.__dataclass_fields__)
    assert {"draft_token_ids", "num_draft_tokens"} <= fields


def test_worker_extension_is_installed(lab: Lab) -> None:
    engine: Any = lab.runtime._engine  # type: ignore[attr-defined]  # the seam under test
    worker = engine.model_executor.driver_worker.worker
    assert worker.sled_table == {}
    assert worker.model_runner._get_spec_decode_draft_probs.__name__ == "draft_probs"
    assert worker.model_runner.input_batch.vocab_size == 256


def test_dense_draft_probs_mixes_distributions_and_point_masses() -> None:
    import torch

    from sled_verifier.vllm.worker import dense_draft_probs

    batch = SimpleNamespace(req_ids=["a", "b", "c"], vocab_size=6)
    drafts = torch.tensor([4, 0, 2, 5], dtype=torch.int32)
    metadata = SimpleNamespace(draft_token_ids=drafts, num_draft_tokens=[1, 0, 3])
    entry = (np.array([1, 2], np.int64), np.array([0.25, 0.75], np.float32))
    assert dense_draft_probs({"b": (entry,)}, batch, metadata) is None
    dense = dense_draft_probs({"c": (entry, entry, entry)}, batch, metadata)
    assert dense is not None
    row = [0, 0.25, 0.75, 0, 0, 0]
    assert dense.tolist() == [[0, 0, 0, 0, 1, 0], row, row, row]


@pytest.mark.parametrize("version", ["0.31.9", "1.0.0", "0.33.0", "dev"])
def test_other_versions_are_refused(version: str) -> None:
    from sled_verifier.engine.base import EngineError

    with pytest.raises(EngineError, match="this backend works with"):
        check_version(version)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("counts", [[0, 3, 1], [8], [1, 1, 1, 1], [0, 0, 2]])
def test_the_short_way_for_greedy_sequences_judges_as_vllm_does(
    lab: Lab, dtype: str, counts: list[int]
) -> None:
    """Also where logits are equal, which is common in bf16."""
    import torch
    from vllm.v1.sample.rejection_sampler import RejectionSampler
    from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

    from sled_verifier.vllm.worker import greedy_judgement

    engine: Any = lab.runtime._engine  # type: ignore[attr-defined]  # the seam under test
    runner = engine.model_executor.driver_worker.worker.model_runner
    sampling = replace(runner.input_batch.sampling_metadata, all_greedy=True, all_random=False)
    generator = torch.Generator().manual_seed(5)
    for wrong_at in range(9):
        rows = sum(counts) + len(counts)
        logits = torch.randint(0, 4, (rows, 256), generator=generator).to(getattr(torch, dtype))
        best, drafts, first = logits.argmax(dim=-1).tolist(), [], 0
        targets: list[int] = []
        for count in counts:
            draft = best[first : first + count]
            drafts.append([token ^ (place == wrong_at) for place, token in enumerate(draft)])
            targets += range(first, first + count)
            first += count + 1
        metadata = SpecDecodeMetadata.make_dummy(drafts, device=torch.device("cpu"))
        metadata.target_logits_indices = torch.tensor(targets, dtype=torch.int32)
        bonus = [row for row in range(rows) if row not in targets]
        metadata.bonus_logits_indices = torch.tensor(bonus, dtype=torch.int32)
        found = greedy_judgement(metadata, logits)
        expected = RejectionSampler.forward(
            runner.rejection_sampler, metadata, None, logits, sampling
        )
        assert torch.equal(found.sampled_token_ids, expected.sampled_token_ids)
