"""The chart in a real cluster: install, upgrade, rollback, uninstall; rights; what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sled_testkit import cluster_nodes
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Api, ApiError, Object
from sled_testkit.cluster_helm import Helm, HelmFailed

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "sled"
DATA = Path(__file__).parent / "data"
HOME = "sled-system"
ACCOUNT = "sled-operator"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{HOME}/deployments"
LABELS = "may only change labels of a node under sled"
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")


@pytest.fixture(scope="module")
def helm(own_plane: ControlPlane) -> Helm:
    return Helm(own_plane.folder, own_plane.kubeconfig)


@pytest.fixture(scope="module")
def installed(own_plane: ControlPlane, helm: Helm) -> ControlPlane:
    """The chart in a namespace that enforces restricted Pod Security, on fake nodes."""
    own_plane.create_nodes([cluster_nodes.gpu_server("server-0"), cluster_nodes.raspberry_pi("pi")])
    _namespace(own_plane, HOME)
    _install(helm, "--wait", "--timeout", "60s")
    return own_plane


def _namespace(plane: ControlPlane, name: str) -> None:
    labels = {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")
    }
    metadata = {"name": name, "labels": labels}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    plane.api.create("/api/v1/namespaces", body)


def _install(helm: Helm, *flags: str, values: dict[str, Any] | None = None) -> str:
    return helm.run("install", "sled", str(CHART), "-n", HOME, *flags, values=values)


def _uninstall(helm: Helm) -> None:
    helm.run("uninstall", "sled", "-n", HOME, "--wait", "--ignore-not-found")


def test_install_runs_under_restricted_pod_security(installed: ControlPlane, helm: Helm) -> None:
    found = installed.api.get(f"{DEPLOYMENTS}/sled-operator")
    assert found["status"]["readyReplicas"] == 1
    notes = helm.run("get", "notes", "sled", "-n", HOME)
    assert "kubectl get sleds" in notes
    helm.run("test", "sled", "-n", HOME, "--timeout", "60s")


def test_the_resources_of_the_notes_are_accepted(installed: ControlPlane, helm: Helm) -> None:
    notes = helm.run("get", "notes", "sled", "-n", HOME)
    manifest = notes.split("<<'RESOURCES'\n")[1].split("\nRESOURCES\n")[0]
    installed.kubectl("apply", "--dry-run=server", "-f", "-", stdin=manifest)


def test_rights_are_exactly_the_declared_table(installed: ControlPlane) -> None:
    wanted = yaml.safe_load((DATA / "rights.yaml").read_text())
    found: dict[str, Any] = {"all": {}, "own": {}}
    for scope, namespace in (("all", "default"), ("own", HOME)):
        for group, resource in _known_resources(installed.api):
            verbs = [
                each for each in VERBS if _allowed(installed.api, namespace, group, resource, each)
            ]
            if verbs and verbs != found["all"].get(group, {}).get(resource):
                found[scope].setdefault(group, {})[resource] = verbs
    assert found == {
        scope: {
            group: {name: sorted(verbs, key=VERBS.index) for name, verbs in resources.items()}
            for group, resources in groups.items()
        }
        for scope, groups in wanted.items()
    }


def _known_resources(api: Api) -> Iterator[tuple[str, str]]:
    versions = ["/api/v1"]
    for group in api.get("/apis")["groups"]:
        versions.append(f"/apis/{group['preferredVersion']['groupVersion']}")
    for path in versions:
        answer = api.get(path)
        group = answer["groupVersion"].rpartition("/")[0]
        for resource in answer["resources"]:
            yield group, resource["name"]


def _allowed_verbs(api: Api, namespace: str, group: str, resource: str) -> list[str]:
    return [verb for verb in VERBS if _allowed(api, namespace, group, resource, verb)]


def _allowed(api: Api, namespace: str, group: str, resource: str, verb: str) -> bool:
    name, _, subresource = resource.partition("/")
    attributes = {"namespace": namespace, "group": group, "resource": name, "verb": verb}
    if subresource:
        attributes["subresource"] = subresource
    if resource == "leases" and namespace == HOME:
        attributes["name"] = "sled-operator"
    user = f"system:serviceaccount:{HOME}:{ACCOUNT}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{HOME}", "system:authenticated"]
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
    }
    answer = api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    allowed: bool = answer["status"]["allowed"]
    return allowed and not _for_everybody(group, resource)


def _for_everybody(group: str, resource: str) -> bool:
    """What Kubernetes grants to every authenticated user."""
    return (group, resource) in {
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authentication.k8s.io", "selfsubjectreviews"),
    }


@pytest.fixture(scope="module")
def operator(installed: ControlPlane) -> Iterator[Api]:
    """A client with exactly the operator's rights."""
    api = Api(installed.service_account_kubeconfig(HOME, ACCOUNT))
    yield api
    api.close()


def test_the_operator_may_label_nodes_under_its_own_prefix(operator: Api) -> None:
    own = {"drafter.sled.dev/default.fleet": "tiny.pi.r1", "sled.dev/device-class": "pi"}
    body = {"metadata": {"labels": own, "annotations": {"sled.dev/x": "y"}}}
    operator.patch("/api/v1/nodes/pi", body)
    gone = {"metadata": {"labels": dict.fromkeys(own), "annotations": {"sled.dev/x": None}}}
    operator.patch("/api/v1/nodes/pi", gone)


@pytest.mark.parametrize(
    ("patch", "sentence"),
    [
        (
            {"metadata": {"labels": {"kubernetes.io/arch": "riscv64"}}},
            "labels of a node under sled",
        ),
        ({"metadata": {"labels": {"kubernetes.io/hostname": None}}}, LABELS),
        ({"metadata": {"labels": {"evilsled.dev/x": "y"}}}, LABELS),
        ({"metadata": {"annotations": {"other": "y"}}}, "annotations of a node under sled"),
        ({"spec": {"unschedulable": True}}, "may not change the spec"),
        ({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}, "may not change the spec"),
    ],
)
def test_the_node_guard_stops_everything_else(operator: Api, patch: Object, sentence: str) -> None:
    with pytest.raises(ApiError, match=sentence) as refused:
        operator.patch("/api/v1/nodes/pi", patch)
    assert refused.value.code == 422


def test_the_node_guard_leaves_others_alone(installed: ControlPlane) -> None:
    installed.api.patch("/api/v1/nodes/pi", {"metadata": {"labels": {"site": "north"}}})


def test_the_operator_cannot_browse_secrets(operator: Api) -> None:
    with pytest.raises(ApiError, match="cannot list resource"):
        operator.get("/api/v1/namespaces/kube-system/secrets")


@pytest.mark.parametrize(
    ("role", "verb", "allowed"),
    [("view", "get", True), ("view", "create", False), ("edit", "create", True)],
)
@pytest.mark.parametrize("resource", ["sledservers", "edgedrafters"])
def test_whoever_may_use_a_namespace_may_use_both_kinds(
    installed: ControlPlane, role: str, verb: str, allowed: bool, resource: str
) -> None:
    def granted(found: Object | None) -> bool:
        rules = (found or {}).get("rules", [])
        return any("sled.dev" in rule.get("apiGroups", []) for rule in rules)

    roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    rules = installed.api.wait(roles, role, granted)
    assert rules is not None
    ours = [rule for rule in rules["rules"] if "sled.dev" in rule.get("apiGroups", [])]
    assert any(resource in r["resources"] and verb in r["verbs"] for r in ours) is allowed


def test_upgrade_and_rollback_roll_the_operator(installed: ControlPlane, helm: Helm) -> None:
    before = installed.api.get(f"{DEPLOYMENTS}/sled-operator")["metadata"]["generation"]
    values = {"logLevel": "debug", "replicas": 2}
    helm.run("upgrade", "sled", str(CHART), "-n", HOME, "--wait", values=values)
    found = installed.api.get(f"{DEPLOYMENTS}/sled-operator")
    assert found["metadata"]["generation"] > before
    assert found["status"]["readyReplicas"] == 2
    assert _log_level(installed) == "debug"
    budgets = f"/apis/policy/v1/namespaces/{HOME}/poddisruptionbudgets"
    assert len(installed.api.items(budgets)) == 1
    helm.run("rollback", "sled", "1", "-n", HOME, "--wait")
    assert _log_level(installed) == "info"
    assert installed.api.items(budgets) == []


def _log_level(plane: ControlPlane) -> str:
    deployment = plane.api.get(f"{DEPLOYMENTS}/sled-operator")
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    found: str = next(each for each in environment if each["name"] == "SLED_LOG_LEVEL")["value"]
    return found


def test_an_upgrade_that_breaks_is_taken_back(installed: ControlPlane, helm: Helm) -> None:
    values = {"image": {"tag": "broken"}}
    flags = ("-n", HOME, "--wait", "--rollback-on-failure", "--timeout", "5s")
    with pytest.raises(HelmFailed, match="rolled back"):
        helm.run("upgrade", "sled", str(CHART), *flags, values=values)
    found = installed.api.get(f"{DEPLOYMENTS}/sled-operator")
    image = found["spec"]["template"]["spec"]["containers"][0]["image"]
    assert not image.endswith("broken")


def test_uninstall_keeps_the_resources_and_nothing_else(
    installed: ControlPlane, helm: Helm
) -> None:
    resources = DATA / "accepted" / "server-least.yaml"
    installed.kubectl("apply", "-n", "default", "-f", str(resources))
    _uninstall(helm)
    assert installed.kubectl("get", "sled", "-n", "default", "-o", "name").strip()
    assert _left_over(installed) == ["edgedrafters.sled.dev", "sledservers.sled.dev"]
    _install(helm, "--wait")  # takes the kept definitions over again
    assert installed.kubectl("get", "sled", "-n", "default", "-o", "name").strip()
    _uninstall(helm)
    installed.kubectl("delete", "-n", "default", "-f", str(resources))


def test_without_keep_the_definitions_go_too(installed: ControlPlane, helm: Helm) -> None:
    _uninstall(helm)
    _install(helm, values={"crds": {"keep": False}})
    _uninstall(helm)
    assert _left_over(installed) == []


def test_a_namespaced_operator_has_no_rights_elsewhere(installed: ControlPlane, helm: Helm) -> None:
    _uninstall(helm)
    _install(helm, values={"watchNamespace": HOME})
    api = installed.api
    assert _allowed(api, HOME, "apps", "daemonsets", "create")
    assert not _allowed(api, "default", "apps", "daemonsets", "create")
    assert not _allowed(api, "default", "", "secrets", "get")
    assert _allowed(api, "", "", "nodes", "patch")
    _uninstall(helm)


def _left_over(plane: ControlPlane) -> list[str]:
    """Names of all objects that carry our chart's or our project's label, wherever they are."""
    names: list[str] = []
    kinds = plane.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    listable = ",".join(kind for kind in kinds if not kind.endswith("sled.dev"))
    selector = "app.kubernetes.io/part-of=sled"
    found = plane.kubectl("get", listable, "-A", "-l", selector, "-o", "name", "--ignore-not-found")
    for line in found.split():
        names.append(line.partition("/")[2])
    return sorted(names)
