"""Keeping one stream up: order, pauses, who is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sled_edge.generation import GenerationRequest
from sled_edge.link import RoundDraft, VerifierUnavailable
from sled_edge.link_frames import DeviceFacts, close_frame
from sled_edge.link_resilient import ResilientLink
from sled_edge.link_stream import MAX_QUEUED_FRAMES, handshake
from sled_edge.link_transport import FrameStream
from sled_edge.session import Session
from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import SamplingParams
from sled_testkit.edge import QUICK, half, resilient, until
from sled_testkit.edge_faults import TamperingDialer
from sled_testkit.edge_frames import FakeVerifiers, refusal


class Listener:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def verifier_connected(self, connected: bool) -> None:
        self.told.append(connected)

    def count_reconnect(self) -> None:
        self.told.append("reconnect")


def _session() -> Session:
    return Session(1, GenerationRequest((1, 2), 20), SamplingParams(), "")


def _draft(session: Session) -> RoundDraft:
    return RoundDraft(session.committed_length, session.prefix_hash)


async def test_hello_says_who_calls_and_facts_are_asked_anew() -> None:
    verifiers = FakeVerifiers()
    early = DeviceFacts("pi-1", "pi5", "small", revision="r7")
    facts = [DeviceFacts("pi-1", "pi5", "small", b"later"), early]
    link = ResilientLink(verifiers, ["a"], lambda: facts.pop(), QUICK, uniform=half)
    await link.start()
    await until(lambda: link.state().target is not None)
    verifiers["a"].kill()
    verifiers["a"].restart()
    await until(lambda: len(verifiers["a"].hellos) == 2, pause_seconds=0.001)
    await link.close()
    first, second = verifiers["a"].hellos
    assert (first.device_id, first.device_class, first.draft_model) == ("pi-1", "pi5", "small")
    assert first.revision == "r7"
    assert (first.min_revision, first.max_revision) == (1, 1)
    assert first.tokenizer_fingerprint == b""
    assert second.tokenizer_fingerprint == b"later"


async def test_endpoints_are_tried_in_order_until_one_answers() -> None:
    verifiers = FakeVerifiers(names=("a", "b", "c"))
    verifiers["a"].kill()
    verifiers["b"].hello_refusal = refusal(pb.REFUSAL_REASON_TOO_MANY_SEQUENCES, 5000)
    link = resilient(verifiers, ("a", "b", "c"))
    await link.start()
    await until(lambda: link.state().target is not None, pause_seconds=0.001)
    state = link.state()
    await link.close()
    assert verifiers.dials == ["a", "b", "c"]
    assert state.target is not None
    assert (state.target.endpoint, state.target.replica) == ("c", "c")
    assert (state.connections, state.failed_attempts, state.trouble) == (1, 0, None)


async def test_a_verifier_that_welcomes_and_dies_is_not_stormed() -> None:
    verifiers = FakeVerifiers()

    class Dying:
        async def dial(self, endpoint: str) -> FrameStream:
            stream = await verifiers.dial(endpoint)
            asyncio.get_running_loop().call_soon(_cut_after_welcome, stream)
            return stream

        async def tokenizer(self, endpoint: str) -> bytes:
            return b""

    def _cut_after_welcome(stream: object) -> None:
        replica = verifiers["a"]
        if len(replica.hellos) < len(verifiers.dials):
            asyncio.get_running_loop().call_soon(_cut_after_welcome, stream)
            return
        for open_stream in tuple(replica.streams):
            open_stream.cut("dies at once")

    timing = replace(
        QUICK, stable_seconds=60.0, backoff_base_seconds=0.01, backoff_cap_seconds=0.02
    )
    link = resilient(Dying(), ("a",), timing)
    clock = asyncio.get_running_loop()
    started = clock.time()
    await link.start()
    await until(lambda: len(verifiers.dials) >= 8, pause_seconds=0.001)
    # Seven pauses: 7.5 ms, then 15 ms each.
    assert clock.time() - started >= 0.0075 + 6 * 0.015
    await link.close()


async def test_listeners_are_told_of_every_change() -> None:
    verifiers = FakeVerifiers()
    listener = Listener()
    facts = DeviceFacts("pi-1")
    link = ResilientLink(verifiers, ["a"], lambda: facts, QUICK, listener, half)
    await link.start()
    await until(lambda: listener.told == [True])
    verifiers["a"].kill()
    await until(lambda: listener.told == [True, False])
    verifiers["a"].restart()
    await until(lambda: len(listener.told) == 4, pause_seconds=0.001)
    await link.close()
    assert listener.told == [True, False, True, "reconnect"]


async def test_a_long_absence_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    verifiers = FakeVerifiers()
    verifiers["a"].kill()
    link = resilient(verifiers)
    with caplog.at_level(logging.INFO, "sled_edge"):
        await link.start()
        await until(lambda: link.state().failed_attempts > 5, pause_seconds=0.001)
        verifiers["a"].restart()
        await until(lambda: link.state().target is not None, pause_seconds=0.001)
        await link.close()
    assert caplog.messages.count("no stream to a verifier") == 1
    assert caplog.messages.count("connected to a verifier") == 1


async def test_whoever_waits_is_told_when_the_link_closes() -> None:
    verifiers = FakeVerifiers()
    verifiers["a"].kill()
    link = resilient(verifiers)
    await link.start()
    session = _session()
    waiting = asyncio.create_task(link.verify(session, _draft(session), 3600.0))
    await until(lambda: link.state().failed_attempts > 1, pause_seconds=0.001)
    await link.close()
    with pytest.raises(VerifierUnavailable):
        await waiting


async def test_a_verifier_that_never_answers_hello_is_left() -> None:
    verifiers = FakeVerifiers(names=("a", "b"))
    verifiers["a"].silent = True
    link = resilient(verifiers, ("a", "b"), replace(QUICK, connect_seconds=0.02))
    await link.start()
    await until(lambda: link.state().target is not None, pause_seconds=0.001)
    state = link.state()
    await link.close()
    assert state.target is not None
    assert state.target.replica == "b"
    assert not verifiers["a"].streams


async def test_a_refusal_for_a_round_in_flight_is_not_an_answer() -> None:
    verifiers = FakeVerifiers()

    def before_each_verdict(_number: int, frame: pb.ServerFrame) -> Sequence[pb.ServerFrame]:
        if not frame.HasField("verdict"):
            return (frame,)
        early = refusal(pb.REFUSAL_REASON_ROUND_IN_FLIGHT)
        early.sequence = frame.verdict.sequence
        return (pb.ServerFrame(refused=early), frame)

    link = resilient(TamperingDialer(verifiers, before_each_verdict))
    await link.start()
    session = _session()
    verdict = await link.verify(session, _draft(session), 5.0)
    await link.close()
    assert verdict.next_token == verifiers.target.next_token((1, 2))
    assert len(verifiers["a"].drafts) == 1


async def test_a_verifier_that_reads_nothing_does_not_fill_the_memory() -> None:
    class Deaf:
        def __init__(self) -> None:
            self.closed = False

        async def send(self, frame: pb.ClientFrame) -> None:
            if not frame.HasField("hello"):
                await asyncio.Event().wait()

        async def receive(self) -> pb.ServerFrame:
            if not welcomed:
                welcomed.append(True)
                return pb.ServerFrame(welcome=pb.Welcome(revision=1))
            await asyncio.Event().wait()
            raise AssertionError

        async def close(self) -> None:
            self.closed = True

    welcomed: list[bool] = []
    frames = Deaf()
    stream = await handshake(frames, DeviceFacts("pi-1"), "a")
    for _ in range(MAX_QUEUED_FRAMES + 2):
        stream.post(close_frame(1))
    assert stream.ended is not None
    assert "does not read" in str(stream.ended)
    await stream.close()
    assert frames.closed
