"""Both resource definitions in a real API server: what is refused, accepted, shown and explained.

Each file of `data/refused` is a manifest whose first line says which sentence the refusal carries;
where it holds several documents, all but the last are accepted first.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sled_testkit.cluster import Cluster, KubectlFailed
from sled_testkit.cluster_api import Object

DATA = Path(__file__).parent / "data"
REFUSED = sorted((DATA / "refused").glob("*.yaml"))
ACCEPTED = sorted((DATA / "accepted").glob("*.yaml"))
EXAMPLES = sorted(
    file
    for file in (DATA.parents[2] / "examples").rglob("*.yaml")
    if "apiVersion: sled.dev/" in file.read_text()
)
SHORT = {"sled": "sledserver.sled.dev/least", "drafter": "edgedrafter.sled.dev/least"}
GROUP = "/apis/sled.dev/v1alpha1"


@pytest.mark.parametrize("file", REFUSED, ids=lambda file: file.stem)
def test_refused_at_apply_with_a_sentence(crds: Cluster, namespace: str, file: Path) -> None:
    text = file.read_text()
    sentence = text.splitlines()[0].removeprefix("# refused: ")
    *before, hostile = [document for document in text.split("---\n") if document.strip()]
    for document in before:
        crds.kubectl("apply", "-n", namespace, "-f", "-", stdin=document)
    for how in ((), ("--dry-run=server",)):
        with pytest.raises(KubectlFailed) as refused:
            crds.kubectl("apply", "-n", namespace, *how, "-f", "-", stdin=hostile)
        assert sentence in refused.value.stderr
    with pytest.raises(KubectlFailed, match=r"spec|metadata|name|immutable"):
        crds.kubectl("apply", "-n", namespace, "--server-side", "-f", "-", stdin=hostile)


def test_a_refused_resource_leaves_the_others_of_the_file_alone(
    crds: Cluster, namespace: str
) -> None:
    good = (DATA / "accepted" / "server-least.yaml").read_text()
    bad = (DATA / "refused" / "server-min-above-max.yaml").read_text()
    with pytest.raises(KubectlFailed, match="minReplicas must not exceed maxReplicas"):
        crds.kubectl("apply", "-n", namespace, "-f", "-", stdin=f"{bad}---\n{good}")
    assert crds.api.get(f"{GROUP}/namespaces/{namespace}/sledservers/least")


@pytest.mark.parametrize("file", ACCEPTED, ids=lambda file: file.stem)
def test_accepted_and_stable_under_repeated_applies(
    crds: Cluster, namespace: str, file: Path
) -> None:
    path = _collection(yaml.safe_load(file.read_text()), namespace)
    for _ in range(2):  # the first one after creation stores the default of status
        crds.kubectl("apply", "--server-side", "-n", namespace, "-f", str(file))
    first = crds.api.get(path)["items"][0]["metadata"]
    crds.kubectl("apply", "--server-side", "-n", namespace, "-f", str(file))
    second = crds.api.get(path)["items"][0]["metadata"]
    assert (second["resourceVersion"], second["generation"]) == (first["resourceVersion"], 1)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_example_is_accepted(crds: Cluster, namespace: str, file: Path) -> None:
    crds.kubectl("apply", "-n", namespace, "--dry-run=server", "-f", str(file))


def test_kubectl_scale_writes_spec_replicas(crds: Cluster, namespace: str) -> None:
    crds.kubectl("apply", "-n", namespace, "-f", str(DATA / "accepted" / "server-least.yaml"))
    crds.kubectl("scale", "-n", namespace, "sled/least", "--replicas=3")
    found = crds.api.get(f"{GROUP}/namespaces/{namespace}/sledservers/least")
    assert found["spec"]["replicas"] == 3
    with pytest.raises(KubectlFailed, match="less than or equal to 1000"):
        crds.kubectl("scale", "-n", namespace, "sled/least", "--replicas=2000")


def test_short_names_and_the_category_find_both_kinds(crds: Cluster, namespace: str) -> None:
    for file in ("server-least.yaml", "drafter-least.yaml"):
        crds.kubectl("apply", "-n", namespace, "-f", str(DATA / "accepted" / file))
    for shown in ("sled", "drafter"):
        (found,) = crds.kubectl("get", "-n", namespace, shown, "least", "-o", "name").split()
        assert found == SHORT[shown]
    both = crds.kubectl("get", "-n", namespace, "sleds", "-o", "name").split()
    assert sorted(both) == sorted(SHORT.values())


def test_one_category_lists_everything(crds: Cluster) -> None:
    listed = crds.kubectl("api-resources", "--categories=sleds", "-o", "name").split()
    assert sorted(listed) == ["edgedrafters.sled.dev", "sledservers.sled.dev"]


def test_printer_columns_show_the_status(crds: Cluster, namespace: str) -> None:
    crds.kubectl("apply", "-n", namespace, "-f", str(DATA / "accepted" / "server-least.yaml"))
    status = {"replicas": 2, "readyReplicas": 1, "conditions": [_condition("Ready", "False")]}
    path = f"{GROUP}/namespaces/{namespace}/sledservers/least/status"
    crds.api.patch(path, {"status": status})
    header, row = crds.kubectl("get", "-n", namespace, "sled").splitlines()
    assert header.split()[:6] == ["NAME", "MODEL", "READY", "REASON", "REPLICAS", "DESIRED"]
    assert row.split()[:6] == ["least", "qwen-7b", "False", "ReplicasNotReady", "1", "2"]
    wide = crds.kubectl("get", "-n", namespace, "sled", "-o", "wide").splitlines()[0]
    assert "MESSAGE" in wide


def test_a_status_write_leaves_the_spec_and_its_generation_alone(
    crds: Cluster, namespace: str
) -> None:
    crds.kubectl("apply", "-n", namespace, "-f", str(DATA / "accepted" / "server-least.yaml"))
    path = f"{GROUP}/namespaces/{namespace}/sledservers/least"
    crds.api.patch(f"{path}/status", {"spec": {"replicas": 7}, "status": {"replicas": 1}})
    found = crds.api.get(path)
    assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (1, 1)
    assert found["status"]["replicas"] == 1


def test_kubectl_wait_reads_the_conditions(crds: Cluster, namespace: str) -> None:
    crds.kubectl("apply", "-n", namespace, "-f", str(DATA / "accepted" / "drafter-least.yaml"))
    path = f"{GROUP}/namespaces/{namespace}/edgedrafters/least/status"
    crds.api.patch(path, {"status": {"conditions": [_condition("Ready", "True")]}})
    crds.kubectl("wait", "-n", namespace, "--for=condition=Ready", "drafter/least", "--timeout=10s")


def test_every_field_is_explained(crds: Cluster) -> None:
    for name in ("sledservers.sled.dev", "edgedrafters.sled.dev"):
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        version = crds.api.get(path)["spec"]["versions"][0]
        schema = version["schema"]["openAPIV3Schema"]["properties"]
        bare = [path for part in ("spec", "status") for path in _undescribed(part, schema[part])]
        assert bare == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("sledservers.spec.model.source", "catalog://NAME"),
        ("sledservers.spec.autoscaling", "scaleToZeroAfterSeconds"),
        ("edgedrafters.spec.rollout.waves", "soakSeconds"),
        ("edgedrafters.spec.nodeSelector", "Labels of the nodes"),
    ],
)
def test_kubectl_explain(crds: Cluster, path: str, words: str) -> None:
    assert words in crds.kubectl("explain", path, "--api-version=sled.dev/v1alpha1")


def test_no_spec_field_is_a_float(crds: Cluster) -> None:
    for name in ("sledservers.sled.dev", "edgedrafters.sled.dev"):
        found = crds.api.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        assert '"number"' not in json.dumps(found["spec"])


def _condition(kind: str, status: str) -> Object:
    return {
        "type": kind,
        "status": status,
        "reason": "ReplicasNotReady",
        "message": "1 of 2 replicas are ready.",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }


def _collection(body: Object, namespace: str) -> str:
    return f"{GROUP}/namespaces/{namespace}/{body['kind'].lower()}s"


def _undescribed(path: str, schema: Object) -> list[str]:
    missing = [] if schema.get("description") or path.endswith("[]") else [path]
    for name, child in schema.get("properties", {}).items():
        missing += _undescribed(f"{path}.{name}", child)
    if "items" in schema:
        missing += _undescribed(f"{path}[]", schema["items"])
    return missing
