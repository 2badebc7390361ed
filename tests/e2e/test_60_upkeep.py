"""What an administrator does to a running fleet: rotate keys, upgrade, uninstall."""

from __future__ import annotations

import base64
import secrets

from sled_testkit.e2e_record import Record, Stopwatch
from sled_testkit.e2e_site import Site, wait_until
from sled_testkit.e2e_specs import FLEET, PROMPT, SERVER, SYSTEM

LONG = 96
SECRETS = f"/api/v1/namespaces/{FLEET}/secrets"


def test_certificate_and_token_are_rotated_under_a_generation(site: Site, record: Record) -> None:
    old = site.api.get(f"{SECRETS}/{SERVER}-tls")["data"]["tls.crt"]
    reply = site.ask("pi4", PROMPT, LONG)
    reply.wait_tokens(4)
    watch = Stopwatch()
    site.api.delete(f"{SECRETS}/{SERVER}-tls")
    site.cluster.plane.kubectl("-n", FLEET, "annotate", "sledserver", SERVER, "look=now")
    wait_until(lambda: certificate(site) not in (None, old))
    previous, token = read_token(site), secrets.token_urlsafe(24)
    write_tokens(site, [previous, token], token)
    site.wait_inside(site.drafters(), "token", token)
    site.wait_inside(site.verifiers(), "tokens", token)
    write_tokens(site, [token], token)
    site.wait_inside(site.verifiers(), "tokens", previous, present=False)
    record.passed("certificate_and_token_rotated", watch.seconds())
    site.assert_own(reply.finish())
    reply = site.ask("pi4", PROMPT, LONG)
    reply.wait_tokens(4)
    site.kill_container(site.verifiers()[0])  # everybody comes back with the new ones
    site.assert_own(reply.finish())
    assert read_token(site) == token


def certificate(site: Site) -> str | None:
    found = site.api.find(f"{SECRETS}/{SERVER}-tls")
    return found and found.get("data", {}).get("tls.crt")


def read_token(site: Site) -> str:
    data = site.api.get(f"{SECRETS}/{SERVER}-tokens")["data"]["token"]
    return base64.b64decode(data).decode().strip()


def write_tokens(site: Site, valid: list[str], shown: str) -> None:
    lines = "".join(f"*:{each}\n" for each in valid)
    site.api.patch(f"{SECRETS}/{SERVER}-tokens", {"stringData": {"tokens": lines, "token": shown}})


def test_the_chart_is_upgraded_under_a_generation(site: Site, record: Record) -> None:
    before = site.pod_identities()
    reply = site.ask("pi5", PROMPT, LONG)
    reply.wait_tokens(4)
    watch = Stopwatch()
    site.upgrade(logLevel="debug", resyncSeconds=300)
    record.passed("chart_upgraded", watch.seconds())
    site.assert_own(reply.finish())
    assert site.pod_identities() == before, "an upgrade of the operator touched the fleet"


def test_uninstalling_leaves_nothing(site: Site, record: Record) -> None:
    site.assert_own(site.ask("pi4", PROMPT).finish())
    watch = Stopwatch()
    site.remove()
    record.passed("uninstalled", watch.seconds())
    kinds = ("pods", "services", "secrets", "configmaps", "serviceaccounts")
    left = {
        f"{namespace}/{kind}/{each['metadata']['name']}"
        for namespace in (SYSTEM, FLEET)
        for kind in kinds
        for each in site.api.items(f"/api/v1/namespaces/{namespace}/{kind}")
        if each["metadata"]["name"] not in ("default", "kube-root-ca.crt")
    }
    assert left == set()
    assert site.marked_nodes() == []
