"""Sampling parameters to and from `sled.v1.Sampling`. The only module of the maths that knows the messages."""

from __future__ import annotations

import numpy as np

from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import AcceptanceMode, InvalidSampling, SamplingParams

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
    )


def from_wire(message: pb.Sampling) -> SamplingParams:
    """The parameters that a message means.

    A 32-bit float is read as its shortest decimal, so 0.7 arrives as 0.7 and the limit 0.01 is not missed by rounding.

    Raises:
        InvalidSampling: a field is NaN, outside its range, or an unknown mode.
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
    )


def as_sent(params: SamplingParams) -> SamplingParams:
    """The parameters as the verifier will read them: what a drafter should use to mean the same.

    Raises:
        InvalidSampling: a value leaves its range when it is rounded to 32 bits.
    """
    return from_wire(to_wire(params))


def _decimal(value: float) -> float:
    return float(str(np.float32(value)))
