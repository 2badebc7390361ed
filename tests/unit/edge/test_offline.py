from __future__ import annotations

import pytest

from sled_edge.config import OfflinePolicy
from sled_edge.link import LinkState, Target, VerifierUnavailable
from sled_edge.offline import (
    HOPEFUL_ATTEMPTS,
    OfflineSwitch,
    OfflineTiming,
    serves_alone,
    serves_now,
)

TARGET = Target("toy", b"", 64, 100, 16, 64, 0, ())
AWAY = VerifierUnavailable("unavailable", "nobody answers", 1.0)
MISMATCH = VerifierUnavailable("tokenizer_mismatch", "other vocabulary")
TIMING = OfflineTiming(retry_base_seconds=2.0, retry_cap_seconds=8.0)

UP = LinkState(TARGET, None, 1)
DOWN = LinkState(None, AWAY, 1, failed_attempts=HOPEFUL_ATTEMPTS)
JUST_DOWN = LinkState(None, AWAY, 1, failed_attempts=0)
WRONG = LinkState(None, MISMATCH, 0, failed_attempts=9)


@pytest.mark.parametrize(
    ("policy", "generates", "alone"),
    [
        (OfflinePolicy.REFUSE, True, False),
        (OfflinePolicy.DRAFT_ONLY, True, True),
        (OfflinePolicy.DRAFT_ONLY, False, False),
    ],
)
def test_only_a_drafter_that_writes_may_write_alone(
    policy: OfflinePolicy, generates: bool, alone: bool
) -> None:
    assert serves_alone(policy, generates) is alone


def test_ready_means_that_a_request_would_get_text() -> None:
    assert serves_now(UP, alone=False)
    assert not serves_now(DOWN, alone=False)
    assert serves_now(DOWN, alone=True)
    assert not serves_now(WRONG, alone=True)


def test_refuse_always_asks_the_verifier() -> None:
    switch = OfflineSwitch(alone=False, timing=TIMING)
    assert switch.ask_verifier(DOWN, 0.0)
    assert not switch.failed(DOWN, "unavailable", 0.0)
    assert switch.ask_verifier(DOWN, 0.0)


def test_a_short_interruption_is_waited_for_a_long_one_is_not() -> None:
    switch = OfflineSwitch(alone=True, timing=TIMING)
    assert switch.ask_verifier(JUST_DOWN, 0.0)
    assert not switch.ask_verifier(DOWN, 0.0)


def test_back_to_the_verifier_when_it_is_back() -> None:
    switch = OfflineSwitch(alone=True, timing=TIMING)
    assert switch.failed(DOWN, "unavailable", 0.0)
    assert not switch.ask_verifier(DOWN, 100.0)
    assert not switch.ask_verifier(JUST_DOWN, 100.0)
    assert switch.ask_verifier(LinkState(TARGET, None, 2), 0.0)


def test_a_connected_verifier_that_gives_no_verdict_is_asked_ever_less_often() -> None:
    switch = OfflineSwitch(alone=True, timing=TIMING)
    now = 0.0
    waits = []
    for _ in range(4):
        switch.failed(UP, "queue_full", now)
        asked = now
        while not switch.ask_verifier(UP, now):
            now += 0.5
        waits.append(now - asked)
    assert waits == [2.0, 4.0, 8.0, 8.0]
    switch.verified()
    switch.failed(UP, "queue_full", now)
    assert not switch.ask_verifier(UP, now + 1.5)
    assert switch.ask_verifier(UP, now + 2.0)


def test_a_wrong_vocabulary_is_never_papered_over() -> None:
    switch = OfflineSwitch(alone=True, timing=TIMING)
    assert switch.ask_verifier(WRONG, 0.0)
    assert not switch.failed(WRONG, "tokenizer_mismatch", 0.0)


def test_patience() -> None:
    refuse = OfflineSwitch(alone=False, timing=TIMING)
    assert refuse.patience_seconds(started=True) > refuse.patience_seconds(started=False)
    alone = OfflineSwitch(alone=True, timing=TIMING)
    assert alone.patience_seconds(started=True) == TIMING.draft_only_patience_seconds
