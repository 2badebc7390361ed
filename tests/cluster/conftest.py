"""Fixtures over a real control plane, and an honest summary when there is none.

The programs are found or built before the first test, with progress on the terminal, so that a
build never counts against a test's time limit. What cannot run is listed at the end with how to
run it; with CI=true it fails instead.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sled_testkit import cluster_existing, cluster_tools
from sled_testkit.cluster import Cluster, ControlPlane
from sled_testkit.cluster_helm import Helm

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NEED_OWN = {"control_plane", "own_plane"}
NEED_CLUSTER = {"cluster", "helm", *NEED_OWN}
OWN_ONLY = (
    "they need a control plane of their own (fake nodes, audit log, restarts) and KUBECONFIG names "
    "an existing cluster; unset it to run them"
)
GIVEN = pytest.StashKey[cluster_existing.Given]()
MISSING = pytest.StashKey[str]()
NOT_RUN = pytest.StashKey[dict[str, list[str]]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    config.stash[NOT_RUN] = {}
    if config.option.collectonly or not _ours(session):
        return
    try:
        config.stash[GIVEN] = cluster_existing.given()
        if config.stash[GIVEN].kubeconfig is None:
            _provide_tools(config)
    except cluster_tools.ToolMissing as missing:
        config.stash[MISSING] = str(missing)


def _ours(session: pytest.Session) -> bool:
    return any(item.path.is_relative_to(HERE) for item in session.items)


def _provide_tools(config: pytest.Config) -> None:
    lacking = cluster_tools.missing()
    if not lacking:
        return
    terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")

    def report(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.write_line(line)

    for name in lacking:
        cluster_tools.find(name, report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    not_run = terminalreporter.config.stash.get(NOT_RUN, {})
    if not_run:
        terminalreporter.section("cluster tests that did not run")
        for reason, tests in not_run.items():
            terminalreporter.write_line(f"{len(tests)} tests: {reason}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Function) -> None:
    """Say clearly, per test and before any fixture, why it cannot run on this machine."""
    needed = NEED_CLUSTER & set(item.fixturenames)
    if not needed:
        return
    if reason := item.config.stash.get(MISSING, None):
        _cannot_run(item, reason)
    if item.config.stash[GIVEN].kubeconfig and needed & NEED_OWN:
        _cannot_run(item, OWN_ONLY)


def _cannot_run(item: pytest.Function, reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    item.config.stash[NOT_RUN].setdefault(reason, []).append(item.nodeid)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """An API server of our own, with an audit log; it can be stopped and started."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture(scope="session")
def workloads(control_plane: ControlPlane) -> ControlPlane:
    """The same control plane with controllers, scheduler and fake nodes that run pods."""
    control_plane.start_workloads()
    return control_plane


@pytest.fixture(scope="module")
def own_plane() -> Iterator[ControlPlane]:
    """A whole control plane for one module, for what changes the cluster as a whole."""
    with ControlPlane() as plane:
        plane.start_workloads()
        yield plane


@pytest.fixture(scope="session")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The cluster that the user gave, else our own control plane."""
    given = request.config.stash[GIVEN]
    if given.kubeconfig is None:
        plane: ControlPlane = request.getfixturevalue("control_plane")
        yield plane
        return
    folder = tmp_path_factory.mktemp("existing")
    existing = Cluster(cluster_existing.write(given.kubeconfig, folder), folder)
    yield existing
    existing.close()


@pytest.fixture(scope="session")
def crds(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with both resource definitions applied and established."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    names = ("sledservers.sled.dev", "edgedrafters.sled.dev")
    cluster.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in names))
    yield cluster
    cluster.kubectl("delete", "--ignore-not-found", "--wait=false", *(f"crd/{n}" for n in names))


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace for one test."""
    name = f"t-{secrets.token_hex(4)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster.api.create("/api/v1/namespaces", body)
    yield name
    cluster.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="session")
def helm(cluster: Cluster) -> Helm:
    """The pinned Helm against the cluster, as administrator."""
    return Helm(cluster.folder, cluster.kubeconfig)
