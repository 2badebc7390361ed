"""The parts of vLLM that `internals` relies on are there and have the shape it expects."""

from __future__ import annotations

import inspect
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
