"""Prometheus metrics of the operator. Must not carry a label whose values a user can multiply."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """All metrics, on a registry of their own so that tests can have many."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.looks = Counter(
            "sled_operator_reconciles",
            "Looks at a resource, by kind and by what became of them.",
            ["kind", "result"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "sled_operator_reconcile_seconds",
            "Duration of a look.",
            ["kind"],
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=self.registry,
        )
        self.objects = Gauge(
            "sled_operator_watched_objects",
            "Objects in memory, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self.leading = Gauge(
            "sled_operator_leading",
            "1 while this replica is the leader.",
            registry=self.registry,
        )

    def done(self, key: object, seconds: float, error: str | None) -> None:
        """See workqueue.Observer."""
        kind = str(key[0]) if isinstance(key, tuple) else "unknown"
        self.looks.labels(kind, error or "ok").inc()
        self.seconds.labels(kind).observe(seconds)
