"""Twin tests of the builders of a SLEDServer's objects."""

from __future__ import annotations

import base64
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from sled_operator.cluster import kinds
from sled_operator.conditions import Reason
from sled_operator.lost_pods import NODE_LOSS_SECONDS
from sled_operator.names import APPLIED
from sled_operator.resources.autoscaler import horizontal_pod_autoscaler
from sled_operator.resources.base import Manifest, server_owner
from sled_operator.resources.disruptionbudget import verifier_disruptionbudget
from sled_operator.resources.networkpolicy import verifier_networkpolicy
from sled_operator.resources.optional import (
    certificate,
    dns_names,
    gpu_claim_template,
    grpc_route,
    service_monitor,
)
from sled_operator.resources.pod import Download, model_mount
from sled_operator.resources.secret import secret, tls_secret_name
from sled_operator.resources.service import headless_service, server_service
from sled_operator.resources.serviceaccount import service_account
from sled_operator.resources.statefulset import verifier_statefulset
from sled_operator.resources.verifier_config import verifier_config
from sled_operator.server_objects import replicas_for_other_scaler, wanted
from sled_operator.spec import SLEDServer

Server = Callable[..., SLEDServer]
SELECTOR = {"sled.dev/server": "big"}


def pod_of(manifest: Manifest) -> dict[str, Any]:
    return dict(manifest["spec"]["template"]["spec"])


def settings_of(server: SLEDServer, path: str | None = "/m") -> dict[str, Any]:
    return dict(yaml.safe_load(verifier_config(server, path)["data"]["verifier.yaml"]))


def test_every_object_has_identity_owner_and_hash(server: Server) -> None:
    everything = wanted(server(), "image", 2, set(kinds.OPTIONAL)).manifests
    assert [m["kind"] for m in everything][-1] == "StatefulSet"
    for manifest in everything:
        meta = manifest["metadata"]
        (owner,) = meta["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("SLEDServer", "big", "uid-big")
        assert meta["namespace"] == "fleet"
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "sled-operator"
        assert len(meta["annotations"][APPLIED]) == 16
        assert (manifest["apiVersion"], manifest["kind"]) in kinds.BY_KIND


def test_selectors_are_fixed_and_are_not_the_labels(server: Server) -> None:
    built = verifier_statefulset(server(), "image", 1, "hash")
    assert built["spec"]["selector"]["matchLabels"] == SELECTOR
    labels = built["spec"]["template"]["metadata"]["labels"]
    assert SELECTOR.items() < labels.items()
    assert server_service(server())["spec"]["selector"] == SELECTOR
    assert verifier_networkpolicy(server())["spec"]["podSelector"]["matchLabels"] == SELECTOR
    assert verifier_disruptionbudget(server())["spec"]["selector"]["matchLabels"] == SELECTOR


def test_the_pod_passes_restricted_pod_security(server: Server) -> None:
    pod = pod_of(verifier_statefulset(server(), "image", 1, "hash"))
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_a_drain_fits_into_the_grace_period(server: Server) -> None:
    pod = pod_of(verifier_statefulset(server(drainSeconds=45), "image", 1, "hash"))
    assert pod["terminationGracePeriodSeconds"] > 45


def test_a_lost_node_is_waited_for_as_long_as_the_user_says(server: Server) -> None:
    pod = pod_of(verifier_statefulset(server(), "image", 1, "hash"))
    assert {each["key"]: each["tolerationSeconds"] for each in pod["tolerations"]} == {
        "node.kubernetes.io/not-ready": NODE_LOSS_SECONDS,
        "node.kubernetes.io/unreachable": NODE_LOSS_SECONDS,
    }
    own = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 5}
    pod = pod_of(verifier_statefulset(server(tolerations=[own]), "image", 1, "hash"))
    assert [each["tolerationSeconds"] for each in pod["tolerations"]] == [5, NODE_LOSS_SECONDS]
    everything = {"operator": "Exists"}
    pod = pod_of(verifier_statefulset(server(tolerations=[everything]), "image", 1, "hash"))
    assert pod["tolerations"] == [everything]


def test_replicas_find_each_other_by_the_name_that_the_headless_service_gives(
    server: Server,
) -> None:
    service = headless_service(server())
    host, _, port = settings_of(server())["peers"].partition(":")
    assert host == f"{service['metadata']['name']}.fleet.svc"
    assert int(port) in {each["port"] for each in service["spec"]["ports"]}


@pytest.mark.parametrize(
    ("source", "path", "volume"),
    [
        ("hf://org/repo/a.gguf@rev", "/cache/model-*.gguf", None),
        ("s3://bucket/key", "/cache/model-*.gguf", None),
        ("catalog://small", "/cache/model-*.gguf", None),
        ("oci://reg/img:1#a.gguf", "/models/a.gguf", "image"),
        ("pvc://claim/dir/a.gguf", "/models/dir/a.gguf", "persistentVolumeClaim"),
        ("file:///opt/a.gguf", "/opt/a.gguf", None),
    ],
)
def test_model_sources(server: Server, source: str, path: str, volume: str | None) -> None:
    resource = server(model={"name": "m", "source": source, "sha256": "a" * 64})
    manifests = {m["kind"]: m for m in wanted(resource, "image", 1, set()).manifests}
    settings = yaml.safe_load(manifests["ConfigMap"]["data"]["verifier.yaml"])
    assert fnmatch(settings["model"]["path"], path)
    pod = pod_of(manifests["StatefulSet"])
    models = [v for v in pod["volumes"] if v["name"] == "model"]
    assert [volume in v for v in models] == ([True] if volume else [])
    fetches = pod.get("initContainers", [])
    assert bool(fetches) == path.startswith("/cache")
    if fetches:
        assert fetches[0]["command"][-2:] == ["--sha256", "a" * 64]


@pytest.mark.parametrize("kind", ["VLLM", "Torch"])
@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("hf://org/repo@abc", "/cache/model-????????"),
        ("oci://reg/img:1", "/models"),
        ("oci://reg/img:1#sub/dir", "/models/sub/dir"),
        ("pvc://claim", "/models"),
        ("file:///opt/model", "/opt/model"),
    ],
)
def test_engines_that_take_a_folder(server: Server, kind: str, source: str, path: str) -> None:
    model = {"name": "m", "source": source, "vocabulary": "hf://org/repo/v.gguf@abc"}
    resource = server(model=model, engine={"kind": kind}, gpu={"count": 1})
    manifests = {m["kind"]: m for m in wanted(resource, "image", 1, set()).manifests}
    settings = yaml.safe_load(manifests["ConfigMap"]["data"]["verifier.yaml"])
    assert fnmatch(settings["model"]["path"], path)
    vocabulary = settings["model"]["vocabulary"]
    assert fnmatch(vocabulary, "/cache/vocabulary-*.gguf")
    assert settings["engine"].get("torch") == ({"device": "cuda"} if kind == "Torch" else None)
    fetches = {c["name"]: c["command"] for c in pod_of(manifests["StatefulSet"])["initContainers"]}
    assert fetches["fetch-vocabulary"][-2:] == ["--link", vocabulary]
    assert ("fetch-model" in fetches) == source.startswith("hf://")


def test_folder_engines_may_write_below_home_and_share_memory(server: Server) -> None:
    model = {"name": "m", "source": "hf://org/repo@abc"}
    resource = server(model=model, engine={"kind": "VLLM"}, gpu={"count": 2})
    pod = pod_of(verifier_statefulset(resource, "image", 1, "hash"))
    (container,) = pod["containers"]
    assert {"name": "HOME", "value": "/tmp"} in container["env"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in pod["volumes"]


def test_an_engine_elsewhere_needs_the_vocabulary_only(server: Server) -> None:
    model = {"name": "m", "vocabulary": "oci://reg/img:1#v.gguf"}
    resource = server(model=model, engine={"kind": "OpenAI", "url": "https://vllm.example.com/v1"})
    manifests = {m["kind"]: m for m in wanted(resource, "image", 1, set()).manifests}
    settings = yaml.safe_load(manifests["ConfigMap"]["data"]["verifier.yaml"])
    assert settings["model"] == {"name": "m", "vocabulary": "/vocabulary/v.gguf"}
    pod = pod_of(manifests["StatefulSet"])
    assert [each["name"] for each in pod["volumes"]][-1] == "vocabulary"
    assert "initContainers" not in pod


def test_sources_that_share_a_cache_do_not_share_a_link() -> None:
    download = Download("image", "Always")
    first, second = (model_mount(f"hf://o/r/{name}.gguf", download).path for name in "ab")
    assert first != second


def test_credentials_reach_the_download_and_nothing_else(server: Server) -> None:
    source = {"name": "m", "source": "s3://bucket/key", "credentialsSecretName": "bucket-reader"}
    pod = pod_of(verifier_statefulset(server(model=source), "image", 1, "hash"))
    (fetch,) = pod["initContainers"]
    assert fetch["envFrom"] == [{"secretRef": {"name": "bucket-reader"}}]
    assert "envFrom" not in pod["containers"][0]


def test_configuration_follows_the_spec(server: Server) -> None:
    plain = settings_of(server(tls={"mode": "Disabled"}, auth={"mode": "None"}))
    assert plain["insecure"] is True
    assert "tls" not in plain
    assert "auth" not in plain
    full = settings_of(server(resources={"limits": {"cpu": "3500m"}}, batching={"maxQueue": 7}))
    assert full["engine"]["threads"] == 3
    assert full["batching"]["maxQueue"] == 7
    assert full["tls"]["certFile"].endswith("tls.crt")
    assert full["auth"]["tokensFile"].endswith("tokens")
    assert "threads" not in settings_of(server())["engine"]


def test_gpu_by_device_plugin(server: Server) -> None:
    gpu = {"count": 2, "productAffinity": ["NVIDIA-L4"], "minMemoryMiB": 20000}
    pod = pod_of(verifier_statefulset(server(gpu=gpu), "image", 1, "hash"))
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms["nodeSelectorTerms"][0]["matchExpressions"] == [
        {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]},
        {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["19999"]},
    ]


def test_gpu_by_dynamic_resource_allocation(server: Server) -> None:
    resource = server(gpu={"count": 1, "allocation": "DRA", "minMemoryMiB": 1000})
    pod = pod_of(verifier_statefulset(resource, "image", 1, "hash"))
    assert pod["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": "big-gpu"}]
    assert pod["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]
    request = gpu_claim_template(resource)["spec"]["spec"]["devices"]["requests"][0]
    assert request["exactly"]["count"] == 1


def test_cache_as_a_volume_claim(server: Server) -> None:
    cache = {"type": "PersistentVolume", "size": "5Gi", "storageClassName": "fast"}
    spec = verifier_statefulset(server(cache=cache), "image", 1, "hash")["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert not any(v["name"] == "cache" for v in spec["template"]["spec"]["volumes"])


def test_the_pod_template_wins_but_never_over_the_selector(server: Server) -> None:
    template = {
        "metadata": {"labels": {"sled.dev/server": "evil", "team": "a"}},
        "spec": {"containers": [{"name": "verifier", "env": [{"name": "X", "value": "1"}]}]},
    }
    built = verifier_statefulset(server(podTemplate=template), "image", 1, "hash")
    labels = built["spec"]["template"]["metadata"]["labels"]
    assert labels["sled.dev/server"] == "big"
    assert labels["team"] == "a"
    names = [item["name"] for item in pod_of(built)["containers"][0]["env"]]
    assert names == ["POD_NAME", "X"]


def test_replicas_may_be_left_to_another_scaler(server: Server) -> None:
    assert verifier_statefulset(server(), "i", 3, "h")["spec"]["replicas"] == 3
    assert "replicas" not in verifier_statefulset(server(), "i", None, "h")["spec"]


def test_exposure(server: Server) -> None:
    node_port = server_service(server(exposure={"type": "NodePort", "nodePort": 30070}))
    assert node_port["spec"]["type"] == "NodePort"
    assert node_port["spec"]["ports"][0]["nodePort"] == 30070
    balancer = {"type": "LoadBalancer", "loadBalancerClass": "x/y", "annotations": {"a": "b"}}
    service = server_service(server(exposure=balancer))
    assert service["spec"]["loadBalancerClass"] == "x/y"
    assert service["metadata"]["annotations"]["a"] == "b"
    gateway = {"type": "Gateway", "gateway": {"name": "gw", "hostnames": ["sled.example"]}}
    resource = server(exposure=gateway)
    assert server_service(resource)["spec"]["type"] == "ClusterIP"
    assert grpc_route(resource)["spec"]["hostnames"] == ["sled.example"]
    assert headless_service(resource)["spec"]["clusterIP"] == "None"


def test_a_gateway_speaks_tls_to_the_verifier_where_it_can(server: Server) -> None:
    exposure = {"type": "Gateway", "gateway": {"name": "gw"}}
    resource = server(exposure=exposure)
    made = {
        (m["kind"], m["metadata"]["name"]): m
        for m in wanted(resource, "image", 1, set(kinds.OPTIONAL), b"PEM").manifests
    }
    spec = made["BackendTLSPolicy", "big"]["spec"]
    assert spec["targetRefs"][0]["name"] == "big"
    assert spec["validation"]["hostname"] == "big.fleet.svc"
    (reference,) = spec["validation"]["caCertificateRefs"]
    assert made[reference["kind"], reference["name"]]["data"] == {"ca.crt": "PEM"}
    plain = server(exposure=exposure, tls={"mode": "Disabled"})
    for each, present in ((plain, kinds.OPTIONAL), (resource, (kinds.GRPC_ROUTE,))):
        found = {m["kind"] for m in wanted(each, "image", 1, set(present), b"PEM").manifests}
        assert "GRPCRoute" in found
        assert "BackendTLSPolicy" not in found


def test_optional_kinds_are_used_or_named_as_missing(server: Server) -> None:
    issuer = {"mode": "CertManager", "issuerRef": {"name": "ca"}}
    resource = server(tls=issuer)
    without = wanted(resource, "image", 1, set())
    assert [problem.reason for problem in without.problems] == [Reason.KIND_MISSING]
    present = wanted(resource, "image", 1, set(kinds.OPTIONAL))
    assert {m["kind"] for m in present.manifests} > {"Certificate", "ServiceMonitor"}
    assert certificate(resource)["spec"]["issuerRef"]["name"] == "ca"
    monitor = service_monitor(resource)["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= headless_service(resource)["metadata"]["labels"].items()


def test_the_certificate_names_cover_service_and_replicas(server: Server) -> None:
    tls = {"mode": "CertManager", "issuerRef": {"name": "ca"}, "extraNames": ["a.b", "192.0.2.7"]}
    names = dns_names(server(tls=tls))
    assert "big.fleet.svc" in names
    assert "*.big-replicas.fleet.svc" in names
    assert names[-2:] == ["a.b", "192.0.2.7"]
    requested = certificate(server(tls=tls))["spec"]
    assert requested["ipAddresses"] == ["192.0.2.7"]
    assert requested["dnsNames"] == names[:-1]


def test_replicas_spread_over_the_named_labels(server: Server) -> None:
    spread = {"over": ["zone", "host"], "whenUnsatisfiable": "DoNotSchedule"}
    pod = pod_of(verifier_statefulset(server(topologySpread=spread), "image", 1, "hash"))
    assert [each["topologyKey"] for each in pod["topologySpreadConstraints"]] == ["zone", "host"]
    for each in pod["topologySpreadConstraints"]:
        assert each["whenUnsatisfiable"] == "DoNotSchedule"
        assert each["labelSelector"] == {"matchLabels": SELECTOR}
    none = pod_of(verifier_statefulset(server(topologySpread={"over": []}), "image", 1, "hash"))
    assert "topologySpreadConstraints" not in none


def test_probes_ask_what_they_mean(server: Server) -> None:
    """A model may take an hour to arrive, and a verifier that drains is not ready but alive."""
    (container,) = pod_of(verifier_statefulset(server(), "image", 1, "hash"))["containers"]
    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "readiness", "liveness")
    }
    assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz"}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 3600


def test_a_drain_of_a_node_takes_one_replica_at_a_time(server: Server) -> None:
    spec = verifier_disruptionbudget(server())["spec"]
    assert spec["maxUnavailable"] == 1
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_only_the_two_ports_are_reachable(server: Server) -> None:
    (rule,) = verifier_networkpolicy(server())["spec"]["ingress"]
    assert [each["port"] for each in rule["ports"]] == ["grpc", "metrics"]
    open_ports = pod_of(verifier_statefulset(server(), "image", 1, "hash"))["containers"][0][
        "ports"
    ]
    assert [each["name"] for each in open_ports] == ["grpc", "metrics"]
    kinds_made = {m["kind"] for m in wanted(server(networkPolicy="None"), "i", 1, set()).manifests}
    assert "NetworkPolicy" not in kinds_made


def test_secrets_are_encoded_and_named(server: Server) -> None:
    built = secret(server(), "big-tokens", {"token": b"abc"})
    assert base64.b64decode(built["data"]["token"]) == b"abc"
    assert tls_secret_name(server(tls={"mode": "Secret", "secretName": "own"})) == "own"


def test_the_service_account_mounts_no_token(server: Server) -> None:
    assert service_account(server_owner(server()))["automountServiceAccountToken"] is False


def test_horizontal_pod_autoscaler_carries_the_behavior(server: Server) -> None:
    scaling = {"mode": "HPA", "maxReplicas": 9, "targetQueueDepth": 5}
    spec = horizontal_pod_autoscaler(server(autoscaling=scaling))["spec"]
    assert spec["maxReplicas"] == 9
    assert spec["metrics"][0]["pods"]["target"]["averageValue"] == "5"
    assert spec["behavior"]["scaleDown"]["policies"] == [
        {"type": "Pods", "value": 1, "periodSeconds": 60}
    ]


def test_handing_replicas_over_never_resets_them() -> None:
    def observed(manager: str) -> dict[str, Any]:
        fields = {"f:spec": {"f:replicas": {}}}
        entry = {"manager": manager, "fieldsV1": fields}
        return {"metadata": {"managedFields": [entry]}, "spec": {"replicas": 7}}

    assert replicas_for_other_scaler(None, 2) == 2
    assert replicas_for_other_scaler(observed("sled-operator"), 2) == 7
    assert replicas_for_other_scaler(observed("kube-controller-manager"), 2) is None
