"""The chart without a cluster: lint, what values do to the objects, which values are refused."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sled_operator.settings import Settings, from_environment
from sled_operator.spec import parse
from sled_testkit.cluster_helm import Helm, HelmFailed

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "sled"

INTEGRATIONS = ("certManager", "gateway", "serviceMonitor", "dra")
ACCEPTED: dict[str, dict[str, Any]] = {
    "defaults": {},
    "private registry": {
        "image": {"registry": "registry.example.com:5000", "digest": f"sha256:{'a' * 64}"},
        "imagePullSecrets": ["regcred"],
    },
    "own images": {
        "workloadImages": {"verifier": "me/verifier:1", "drafter": {"cpu": "me/e@sha256:1"}}
    },
    "one namespace": {"watchNamespace": "north"},
    "high availability": {"replicas": 2, "priorityClassName": "system-cluster-critical"},
    "no optional rights": {
        "rbac": {
            "integrations": dict.fromkeys(
                ("certManager", "gateway", "serviceMonitor", "dra"), False
            )
        }
    },
    "rights from elsewhere": {"rbac": {"create": False}, "serviceAccount": {"create": False}},
    "placed": {
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "control-plane", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {}},
    },
    "monitored": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "runbookUrl": "https://example.com/runbooks/"},
        "dashboards": {"enabled": True, "annotations": {"folder": "SLED"}},
    },
    "without crds": {"crds": {"enabled": False}},
    "labelled": {
        "commonLabels": {"team": "edge"},
        "podLabels": {"a": "b"},
        "podAnnotations": {"c": "d"},
    },
    "proxied": {"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]},
    "open network": {"networkPolicy": {"enabled": False}, "nodeGuard": {"enabled": False}},
    "scraped from one place": {
        "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]}
    },
    "renamed": {"nameOverride": "spec", "fullnameOverride": "edge-speculation"},
}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"replica": 2}, "additional properties 'replica' not allowed"),
    ({"image": {"tags": "1"}}, "additional properties 'tags' not allowed"),
    ({"replicas": -1}, "minimum"),
    ({"replicas": 50}, "maximum"),
    ({"replicas": "two"}, "want integer"),
    ({"logLevel": "verbose"}, "must be one of"),
    ({"image": {"pullPolicy": "Sometimes"}}, "must be one of"),
    ({"image": {"digest": "sha256:abc"}}, "does not match pattern"),
    ({"image": {"tag": "a b"}}, "does not match pattern"),
    ({"watchNamespace": ["default"]}, "want string"),
    ({"watchNamespace": "Not_A_Name"}, "does not match pattern"),
    ({"imagePullSecrets": ["a", "a"]}, "are equal"),
    ({"workers": 0}, "minimum"),
    ({"crds": {"keep": "yes"}}, "want boolean"),
    ({"resources": {"limit": {}}}, "additional properties 'limit' not allowed"),
    ({"resources": {"limits": {"memory": "lots"}}}, "does not match pattern"),
    ({"workloadImages": {"drafter": {"rocm": "x"}}}, "additional properties 'rocm' not allowed"),
    ({"workloadImages": {"verifier": "a image"}}, "does not match pattern"),
    ({"extraEnv": [{"name": "SLED_LEASE_NAME", "value": "x"}]}, "not"),
    ({"networkPolicy": {"from": [{}]}}, "minProperties"),
    ({"rbac": {"integrations": {"keda": True}}}, "additional properties 'keda' not allowed"),
    ({"serviceMonitor": {"interval": "often"}}, "does not match pattern"),
    ({"nameOverride": "UPPER"}, "does not match pattern"),
    ({"tolerations": [{"effect": "Never"}]}, "must be one of"),
]


@pytest.mark.parametrize("values", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_lints_and_renders(helm: Helm, values: dict[str, Any]) -> None:
    helm.run("lint", str(CHART), "--strict", values=values)
    objects = helm.template(CHART, values=values)
    names = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in objects
    ]
    assert len(names) == len(set(names))
    for each in objects:
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "sled", each["kind"]


@pytest.mark.parametrize(("values", "sentence"), REFUSED, ids=lambda part: json.dumps(part)[:60])
def test_wrong_values_are_refused(helm: Helm, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HelmFailed, match="values don't meet the specifications") as refused:
        helm.template(CHART, values=values)
    assert sentence in str(refused.value)


def test_every_value_is_in_the_schema_and_back() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert _difference(values, schema) == []


def _difference(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> list[str]:
    properties = schema.get("properties", {})
    if not properties:
        return []
    wrong = [f"{path}{key} is not in the schema" for key in values.keys() - properties.keys()]
    wanted = properties.keys() - {"global"}
    if values:
        wrong += [f"{path}{key} has no default" for key in wanted - values.keys()]
    for key, value in values.items():
        if isinstance(value, dict):
            wrong += _difference(value, properties.get(key, {}), f"{path}{key}.")
    return wrong


def test_generated_files_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "charts" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_value_without_a_comment_is_refused() -> None:
    generate = runpy.run_path(str(ROOT / "charts" / "generate.py"))
    text = (CHART / "values.yaml").read_text() + "newcomer:\n  here: 1\n"
    with pytest.raises(generate["ValuesUndocumented"], match=r"newcomer\.here has no comment"):
        generate["sections"](text)


def test_the_definitions_are_those_of_crds(helm: Helm) -> None:
    rendered = {
        each["metadata"]["name"]: each
        for each in helm.template(CHART)
        if each["kind"] == "CustomResourceDefinition"
    }
    for file in (ROOT / "crds").glob("*.yaml"):
        source = yaml.safe_load(file.read_text())
        copy = rendered.pop(source["metadata"]["name"])
        assert copy["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert copy == source
    assert rendered == {}


def test_a_change_of_the_settings_restarts_the_operator(helm: Helm) -> None:
    before, after = (
        _one(helm.template(CHART, values={"logLevel": level}), "Deployment")
        for level in ("info", "debug")
    )
    assert before["spec"]["selector"] == after["spec"]["selector"]
    assert before["spec"]["template"] != after["spec"]["template"]


def test_names_stay_short_enough(helm: Helm) -> None:
    text = helm.run("template", "a" * 53, str(CHART), "--namespace", "n" * 63)
    for each in yaml.safe_load_all(text):
        if each and each["kind"] in ("Service", "Deployment"):
            assert len(each["metadata"]["name"]) <= 63


def test_images(helm: Helm) -> None:
    values = {"image": {"registry": "r.example.com", "tag": "9"}}
    objects = helm.template(CHART, values=values)
    container = _one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "r.example.com/sled-dev/operator:9"
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    images = {each["name"]: each.get("value") for each in container["env"]}
    assert images["SLED_VERIFIER_IMAGE"] == f"r.example.com/sled-dev/verifier:{version}"
    assert images["SLED_VERIFIER_VLLM_IMAGE"] == f"r.example.com/sled-dev/verifier-vllm:{version}"
    assert images["SLED_EDGE_IMAGE_L4T"] == f"r.example.com/sled-dev/edge-l4t:{version}"


def test_the_operator_reads_what_the_chart_sets(helm: Helm) -> None:
    values = {"workers": 9, "statsSeconds": 7, "watchNamespace": "north", "logLevel": "debug"}
    deployment = _one(helm.template(CHART, values=values), "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    environment = {each["name"]: each.get("value", "x") for each in container["env"]}
    known = {f"SLED_{name.upper()}" for name in Settings.__slots__}
    assert {name for name in environment if name.startswith("SLED_")} == known
    found = from_environment(environment)
    assert (found.workers, found.stats_seconds) == (9, 7)
    assert (found.watch_namespace, found.log_level) == ("north", "debug")


def test_the_chart_has_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (project, project)


def test_what_artifact_hub_shows_is_true(helm: Helm) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    shown = yaml.safe_load(chart["annotations"]["artifacthub.io/crds"])
    defined = [each for each in helm.template(CHART) if each["kind"] == "CustomResourceDefinition"]
    assert {(each["name"], each["kind"], each["version"]) for each in shown} == {
        (each["metadata"]["name"], each["spec"]["names"]["kind"], version["name"])
        for each in defined
        for version in each["spec"]["versions"]
    }
    examples = yaml.safe_load(chart["annotations"]["artifacthub.io/crdsExamples"])
    assert {type(parse(each)).__name__ for each in examples} == {each["kind"] for each in shown}


def _one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == kind]
    return found
