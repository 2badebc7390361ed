"""A device's counters, from its /metrics, and what they mean between two moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

PREFIX: Final = "sled_edge_"
MAX_METRICS_BYTES: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class DeviceCounters:
    """Totals since the device started."""

    passes: int = 0
    """Rounds: passes of the target model over this device's sequences, prompts aside."""
    draft_tokens: int = 0
    accepted_tokens: int = 0
    output_tokens: int = 0
    ends: int = 0
    """Texts that ended with an end token, which the output does not count."""
    link_bytes: int = 0
    running: int = 0
    """Generations under way now."""
    connected: bool = False

    def since(self, before: DeviceCounters) -> DeviceCounters:
        """The totals between two moments; a device that was started again begins at zero."""
        if self.passes < before.passes or self.output_tokens < before.output_tokens:
            return self
        return DeviceCounters(
            passes=self.passes - before.passes,
            draft_tokens=self.draft_tokens - before.draft_tokens,
            accepted_tokens=self.accepted_tokens - before.accepted_tokens,
            output_tokens=self.output_tokens - before.output_tokens,
            ends=self.ends - before.ends,
            link_bytes=self.link_bytes - before.link_bytes,
            running=self.running,
            connected=self.connected,
        )

    @property
    def acceptance(self) -> float | None:
        """Share of draft tokens that the target kept; None when nothing was drafted."""
        return self.accepted_tokens / self.draft_tokens if self.draft_tokens else None

    @property
    def tokens_per_pass(self) -> float | None:
        """Tokens for each pass of the target, end tokens too, because they take a pass as others
        do; 1 without drafts, None before the first pass."""
        return (self.output_tokens + self.ends) / self.passes if self.passes else None

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes on the link, both ways, for each output token."""
        return self.link_bytes / self.output_tokens if self.output_tokens else None


def parse_device_metrics(text: str) -> DeviceCounters:
    """Read the exposition of one device; what is missing counts as zero.

    Raises:
        ValueError: not Prometheus' text format.
    """
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix(PREFIX)
            if not sample.labels:
                samples[name] = sample.value
            elif sample.labels == {"finish": "end_token"}:
                samples[f"{name}:ended"] = sample.value

    def total(name: str) -> int:
        return int(samples.get(name, 0))

    return DeviceCounters(
        passes=total("round_seconds_count"),
        draft_tokens=total("spec_decode_num_draft_tokens_total"),
        accepted_tokens=total("spec_decode_num_accepted_tokens_total"),
        output_tokens=total("generation_tokens_total"),
        ends=total("generations_total:ended"),
        link_bytes=total("uplink_bytes_total") + total("downlink_bytes_total"),
        running=total("num_requests_running"),
        connected=total("verifier_connected") > 0,
    )


async def read_device(client: httpx.AsyncClient, url: str) -> DeviceCounters | None:
    """The counters of the device at `url`; None when it gives no usable answer."""
    try:
        reply = await client.get(f"{url}/metrics")
        if reply.status_code != httpx.codes.OK or len(reply.content) > MAX_METRICS_BYTES:
            return None
        return parse_device_metrics(reply.text)
    except (httpx.HTTPError, ValueError):
        return None
