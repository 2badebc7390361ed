"""The limits fit each other: what one allows, another must not forbid."""

from __future__ import annotations

import numpy as np

from sled_protocol import limits
from sled_protocol.channel import CLIENT_OPTIONS, SERVER_OPTIONS
from sled_protocol.distribution import DraftDistribution, pack
from sled_protocol.v1 import verifier_pb2 as pb


def test_largest_open_fits_a_frame():
    largest_id = limits.MAX_VOCAB_SIZE - 1
    frame = pb.ClientFrame(
        open=pb.Open(
            sequence=2**64 - 1,
            prompt_tokens=[largest_id] * limits.MAX_PROMPT_TOKENS,
            committed_tokens=[largest_id] * (limits.MAX_SEQUENCE_TOKENS - limits.MAX_PROMPT_TOKENS),
            sampling=pb.Sampling(
                temperature=1,
                repetition_penalty=1,
                top_p=1,
                seed=2**64 - 1,
                guide=pb.Guide(json_schema="s" * limits.MAX_SCHEMA_BYTES),
            ),
            model="m" * limits.MAX_NAME_BYTES,
        )
    )
    assert frame.ByteSize() <= limits.MAX_FRAME_BYTES


def test_tokenizer_chunk_fits_a_frame():
    data = bytes(limits.TOKENIZER_CHUNK_BYTES)
    chunk = pb.TokenizerChunk(data=data, total_bytes=limits.MAX_TOKENIZER_BYTES)
    assert chunk.ByteSize() <= limits.MAX_FRAME_BYTES


def test_largest_draft_blob_is_within_its_own_limit():
    entries = limits.MAX_DRAFT_PROBS
    gap = limits.MAX_VOCAB_SIZE // entries
    ids = np.arange(entries, dtype=np.uint32) * gap + gap - 1
    widest = DraftDistribution(ids, np.zeros(entries, np.uint8))
    blob = pack([widest] * limits.WIRE_MAX_DRAFT_TOKENS)
    assert len(blob) <= limits.MAX_DRAFT_PROBS_BYTES


def test_defaults_lie_within_the_hard_limits():
    assert 1 <= limits.MIN_REVISION <= limits.REVISION
    assert limits.MAX_DRAFT_TOKENS <= limits.WIRE_MAX_DRAFT_TOKENS
    assert limits.DEFAULT_DRAFT_PROBS <= limits.MAX_DRAFT_PROBS


def test_channel_options_agree_on_sizes_and_allow_the_clients_pings():
    client, server = dict(CLIENT_OPTIONS), dict(SERVER_OPTIONS)
    for name in ("grpc.max_receive_message_length", "grpc.max_send_message_length"):
        assert client[name] == server[name] == limits.MAX_FRAME_BYTES
    allowed = server["grpc.http2.min_recv_ping_interval_without_data_ms"]
    assert client["grpc.keepalive_time_ms"] > allowed
