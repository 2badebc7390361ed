"""Alerts and dashboard: valid PromQL over metrics that exist, and a runbook page per alert."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from sled_testkit.cluster_helm import Helm

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "sled"
RUNBOOKS = ROOT / "docs" / "runbooks"
SOURCES = ("verifier/sled_verifier", "edge/sled_edge", "operator/sled_operator")
_SERIES = re.compile(r"\b(?:vllm:|sled_)[a-z_:]+")
_SUFFIX = re.compile(r"_(total|bucket|sum|count)$")


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CHART / "files" / "dashboards" / "sled.json").read_text())
    return found


def _expressions() -> Iterator[tuple[str, str]]:
    for rule in _rules():
        yield rule["alert"], rule["expr"]
    for panel in _dashboard()["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "5m")
            yield panel["title"], text.replace("$namespace", ".*").replace("$model", ".*")


@pytest.mark.parametrize(("name", "expression"), list(_expressions()))
def test_expression_is_valid_and_names_metrics_that_exist(name: str, expression: str) -> None:
    promql_parser.parse(expression)
    text = "\n".join(
        file.read_text() for source in SOURCES for file in (ROOT / source).glob("*metrics*.py")
    )
    for series in _SERIES.findall(expression):
        metric = _SUFFIX.sub("", series)
        short = metric.removeprefix("sled_edge_").removeprefix("sled_operator_")
        assert f'"{metric}"' in text or f'"{short}"' in text, (
            f"{name}: {series} is no metric of ours"
        )


@pytest.mark.parametrize("alert", [rule["alert"] for rule in _rules()])
def test_every_alert_has_a_runbook_page(alert: str) -> None:
    page = (RUNBOOKS / f"{alert}.md").read_text()
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings == [f"# {alert}", "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]


def test_every_page_belongs_to_an_alert() -> None:
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == {rule["alert"] for rule in _rules()}


def test_links_between_pages_lead_somewhere() -> None:
    for page in RUNBOOKS.glob("*.md"):
        for link in re.findall(r"\]\(([A-Za-z]+\.md)\)", page.read_text()):
            assert (RUNBOOKS / link).is_file(), f"{page.name} -> {link}"


def test_the_rule_object_carries_alerts_with_their_runbooks(helm: Helm) -> None:
    values = {"prometheusRule": {"enabled": True, "runbookUrl": "https://example.com/r/"}}
    objects = helm.template(CHART, values=values)
    (rule,) = [each for each in objects if each["kind"] == "PrometheusRule"]
    rendered = [each for group in rule["spec"]["groups"] for each in group["rules"]]
    for source, copy in zip(_rules(), rendered, strict=True):
        url = copy["annotations"].pop("runbook_url")
        assert url == f"https://example.com/r/{source['alert']}.md"
        assert copy == source


def test_the_dashboard_object_carries_the_dashboard(helm: Helm) -> None:
    objects = helm.template(CHART, values={"dashboards": {"enabled": True}})
    (found,) = [each for each in objects if each["metadata"]["name"].endswith("-dashboards")]
    assert json.loads(found["data"]["sled.json"]) == _dashboard()
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _dashboard()["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
