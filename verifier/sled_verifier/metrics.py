"""Prometheus metrics of one replica: vLLM's names where vLLM has the figure, `sled_` for the rest.
Must not compute anything.

Acceptance rate: rate(vllm:spec_decode_num_accepted_tokens_total) /
rate(vllm:spec_decode_num_draft_tokens_total). Output tokens per target pass of a sequence: 1 +
rate(accepted tokens) / rate(vllm:spec_decode_num_drafts_total).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sled_verifier.backend import BackendStats
from sled_verifier.gpu.base import GpuReader
from sled_verifier.gpu.metrics import GpuCollector
from sled_verifier.job import Job, JobResult
from sled_verifier.refusal import Reason
from sled_verifier.rounds import RoundVerdict
from sled_verifier.tally import DraftModelKey

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Metrics:
    """All metrics of one replica in a registry of their own; implements `batched.StepObserver`."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model_name
        # Finding a counter by its labels takes ten times as long as counting.
        self._positions: list[Counter] = []
        self._pairs: dict[tuple[str, ...], tuple[Counter, ...]] = {}
        self._drafts = self._counter("vllm:spec_decode_num_drafts", "Drafts verified.")
        self._draft_tokens = self._counter(
            "vllm:spec_decode_num_draft_tokens", "Draft tokens verified."
        )
        self._accepted = self._counter(
            "vllm:spec_decode_num_accepted_tokens", "Draft tokens accepted."
        )
        self._accepted_per_position = self._counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Draft tokens accepted, by position in the draft.",
            "position",
        )
        self._prompt = self._counter("vllm:prompt_tokens", "Prompt tokens of opened sequences.")
        self._generated = self._counter("vllm:generation_tokens", "Output tokens.")
        self._refusals = self._counter("sled_refusals", "Requests refused, by reason.", "reason")
        self._rounds = self._counter(
            "sled_rounds", "Rounds answered, by draft model.", "draft_model", "device_class"
        )
        self._model_drafts = self._counter(
            "sled_draft_tokens", "Draft tokens, by draft model.", "draft_model", "device_class"
        )
        self._model_accepted = self._counter(
            "sled_accepted_tokens",
            "Accepted tokens, by draft model.",
            "draft_model",
            "device_class",
        )
        self._trimmed = self._counter(
            "sled_trimmed_tokens",
            "Draft tokens left unverified because others promised more, by draft model.",
            "draft_model",
            "device_class",
        )
        self._moves = self._counter(
            "sled_device_moves", "Devices asked to connect again, to spread over the replicas."
        )
        self._unasked = self._counter(
            "sled_unasked_rounds",
            "Rounds that the verifier went on with by itself, where drafts do not pay.",
        )
        self._ahead = self._counter(
            "sled_ahead_drafts",
            "Drafts that were sent before the verdict on the one before, by what became of them.",
            "outcome",
        )
        self._queue_seconds = self._histogram(
            "sled_queue_seconds", "Time from a draft's arrival to its step.", _SECONDS
        )
        self._step_seconds = self._histogram("sled_step_seconds", "Duration of a step.", _SECONDS)
        self._batch_tokens = self._histogram(
            "sled_batch_tokens", "Tokens of a step over all sequences.", _TOKENS
        )
        self._batch_sequences = self._histogram(
            "sled_batch_sequences", "Sequences of a step.", _TOKENS
        )
        for reason in Reason:
            self._refusals.labels(self._model, reason.label)

    def watch(self, stats: Callable[[], BackendStats], devices: Callable[[], int]) -> None:
        """Read these at every scrape, in the scraping thread."""
        self.registry.register(_LoadCollector(self._model, stats, devices))

    def watch_gpus(self, reader: GpuReader) -> None:
        """Read GPUs at every scrape, likewise."""
        self.registry.register(GpuCollector(self._model, reader))

    def step_done(self, job: Job, result: JobResult) -> None:
        """See `StepObserver.step_done`."""
        self._step_seconds.observe(result.step_seconds)
        self._batch_tokens.observe(job.step_tokens)
        self._batch_sequences.observe(len(job.items))

    def round_answered(self, verdict: RoundVerdict) -> None:
        """See `StepObserver.round_answered`."""
        self._queue_seconds.observe(verdict.queue_seconds)
        self._generated.inc(verdict.accepted + 1)
        if not verdict.verified:
            return
        self._drafts.inc()
        self._draft_tokens.inc(verdict.verified)
        self._accepted.inc(verdict.accepted)
        while len(self._positions) < verdict.accepted:
            position = str(len(self._positions))
            self._positions.append(self._accepted_per_position.labels(self._model, position))
        for counter in self._positions[: verdict.accepted]:
            counter.inc()

    def device_round(self, key: DraftModelKey, verdict: RoundVerdict, sent_tokens: int) -> None:
        """A device got a verdict on a draft of `sent_tokens`; `key` comes from a bounded set."""
        counters = self._pairs.get(key[:2])
        if counters is None:
            counters = self._pairs[key[:2]] = tuple(
                counter.labels(self._model, key.draft_model, key.device_class)
                for counter in (
                    self._trimmed,
                    self._rounds,
                    self._model_drafts,
                    self._model_accepted,
                )
            )
        trimmed, rounds, drafts, accepted = counters
        trimmed.inc(sent_tokens - verdict.verified)
        rounds.inc()
        drafts.inc(verdict.verified)
        accepted.inc(verdict.accepted)

    def sequence_opened(self, prompt_tokens: int) -> None:
        """A sequence was admitted."""
        self._prompt.inc(prompt_tokens)

    def asked_to_move(self, devices: int) -> None:
        """So many devices were asked to connect again."""
        self._moves.inc(devices)

    def went_on(self) -> None:
        """A round follows that no device asked for."""
        self._unasked.inc()

    def sent_ahead(self, kept: bool) -> None:
        """What became of a draft that was sent ahead."""
        self._ahead.labels(self._model, "kept" if kept else "dropped").inc()

    def refused(self, reason: Reason) -> None:
        """A request was refused."""
        self._refusals.labels(self._model, reason.label).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        counter = Counter(name, text, ("model_name", *labels), registry=self.registry)
        return counter if labels else counter.labels(self._model)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, text, ("model_name",), buckets=buckets, registry=self.registry)
        return histogram.labels(self._model)


class _LoadCollector(Collector):
    """Gauges and totals that the backend keeps itself."""

    def __init__(
        self, model: str, stats: Callable[[], BackendStats], devices: Callable[[], int]
    ) -> None:
        self._model = model
        self._stats = stats
        self._devices = devices

    def collect(self) -> Iterable[Metric]:
        """Called by the registry at a scrape."""
        stats = self._stats()
        gauges = (
            ("vllm:num_requests_running", "Sequences that hold a slot.", stats.resident_sequences),
            ("vllm:num_requests_waiting", "Drafts that wait for a step.", stats.load.queue_depth),
            ("sled_queue_depth", "The same, by a name that scalers take.", stats.load.queue_depth),
            ("sled_sequences", "Open sequences.", stats.load.active_sequences),
            ("sled_evicted_sequences", "Open sequences without a slot.", stats.evicted_sequences),
            ("sled_connected_devices", "Devices with a stream.", self._devices()),
        )
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(name, text, labels=("model_name",))
            gauge.add_metric((self._model,), value)
            yield gauge
        totals = (
            ("sled_steps", "Steps run.", stats.steps_total),
            ("sled_evictions", "Sequences that lost their slot.", stats.evictions_total),
            ("sled_prefill_tokens", "Prefix tokens computed.", stats.prefill_tokens_total),
            (
                "sled_prefix_cached_tokens",
                "Prefix tokens copied or kept instead of computed.",
                stats.prefix_cached_tokens_total,
            ),
            ("sled_engine_failures", "Steps that failed.", stats.engine_failures_total),
            (
                "sled_foretold_tokens",
                "Tokens that steps chose for sequences whose device was drafting.",
                stats.foretold_tokens_total,
            ),
        )
        for name, text, value in totals:
            counter = CounterMetricFamily(name, text, labels=("model_name",))
            counter.add_metric((self._model,), value)
            yield counter
