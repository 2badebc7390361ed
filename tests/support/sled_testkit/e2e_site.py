"""A site for the end-to-end scenarios: servers and devices, the chart, one verifier, one fleet, and the target alone.

Why: every scenario asks the same question of another accident: is the text on the device the
target's own, with no token lost or said twice? Must not answer it by anything but the tokens that a
client on the device received.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sled_testkit.cluster_api import Api, Object
from sled_testkit.cluster_helm import Helm
from sled_testkit.e2e_reference import TargetAlone
from sled_testkit.e2e_reply import PATIENCE_SECONDS, ClientFailed, Reply
from sled_testkit.e2e_session import FirstInstall
from sled_testkit.e2e_shelf import Shelf
from sled_testkit.e2e_specs import (
    DRAFTER,
    FLEET,
    GPU,
    KINDS,
    PODS,
    RESOURCES,
    SERVER,
    SYSTEM,
    TARGET,
    chart_values,
    drafter_spec,
    server_spec,
)
from sled_testkit.node_cluster import NodeCluster
from sled_testkit.node_machine import Machine

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "sled"


class Site:
    """The cluster and what stands on it."""

    def __init__(self, cluster: NodeCluster) -> None:
        self.cluster = cluster
        self.helm = Helm(cluster.plane.folder, cluster.plane.kubeconfig)
        self.shelf = Shelf(cluster.plane.folder / "models")
        self.seconds_to_open = 0.0
        self.tokens_compared = 0
        self.tokens_lost = 0
        self._address = ""
        self._alone: TargetAlone | None = None

    @property
    def api(self) -> Api:
        """The API server, as administrator."""
        return self.cluster.plane.api

    @property
    def alone(self) -> TargetAlone:
        """The target model without any of this."""
        if self._alone is None:
            self._alone = TargetAlone(self.shelf.path(TARGET))
        return self._alone

    def machine(self, name: str) -> Machine:
        """A node of the site."""
        return self.cluster.machines[name]

    def prepare(self, names: tuple[str, ...]) -> None:
        """Models on a shelf, nodes, DNS, namespaces that enforce restricted pods, a claim on the models."""
        self.shelf.fill()
        self.add_nodes(names)
        self.cluster.start_dns()
        for namespace in (SYSTEM, FLEET):
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            metadata = {"name": namespace, "labels": labels}
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
            self.api.create("/api/v1/namespaces", body)
        self.shelf.claim(self.api)
        daemons = "/apis/apps/v1/namespaces/kube-system/daemonsets"
        self.api.wait(daemons, "coredns", _all_ready, timeout_seconds=PATIENCE_SECONDS)

    def add_nodes(self, names: tuple[str, ...]) -> None:
        """Boot nodes of the site; the servers' advertise a GPU, which is all that is fake here."""
        self.cluster.add([KINDS[name] for name in names])
        for name in names:
            if name.startswith("gpu"):
                self._advertise_gpu(name)

    def boot_server(self, name: str) -> None:
        """Start a server again whose plug was pulled."""
        self.cluster.boot(name)
        self.cluster.wait_ready([name])
        self._advertise_gpu(name)

    def _advertise_gpu(self, name: str) -> None:
        self.api.patch(f"/api/v1/nodes/{name}/status", {"status": {"capacity": GPU}})

    def upgrade(self, **values: Any) -> None:
        """`helm upgrade` with other values, and wait until the new operator is there."""
        options = ["--namespace", SYSTEM, "--wait", "--timeout", "170s"]
        self.helm.run("upgrade", "sled", str(CHART), *options, values=chart_values(**values))
        self.wait_ready("EdgeDrafter", DRAFTER)

    def remove(self) -> None:
        """Delete the fleet and the server, then the chart, as the guide says."""
        self.api.delete(f"{RESOURCES}/edgedrafters/{DRAFTER}")
        self.api.delete(f"{RESOURCES}/sledservers/{SERVER}")
        wait_until(lambda: not self.api.items(PODS) and not self.marked_nodes())
        self.helm.run("uninstall", "sled", "--namespace", SYSTEM, "--wait", "--timeout", "120s")
        wait_until(lambda: not self.api.items(PODS.replace(FLEET, SYSTEM)))

    def open(self, recording: Path | None = None) -> None:
        """Install by the commands of the guide, and wait for one verifier and one fleet.

        `recording` is where the terminal session is written.
        """
        typed = FirstInstall(
            self.cluster, self.helm.environment(), chart_values(), server_spec(), drafter_spec()
        )
        began = time.monotonic()
        typed.install()
        self.wait_ready("SLEDServer", SERVER)
        self.wait_ready("EdgeDrafter", DRAFTER)
        self.seconds_to_open = time.monotonic() - began
        typed.look(f"{self.address}/v1")
        if recording is not None:
            typed.write(recording)

    def apply(self, kind: str, name: str, spec: Object) -> None:
        """Create a resource or replace what this test said of it."""
        body = {"apiVersion": "sled.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}
        path = f"{RESOURCES}/{kind.lower()}s/{name}"
        self.api.apply(path, {**body, "spec": spec})

    def wait_ready(self, kind: str, name: str, timeout_seconds: float = PATIENCE_SECONDS) -> Object:
        """Wait until the resource's condition Ready is true for its newest generation."""
        path = f"{RESOURCES}/{kind.lower()}s"
        return self.api.wait(path, name, is_settled, timeout_seconds=timeout_seconds) or {}

    def wait_seen(self, kind: str, name: str) -> None:
        """Wait until the operator has looked at the resource's newest generation."""

        def seen(found: Object | None) -> bool:
            generation = (found or {}).get("metadata", {}).get("generation", 0)
            return bool((found or {}).get("status", {}).get("observedGeneration") == generation)

        path = f"{RESOURCES}/{kind.lower()}s"
        self.api.wait(path, name, seen, timeout_seconds=PATIENCE_SECONDS)

    def pods(self, **labels: str) -> list[Object]:
        """Pods of the fleet's namespace that are not on their way out."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = self.api.items(PODS, labelSelector=selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def drafters(self) -> list[Object]:
        """The pods on devices."""
        return self.pods(**{"sled.dev/drafter": DRAFTER})

    def new_drafters(self, known: Sequence[str]) -> int:
        """Pods on devices that are none of these, whatever state they are in."""
        return sum(pod["metadata"]["uid"] not in known for pod in self.drafters())

    def wait_fleet(self, drafts: dict[str, str]) -> None:
        """Wait until each device has a ready pod with this draft model, and no other pod."""

        def there(found: dict[str, Object]) -> bool:
            seen = [
                (node_of(pod), pod["metadata"]["labels"]["sled.dev/draft"])
                for pod in found.values()
            ]
            return sorted(seen) == sorted(drafts.items()) and all(map(is_pod_ready, found.values()))

        selector = f"sled.dev/drafter={DRAFTER}"
        self.api.wait_all(PODS, there, timeout_seconds=PATIENCE_SECONDS, labelSelector=selector)
        self.wait_ready("EdgeDrafter", DRAFTER)

    def label(self, node: str, key: str, value: str | None) -> None:
        """Label a node; None takes the label away."""
        self.api.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {key: value}}})

    def verifiers(self) -> list[Object]:
        """The pods on servers."""
        return self.pods(**{"sled.dev/server": SERVER})

    def all_verifiers(self) -> list[Object]:
        """The same, with those on their way out."""
        return self.api.items(PODS, labelSelector=f"sled.dev/server={SERVER}")

    def wait_replaced(self, pod: Object) -> None:
        """Wait until a ready verifier has taken the place of a deleted one."""
        old = pod["metadata"]["uid"]
        wait_until(
            lambda: any(
                is_pod_ready(each) and each["metadata"]["uid"] != old for each in self.verifiers()
            )
        )

    def marked_nodes(self) -> list[str]:
        """Nodes with a label that the operator puts on them."""
        nodes = self.api.items("/api/v1/nodes")
        marked = (
            n for n in nodes if any("drafter.sled.dev" in key for key in n["metadata"]["labels"])
        )
        return [node["metadata"]["name"] for node in marked]

    def ask_patiently(self, device: str, prompt: str, most_tokens: int = 48) -> Reply:
        """Ask until the device's drafter, which may be on its way to another model, takes the request.

        Raises:
            ClientFailed: a text that had begun did not end.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            wait_until(lambda: self.get(device, "/readyz")[0] == 200)
            reply = self.ask(device, prompt, most_tokens)
            try:
                return reply.finish()
            except ClientFailed:
                if reply.tokens or time.monotonic() > deadline:
                    raise

    def wait_devices(self, devices: Sequence[str]) -> None:
        """Wait until these devices take requests, as after a change of their verifier."""
        wait_until(lambda: all(self.get(device, "/readyz")[0] == 200 for device in devices))

    def ready_verifiers(self) -> int:
        """Verifiers that serve."""
        return sum(map(is_pod_ready, self.verifiers()))

    def wait_inside(
        self, pods: Sequence[Object], file: str, text: str, present: bool = True
    ) -> None:
        """Wait until a file of a Secret, as these pods see it, has this text in it, or has it not."""
        for pod in pods:
            machine = self.machine(node_of(pod))
            volumes = machine.disk / "kubelet" / "pods" / pod["metadata"]["uid"] / "volumes"
            command = machine.inside(
                "sh", "-c", f"cat {volumes}/kubernetes.io~*/*/{file} 2>/dev/null || true"
            )

            def seen(command: list[str] = command) -> bool:
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                return (text in done.stdout) == present

            wait_until(seen)

    def pod_identities(self) -> dict[str, set[tuple[str, int]]]:
        """By role, the pods' identities with their restarts: what must not change in an outage."""
        return {
            "verifier": {_identity(pod) for pod in self.verifiers()},
            "drafter": {_identity(pod) for pod in self.drafters()},
        }

    def kill_container(self, pod: Object) -> None:
        """End the first container of a pod at once, as a crash would."""
        container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        self.machine(node_of(pod)).kill_container(container)

    @property
    def address(self) -> str:
        """Base URL of the local API on any device: the Service leads to the device's own drafter."""
        if not self._address:
            service = self.api.get(f"/api/v1/namespaces/{FLEET}/services/{DRAFTER}")
            self._address = f"http://{service['spec']['clusterIP']}:8080"
        return self._address

    def ask(self, device: str, prompt: str, most_tokens: int = 48) -> Reply:
        """Start an application on a device; its reply fills while the test goes on."""
        command = [sys.executable, "-m", "sled_testkit.e2e_client", f"{self.address}/v1"]
        process = subprocess.Popen(
            self.machine(device).beside(*command, str(most_tokens)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_PROXY": "*"},
        )
        if process.stdin is not None:
            process.stdin.write(prompt)
            process.stdin.close()
        reply = Reply(process, most_tokens)
        threading.Thread(target=reply.read, daemon=True).start()
        return reply

    def assert_own(self, reply: Reply) -> None:
        """The tokens are the target's own: none lost, repeated or changed; and so is the text."""
        expected = self.alone.continue_tokens(reply.prompt, reply.asked)
        same = next(
            (
                place
                for place, (a, b) in enumerate(zip(reply.tokens, expected, strict=False))
                if a != b
            ),
            min(len(reply.tokens), len(expected)),
        )
        self.tokens_compared += len(expected)
        self.tokens_lost += len(expected) - same
        assert reply.verified, f"only {reply.verified_tokens} tokens were verified"
        assert reply.tokens, "no token came"
        assert reply.tokens == expected
        assert reply.text == self.alone.text(expected)

    def get(self, device: str, path: str) -> tuple[int, str]:
        """One GET of the local API on a device: status (0 = no answer) and body."""
        code = (
            "import sys, httpx\n"
            "try: r = httpx.get(sys.argv[1], timeout=5, trust_env=False)\n"
            "except httpx.HTTPError as e: print(0); print(e)\n"
            "else: print(r.status_code); print(r.text)\n"
        )
        url = f"{self.address}{path}"
        command = self.machine(device).beside(sys.executable, "-c", code, url)
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        status, _, body = done.stdout.partition("\n")
        return int(status), body


def is_settled(found: Object | None) -> bool:
    """Whether the operator has seen the newest generation and calls it Ready and at rest."""
    status = (found or {}).get("status", {})
    conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
    return (
        found is not None
        and status.get("observedGeneration") == found["metadata"]["generation"]
        and conditions.get("Ready") == "True"
        and conditions.get("Progressing") == "False"
    )


def is_pod_ready(pod: Object) -> bool:
    """Whether a pod serves and is not on its way out."""
    conditions = pod.get("status", {}).get("conditions", ())
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def _identity(pod: Object) -> tuple[str, int]:
    restarts = sum(each["restartCount"] for each in pod["status"].get("containerStatuses", ()))
    return pod["metadata"]["uid"], restarts


def node_of(pod: Object) -> str:
    """The node that a pod is on; empty while it has none."""
    return str(pod["spec"].get("nodeName", ""))


def _all_ready(found: Object | None) -> bool:
    status = (found or {}).get("status", {})
    wanted = status.get("desiredNumberScheduled", 0)
    return bool(wanted > 0 and status.get("numberReady") == wanted)


def wait_until(done: Callable[[], bool], timeout_seconds: float = PATIENCE_SECONDS) -> float:
    """Poll until it holds; returns the seconds that it took."""
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > timeout_seconds:
            raise AssertionError(f"not reached in {timeout_seconds:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - began
