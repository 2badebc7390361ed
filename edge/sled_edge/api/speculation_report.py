"""What speculation did for one request, in the shape of vLLM's per-request acceptance metrics."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sled_edge.generation import RoundStats


class SpeculationReport:
    """Sums over the rounds of one generation; rounds without a draft count for nothing here."""

    def __init__(self) -> None:
        self._accepted_per_round: Counter[int] = Counter()
        self._draft_tokens = 0
        self._longest_draft = 0

    def add(self, stats: RoundStats) -> None:
        """Take one verified round."""
        if stats.draft_tokens == 0:
            return
        self._accepted_per_round[stats.accepted_tokens] += 1
        self._draft_tokens += stats.draft_tokens
        self._longest_draft = max(self._longest_draft, stats.draft_tokens)

    def as_json(self) -> dict[str, Any] | None:
        """The summary, or None when nothing was drafted.

        `mean_acceptance_length` counts the recovered or bonus token of every round too.
        """
        rounds = self._accepted_per_round.total()
        if rounds == 0:
            return None
        accepted = sum(count * times for count, times in self._accepted_per_round.items())
        histogram = sorted(self._accepted_per_round.items())
        return {
            "mean_acceptance_length": 1 + accepted / rounds,
            "draft_acceptance_rate": accepted / self._draft_tokens,
            "acceptance_histogram": {str(count): times for count, times in histogram},
            "num_accepted_draft_tokens": accepted,
            "num_draft_tokens": self._draft_tokens,
            "num_spec_steps": rounds,
            "num_spec_tokens": self._longest_draft,
        }
