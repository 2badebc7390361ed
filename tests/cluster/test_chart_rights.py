"""The operator runs with exactly the chart's rights: nothing is refused, and nothing is granted that
it does not use. So a rule that is taken away breaks the first half, and one too many the second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sled_testkit import cluster_nodes
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_audit import Entry
from sled_testkit.cluster_helm import Helm
from sled_testkit.cluster_operator import OperatorProcess

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parent / "data"
HOME = "sled-system"
APPS = "/apis/apps/v1/namespaces/default"
GROUPS = ["system:serviceaccounts", f"system:serviceaccounts:{HOME}", "system:authenticated"]
Right = tuple[str, str, str]
"""API group, resource, verb."""
OPTIONAL = (
    "/apis/gateway.networking.k8s.io/v1/namespaces/default/backendtlspolicies/routed",
    "/apis/cert-manager.io/v1/namespaces/default/certificates/rich",
    "/apis/gateway.networking.k8s.io/v1/namespaces/default/grpcroutes/rich",
    "/apis/monitoring.coreos.com/v1/namespaces/default/servicemonitors/rich",
    "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates/rich-gpu",
)


@pytest.fixture(scope="module")
def operator(own_plane: ControlPlane) -> Iterator[OperatorProcess]:
    """The real operator beside a chart whose own pod is scaled to zero."""
    own_plane.create_nodes(
        [
            cluster_nodes.node(f"pi-{index}", labels={"sled.dev/drafter": "true"})
            for index in range(4)
        ]
    )
    own_plane.kubectl("create", "namespace", HOME)
    own_plane.kubectl("apply", "-f", str(DATA / "standins"))
    own_plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
    helm = Helm(own_plane.folder, own_plane.kubeconfig)
    chart = str(ROOT / "charts" / "sled")
    helm.run("install", "sled", chart, "-n", HOME, values={"replicas": 0})
    # an address at which devices could knock, so that scale to zero has a door
    process = OperatorProcess(own_plane, settings={"SLED_POD_IP": "198.18.255.9"})
    process.start()
    yield process
    process.stop()


def test_nothing_is_refused_and_nothing_is_granted_in_vain(
    own_plane: ControlPlane, operator: OperatorProcess
) -> None:
    own_plane.kubectl("apply", "-f", str(DATA / "rights" / "before.yaml"))
    _wait_for_everything(own_plane)
    _lose_a_replica(own_plane)
    _plant_left_overs(own_plane)
    own_plane.kubectl("apply", "-f", str(DATA / "rights" / "after.yaml"))
    _wait_for_less(own_plane)
    operator.check()
    assert own_plane.audit.forbidden(operator.user) == []
    assert _used(own_plane, operator) == _granted(own_plane)


def test_any_rule_that_is_taken_away_is_missed(
    own_plane: ControlPlane, operator: OperatorProcess
) -> None:
    """Each rule in turn: something that the operator did above is forbidden without it."""
    done = {_attributes(entry) for entry in own_plane.audit.entries(operator.user)}
    operator.stop()
    checked = 0
    for path in _roles():
        rules = own_plane.api.get(path)["rules"]
        for rule in rules:
            own_plane.api.patch(path, {"rules": [each for each in rules if each is not rule]})
            _wait_until_forbidden(own_plane, operator.user, rule, done)
            own_plane.api.patch(path, {"rules": rules})
            checked += 1
    assert checked == sum(len(own_plane.api.get(path)["rules"]) for path in _roles())


Attributes = tuple[str, str, str, str, str]
"""API group, resource, verb, namespace, name."""


def _attributes(entry: Entry) -> Attributes:
    verb = "create" if entry.verb == "patch" and entry.code == 201 else entry.verb
    name = "" if verb == "create" else entry.name
    return entry.group, entry.resource, verb, entry.namespace, name


def _wait_until_forbidden(
    plane: ControlPlane, user: str, rule: Object, done: set[Attributes]
) -> None:
    """The authorizer follows a change of a role within a moment."""
    covered = [
        each
        for each in sorted(done)
        if each[0] in rule["apiGroups"]
        and each[1] in rule["resources"]
        and each[2] in rule["verbs"]
    ]
    assert covered, f"nothing that the operator did needs {rule}"
    deadline = time.monotonic() + 10.0
    while any(_allowed(plane, user, each) for each in covered[:3]):
        assert time.monotonic() < deadline, f"still allowed without {rule}"
        time.sleep(0.05)


def _allowed(plane: ControlPlane, user: str, wanted: Attributes) -> bool:
    group, resource, verb, namespace, name = wanted
    kind, _, subresource = resource.partition("/")
    attributes = {
        "group": group,
        "resource": kind,
        "subresource": subresource,
        "verb": verb,
        "namespace": namespace,
        "name": name,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": GROUPS, "resourceAttributes": attributes},
    }
    answer = plane.api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    allowed: bool = answer["status"]["allowed"]
    return allowed


def _wait_for_everything(plane: ControlPlane) -> None:
    servers = {"plain", "adapter", "rich"}
    plane.api.wait_all(f"{APPS}/statefulsets", lambda found: servers <= found.keys())
    for path in (
        "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/adapter",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/sleeper-activator",
        *OPTIONAL,
    ):
        collection, _, name = path.rpartition("/")
        plane.api.wait(collection, name, lambda found: found is not None)
    plane.kubectl("wait", "--for=condition=Ready", "drafter/fleet", "--timeout=60s")


def _lose_a_replica(plane: ControlPlane) -> None:
    """Its node is gone and it was told to end: only the operator makes room for its replacement."""
    pods = "/api/v1/namespaces/default/pods"
    before = plane.api.wait(pods, "plain-0", lambda found: bool(_node(found)))
    plane.take_offline(_node(before))
    plane.kubectl("delete", "pod", "plain-0", "--wait=false")

    def replaced(found: Object | None) -> bool:
        return found is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

    plane.api.wait(pods, "plain-0", replaced)
    plane.bring_online(_node(before))


def _node(pod: Object | None) -> str:
    return str((pod or {}).get("spec", {}).get("nodeName", ""))


def _plant_left_overs(plane: ControlPlane) -> None:
    server = plane.api.get("/apis/sled.dev/v1alpha1/namespaces/default/sledservers/plain")
    owner = {key: server[key] for key in ("apiVersion", "kind")}
    identity = {"name": "plain", "uid": server["metadata"]["uid"], "controller": True}
    metadata = {
        "name": "left-over",
        "labels": {"app.kubernetes.io/managed-by": "sled-operator"},
        "ownerReferences": [{**owner, **identity}],
    }
    documents = [
        {**document, "metadata": metadata}
        for document in yaml.safe_load_all((DATA / "rights" / "left-over.yaml").read_text())
    ]
    plane.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(documents))


def _wait_for_less(plane: ControlPlane) -> None:
    for path in (
        f"{APPS}/statefulsets/left-over",
        f"{APPS}/daemonsets/left-over",
        f"{APPS}/controllerrevisions/left-over",
        "/api/v1/namespaces/default/configmaps/left-over",
        "/api/v1/namespaces/default/services/left-over",
        "/api/v1/namespaces/default/serviceaccounts/left-over",
        "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/left-over",
        "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/plain",
        "/apis/policy/v1/namespaces/default/poddisruptionbudgets/left-over",
        "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/left-over",
        "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/adapter",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/sleeper-activator",
        "/api/v1/namespaces/default/secrets/plain-tls",
        *OPTIONAL,
    ):
        collection, _, name = path.rpartition("/")
        plane.api.wait(collection, name, lambda found: found is None)
    plane.api.wait(f"{APPS}/statefulsets", "sleeper", lambda found: _replicas(found) == 1)


def _replicas(found: Object | None) -> int | None:
    count: int | None = (found or {}).get("spec", {}).get("replicas")
    return count


def _used(plane: ControlPlane, operator: OperatorProcess) -> set[Right]:
    used = set()
    for entry in plane.audit.entries(operator.user):
        if entry.resource.startswith("/"):
            continue  # discovery, which everybody may read
        used.add((entry.group, entry.resource, entry.verb))
        if entry.verb == "patch" and entry.code == 201:
            used.add((entry.group, entry.resource, "create"))
    return used


def _granted(plane: ControlPlane) -> set[Right]:
    return {
        (group, resource, verb)
        for path in _roles()
        for rule in plane.api.get(path)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _roles() -> list[str]:
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    return [
        f"{rbac}/clusterroles/{HOME}-sled-operator",
        f"{rbac}/namespaces/{HOME}/roles/sled-operator",
    ]
