from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from sled_edge.api.speculation_report import SpeculationReport
from sled_edge.generation import Delta, RoundStats
from sled_edge.metrics import MAX_POSITIONS, EdgeMetrics


def stats(draft_tokens: int, accepted_tokens: int) -> RoundStats:
    return RoundStats(draft_tokens, accepted_tokens, 0.25, 0.5, 0.125, 0.25, 100, 20)


def samples(metrics: EdgeMetrics) -> dict[str, float]:
    text = metrics.exposition()[0].decode()
    return {
        sample.name + "".join(f"{{{v}}}" for v in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_rounds_are_counted_as_vllm_counts_them() -> None:
    metrics = EdgeMetrics()
    metrics.observe_delta(Delta((1, 2, 3), round=stats(4, 2)))
    metrics.observe_delta(Delta((4,), round=stats(0, 0)))
    metrics.observe_delta(Delta((5, 6), verified=False))
    seen = samples(metrics)
    assert seen["sled_edge_spec_decode_num_drafts_total"] == 1
    assert seen["sled_edge_spec_decode_num_draft_tokens_total"] == 4
    assert seen["sled_edge_spec_decode_num_accepted_tokens_total"] == 2
    assert seen["sled_edge_spec_decode_num_accepted_tokens_per_pos_total{1}"] == 1
    assert "sled_edge_spec_decode_num_accepted_tokens_per_pos_total{2}" not in seen
    assert seen["sled_edge_round_seconds_count"] == 2
    assert seen["sled_edge_round_seconds_sum"] == 1.5
    assert seen["sled_edge_uplink_bytes_total"] == 200
    assert seen["sled_edge_downlink_bytes_total"] == 40
    assert seen["sled_edge_generation_tokens_total"] == 6
    assert seen["sled_edge_unverified_tokens_total"] == 2


def test_positions_have_bounded_labels() -> None:
    metrics = EdgeMetrics()
    metrics.observe_delta(Delta((), round=stats(1000, 1000)))
    name = "sled_edge_spec_decode_num_accepted_tokens_per_pos_total"
    assert sum(key.startswith(name) for key in samples(metrics)) == MAX_POSITIONS


def test_the_link_reports_its_state() -> None:
    metrics = EdgeMetrics()
    metrics.verifier_connected(True)
    metrics.count_reconnect()
    assert samples(metrics)["sled_edge_verifier_connected"] == 1
    assert samples(metrics)["sled_edge_reconnects_total"] == 1
    metrics.verifier_connected(False)
    assert samples(metrics)["sled_edge_verifier_connected"] == 0


def test_two_instances_do_not_share_a_registry() -> None:
    first, second = EdgeMetrics(), EdgeMetrics()
    first.count_request("/info", 200)
    assert "sled_edge_requests_total{/info}{200}" not in samples(second)


def test_the_report_of_a_request_has_vllm_s_fields() -> None:
    report = SpeculationReport()
    assert report.as_json() is None
    for accepted in (0, 3, 3, 1):
        report.add(stats(4, accepted))
    report.add(stats(0, 0))
    assert report.as_json() == {
        "mean_acceptance_length": 1 + 7 / 4,
        "draft_acceptance_rate": 7 / 16,
        "acceptance_histogram": {"0": 1, "1": 1, "3": 2},
        "num_accepted_draft_tokens": 7,
        "num_draft_tokens": 16,
        "num_spec_steps": 4,
        "num_spec_tokens": 4,
    }
