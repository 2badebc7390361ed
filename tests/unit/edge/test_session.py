from __future__ import annotations

from sled_edge.generation import FinishReason, GenerationRequest
from sled_edge.session import Session, StopRules
from sled_protocol.prefix import prefix_hash
from sled_speculation.sampling import SamplingParams

END = 9
RULES = StopRules(frozenset({END}), context_tokens=20)


def _session(max_tokens: int = 10, *, ignore: bool = False, prompt: int = 3) -> Session:
    request = GenerationRequest(tuple(range(1, prompt + 1)), max_tokens, ignore_end_tokens=ignore)
    return Session(1, request, SamplingParams(), "")


def test_commits_add_up_and_the_hash_follows() -> None:
    session = _session()
    session.commit((4, 5), RULES)
    commit = session.commit((6,), RULES)
    assert commit.tokens == (6,)
    assert commit.finish is None
    assert session.prefix == (1, 2, 3, 4, 5, 6)
    assert list(session.committed_tokens) == [4, 5, 6]
    assert session.committed_length == 3
    assert session.prefix_hash == prefix_hash((1, 2, 3, 4, 5, 6))


def test_a_round_is_cut_exactly_at_max_tokens() -> None:
    session = _session(max_tokens=4)
    session.commit((4, 5), RULES)
    commit = session.commit((6, 7, 8), RULES)
    assert commit.tokens == (6, 7)
    assert commit.finish is FinishReason.LENGTH
    assert session.prefix_hash == prefix_hash((1, 2, 3, 4, 5, 6, 7))


def test_an_end_token_is_left_out_with_everything_after_it() -> None:
    session = _session()
    commit = session.commit((4, END, 5), RULES)
    assert commit.tokens == (4,)
    assert commit.finish is FinishReason.END_TOKEN
    assert session.committed_length == 1


def test_end_tokens_can_be_ordinary() -> None:
    commit = _session(ignore=True).commit((4, END, 5), RULES)
    assert commit.tokens == (4, END, 5)
    assert commit.finish is None


def test_the_end_token_wins_over_a_length_that_comes_after_it() -> None:
    assert _session(max_tokens=2).commit((4, END), RULES).finish is FinishReason.END_TOKEN
    assert _session(max_tokens=1).commit((4, END), RULES).finish is FinishReason.LENGTH


def test_a_full_context_ends_the_text() -> None:
    session = _session(max_tokens=100, prompt=18)
    commit = session.commit((4, 5, 6), RULES)
    assert commit.tokens == (4, 5)
    assert commit.finish is FinishReason.CONTEXT_FULL
    assert session.finished(RULES) is FinishReason.CONTEXT_FULL


def test_no_more_is_drafted_than_can_be_used() -> None:
    assert _session(max_tokens=1).draft_room(RULES) == 0
    assert _session(max_tokens=5).draft_room(RULES) == 4
    assert _session(max_tokens=100, prompt=18).draft_room(RULES) == 1
    assert _session(max_tokens=100, prompt=19).draft_room(RULES) == 0


def test_nothing_is_sent_after_a_drafted_end_token() -> None:
    assert _session().trim_draft((1, 2, END, 3), RULES) == 3
    assert _session().trim_draft((1, 2, 3), RULES) == 3
    assert _session(ignore=True).trim_draft((END, 3), RULES) == 2


def test_the_model_of_the_first_round_stays() -> None:
    session = _session()
    session.pin_model("first")
    session.pin_model("second")
    assert session.model == "first"


def test_no_tokens_wanted_is_finished_from_the_start() -> None:
    assert _session(max_tokens=0).finished(RULES) is FinishReason.LENGTH
