"""What Argo CD and Flux see of a fleet: health by the kstatus library, and no difference that returns.

Both tools apply what Git holds server-side with force, as a field manager of their own, and compare by a server-side
dry run; so does kubectl here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit import kstatus, played_cluster
from sled_testkit.cluster import ControlPlane, KubectlFailed
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_operator import OperatorProcess
from sled_testkit.kstatus import CURRENT, IN_PROGRESS, Verdict
from sled_testkit.sled_resources import APPS, SLED, because, ready, replicas, wait_for
from sled_testkit.stats_stub import StubVerifiers

MANAGERS = ("argocd-controller", "kustomize-controller")
OWNED = (
    "statefulsets,daemonsets,services,configmaps,secrets,serviceaccounts,networkpolicies,poddisruptionbudgets,"
    "endpointslices,controllerrevisions,pods"
)
AT_ONCE: Object = {
    "stabilizationSeconds": 0,
    "maxReplicasPerPeriod": 0,
    "maxPercentPerPeriod": 0,
}


def server(name: str, pool: str, **spec: Any) -> Object:
    placed = {"nodeSelector": {"pool": pool}}
    return _document(
        "SLEDServer", name, {**played_cluster.FAKE, **played_cluster.PLAIN, **placed, **spec}
    )


def drafters(**spec: Any) -> Object:
    drafts = [{"name": "lookup", "kind": "NGram"}]
    given = {"server": {"name": "busy"}, "nodeSelector": {"sled.dev/device": "true"}}
    return _document("EdgeDrafter", "fleet", {**given, "drafts": drafts, **spec})


def _document(kind: str, name: str, spec: Object) -> Object:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "sled.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


SCALED = {"mode": "Builtin", "maxReplicas": 4, "targetQueueDepth": 10, "scaleUp": AT_ONCE}
GIT = [
    server("busy", "played", autoscaling={**SCALED, "scaleDown": AT_ONCE}),
    server("plain", "other"),
    drafters(),
]


def sync(plane: ControlPlane, documents: list[Object], manager: str = MANAGERS[0]) -> None:
    """What the tool does with what Git holds."""
    flags = ("--server-side", "--force-conflicts", f"--field-manager={manager}", "-f", "-")
    plane.kubectl("apply", *flags, stdin=yaml.safe_dump_all(documents))


def differences(plane: ControlPlane, documents: list[Object], manager: str) -> str:
    """What the tool would change; empty when Git and cluster agree."""
    flags = ("--server-side", "--force-conflicts", f"--field-manager={manager}", "-f", "-")
    try:
        return plane.kubectl("diff", *flags, stdin=yaml.safe_dump_all(documents))
    except KubectlFailed as failed:
        return failed.stderr


def serving(count: int) -> Callable[[Object | None], bool]:
    """Whether a server has settled at this many replicas; until then every write shows in `differences`."""

    def settled(found: Object | None) -> bool:
        status = (found or {}).get("status", {})
        return ready(found) and status["replicas"] == status["readyReplicas"] == count

    return settled


def verdict(plane: ControlPlane, kind: str, name: str) -> Verdict:
    (found,) = kstatus.judge([plane.api.get(f"{SLED}/{kind}/{name}")])
    return found


def owned(plane: ControlPlane) -> list[Object]:
    """Our resources, and everything that they own at any depth."""
    text = plane.kubectl("get", f"sledservers,edgedrafters,{OWNED}", "-n", "default", "-o", "json")
    found: list[Object] = yaml.safe_load(text)["items"]
    known = {each["metadata"]["uid"] for each in found if "sled.dev" in each["apiVersion"]}
    grown = True
    while grown:
        owners = len(known)
        known |= {
            each["metadata"]["uid"]
            for each in found
            if any(o["uid"] in known for o in each["metadata"].get("ownerReferences", ()))
        }
        grown = len(known) > owners
    return [each for each in found if each["metadata"]["uid"] in known]


@pytest.fixture(scope="module")
def plane(own_plane: ControlPlane) -> ControlPlane:
    return played_cluster.prepare(own_plane, edges=4)


@pytest.fixture(scope="module")
def verifiers(plane: ControlPlane) -> Iterator[StubVerifiers]:
    yield from played_cluster.listening_verifiers()


@pytest.fixture(scope="module")
def operator(plane: ControlPlane) -> Iterator[OperatorProcess]:
    yield from played_cluster.running_operator(plane)


@pytest.fixture
def fleet(plane: ControlPlane, verifiers: StubVerifiers, operator: OperatorProcess) -> ControlPlane:
    """What Git holds is there and Ready, and what an earlier test scaled up is down again."""
    verifiers.answer = lambda: pb.Stats(load=pb.Load(queue_depth=0))
    sync(plane, GIT)
    wait_for(plane, "SLEDServer", "busy", serving(1))
    wait_for(plane, "SLEDServer", "plain", ready)
    wait_for(plane, "EdgeDrafter", "fleet", ready)
    return plane


def test_a_new_resource_is_in_progress_before_the_operator_has_seen_it(plane: ControlPlane) -> None:
    """No operator runs yet; a tool that waits for health must not go on."""
    sync(plane, GIT)
    for kind, name in (("sledservers", "busy"), ("edgedrafters", "fleet")):
        assert verdict(plane, kind, name).status == IN_PROGRESS


def test_everything_becomes_current(fleet: ControlPlane) -> None:
    objects = owned(fleet)
    kinds = {each["kind"] for each in objects}
    assert {"SLEDServer", "EdgeDrafter", "StatefulSet", "DaemonSet", "Service", "Pod"} <= kinds
    assert [each for each in kstatus.judge(objects) if each.status != CURRENT] == []


@pytest.mark.parametrize("manager", MANAGERS)
def test_the_operators_writes_are_no_difference(fleet: ControlPlane, manager: str) -> None:
    sync(fleet, GIT, manager)
    assert differences(fleet, GIT, manager) == ""


def test_a_real_difference_is_shown(fleet: ControlPlane) -> None:
    changed = [drafters(sequences=7)]
    assert "sequences: 7" in differences(fleet, changed, MANAGERS[0])


def test_a_repeated_sync_writes_nothing(fleet: ControlPlane, operator: OperatorProcess) -> None:
    before = {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in owned(fleet)}
    mark = fleet.audit.mark()
    for _ in range(3):
        sync(fleet, GIT)
    after = {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in owned(fleet)}
    assert after == before
    written = fleet.audit.writes(operator.user, mark)
    assert [entry for entry in written if entry.resource != "leases"] == []


def test_autoscaling_is_no_difference(fleet: ControlPlane, verifiers: StubVerifiers) -> None:
    verifiers.answer = lambda: pb.Stats(load=pb.Load(queue_depth=35))
    wait_for(fleet, "SLEDServer", "busy", serving(4))
    for manager in MANAGERS:
        assert differences(fleet, GIT, manager) == ""
    sync(fleet, GIT)
    assert replicas(fleet.api.get(f"{APPS}/statefulsets/busy")) == 4


def test_kubectl_scale_is_no_difference(fleet: ControlPlane) -> None:
    """Git says nothing of the replicas of `plain`, so they are left to whoever scales it."""
    fleet.kubectl("scale", "sled/plain", "--replicas=3")
    wait_for(fleet, "SLEDServer", "plain", serving(3))
    for manager in MANAGERS:
        sync(fleet, GIT, manager)
        assert differences(fleet, GIT, manager) == ""
    wait_for(fleet, "SLEDServer", "plain", serving(3))
    assert verdict(fleet, "sledservers", "plain").status == CURRENT


def test_a_change_is_in_progress_until_it_is_reconciled(
    fleet: ControlPlane, operator: OperatorProcess
) -> None:
    operator.stop()
    changed = [server("plain", "other", batching={"maxQueue": 65}), drafters(sequences=3)]
    sync(fleet, changed)
    for kind, name in (("sledservers", "plain"), ("edgedrafters", "fleet")):
        assert verdict(fleet, kind, name).status == IN_PROGRESS
    operator.start()
    wait_for(fleet, "SLEDServer", "plain", ready)
    wait_for(fleet, "EdgeDrafter", "fleet", ready)
    for kind, name in (("sledservers", "plain"), ("edgedrafters", "fleet")):
        assert verdict(fleet, kind, name).status == CURRENT


def test_what_cannot_work_never_becomes_current_and_says_why(fleet: ControlPlane) -> None:
    template = {"spec": {"containers": [{"name": "verifier", "image": ""}]}}
    sync(fleet, [server("plain", "other", podTemplate=template), drafters(server={"name": "no"})])
    wait_for(fleet, "SLEDServer", "plain", because("ObjectRefused"))
    wait_for(fleet, "EdgeDrafter", "fleet", because("ServerNotFound"))
    found = verdict(fleet, "sledservers", "plain")
    assert found.status != CURRENT
    assert "image" in found.message
    found = verdict(fleet, "edgedrafters", "fleet")
    assert found.status != CURRENT
    assert "no" in found.message
    sync(fleet, GIT)
    wait_for(fleet, "SLEDServer", "plain", ready)
    assert verdict(fleet, "sledservers", "plain").status == CURRENT
