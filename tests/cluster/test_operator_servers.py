"""What a SLEDServer becomes in a real cluster: placement, sources, trust, exposure, overrides.

Kinds of other projects are stand-ins that keep exactly the fields named in them (data/standins), so
a field that such a project does not know would be gone.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from sled_testkit import cluster_nodes
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_operator import OperatorProcess, working_operator
from sled_testkit.sled_resources import (
    APPS,
    CORE,
    apply,
    because,
    condition,
    install,
    present,
    ready,
    wait,
    wait_for,
)

STANDINS = Path(__file__).parent / "data" / "standins"
GPU = "nvidia.com/gpu"
FAKE: Object = {"model": {"name": "toy"}, "engine": {"kind": "Fake"}}


@pytest.fixture(scope="module")
def plane(own_plane: ControlPlane) -> ControlPlane:
    """Two kinds of GPU node and a plain one; the kinds of other projects are there."""
    install(own_plane)
    own_plane.kubectl("apply", "-f", str(STANDINS))
    own_plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
    small, large = cluster_nodes.gpu_server("l4", gpus=2), cluster_nodes.gpu_server("a100", gpus=2)
    large["metadata"]["labels"] |= {f"{GPU}.product": "NVIDIA-A100", f"{GPU}.memory": "81559"}
    plain = cluster_nodes.node("plain", labels={"pool": "plain"}, architecture="amd64")
    own_plane.create_nodes([small, large, plain])
    return own_plane


@pytest.fixture(scope="module", autouse=True)
def operator(plane: ControlPlane) -> Iterator[OperatorProcess]:
    with working_operator(plane) as process:
        yield process


def server(plane: ControlPlane, name: str, **spec: Any) -> None:
    apply(plane, "SLEDServer", name, {**FAKE, **spec})


def pod(plane: ControlPlane, name: str) -> Object:
    """The first replica, scheduled."""

    def scheduled(found: Object | None) -> bool:
        return bool((found or {}).get("spec", {}).get("nodeName"))

    return wait(plane, f"{CORE}/pods", f"{name}-0", scheduled)


def container(found: Object) -> Object:
    return dict(found["spec"]["containers"][0])


# ---- placement -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gpu", "node"),
    [
        ("by-product", {"productAffinity": ["NVIDIA-H100", "NVIDIA-A100"]}, "a100"),
        ("by-memory", {"minMemoryMiB": 40_000}, "a100"),
        ("by-small-product", {"productAffinity": ["NVIDIA-L4"]}, "l4"),
    ],
)
def test_a_gpu_of_the_right_product_and_memory(
    plane: ControlPlane, name: str, gpu: Object, node: str
) -> None:
    server(plane, name, gpu={"count": 1, **gpu})
    found = pod(plane, name)
    assert found["spec"]["nodeName"] == node
    assert container(found)["resources"]["limits"] == {GPU: "1"}
    plane.kubectl("delete", f"sled/{name}")


def test_no_gpu_that_fits_means_no_pod_and_a_reason(plane: ControlPlane) -> None:
    server(plane, "picky", gpu={"count": 1, "minMemoryMiB": 100_000})

    def unschedulable(found: Object | None) -> bool:
        return condition(found, "PodScheduled").get("reason") == "Unschedulable"

    wait(plane, f"{CORE}/pods", "picky-0", unschedulable)
    found = wait_for(plane, "SLEDServer", "picky", because("ReplicasStarting"))
    assert condition(found, "Available")["reason"] == "NoReplicaReady"
    plane.kubectl("delete", "sled/picky")


def test_dynamic_resource_allocation_gives_a_device_with_enough_memory(plane: ControlPlane) -> None:
    """The scheduler allocates from what a driver has published: the A100, not the L4."""
    group = "/apis/resource.k8s.io/v1"
    selector = {"cel": {"expression": "device.driver == 'gpu.nvidia.com'"}}
    kind = {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass"}
    plane.api.create(
        f"{group}/deviceclasses",
        {**kind, "metadata": {"name": "gpu.nvidia.com"}, "spec": {"selectors": [selector]}},
    )
    for node, memory in (("l4", "23034Mi"), ("a100", "81559Mi")):
        plane.api.create(f"{group}/resourceslices", _slice(node, memory))
    gpu = {"count": 1, "allocation": "DRA", "minMemoryMiB": 40_000}
    server(plane, "dynamic", gpu=gpu)
    assert pod(plane, "dynamic")["spec"]["nodeName"] == "a100"
    (claim,) = plane.api.items(f"{group}/namespaces/default/resourceclaims")
    (result,) = claim["status"]["allocation"]["devices"]["results"]
    assert (result["pool"], result["device"]) == ("a100", "gpu-0")
    wait_for(plane, "SLEDServer", "dynamic", ready)
    plane.kubectl("delete", "sled/dynamic")


def _slice(node: str, memory: str) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": node},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0", "capacity": {"memory": {"value": memory}}}],
        },
    }


def test_replicas_spread_over_nodes(plane: ControlPlane) -> None:
    spread = {"over": ["kubernetes.io/hostname"], "whenUnsatisfiable": "DoNotSchedule"}
    server(plane, "spread", replicas=3, topologySpread=spread)
    found = wait_for(plane, "SLEDServer", "spread", ready)
    assert found["status"]["readyReplicas"] == 3
    pods = plane.api.items(f"{CORE}/pods", labelSelector="sled.dev/server=spread")
    assert {each["spec"]["nodeName"] for each in pods} == {"l4", "a100", "plain"}
    plane.kubectl("delete", "sled/spread")


# ---- model sources ---------------------------------------------------------------------------

SOURCES = {
    "hf": ("hf://org/repo/a.gguf@rev", "/cache/model-*.gguf"),
    "s3": ("s3://bucket/a.gguf", "/cache/model-*.gguf"),
    "catalog": ("catalog://smollm2-135m-f32", "/cache/model-*.gguf"),
    "oci": ("oci://registry.example.com/models/a:1#a.gguf", "/models/a.gguf"),
    "pvc": ("pvc://shelf/dir/a.gguf", "/models/dir/a.gguf"),
    "file": ("file:///opt/a.gguf", "/opt/a.gguf"),
}


@pytest.fixture(scope="module")
def shelf(plane: ControlPlane) -> ControlPlane:
    """A bound volume claim with models."""
    storage = {"storage": "1Gi"}
    modes = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    volume = {**modes, "capacity": storage, "hostPath": {"path": "/srv/models"}}
    claim = {**modes, "resources": {"requests": storage}, "volumeName": "shelf"}
    for path, kind, spec in (
        ("/api/v1/persistentvolumes", "PersistentVolume", volume),
        (f"{CORE}/persistentvolumeclaims", "PersistentVolumeClaim", claim),
    ):
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "shelf"}, "spec": spec}
        plane.api.create(path, body)
    return plane


@pytest.mark.parametrize("scheme", SOURCES)
def test_every_source_makes_a_pod_that_runs(shelf: ControlPlane, scheme: str) -> None:
    source, path = SOURCES[scheme]
    model = {"name": "m", "source": source, "credentialsSecretName": "reader"}
    server(shelf, f"from-{scheme}", model=model, engine={"kind": "LlamaCpp"})
    wait_for(shelf, "SLEDServer", f"from-{scheme}", ready)
    found = pod(shelf, f"from-{scheme}")["spec"]
    config = shelf.api.get(f"{CORE}/configmaps/from-{scheme}-config")["data"]["verifier.yaml"]
    assert fnmatch(yaml.safe_load(config)["model"]["path"], path)
    volumes = {each["name"]: each for each in found["volumes"]}
    if path.startswith("/cache"):
        (fetch,) = found["initContainers"]
        assert fetch["command"][:4] == ["sled", "models", "fetch", source]
        assert fetch["envFrom"] == [{"secretRef": {"name": "reader"}}]
        assert "emptyDir" in volumes["cache"]
    if scheme == "oci":
        assert volumes["model"]["image"]["reference"] == "registry.example.com/models/a:1"
    if scheme == "pvc":
        assert volumes["model"]["persistentVolumeClaim"]["claimName"] == "shelf"
    shelf.kubectl("delete", f"sled/from-{scheme}")


def test_a_cache_on_a_volume_is_one_claim_per_replica_and_goes_with_the_server(
    plane: ControlPlane,
) -> None:
    server(plane, "cached", cache={"type": "PersistentVolume", "size": "5Gi"})
    claims = f"{CORE}/persistentvolumeclaims"
    found = wait(plane, claims, "cache-cached-0", present)
    assert found["spec"]["resources"]["requests"]["storage"] == "5Gi"
    plane.kubectl("delete", "sled/cached")
    wait(plane, claims, "cache-cached-0", lambda each: each is None)


# ---- trust -----------------------------------------------------------------------------------


def _decoded(plane: ControlPlane, name: str) -> dict[str, bytes]:
    data = plane.api.get(f"{CORE}/secrets/{name}")["data"]
    return {key: base64.b64decode(value) for key, value in data.items()}


def test_its_own_authority_signs_and_a_lost_certificate_comes_back(plane: ControlPlane) -> None:
    server(plane, "trusted", tls={"extraNames": ["verify.example.com"]})
    wait_for(plane, "SLEDServer", "trusted", ready)
    first = _decoded(plane, "trusted-tls")
    authority = x509.load_pem_x509_certificate(first["ca.crt"])
    serving = x509.load_pem_x509_certificate(first["tls.crt"])
    serving.verify_directly_issued_by(authority)
    names = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "trusted.default.svc" in names.get_values_for_type(x509.DNSName)
    assert "verify.example.com" in names.get_values_for_type(x509.DNSName)
    tokens = _decoded(plane, "trusted-tokens")
    assert tokens["tokens"] == b"*:" + tokens["token"] + b"\n"
    plane.kubectl("delete", "secret/trusted-tls")
    plane.kubectl("annotate", "sled/trusted", "look=again")
    wait(plane, f"{CORE}/secrets", "trusted-tls", present)
    again = _decoded(plane, "trusted-tls")
    assert again["ca.crt"] == first["ca.crt"]
    assert again["tls.crt"] != first["tls.crt"]
    assert _decoded(plane, "trusted-tokens") == tokens
    plane.kubectl("delete", "sled/trusted")
    wait(plane, f"{CORE}/secrets", "trusted-ca", lambda found: found is None)


def test_cert_manager_is_asked_and_waited_for(plane: ControlPlane) -> None:
    tls = {"mode": "CertManager", "issuerRef": {"name": "fleet", "kind": "ClusterIssuer"}}
    server(plane, "managed", tls={**tls, "extraNames": ["192.0.2.7"]})
    group = "/apis/cert-manager.io/v1/namespaces/default/certificates"
    found = wait(plane, group, "managed", present)["spec"]
    assert found["issuerRef"] == {
        "name": "fleet",
        "kind": "ClusterIssuer",
        "group": "cert-manager.io",
    }
    assert found["secretName"] == "managed-tls"
    assert "managed.default.svc" in found["dnsNames"]
    assert found["ipAddresses"] == ["192.0.2.7"]
    assert found["privateKey"]["algorithm"] == "ECDSA"
    missing = wait_for(plane, "SLEDServer", "managed", because("SecretMissing"))
    assert "there is no Secret managed-tls" in condition(missing, "Ready")["message"]
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "managed-tls"}}
    keys = dict.fromkeys(("tls.crt", "tls.key", "ca.crt"), base64.b64encode(b"x").decode())
    plane.api.create(f"{CORE}/secrets", {**body, "data": keys})
    wait_for(plane, "SLEDServer", "managed", ready)
    assert plane.api.find(f"{CORE}/secrets/managed-ca") is None
    plane.kubectl("delete", "sled/managed", "secret/managed-tls")
    wait(plane, group, "managed", lambda each: each is None)


# ---- exposure, guards, overrides -------------------------------------------------------------


def test_node_port_and_load_balancer(plane: ControlPlane) -> None:
    server(plane, "exposed", exposure={"type": "NodePort", "nodePort": 30_070})
    found = wait(plane, f"{CORE}/services", "exposed", present)["spec"]
    assert (found["type"], found["ports"][0]["nodePort"]) == ("NodePort", 30_070)
    balancer = {"type": "LoadBalancer", "loadBalancerClass": "example.com/lb", "port": 443}
    server(plane, "balanced", exposure={**balancer, "annotations": {"example.com/pool": "edge"}})
    service = wait(plane, f"{CORE}/services", "balanced", present)
    assert service["spec"]["loadBalancerClass"] == "example.com/lb"
    assert service["metadata"]["annotations"]["example.com/pool"] == "edge"
    headless = wait(plane, f"{CORE}/services", "balanced-replicas", present)["spec"]
    assert (headless["clusterIP"], headless["publishNotReadyAddresses"]) == ("None", True)
    ready_server = wait_for(plane, "SLEDServer", "balanced", ready)
    assert ready_server["status"]["address"] == "balanced.default.svc:443"
    plane.kubectl("delete", "sled/exposed", "sled/balanced")


def test_a_gateway_gets_a_route(plane: ControlPlane) -> None:
    gateway = {"name": "edge", "namespace": "gateways", "hostnames": ["sled.example.com"]}
    server(plane, "routed", exposure={"type": "Gateway", "gateway": gateway})
    routes = "/apis/gateway.networking.k8s.io/v1/namespaces/default/grpcroutes"
    found = wait(plane, routes, "routed", present)
    assert found["spec"] == {
        "parentRefs": [{"name": "edge", "namespace": "gateways"}],
        "hostnames": ["sled.example.com"],
        "rules": [{"backendRefs": [{"name": "routed", "port": 7000}]}],
    }
    policies = "/apis/gateway.networking.k8s.io/v1/namespaces/default/backendtlspolicies"
    policy = wait(plane, policies, "routed", present)["spec"]
    assert policy["validation"]["hostname"] == "routed.default.svc"
    (reference,) = policy["validation"]["caCertificateRefs"]
    authority = plane.api.get(f"{CORE}/configmaps/{reference['name']}")["data"]["ca.crt"]
    assert authority.encode() == _decoded(plane, "routed-tls")["ca.crt"]
    server(plane, "routed", exposure={"type": "ClusterIP"})
    for collection in (routes, policies):
        wait(plane, collection, "routed", lambda each: each is None)
    wait(plane, f"{CORE}/configmaps", reference["name"], lambda each: each is None)
    plane.kubectl("delete", "sled/routed")


def test_guards_and_monitoring_stand_beside_the_pods(plane: ControlPlane) -> None:
    server(plane, "guarded")
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    budget = wait(
        plane,
        budgets,
        "guarded",
        lambda each: (each or {}).get("status", {}).get("currentHealthy") == 1,
    )
    assert budget["status"]["disruptionsAllowed"] == 1
    policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    (rule,) = plane.api.get(f"{policies}/guarded")["spec"]["ingress"]
    assert [each["port"] for each in rule["ports"]] == ["grpc", "metrics"]
    monitors = "/apis/monitoring.coreos.com/v1/namespaces/default/servicemonitors"
    monitor = wait(plane, monitors, "guarded", present)["spec"]
    assert monitor["endpoints"] == [{"port": "metrics", "path": "/metrics"}]
    services = plane.api.items(
        f"{CORE}/services",
        labelSelector=",".join(f"{k}={v}" for k, v in monitor["selector"]["matchLabels"].items()),
    )
    assert [each["metadata"]["name"] for each in services] == ["guarded-replicas"]
    plane.kubectl("delete", "sled/guarded")


def test_the_pod_template_is_merged_and_rolls_the_pods(plane: ControlPlane) -> None:
    server(plane, "shaped")
    before = pod(plane, "shaped")
    template = {
        "metadata": {"labels": {"team": "edge"}},
        "spec": {
            "terminationGracePeriodSeconds": 90,
            "containers": [
                {"name": "verifier", "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}]},
                {"name": "sidecar", "image": "example.com/sidecar:1"},
            ],
        },
    }
    server(plane, "shaped", podTemplate=template)

    def replaced(found: Object | None) -> bool:
        return found is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

    found = wait(plane, f"{CORE}/pods", "shaped-0", replaced)
    verifier, sidecar = found["spec"]["containers"]
    assert [each["name"] for each in verifier["env"]] == ["POD_NAME", "HTTPS_PROXY"]
    assert verifier["command"] == ["sled-verifier"]
    assert sidecar["name"] == "sidecar"
    assert found["metadata"]["labels"]["team"] == "edge"
    assert found["spec"]["terminationGracePeriodSeconds"] == 90
    wait_for(plane, "SLEDServer", "shaped", ready)
    plane.kubectl("delete", "sled/shaped")


def test_a_kind_that_the_cluster_lacks_is_named_and_the_rest_is_made(
    plane: ControlPlane, operator: OperatorProcess
) -> None:
    operator.stop()
    plane.kubectl("delete", "crd/certificates.cert-manager.io")
    operator.start()
    server(plane, "lacking", tls={"mode": "CertManager", "issuerRef": {"name": "fleet"}})
    found = wait_for(plane, "SLEDServer", "lacking", because("SecretMissing"))
    message = condition(found, "Degraded")["message"]
    assert "the cluster has no Certificate of cert-manager.io/v1" in message
    wait(plane, f"{APPS}/statefulsets", "lacking", present)
    plane.kubectl("delete", "sled/lacking")
