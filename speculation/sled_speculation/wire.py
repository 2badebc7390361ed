"""Sampling parameters to and from `sled.v1.Sampling`. The only module of the maths that knows the messages."""

from __future__ import annotations

import numpy as np

from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import AcceptanceMode, Guide, InvalidSampling, SamplingParams

_TO_WIRE = {
    AcceptanceMode.REJECTION: pb.ACCEPTANCE_MODE_REJECTION,
    AcceptanceMode.MATCH: pb.ACCEPTANCE_MODE_MATCH,
}
_FROM_WIRE = {number: mode for mode, number in _TO_WIRE.items()}


def to_wire(params: SamplingParams) -> pb.Sampling:
    """The message for valid parameters."""
    return pb.Sampling(
        temperature=params.temperature,
        repetition_penalty=params.repetition_penalty,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        seed=params.seed,
        mode=_TO_WIRE[params.mode],
        guide=None if params.guide is None else _guide_to_wire(params.guide),
    )


def from_wire(message: pb.Sampling) -> SamplingParams:
    """The parameters that a message means.

    A 32-bit float is read as its shortest decimal, so 0.7 arrives as 0.7 and the limit 0.01 is not missed by rounding.

    Raises:
        InvalidSampling: a field is NaN, outside its range, an unknown mode, or no usable guide.
    """
    mode = _FROM_WIRE.get(message.mode)
    if mode is None:
        raise InvalidSampling(f"mode is {int(message.mode)}; allowed: 0 or 1")
    return SamplingParams(
        temperature=_decimal(message.temperature),
        repetition_penalty=_decimal(message.repetition_penalty),
        top_k=message.top_k,
        top_p=_decimal(message.top_p),
        min_p=_decimal(message.min_p),
        seed=message.seed,
        mode=mode,
        guide=_guide_from_wire(message.guide) if message.HasField("guide") else None,
    )


def as_sent(params: SamplingParams) -> SamplingParams:
    """The parameters as the verifier will read them: what a drafter should use to mean the same.

    Raises:
        InvalidSampling: a value leaves its range when it is rounded to 32 bits.
    """
    return from_wire(to_wire(params))


def _guide_to_wire(guide: Guide) -> pb.Guide:
    if guide.json_schema is None:
        return pb.Guide(json_object=True)
    return pb.Guide(json_schema=guide.json_schema)


def _guide_from_wire(message: pb.Guide) -> Guide:
    form = message.WhichOneof("form")
    if form == "json_schema":
        return Guide(message.json_schema)
    if form == "json_object" and message.json_object:
        return Guide()
    # Also what a later device may ask for in a form that is not known here.
    raise InvalidSampling("guide has none of the forms that are known here")


def _decimal(value: float) -> float:
    return float(str(np.float32(value)))
