"""Everything a device counts, in a registry of its own. Must never carry prompts or secrets.

Names after `sled_edge_` are vLLM's where it has them (`spec_decode_num_drafts`,
`time_to_first_token_seconds`, ...), so that dashboards translate by prefix.
"""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sled_edge.generation import Delta, RoundStats

MAX_POSITIONS = 32
"""Positions of a draft that have a label; the wire allows no longer drafts."""

_ROUND_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_LATENCY_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)


class EdgeMetrics:
    """The device's counters.

    Rounds are counted from the deltas that the local API consumes, so whoever produces deltas must
    not count them again; the link reports connection state with `verifier_connected` and
    `count_reconnect`. Safe to call from any thread.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        self._add_rounds()
        self._add_generations()
        self._add_requests()
        self._add_link()

    def observe_delta(self, delta: Delta) -> None:
        """Count one round's output, and its cost when a verifier took part."""
        self._generation_tokens.inc(len(delta.tokens))
        if not delta.verified:
            self._unverified_tokens.inc(len(delta.tokens))
        if delta.round is not None:
            self._observe_round(delta.round)

    def generation_started(self, prompt_tokens: int) -> None:
        """A generation was asked for."""
        self._prompt_tokens.inc(prompt_tokens)
        self._running.inc()

    def first_token(self, seconds: float) -> None:
        """Seconds from the request to its first output."""
        self._first_token.observe(seconds)

    def generation_ended(self, finish: str, seconds: float) -> None:
        """A generation is over; `finish` is a name from a closed set, also for failures."""
        self._running.dec()
        self._generations.labels(finish=finish).inc()
        self._latency.observe(seconds)

    def count_request(self, route: str, code: int) -> None:
        """An HTTP request was answered; `route` is a path of the API or `other`."""
        self._requests.labels(route=route, code=str(code)).inc()

    def count_refusal(self, reason: str) -> None:
        """A request, or the rest of its text, was refused; `reason` is from a closed set."""
        self._refusals.labels(reason=reason).inc()

    def verifier_connected(self, connected: bool) -> None:
        """Whether a verifier answers now."""
        self._connected.set(1 if connected else 0)

    def count_reconnect(self) -> None:
        """A lost stream to a verifier was replaced."""
        self._reconnects.inc()

    def exposition(self) -> tuple[bytes, str]:
        """The text that Prometheus scrapes, and its content type."""
        return prometheus_client.generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _observe_round(self, stats: RoundStats) -> None:
        self._round.observe(stats.draft_seconds + stats.round_trip_seconds)
        self._draft.observe(stats.draft_seconds)
        self._round_trip.observe(stats.round_trip_seconds)
        self._queue.observe(stats.queue_seconds)
        self._compute.observe(stats.compute_seconds)
        self._uplink.inc(stats.uplink_bytes)
        self._downlink.inc(stats.downlink_bytes)
        if stats.draft_tokens > 0:
            self._drafts.inc()
            self._draft_tokens.inc(stats.draft_tokens)
            self._accepted_tokens.inc(stats.accepted_tokens)
            for position in range(min(stats.accepted_tokens, MAX_POSITIONS)):
                self._accepted_at.labels(position=str(position)).inc()

    def _add_rounds(self) -> None:
        self._drafts = self._counter("spec_decode_num_drafts", "Drafts that were verified.")
        self._draft_tokens = self._counter("spec_decode_num_draft_tokens", "Draft tokens sent.")
        self._accepted_tokens = self._counter(
            "spec_decode_num_accepted_tokens", "Draft tokens the target kept."
        )
        self._accepted_at = Counter(
            "sled_edge_spec_decode_num_accepted_tokens_per_pos",
            "Draft tokens the target kept, by position in the draft.",
            ["position"],
            registry=self.registry,
        )
        self._round = self._histogram("round_seconds", "Drafting and verification of one round.")
        self._draft = self._histogram("draft_seconds", "Drafting of one round, on the device.")
        self._round_trip = self._histogram("round_trip_seconds", "From sending to verdict.")
        self._queue = self._histogram("verifier_queue_seconds", "Draft's wait at the verifier.")
        self._compute = self._histogram("verifier_compute_seconds", "The step that verified.")
        self._uplink = self._counter("uplink_bytes", "Bytes of drafts sent to the verifier.")
        self._downlink = self._counter("downlink_bytes", "Bytes of verdicts received.")

    def _add_generations(self) -> None:
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of all generations.")
        self._generation_tokens = self._counter("generation_tokens", "Output tokens.")
        self._unverified_tokens = self._counter(
            "unverified_tokens", "Output tokens that the draft model alone wrote."
        )
        self._running = Gauge(
            "sled_edge_num_requests_running", "Generations under way.", registry=self.registry
        )
        self._generations = Counter(
            "sled_edge_generations", "Generations that ended.", ["finish"], registry=self.registry
        )
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From request to first output.", _LATENCY_BUCKETS
        )
        self._latency = self._histogram(
            "e2e_request_latency_seconds", "From request to last output.", _LATENCY_BUCKETS
        )

    def _add_requests(self) -> None:
        self._requests = Counter(
            "sled_edge_requests",
            "HTTP requests answered; 499 means the client left first.",
            ["route", "code"],
            registry=self.registry,
        )
        self._refusals = Counter(
            "sled_edge_refusals", "Refusals by reason.", ["reason"], registry=self.registry
        )

    def _add_link(self) -> None:
        self._connected = Gauge(
            "sled_edge_verifier_connected", "1 while a verifier answers.", registry=self.registry
        )
        self._reconnects = self._counter("reconnects", "Streams to a verifier that were replaced.")

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"sled_edge_{name}", text, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...] = _ROUND_BUCKETS
    ) -> Histogram:
        return Histogram(f"sled_edge_{name}", text, buckets=buckets, registry=self.registry)
