"""Which tenant a device belongs to, and what a weight does to the order."""

from __future__ import annotations

import pytest

from sled_verifier.batcher import Work, urgency
from sled_verifier.config import parse_config
from sled_verifier.refusal import ConfigError
from sled_verifier.tenants import EVERYBODY, Tenant, tenant_of

TENANTS = (Tenant("shop-*", 4.0), Tenant("shop-7", 9.0), Tenant("lab-?", adapter="lab"))


def test_the_first_tenant_that_has_a_device_counts() -> None:
    assert tenant_of("shop-7", TENANTS).weight == 4.0
    assert tenant_of("lab-1", TENANTS).adapter == "lab"
    assert tenant_of("lab-12", TENANTS) is EVERYBODY
    assert tenant_of("shop-1", ()) is EVERYBODY


def test_a_weight_brings_the_deadline_nearer_but_nobody_waits_for_ever() -> None:
    light, heavy = Work(1, 0, 1, 0.0, 10.0), Work(2, 0, 1, 1.0, 11.0, 4.0)
    assert urgency(heavy) < urgency(light)
    later = Work(3, 0, 1, 5.0, 15.0, 4.0)
    assert urgency(light) < urgency(later)
    assert urgency(Work(4, 0, 1, 6.0, 16.0, 100.0)) > urgency(light)


def test_tenants_in_the_file() -> None:
    text = """
model: {name: x, path: y}
engine: {kind: vllm, vllm: {adapters: {lab: /adapters/lab}}}
tenants: [{devices: "lab-*", weight: 2.5, adapter: lab}, {devices: "*"}]
"""
    config = parse_config(text)
    assert [tenant.value() for tenant in config.tenants] == [Tenant("lab-*", 2.5, "lab"), EVERYBODY]
    with pytest.raises(ConfigError, match="'lab' is not among"):
        parse_config(text.replace("{lab:", "{shop:"))
    with pytest.raises(ConfigError, match="weight"):
        parse_config(text.replace("2.5", "0"))
