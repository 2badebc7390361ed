from __future__ import annotations

from dataclasses import replace

import pytest

from sled_cli.demo.board import Board, DeviceLine, VerifierLine
from sled_cli.demo.client import Answer
from sled_cli.demo.compare import compare
from sled_cli.demo.record import record
from sled_cli.demo.reference import OwnText, write_alone
from sled_cli.demo.summary import by_device, figures, saved, shown_differences, verdict
from sled_cli.watch.device import DeviceCounters
from sled_cli.watch.verifier import VerifierStats
from sled_verifier.engine.fake import FakeEngine, ToyModel

PROMPT = tuple(n % 60 for n in range(119))
TOY = ToyModel(64, seed=5)


def own(max_tokens: int = 20, toy: ToyModel = TOY) -> OwnText:
    return write_alone(FakeEngine(model=toy), PROMPT, max_tokens)


def answer_of(text: OwnText) -> Answer:
    return Answer(
        "d-0", "p", text.prompt_tokens, text.tokens, finish="stop" if text.ended else "length"
    )


def test_the_target_alone_is_plain_greedy_decoding_one_token_a_step() -> None:
    engine = FakeEngine(model=TOY)
    told: list[None] = []
    text = write_alone(engine, PROMPT, 20, lambda: told.append(None))
    assert list(text.tokens) == TOY.greedy(PROMPT, 20)
    assert not text.ended
    assert engine.steps == 3 + 19  # the prompt in chunks of 48, then every token but the last
    assert len(told) == len(text.margins) == len(text.runners_up) == 20
    logits = TOY.logits(PROMPT)
    assert text.margins[0] == pytest.approx(logits.max() - sorted(logits)[-2])
    assert engine.held(0) == ()


def test_the_target_alone_stops_before_an_end_token() -> None:
    toy = ToyModel(64, seed=5, end_every=6)
    plain = toy.greedy(PROMPT, 50)
    text = own(50, toy)
    assert text.ended
    assert list(text.tokens) == plain[: plain.index(toy.end_token)]
    assert len(text.margins) == len(text.tokens) + 1


def test_a_small_step_is_enough_for_a_long_prompt() -> None:
    engine = FakeEngine(model=TOY, max_step_tokens=7)
    assert write_alone(engine, PROMPT, 5).tokens == own(5).tokens


def test_the_same_ids_are_the_same() -> None:
    assert compare(answer_of(own()), own()) is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"error": "HTTP 503: away"}, "HTTP 503: away"),
        ({"verified": False}, "not verified"),
        ({"prompt_tokens": PROMPT[1:]}, "the prompt as other token ids"),
        ({"tokens": ()}, "sent no token ids"),
        ({"tokens": own(15).tokens}, "ends after 15 tokens, the target goes on"),
        ({"tokens": own(25).tokens}, "goes on after 20 tokens, where the target ends"),
        ({"finish": "stop"}, "one says that the text ends and the other not"),
    ],
)
def test_whatever_is_not_the_targets_own_is_told(change: dict[str, object], sentence: str) -> None:
    difference = compare(replace(answer_of(own()), **change), own())  # type: ignore[arg-type]
    assert difference is not None
    assert sentence in difference.sentence


def test_a_wrong_token_is_shown_with_position_both_ids_and_margin() -> None:
    text = own()
    tokens = list(text.tokens)
    tokens[7] = text.runners_up[7]
    difference = compare(replace(answer_of(text), tokens=tuple(tokens)), text)
    assert difference is not None
    assert difference.sentence == (
        f"output token 7: the device has {tokens[7]} (its runner-up), the target "
        f"{text.tokens[7]}, {text.margins[7]:.2g} logits ahead of its runner-up"
    )


def board() -> Board:
    seconds = iter([0.0, 0.0, 10.0, 10.0, 10.0])
    made = Board(
        [DeviceLine("a", "ngram", 2), DeviceLine("b", "small", 1)],
        [VerifierLine("v", "big")],
        clock=lambda: next(seconds),
    )
    first, second = made.devices
    first.counters = DeviceCounters(passes=100, output_tokens=100)
    made.verifiers[0].saw(stats(1000))
    made.begin()
    made.answered(first, Answer("a", "x", tokens=(1,) * 20, finish="stop"))
    made.answered(first, Answer("a", "y", tokens=(1,) * 9, finish="length"))
    made.answered(second, Answer("b", "x", error="broken"))
    first.tokens = 29
    first.counters = DeviceCounters(
        passes=110, draft_tokens=40, accepted_tokens=20, output_tokens=129, ends=1, link_bytes=290
    )
    second.counters = DeviceCounters(passes=5)
    made.verifiers[0].saw(stats(1012))
    return made


def stats(steps: int) -> VerifierStats:
    return VerifierStats(1, 1, 3, 256, 8, steps, steps, 0, 0.1, 0.1, False)


def test_figures_count_from_the_beginning_of_the_run() -> None:
    made = board()
    difference = compare(made.answers[2], own())
    assert difference is not None
    result = figures(made, [difference], 10.0, 24.0)
    assert (result.texts, result.identical, result.output_tokens) == (3, 2, 29)
    # 20 tokens and their end, 9 tokens up to the limit, nothing of the text that failed
    assert (result.passes_alone, result.passes, result.steps) == (21 + 9, 15, 12)
    assert result.passes_saved_percent == 50
    assert (result.acceptance, result.link_bytes_per_token) == (0.5, 10)
    assert result.fleet_tokens_per_second == 2.9
    assert verdict(result) == "2 of 3 texts identical to the target's own"
    assert shown_differences([difference] * 12)[-1] == "and 2 more"
    assert shown_differences([difference]) == ["b, x: broken"]


def test_sentences_say_what_was_saved() -> None:
    made = board()
    result = figures(made, [], 10.0, 24.0)
    text = " ".join(saved(result))
    assert "3 texts, 29 output tokens" in text
    assert "30 passes. With SLED it made 15: 50 % fewer, 2.00 tokens a pass" in text
    assert by_device(made)[0] == (
        "a (ngram) drafted 40 tokens, 50 % of them accepted: 3.00 tokens a pass"
    )
    assert "drafted nothing, because it would not have paid" in by_device(made)[1]


def test_more_passes_than_alone_are_not_called_a_saving() -> None:
    result = replace(figures(board(), [], 10.0, 24.0), passes=33)
    assert "With SLED it made 33: 10 % more" in saved(result)[1]


def test_a_record_is_flat_and_says_where_it_comes_from() -> None:
    written = record(figures(board(), [], 10.0, 24.0), "sled demo")
    assert all(isinstance(value, str | int | float) for value in written.values())
    assert (written["kind"], written["command"]) == ("measured", "sled demo")
    assert written["machine"]
    assert written["commit"]
    assert written["passes_saved_percent"] == 50.0
