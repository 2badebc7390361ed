"""The table of measured figures in the README, from the files that the benches wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN = "<!-- results: written by `make docs` from bench/results -->"
END = "<!-- /results -->"
SHOWN = (
    ("demo", "texts_identical", "`make demo`: texts identical to the target's own, of {texts}"),
    ("demo", "tokens_per_pass", "`make demo`: output tokens per pass of the target"),
    ("demo", "link_bytes_per_token", "`make demo`: bytes on the link per output token, both ways"),
    ("demo_pair", "texts_identical", "Qwen2.5-Coder 1.5B with 0.5B: texts identical, of {texts}"),
    ("demo_pair", "acceptance_percent", "Qwen2.5-Coder 1.5B with 0.5B: draft tokens accepted, %"),
    (
        "exactness",
        "smollm2_135m_f32_rows_differing_percent",
        "F32: rows of logits that differ in a batch, % of {rows}",
    ),
    ("exactness", "smollm2_135m_q8_0_rows_differing_percent", "Q8_0: the same, % of {rows}"),
    (
        "exactness",
        "qwen2_5_coder_0_5b_q4_k_m_argmax_differing_percent",
        "Q4_K_M: argmaxes that differ, % of {rows}",
    ),
    (
        "soak",
        "worst_over_median",
        "64 fake devices, 10 minutes: output of the worst over the median",
    ),
    ("soak", "rss_growth_mib", "the same: growth of memory after the start, MiB"),
    (
        "throughput",
        "ratio_at_1_sequence",
        "Qwen2.5-Coder 1.5B in bf16 on vLLM, drafts of 0.5B, 1 sequence: output a server CPU-second over no drafts",
    ),
    ("throughput", "ratio_at_4_sequences", "The same, 4 sequences"),
    ("throughput", "ratio_at_8_sequences", "The same, 8 sequences"),
    (
        "throughput",
        "vllm_worst_ratio",
        "The same, the least of 1 to 64 sequences",
    ),
    (
        "throughput",
        "vllm_share_of_limit",
        "The same, the least share of what machine and acceptance allow",
    ),
    (
        "throughput",
        "small_ratio_at_4_sequences",
        "SmolLM2-135M in bf16 on vLLM, made-up drafts, 4 sequences: the same ratio",
    ),
    (
        "throughput",
        "small_limit_at_4_sequences",
        "The same, what machine and acceptance allow",
    ),
    ("throughput", "small_worst_ratio", "The same, the least of 1 to 64 sequences"),
    (
        "throughput",
        "llamacpp_worst_ratio",
        "Qwen2.5-Coder 1.5B in 4 bits on llama.cpp: the same, the least of 1 to 64 sequences",
    ),
    ("throughput", "torch_ratio_at_4_sequences", "The same in bf16 on torch, 4 sequences"),
    ("throughput", "torch_worst_ratio", "The same, the least of 1 to 64 sequences"),
    (
        "capacity",
        "ratio_vs_central",
        "Devices that get {slo_tokens_per_second:g} tokens/s from Qwen2.5-Coder 1.5B on vLLM, over central serving",
    ),
    ("capacity", "ratio_vs_static_batching", "The same, over static batching"),
    (
        "capacity",
        "ratio_vs_central_at_2_tokens_a_second",
        "The same for 2 tokens/s, over central serving",
    ),
    ("engine", "verifications_per_second", "Fake engine, gRPC on loopback: verifications a second"),
    (
        "engine",
        "own_milliseconds_per_step_at_64_sequences",
        "Our own processor time of a step of 64 sequences, ms",
    ),
    (
        "engine",
        "own_percent_of_model_step_at_64_sequences",
        "The same, % of the bare step of SmolLM2 135M Q8_0 here",
    ),
    ("wire", "bytes_per_greedy_draft_token", "Uplink bytes of a greedy draft token"),
    ("wire", "bytes_per_sampled_draft_token", "Uplink bytes of a sampled draft token"),
    (
        "wire",
        "sampled_acceptance_ratio",
        "Acceptance with compressed distributions over full ones, temperature 1",
    ),
    ("operator", "list_seconds", "5,000 simulated nodes: seconds to list and index"),
    ("operator", "assign_seconds", "the same: seconds until every node has its draft model"),
    ("operator", "join_p99_seconds", "the same: a node joins, its pod is bound, p99 of 100, s"),
    ("operator", "rss_mb", "the same: memory of the operator, MB"),
    ("operator", "idle_core_percent", "the same: idle, % of a core"),
    ("operator", "idle_writes", "the same: writes in 5 idle minutes, but for the lease"),
    (
        "recovery",
        "converged_worst_seconds",
        "Operator killed {kills} times: worst time to Ready, s",
    ),
    (
        "recovery",
        "operator_acted_after_outage_seconds",
        "API server away for 60 s: until the operator acts again, s",
    ),
    ("e2e", "tokens_lost", "`make e2e`, {scenarios} scenarios: tokens lost, of {tokens_compared}"),
    (
        "simulated_a100",
        "throughput_ratio",
        "A100-like, 32 sequences: output tokens a second over central serving",
    ),
    (
        "simulated_a100",
        "capacity_ratio",
        "A100-like, 32 sequences a step: devices of which 95 % get 4 tokens/s over central serving",
    ),
    (
        "simulated_a100",
        "capacity_ratio_of_the_mean_device",
        "The same, devices that get 4 tokens/s on average",
    ),
)


def block(results: Path) -> str:
    """The table between the markers."""
    lines = ["| figure | value | kind | machine | commit |", "|---|---|---|---|---|"]
    for name, figure, label in SHOWN:
        data: dict[str, Any] = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        rows = data.get(figure.rsplit("_rows_", 1)[0].rsplit("_argmax_", 1)[0] + "_rows", "")
        text = label.format_map({**data, "rows": f"{rows} rows"})
        about = f"{data['kind']} | {data['machine']} | `{data['commit'].split('+')[0][:12]}`"
        lines.append(f"| {text} | {data[figure]} | {about} |")
    return "\n".join(lines)


def refreshed(readme: str, results: Path) -> str:
    """The README with its table written anew."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{block(results)}\n{END}{after}"
