from __future__ import annotations

import logging

import pytest

from sled_edge.api.error_reply import error_reply, record_refusal
from sled_edge.api.refusal import _DIALECTS, Reason, Refusal, from_generation_error, internal
from sled_edge.generation import GenerationError
from sled_edge.metrics import EdgeMetrics
from sled_protocol.v1 import verifier_pb2


def test_every_reason_has_a_form_in_both_dialects() -> None:
    assert set(_DIALECTS) == set(Reason)
    for dialects in _DIALECTS.values():
        assert 400 <= dialects.openai_status < 600
        assert 400 <= dialects.tgi_status < 600


@pytest.mark.parametrize("name", verifier_pb2.RefusalReason.keys())
def test_every_wire_refusal_becomes_a_known_reason(name: str) -> None:
    reason = name.removeprefix("REFUSAL_REASON_").lower()
    refusal = from_generation_error(GenerationError(reason, "why", 0.0))
    assert isinstance(refusal.reason, Reason)
    assert refusal.message == ("why" if refusal.reason is not Reason.INTERNAL else str(internal()))


@pytest.mark.parametrize(("asked", "header"), [(0.0, "1"), (0.2, "1"), (2.1, "3")])
def test_whoever_may_retry_is_told_when(asked: float, header: str) -> None:
    refusal = from_generation_error(GenerationError("queue_full", "full", asked))
    assert error_reply(refusal, "/generate").headers["retry-after"] == header


def test_whoever_may_not_is_told_nothing() -> None:
    refusal = Refusal(Reason.INVALID_REQUEST, "no")
    assert "retry-after" not in error_reply(refusal, "/generate").headers


def test_the_log_has_the_reason_and_no_foreign_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    metrics = EdgeMetrics()
    refusal = Refusal(Reason.INVALID_REQUEST, "no")
    refusal.__cause__ = ValueError("PROMPT")
    record_refusal(refusal, "/generate", metrics)
    refusal.__cause__ = GenerationError("stale_prefix", "lengths differ")
    record_refusal(refusal, "/generate", metrics)
    first, second = (str(record.__dict__) for record in caplog.records)
    assert "invalid_request" in first
    assert "ValueError" in first
    assert "PROMPT" not in first
    assert "stale_prefix: lengths differ" in second
    assert b'sled_edge_refusals_total{reason="invalid_request"} 2.0' in metrics.exposition()[0]
