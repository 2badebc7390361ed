"""The Secrets and the configuration that the operator makes, in the hands of a real verifier: it
serves with them, devices are let in by them, and the operator reads its stats through them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import yaml

from sled_operator.autoscaler.stats import Access, GrpcStats, to_stats
from sled_operator.cluster.fake import FakeCluster
from sled_operator.measure import Counted
from sled_operator.reconcile import secrets
from sled_operator.resources.verifier_config import TLS_DIR, TOKENS_DIR, verifier_settings
from sled_operator.spec import SLEDServer, parse
from sled_operator.telemetry import counters
from sled_testkit.verifier_device import connected, hello_frame
from sled_verifier.config import VerifierConfig, parse_config
from sled_verifier.engine.fake import FakeEngine
from sled_verifier.server import VerifierServer


def resource(**spec: Any) -> SLEDServer:
    document = {
        "apiVersion": "sled.dev/v1alpha1",
        "kind": "SLEDServer",
        "metadata": {"name": "toy", "namespace": "fleet", "uid": "u", "generation": 1},
        "spec": {"model": {"name": "toy"}, "engine": {"kind": "Fake"}, **spec},
    }
    parsed = parse(document)
    assert isinstance(parsed, SLEDServer)
    return parsed


async def made(folder: Path) -> tuple[VerifierConfig, secrets.Kept]:
    """The rendered configuration with the made Secrets as files, listening on loopback."""
    server = resource()
    kept = await secrets.keep(FakeCluster(), server, datetime.now(UTC))
    for manifest in kept.manifests:
        for key, value in secrets.decoded(manifest).items():
            if manifest["metadata"]["name"] != "toy-ca":
                (folder / key).write_bytes(value)
    settings = verifier_settings(server, None)
    settings |= {"listen": "127.0.0.1:0", "metricsListen": "127.0.0.1:0"}
    text = yaml.safe_dump(settings)
    for place in (TLS_DIR, TOKENS_DIR):
        text = text.replace(place, str(folder))
    return parse_config(text), kept


async def test_the_operator_and_a_device_are_let_in_and_nobody_else(tmp_path: Path) -> None:
    config, kept = await made(tmp_path)
    access = kept.access
    assert access.ca is not None
    trust = grpc.ssl_channel_credentials(access.ca)
    async with VerifierServer(config, FakeEngine()) as server:
        # the certificate names "toy", not the address that is dialled
        override = (("grpc.ssl_target_name_override", "toy.fleet.svc"),)
        async with grpc.aio.secure_channel(server.address, trust, options=override) as channel:
            await channel.channel_ready()
        answers = await GrpcStats().read([server.address, "127.0.0.1:9"], access)
        assert answers[1] is None
        seen = to_stats(answers[0])
        assert seen is not None
        assert (seen.queue_depth, seen.connected_devices) == (0, 0)
        other = await secrets.keep(FakeCluster(), resource(), datetime.now(UTC))
        for wrong in (
            replace(access, token="guessed"),
            replace(access, token=None),
            replace(access, server_name="other.fleet.svc"),
            replace(access, ca=other.access.ca),
            Access(),
        ):
            assert await GrpcStats().read([server.address], wrong) == [None]


async def test_stats_tell_revisions_apart() -> None:
    server = resource(tls={"mode": "Disabled"}, auth={"mode": "None"})
    settings = verifier_settings(server, None)
    settings |= {"listen": "127.0.0.1:0", "metricsListen": "127.0.0.1:0"}
    async with VerifierServer(parse_config(yaml.safe_dump(settings)), FakeEngine()) as running:
        facts = {"draft_model": "tiny", "device_class": "pi5"}
        async with connected(running.address) as old, connected(running.address) as new:
            await old.greet(hello_frame("pi-1", revision="r1", **facts))
            await new.greet(hello_frame("pi-2", revision="r2", **facts))
            for device, rounds in ((old, 1), (new, 3)):
                await device.open(1, [1, 2, 3])
                output: list[int] = []
                for _ in range(rounds):
                    verdict = await device.round(1, [1, 2, 3], output, [], draft_micros=10)
                    output += [verdict.next_token]
            (answer,) = await GrpcStats().read([running.address], Access())
    assert answer is not None
    found = counters(answer)
    assert found[Counted("tiny", "pi5", "r1")][0] == 1
    assert found[Counted("tiny", "pi5", "r2")][0] == 3
