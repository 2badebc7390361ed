"""One site of real nodes for all scenarios, and an honest summary where it cannot be built.

System packages, programs and images are provided before the first test, with progress on the
terminal, so that no build counts against a test's time limit. What cannot run is listed at the end
with how to run it; with CI=true it fails instead.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sled_testkit import cluster_tools, node_images, node_system
from sled_testkit.e2e_record import Record
from sled_testkit.e2e_site import Site
from sled_testkit.e2e_state import describe
from sled_testkit.node_cluster import NodeCluster

HERE = Path(__file__).parent
OBSTACLE = pytest.StashKey[str]()
NOT_RUN = pytest.StashKey[list[str]]()
RESULTS = "SLED_E2E_RESULTS"
RECORDING = "SLED_E2E_RECORDING"
"""Where the terminal session of the first install is written."""
FIRST_NODES = ("gpu-1", "gpu-2", "pi4", "pi5")


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    config.stash[NOT_RUN] = []
    if config.option.collectonly or not any(_needs_site(item) for item in session.items):
        return
    if obstacle := node_system.obstacle():
        config.stash[OBSTACLE] = obstacle
        return
    try:
        _provide(config)
    except cluster_tools.ToolMissing as missing:
        config.stash[OBSTACLE] = str(missing)


def _needs_site(item: pytest.Item) -> bool:
    return item.path.is_relative_to(HERE) and "provided" in getattr(item, "fixturenames", ())


def _provide(config: pytest.Config) -> None:
    report = _reporter(config)
    node_system.install(report)
    for name in cluster_tools.missing(tuple(cluster_tools.TOOLS)):
        cluster_tools.find(name, report)
    node_images.archives(report)


def _reporter(config: pytest.Config) -> cluster_tools.Progress:
    terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")

    def report(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.write_line(line)

    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    if not_run := config.stash.get(NOT_RUN, []):
        terminalreporter.section("end-to-end scenarios that did not run")
        terminalreporter.write_line(f"{len(not_run)} tests: {config.stash[OBSTACLE]}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say clearly, before any fixture, why a scenario cannot run on this machine."""
    obstacle = item.config.stash.get(OBSTACLE, None)
    if obstacle is None or not _needs_site(item):
        return
    if os.environ.get("CI") == "true":
        pytest.fail(obstacle, pytrace=False)
    item.config.stash[NOT_RUN].append(item.nodeid)
    pytest.skip(obstacle)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure how the site stands, which is gone before anybody can look."""
    report = yield
    site = getattr(item, "funcargs", {}).get("bare")
    if report.failed and isinstance(site, Site):
        try:
            report.sections.append(("the site", describe(site)))
        except Exception as error:
            report.sections.append(("the site", f"not known: {error}"))
    return report


@pytest.fixture(scope="session")
def provided() -> None:
    """Stands for what `pytest_collection_finish` provides: whoever needs it cannot run without."""


@pytest.fixture(scope="session")
def progress(request: pytest.FixtureRequest) -> cluster_tools.Progress:
    """Tells the person who waits."""
    return _reporter(request.config)


@pytest.fixture(scope="session")
def bare(progress: cluster_tools.Progress, provided: None) -> Iterator[Site]:
    """Nodes, DNS and a shelf of models; nothing of SLED on them."""
    with NodeCluster(progress) as cluster:
        site = Site(cluster)
        site.prepare(FIRST_NODES)
        yield site


@pytest.fixture(scope="session")
def results() -> Iterator[Record]:
    """What all scenarios measured; written where SLED_E2E_RESULTS says."""
    kept = Record()
    yield kept
    if target := os.environ.get(RESULTS):
        kept.write(Path(target))


@pytest.fixture
def record(request: pytest.FixtureRequest, results: Record, bare: Site) -> Iterator[Record]:
    """Takes what this test measures; it counts when the test has held."""
    failed, compared, lost = request.session.testsfailed, bare.tokens_compared, bare.tokens_lost
    yield results
    held = request.session.testsfailed == failed
    results.close(held, bare.tokens_compared - compared, bare.tokens_lost - lost)


@pytest.fixture(scope="session")
def site(bare: Site) -> Site:
    """The chart installed, one verifier and one fleet of two devices at work."""
    recording = os.environ.get(RECORDING)
    bare.open(Path(recording) if recording else None)
    return bare
