"""Tallies, windows, registries and hints: the small bookkeeping parts, each within its bound."""

from __future__ import annotations

import pytest

from sled_protocol.v1 import verifier_pb2 as pb
from sled_verifier.devices import MAX_STREAMS_PER_DEVICE, DeviceRegistry
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import Load, RoundVerdict
from sled_verifier.tally import MAX_DRAFT_MODELS, MAX_REVISIONS, OTHER, DraftModelKey, Tally
from sled_verifier.window import Window

TINY = DraftModelKey("tiny", "pi5")


def verdict(accepted: int, verified: int) -> RoundVerdict:
    return RoundVerdict(0, accepted, verified, 1, accepted == verified, 0.1, 0.2, 4, Load())


def test_reasons_are_those_of_the_wire() -> None:
    wire = {
        name.removeprefix("REFUSAL_REASON_"): number for name, number in pb.RefusalReason.items()
    }
    assert {reason.name: reason.value for reason in Reason} | {"UNSPECIFIED": 0} == wire
    assert Reason.QUEUE_FULL.label == "queue_full"


def test_a_window_forgets_what_is_old_and_what_is_too_much() -> None:
    window = Window(seconds=10, capacity=4)
    assert window.quantiles((0.5, 0.95), 0.0) == (0.0, 0.0)
    for second in range(8):
        window.add(float(second), float(second))
    assert window.quantiles((0.0, 0.5, 1.0), 7.0) == (4.0, 6.0, 7.0)
    assert window.quantiles((0.0, 1.0), 16.5) == (7.0, 7.0)
    assert window.quantiles((0.5,), 18.0) == (0.0,)


def test_the_tally_adds_up() -> None:
    tally = Tally()
    keys = [tally.connect(TINY, device) for device in ("a", "a", "b")]
    tally.round_answered(keys[0], verdict(2, 4), 300)
    tally.round_answered(keys[2], verdict(0, 0), 0)
    assert (tally.rounds, tally.draft_tokens, tally.accepted_tokens) == (2, 4, 2)
    assert tally.output_tokens == 4
    model = tally.draft_models[TINY]
    assert (model.rounds, model.draft_micros, len(model.devices)) == (2, 300, 2)
    tally.disconnect(keys[0], "a")
    assert len(model.devices) == 2
    tally.disconnect(keys[1], "a")
    assert len(model.devices) == 1


def test_devices_cannot_invent_labels_without_end() -> None:
    tally = Tally()
    keys = {tally.connect(DraftModelKey(f"model-{n}", "x"), "d") for n in range(1000)}
    assert len(keys) == MAX_DRAFT_MODELS + 1
    assert (OTHER, OTHER, "") in keys
    assert tally.connect(DraftModelKey("", ""), "d") == (OTHER, OTHER, "")


def test_revisions_of_a_draft_model_are_told_apart_and_old_ones_make_room() -> None:
    tally = Tally()
    staying = tally.connect(TINY._replace(revision="stays"), "d")
    for number in range(100):
        key = tally.connect(TINY._replace(revision=f"r{number}"), "d")
        assert key.revision == f"r{number}"
        tally.disconnect(key, "d")
    assert staying in tally.draft_models
    assert len(tally.draft_models) == MAX_REVISIONS
    crowd = {tally.connect(TINY._replace(revision=f"c{number}"), "d") for number in range(100)}
    assert TINY._replace(revision=OTHER) in crowd
    assert len(tally.draft_models) == MAX_REVISIONS + 1


def test_the_registry_forgets_devices_that_left() -> None:
    registry = DeviceRegistry(max_sequences_per_device=2)
    for _ in range(MAX_STREAMS_PER_DEVICE):
        registry.connect("a")
    with pytest.raises(Refusal) as caught:
        registry.connect("a")
    assert caught.value.reason is Reason.TOO_MANY_SEQUENCES
    registry.connect("b")
    registry.take_sequence("a")
    registry.take_sequence("a")
    with pytest.raises(Refusal):
        registry.take_sequence("a")
    registry.take_sequence("b")
    registry.give_sequence("a")
    registry.take_sequence("a")
    assert registry.connected == 2
    for _ in range(MAX_STREAMS_PER_DEVICE):
        registry.disconnect("a")
    assert registry.connected == 1
