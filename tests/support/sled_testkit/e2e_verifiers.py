"""What the verifiers of a site say of themselves, and load for them.

Why: that a device is served by a replica is known from the replica, not from where its pod runs.
Must not change a resource.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

from prometheus_client.parser import text_string_to_metric_families

from sled_testkit.cluster_api import Object
from sled_testkit.e2e_reply import Reply
from sled_testkit.e2e_site import Site, is_pod_ready, node_of

_GET = """
import sys, httpx
try: print(httpx.get(sys.argv[1], timeout=5, trust_env=False).text)
except httpx.HTTPError: pass
"""


def metrics(site: Site, pod: Object) -> dict[str, float]:
    """A verifier's metrics by name, summed over labels; empty while it does not answer."""
    address = f"http://{pod['status']['podIP']}:7001/metrics"
    command = site.machine(node_of(pod)).beside(sys.executable, "-c", _GET, address)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(done.stdout):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def serving(site: Site, tokens_before: dict[str, float]) -> int:
    """Verifiers that have devices, and have written tokens beyond `tokens_before`, by pod."""
    count = 0
    for pod in filter(is_pod_ready, site.verifiers()):
        seen = metrics(site, pod)
        before = tokens_before.get(pod["metadata"]["name"], 0.0)
        has_devices = seen.get("sled_connected_devices", 0.0) >= 1
        count += has_devices and seen.get("vllm:generation_tokens_total", 0.0) > before
    return count


def tokens(site: Site) -> dict[str, float]:
    """Output tokens so far of each ready verifier, by pod."""
    return {
        pod["metadata"]["name"]: metrics(site, pod).get("vllm:generation_tokens_total", 0.0)
        for pod in filter(is_pod_ready, site.verifiers())
    }


class Load:
    """Applications on devices that ask again as soon as they have their text.

    With `may_be_refused`, a request that got nothing is no failure: a device that changes its draft
    model takes no new ones meanwhile. A text that has begun must end in any case.
    """

    def __init__(
        self,
        site: Site,
        devices: Sequence[str],
        prompt: str,
        most_tokens: int,
        each: int,
        *,
        may_be_refused: bool = False,
    ) -> None:
        self._may_be_refused = may_be_refused
        self._site = site
        self._each = each
        self._prompt = prompt
        self._most_tokens = most_tokens
        self._running = [(device, self._ask(device)) for device in devices for _ in range(each)]
        self._ended: list[Reply] = []

    def keep_up(self) -> None:
        """Replace what has ended, up to the wanted number on each device."""
        ended = [(device, reply) for device, reply in self._running if reply.closed]
        self._running = [each for each in self._running if each not in ended]
        busy = Counter(device for device, _ in self._running)
        for device, reply in ended:
            if reply.tokens or not self._may_be_refused:
                self._ended.append(reply)
            if busy[device] < self._each:
                self._running.append((device, self._ask(device)))
                busy[device] += 1

    def shrink(self, each: int) -> None:
        """From now on so many texts at once on a device; those that run go on."""
        self._each = each

    def finish(self) -> list[Reply]:
        """Ask no more; all texts, once the last has ended."""
        texts = [*self._ended]
        for _, reply in self._running:
            reply.wait_closed(timeout_seconds=300.0)
            if reply.tokens or not self._may_be_refused:
                texts.append(reply)
        return [text.finish() for text in texts]

    def _ask(self, device: str) -> Reply:
        return self._site.ask(device, self._prompt, self._most_tokens)
