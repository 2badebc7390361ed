"""gRPC options that both ends must agree on: message sizes and keepalive. Opens no channel itself."""

from __future__ import annotations

from typing import Final

from sled_protocol.limits import MAX_FRAME_BYTES

ChannelOptions = tuple[tuple[str, int], ...]

_SIZES: Final = (
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
)

KEEPALIVE_MS: Final = 20_000
"""A silent link is probed this often: below the idle time-outs of common NATs and load balancers."""

KEEPALIVE_TIMEOUT_MS: Final = 10_000
"""A probe without an answer for this long ends the connection."""

CLIENT_OPTIONS: Final[ChannelOptions] = (
    *_SIZES,
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # The device's own loop decides when to try again; the channel must not wait longer than it.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

SERVER_OPTIONS: Final[ChannelOptions] = (
    *_SIZES,
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    # Half of what clients do: jitter on a slow link must not look like a flood of pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.http2.max_pings_without_data", 0),
    # Two verifiers on one port would split the streams between them unseen.
    ("grpc.so_reuseport", 0),
)
