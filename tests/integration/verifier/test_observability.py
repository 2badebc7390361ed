"""What an operator sees of a replica: metrics that a Prometheus parser reads, stats, model,
tokenizer, probes.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path

import gguf
import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sled_protocol.limits import TOKENIZER_CHUNK_BYTES
from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1 import verifier_pb2_grpc as pb_grpc
from sled_testkit.verifier import running_server
from sled_testkit.verifier_device import GreedyText, connected, greeted, hello_frame
from sled_testkit.verifier_faults import GatedEngine, until
from sled_testkit.verifier_http import exchange, get
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.logs import JsonFormatter

TARGET = ToyModel(vocab_size=100, seed=11)


def samples(text: str) -> dict[str, float]:
    """Values by `name{labels}`, labels sorted, model_name left out."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sorted((k, v) for k, v in sample.labels.items() if k != "model_name")
            found[sample.name + "".join(f"[{k}={v}]" for k, v in labels)] = sample.value
    return found


async def test_metrics_and_stats_agree_with_what_happened() -> None:
    async with (
        running_server(engine=FakeEngine(model=TARGET)) as server,
        connected(server.address) as device,
    ):
        await device.greet(hello_frame("pi-1", draft_model="tiny", device_class="pi5"))
        text = GreedyText(TARGET, [5] * 100, skill=0.7)
        await device.open(1, text.prompt)
        sent = accepted = 0
        while len(text.output) < 60:
            draft = text.draft(4)
            verdict = await device.round(1, text.prompt, text.output, draft, draft_micros=250)
            sent, accepted = sent + len(draft), accepted + verdict.accepted
            text.rounds += 1
            text.output += [*draft[: verdict.accepted], verdict.next_token]
            assert verdict.verified == len(draft)
            kind = (
                pb.NEXT_TOKEN_KIND_BONUS
                if verdict.accepted == len(draft)
                else pb.NEXT_TOKEN_KIND_RECOVERED
            )
            assert verdict.next_token_kind == kind
            assert verdict.load.active_sequences == 1
        plain = await device.round(1, text.prompt, text.output, [])
        text.output.append(plain.next_token)
        status, body = await get(server.metrics_address, "/metrics")
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = pb_grpc.VerifierStub(channel)
            stats = await stub.GetStats(pb.GetStatsRequest())
            model = await stub.GetModel(pb.GetModelRequest())
    assert status == 200
    seen = samples(body)
    assert seen["vllm:spec_decode_num_drafts_total"] == text.rounds
    assert seen["vllm:spec_decode_num_draft_tokens_total"] == sent
    assert seen["vllm:spec_decode_num_accepted_tokens_total"] == accepted
    positions = [
        f"vllm:spec_decode_num_accepted_tokens_per_pos_total[position={p}]" for p in range(4)
    ]
    assert sum(seen[name] for name in positions) == accepted
    assert seen["vllm:generation_tokens_total"] == len(text.output)
    assert seen["vllm:prompt_tokens_total"] == 100
    assert seen["vllm:num_requests_running"] == seen["sled_sequences"] == 1
    assert seen["vllm:num_requests_waiting"] == seen["sled_evicted_sequences"] == 0
    assert seen["sled_queue_depth"] == seen["vllm:num_requests_waiting"]
    assert seen["sled_connected_devices"] == 1
    assert seen["sled_rounds_total[device_class=pi5][draft_model=tiny]"] == text.rounds + 1
    assert seen["sled_prefill_tokens_total"] == 99
    assert seen["sled_queue_seconds_count"] == text.rounds + 1
    assert seen["sled_step_seconds_count"] == seen["sled_steps_total"]
    assert seen["sled_batch_tokens_sum"] == 99 + sent + text.rounds + 1
    assert seen["sled_refusals_total[reason=queue_full]"] == 0

    assert (stats.rounds_total, stats.draft_tokens_total) == (text.rounds + 1, sent)
    assert (stats.accepted_tokens_total, stats.output_tokens_total) == (accepted, len(text.output))
    assert (stats.connected_devices, stats.resident_sequences) == (1, 1)
    assert (stats.prompt_tokens_total, stats.queue_capacity) == (100, 256)
    assert stats.steps_total == seen["sled_steps_total"]
    assert stats.queue_seconds_p95 >= stats.queue_seconds_p50 >= 0
    assert stats.step_seconds_p50 > 0
    assert not stats.draining
    tiny = stats.draft_models[0]
    assert (tiny.draft_model, tiny.device_class, tiny.devices) == ("tiny", "pi5", 1)
    assert tiny.draft_micros_total == 250 * text.rounds
    assert (model.name, model.engine, model.exactness) == ("toy", "batched/fake", "bit-invariant")
    assert (model.vocab_size, model.context_tokens, model.max_draft_tokens) == (100, 2304, 16)


async def test_the_tokenizer_arrives_in_bounded_pieces() -> None:
    class BigVocabulary(FakeEngine):
        def tokenizer_gguf(self) -> bytes:
            return super().tokenizer_gguf() + bytes(3 * TOKENIZER_CHUNK_BYTES)

    engine = BigVocabulary(model=TARGET)
    async with (
        running_server(engine=engine) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.VerifierStub(channel)
        chunks = [c async for c in stub.GetTokenizer(pb.GetTokenizerRequest())]
    data = b"".join(chunk.data for chunk in chunks)
    assert data == engine.tokenizer_gguf()
    assert len(chunks) == 4
    assert all(len(chunk.data) <= TOKENIZER_CHUNK_BYTES for chunk in chunks)
    assert {chunk.total_bytes for chunk in chunks} == {len(data)}


async def test_the_fake_vocabulary_is_a_readable_gguf(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(FakeEngine(model=TARGET).tokenizer_gguf())
    reader = gguf.GGUFReader(path)
    field = reader.get_field("tokenizer.ggml.tokens")
    assert field is not None
    assert len(field.data) == 100
    assert not reader.tensors


async def test_probes_say_what_is_wrong() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server:
        address = server.metrics_address
        assert await get(address, "/healthz") == (200, "ok\n")
        assert await get(address, "/readyz") == (200, "ok\n")
        assert await get(address, "/readyz", method="HEAD") == (200, "")
        assert (await get(address, "/metrics?name=x"))[0] == 200
        assert (await get(address, "/"))[0] == 404
        assert (await get(address, "/metrics", method="POST"))[0] == 405
        openmetrics = await get(address, "/metrics", accept="application/openmetrics-text")
        assert openmetrics[1].rstrip().endswith("# EOF")
        engine.shut()
        async with greeted(server.address) as device:
            await device.open(1, [1, 2, 3])
            await until(engine.entered.is_set)
            assert (await get(address, "/healthz"))[0] == 200
            server.backend.step_started_at = -1e9
            status, sentence = await get(address, "/healthz")
            assert status == 503
            assert "step" in sentence
            engine.gate.set()


@pytest.mark.parametrize(
    "request_bytes",
    [b"\r\n\r\n", b"nonsense\r\n\r\n", b"GET /metrics HTTP/1.1\r\n" + b"x" * 40_000],
)
async def test_what_is_not_http_harms_nothing(request_bytes: bytes) -> None:
    async with running_server() as server:
        with suppress(ConnectionError):
            await exchange(server.metrics_address, request_bytes)
        assert (await get(server.metrics_address, "/healthz"))[0] == 200


def test_logs_are_one_json_object_a_line() -> None:
    record = logging.makeLogRecord(
        {
            "name": "x",
            "msg": "two\nlines %s",
            "args": ("here",),
            "levelname": "INFO",
            "why": "no_slot",
        }
    )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line) | {"time": ""} == {
        "time": "",
        "level": "info",
        "logger": "x",
        "message": "two\nlines here",
        "why": "no_slot",
    }
