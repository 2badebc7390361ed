"""From `helm install` to text: the target's own, from an `openai` client on a device."""

from __future__ import annotations

import pytest

from sled_testkit.cluster_api import ApiError
from sled_testkit.e2e_record import Record
from sled_testkit.e2e_site import Site
from sled_testkit.e2e_specs import FLEET, PODS, PROMPT, SERVER, SYSTEM
from sled_testkit.network_policy import Caller, lets_in


@pytest.mark.parametrize("device", ["pi4", "pi5"])
def test_a_client_on_a_device_gets_the_targets_own_text(
    site: Site, record: Record, device: str
) -> None:
    record.passed("first_install", site.seconds_to_open)
    reply = site.ask(device, PROMPT).finish()
    assert len(reply.tokens) == 48
    site.assert_own(reply)


def test_each_device_drafts_with_the_model_that_fits_its_memory(site: Site) -> None:
    assert {pod["spec"]["nodeName"]: _draft(pod) for pod in site.drafters()} == {
        "pi4": "small",
        "pi5": "large",
    }


def test_the_charts_own_test_passes(site: Site) -> None:
    assert "Succeeded" in site.helm.run("test", "sled", "-n", SYSTEM, "--timeout", "120s")


@pytest.mark.parametrize("namespace", [SYSTEM, FLEET])
def test_the_namespaces_enforce_restricted_pods(site: Site, namespace: str) -> None:
    spec = {"hostNetwork": True, "containers": [{"name": "a", "image": "localhost/none"}]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose"}, "spec": spec}
    with pytest.raises(ApiError, match="violates PodSecurity"):
        site.api.create(PODS.replace(FLEET, namespace), body)


def _draft(pod: dict) -> str:
    return str(pod["metadata"]["labels"]["sled.dev/draft"])


def test_the_network_policies_let_in_what_is_needed_and_nothing_else(site: Site) -> None:
    anybody = Caller({"app": "anything"})
    for namespace, label, ports in (
        (FLEET, f"sled.dev/server={SERVER}", {"grpc", "metrics"}),
        (SYSTEM, "app.kubernetes.io/name=sled-operator", {"http"}),
    ):
        path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
        policies = site.api.items(path)
        pods = site.api.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=label)
        assert pods
        for pod in pods:
            named = {
                port["name"]: port["containerPort"]
                for container in pod["spec"]["containers"]
                for port in container["ports"]
            }
            open_ports = {
                name for name, port in named.items() if lets_in(policies, pod, port, anybody)
            }
            assert open_ports == ports
            for other in {22, 80, 443, 6443, 10250} - set(named.values()):
                assert not lets_in(policies, pod, other, anybody), other
