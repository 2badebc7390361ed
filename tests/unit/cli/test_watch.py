from __future__ import annotations

from io import StringIO
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from sled_cli.errors import BadInput
from sled_cli.top.targets import targets_of_options, targets_of_state
from sled_cli.top.view import Look, fleet_view
from sled_cli.up.state import StateFolder
from sled_cli.watch.device import DeviceCounters, parse_device_metrics, read_device
from sled_cli.watch.verifier import VerifierStats, VerifierWatch
from sled_edge.generation import Delta, RoundStats
from sled_edge.metrics import EdgeMetrics


def metrics_text() -> str:
    metrics = EdgeMetrics()
    stats = RoundStats(4, 3, 0.1, 0.2, 0.0, 0.1, uplink_bytes=60, downlink_bytes=20)
    metrics.observe_delta(Delta((1, 2, 3, 4), round=stats))
    metrics.observe_delta(Delta((5,), round=RoundStats(0, 0, 0.0, 0.2, 0.0, 0.1, 40, 20)))
    metrics.verifier_connected(True)
    for finish in ("end_token", "end_token", "length"):
        metrics.generation_started(10)
        metrics.generation_ended(finish, 1.0)
    metrics.generation_started(10)
    return metrics.exposition()[0].decode()


def test_a_devices_metrics_are_read_as_it_writes_them() -> None:
    assert parse_device_metrics(metrics_text()) == DeviceCounters(
        passes=2,
        draft_tokens=4,
        accepted_tokens=3,
        output_tokens=5,
        ends=2,
        link_bytes=140,
        running=1,
        connected=True,
    )


def test_ratios_are_none_before_there_is_anything() -> None:
    nothing = DeviceCounters()
    assert (nothing.acceptance, nothing.tokens_per_pass, nothing.bytes_per_token) == (None,) * 3
    some = DeviceCounters(
        passes=2, draft_tokens=4, accepted_tokens=3, output_tokens=5, ends=1, link_bytes=140
    )
    assert (some.acceptance, some.tokens_per_pass, some.bytes_per_token) == (0.75, 3, 28)


def test_a_device_that_started_again_counts_from_zero() -> None:
    before = DeviceCounters(passes=10, output_tokens=30)
    assert DeviceCounters(passes=12, output_tokens=36).since(before) == DeviceCounters(
        passes=2, output_tokens=6
    )
    again = DeviceCounters(passes=3, output_tokens=9)
    assert again.since(before) == again


@pytest.mark.parametrize("reply", [httpx.Response(500), httpx.Response(200, text="# TYPE a b c{")])
async def test_no_usable_answer_is_none(reply: httpx.Response) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: reply)) as client:
        assert await read_device(client, "http://d") is None


async def test_a_verifier_that_is_not_there_is_none() -> None:
    watch = VerifierWatch("127.0.0.1:1", None)
    assert await watch.read() is None
    await watch.close()


def test_the_table_shows_rates_between_two_looks_and_who_is_silent() -> None:
    targets = targets_of_options(("v:1", "w:1"), ("http://a/", "http://b"), None)
    assert [device.url for device in targets.devices] == ["http://a", "http://b"]

    def look(seconds: float, tokens: int) -> Look:
        stats = VerifierStats(2, 3, 4, 256, 17, 9, 9, tokens, 0.05, 0.2, False)
        counters = DeviceCounters(passes=10, output_tokens=tokens, connected=True)
        return Look(seconds, {"v:1": stats, "w:1": None}, {"http://a/": counters, "http://b": None})

    out = StringIO()
    view = fleet_view(targets, look(0, 10), look(2, 30))
    Console(file=out, width=140).print(view)
    lines = [line.split() for line in out.getvalue().splitlines()]
    serving = "v:1 v:1 – serving 2 3 4/256 17 50 ms 200 ms 10.0"
    assert lines[2] == serving.split()
    assert lines[3][:5] == ["w:1", "w:1", "–", "no", "answer"]
    idle = "http://a/ a – idle 10.0 – 3.00 0"
    assert lines[7] == idle.split()
    assert lines[8][:5] == ["http://b", "b", "–", "no", "answer"]


def test_targets_come_from_the_state_of_sled_up(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    verifier = {"name": "v", "address": "127.0.0.1:7000", "token_file": "/t", "pid": 7}
    device = {"name": "d", "draft": "ngram", "url": "http://127.0.0.1:8080", "pid": None}
    folder.write_state({"verifiers": [verifier], "devices": [device]})
    targets = targets_of_state(tmp_path)
    assert (targets.verifiers[0].token_file, targets.verifiers[0].pid) == (Path("/t"), 7)
    assert targets.devices[0].draft == "ngram"
    folder.write_state({"verifiers": [{}], "devices": []})
    with pytest.raises(BadInput, match="the state file lacks 'name'"):
        targets_of_state(tmp_path)
