"""The GitOps examples: accepted by API server and chart, healthy when the operator says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lupa
import promql_parser
import pytest
import yaml

from sled_operator.resources.autoscaler import METRIC
from sled_testkit.cluster import Cluster
from sled_testkit.cluster_helm import Helm

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "gitops"
CHART = ROOT / "charts" / "sled"
SLED_KINDS = ("SLEDServer", "EdgeDrafter")


def _load(name: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((EXAMPLES / name).read_text()) if each]


def test_the_fleet_builds_with_kustomize(crds: Cluster) -> None:
    built = list(yaml.safe_load_all(crds.kubectl("kustomize", str(EXAMPLES / "fleet"))))
    assert sorted(each["kind"] for each in built) == sorted(SLED_KINDS)
    assert {each["metadata"]["namespace"] for each in built} == {"inference"}


def test_values_are_accepted_by_the_chart(helm: Helm) -> None:
    (application,) = _load("argo-cd/operator.yaml")
    release = next(each for each in _load("flux/operator.yaml") if each["kind"] == "HelmRelease")
    for values in (
        application["spec"]["source"]["helm"]["valuesObject"],
        release["spec"]["values"],
    ):
        kinds = {each["kind"] for each in helm.template(CHART, values=values)}
        assert {"PrometheusRule", "ServiceMonitor", "PodDisruptionBudget"} <= kinds


def test_paths_lead_somewhere() -> None:
    for name in ("argo-cd/operator.yaml", "argo-cd/fleet.yaml"):
        (application,) = _load(name)
        assert (ROOT / application["spec"]["source"]["path"]).is_dir()
    (fleet,) = _load("flux/fleet.yaml")
    assert (ROOT / fleet["spec"]["path"]).is_dir()


def test_keda_scales_the_statefulset_that_the_operator_makes() -> None:
    (server,) = _load("keda/verifier.yaml")
    (scaled,) = _load("keda/scaledobject.yaml")
    target = scaled["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("StatefulSet", server["metadata"]["name"])
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    promql_parser.parse(query)
    assert server["spec"]["model"]["name"] in query


def test_the_adapter_serves_the_metric_that_the_autoscaler_asks_for() -> None:
    (values,) = _load("hpa/adapter-values.yaml")
    (rule,) = values["rules"]["custom"]
    assert re.fullmatch(rule["name"]["matches"], METRIC)
    promql_parser.parse(rule["seriesQuery"])
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.Series>>", METRIC)
    promql_parser.parse(query.replace("<<.LabelMatchers>>", 'namespace="a"'))
    (server,) = _load("hpa/verifier.yaml")
    assert server["spec"]["autoscaling"]["mode"] == "HPA"


HEALTH = [
    ({}, "Progressing"),
    ({"Ready": "False", "Progressing": "True", "Degraded": "False"}, "Progressing"),
    ({"Ready": "True", "Progressing": "False", "Degraded": "False"}, "Healthy"),
    ({"Ready": "True", "Progressing": "True", "Degraded": "False"}, "Healthy"),
    ({"Ready": "False", "Progressing": "False", "Degraded": "True"}, "Degraded"),
    ({"Ready": "False", "Progressing": "False", "Degraded": "False"}, "Degraded"),
    ({"Ready": "True", "Progressing": "True", "Degraded": "True"}, "Degraded"),
]


@pytest.mark.parametrize("kind", SLED_KINDS)
@pytest.mark.parametrize(("conditions", "wanted"), HEALTH)
def test_argo_cd_reads_the_conditions(kind: str, conditions: dict[str, str], wanted: str) -> None:
    found = _health(kind, conditions, observed=3)
    assert found["status"] == wanted
    if wanted != "Progressing":
        assert "says" in found["message"]


@pytest.mark.parametrize("kind", SLED_KINDS)
def test_argo_cd_does_not_trust_conditions_of_an_older_generation(kind: str) -> None:
    assert _health(kind, {"Ready": "True"}, observed=2)["status"] == "Progressing"


def _health(kind: str, conditions: dict[str, str], observed: int) -> Any:
    (config,) = _load("argo-cd/health.yaml")
    script = config["data"][f"resource.customizations.health.sled.dev_{kind}"]
    runtime = lupa.LuaRuntime()
    listed = [
        {"type": name, "status": status, "message": f"{name} says {status}"}
        for name, status in conditions.items()
    ]
    status = {"observedGeneration": observed, "conditions": listed}
    runtime.globals().obj = runtime.table_from(
        {"metadata": {"generation": 3}, "status": status}, recursive=True
    )
    return runtime.execute(script)
