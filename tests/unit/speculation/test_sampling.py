"""Ranges of the sampling parameters, and their way over the wire."""

from __future__ import annotations

import math

import pytest

from sled_protocol.limits import MAX_SCHEMA_BYTES
from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import AcceptanceMode, Guide, InvalidSampling, SamplingParams
from sled_speculation.wire import as_sent, from_wire, to_wire

FULL = SamplingParams(0.7, 1.1, 40, 0.95, 0.05, 2**64 - 1, AcceptanceMode.MATCH)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 0.009),
        ("temperature", 10.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 0.009),
        ("repetition_penalty", 11.0),
        ("repetition_penalty", math.nan),
        ("top_k", -1),
        ("top_k", 1_000_001),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.01),
        ("min_p", 1.0),
        ("min_p", math.nan),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_values_outside_the_range_name_the_field(field, value):
    with pytest.raises(InvalidSampling, match=f"^{field} is "):
        SamplingParams(**{field: value})


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        FULL,
        SamplingParams(temperature=0.01, repetition_penalty=0.01, top_p=1e-6, min_p=0.999),
        SamplingParams(temperature=10.0, repetition_penalty=10.0, top_k=1_000_000),
        SamplingParams(guide=Guide()),
        SamplingParams(guide=Guide('{"type": "array"}')),
    ],
)
def test_decimals_survive_the_wire(params):
    wire = pb.Sampling.FromString(to_wire(params).SerializeToString())
    assert from_wire(wire) == params
    assert as_sent(params) == params


def test_other_numbers_arrive_as_the_verifier_reads_them():
    params = SamplingParams(temperature=1 / 3)
    sent = as_sent(params)
    assert sent != params
    assert abs(sent.temperature - 1 / 3) < 1e-7
    assert as_sent(sent) == sent == from_wire(to_wire(params))


def test_a_value_that_rounds_out_of_its_range_is_refused():
    with pytest.raises(InvalidSampling, match="min_p"):
        as_sent(SamplingParams(min_p=math.nextafter(1.0, 0.0)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", math.nan),
        ("temperature", 1e-40),
        ("repetition_penalty", 0.0),
        ("top_k", 2**32 - 1),
        ("top_p", 0.0),
        ("min_p", 1.0),
        ("mode", 2),
        ("mode", -1),
    ],
)
def test_bad_messages_are_refused(field, value):
    message = to_wire(FULL)
    setattr(message, field, value)
    with pytest.raises(InvalidSampling, match=f"^{field} is "):
        from_wire(message)


def test_an_empty_message_is_refused():
    """Zero is not "off" for the penalty and top-p: a device that forgot the parameters is told so."""
    with pytest.raises(InvalidSampling):
        from_wire(pb.Sampling())


@pytest.mark.parametrize(
    "schema",
    ["", "{", "7", "[]", "true", "[" * MAX_SCHEMA_BYTES, '{"a": "%s"}' % ("x" * MAX_SCHEMA_BYTES)],
)
def test_schemas_that_are_none_are_refused_on_the_device_and_on_the_wire(schema):
    with pytest.raises(InvalidSampling, match=r"^guide\.json_schema"):
        Guide(schema)
    message = to_wire(SamplingParams())
    message.guide.json_schema = schema
    with pytest.raises(InvalidSampling, match=r"^guide\.json_schema"):
        from_wire(message)


@pytest.mark.parametrize("guide", [pb.Guide(), pb.Guide(json_object=False)])
def test_a_guide_of_no_known_form_is_not_passed_over(guide):
    message = to_wire(SamplingParams())
    message.guide.CopyFrom(guide)
    with pytest.raises(InvalidSampling, match=r"^guide "):
        from_wire(message)
