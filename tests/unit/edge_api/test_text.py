from __future__ import annotations

import random

import pytest

from sled_edge.text import (
    MAX_STOP_CHARACTERS,
    InvalidStop,
    StopMatcher,
    TextStream,
)

SEEDS = range(200)


def run(pieces: list[bytes], stops: list[str], *, keep_stop: bool = False) -> tuple[str, list[str]]:
    """All text, and what each piece released (the last entry is the end's)."""
    stream = TextStream(stops, keep_stop=keep_stop)
    released: list[str] = []
    for piece in pieces:
        released.append(stream.push(piece))
        if stream.stopped:
            break
    released.append(stream.finish())
    return "".join(released), released


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    pieces = []
    while data:
        size = rng.randint(0, 5)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def stop_by_definition(text: str, stops: list[str], *, keep_stop: bool) -> str:
    """Character by character: the first end of any stop string, the longest one there."""
    for end in range(1, len(text) + 1):
        matches = [stop for stop in stops if text[:end].endswith(stop)]
        if matches:
            return text[:end] if keep_stop else text[: end - max(map(len, matches))]
    return text


@pytest.mark.parametrize("text", ["día", "日本語のテスト", "👩‍👩‍👧 🇫🇷", "a\u0301", "𝔘𝔫𝔦"])
def test_each_byte_a_token_releases_whole_characters_only(text: str) -> None:
    whole, released = run([bytes((b,)) for b in text.encode()], [])
    assert whole == text
    assert all("\ufffd" not in part for part in released)


def test_bytes_of_an_unfinished_character_become_a_replacement_at_the_end() -> None:
    whole, released = run([b"ok", "😀".encode()[:3]], [])
    assert released == ["ok", "", "\ufffd"]
    assert whole == "ok\ufffd"


def test_bytes_that_are_no_utf8_are_replaced_in_the_middle() -> None:
    assert run([b"a\xff", b"\xc3", b"b"], [])[0] == "a\ufffd\ufffdb"


@pytest.mark.parametrize("seed", SEEDS)
def test_any_split_of_any_bytes_gives_the_text_of_one_decode(seed: int) -> None:
    rng = random.Random(seed)
    alphabet = [*"aé日😀".encode(), 0x80, 0xFF, 0xC3, 0xF0, 0x9F]
    data = bytes(rng.choice(alphabet) for _ in range(rng.randint(0, 60)))
    assert run(cut(data, rng), [])[0] == data.decode("utf-8", errors="replace")


@pytest.mark.parametrize("keep_stop", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_any_split_stops_where_the_definition_says(seed: int, keep_stop: bool) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("abé😀") for _ in range(rng.randint(0, 80)))
    stops = [
        "".join(rng.choice("abé😀") for _ in range(rng.randint(1, 6)))
        for _ in range(rng.randint(0, 4))
    ]
    want = stop_by_definition(text, stops, keep_stop=keep_stop)
    for pieces in (cut(text.encode(), rng), [text.encode()], [bytes((b,)) for b in text.encode()]):
        assert run(pieces, stops, keep_stop=keep_stop)[0] == want


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_held_back_is_shorter_than_the_longest_stop(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("ab") for _ in range(100))
    stops = ["aabab", "bbbaab", "abbbbb"]
    matcher = StopMatcher(stops)
    released = ""
    for index, character in enumerate(text):
        released += matcher.push(character)
        if matcher.stopped:
            break
        assert index + 1 - len(released) <= 5
        assert matcher.holding == (index + 1 > len(released))


def test_a_stop_string_over_three_tokens_is_never_shown() -> None:
    whole, released = run([b"one <", b"/en", b"d> two"], ["</end>"])
    assert whole == "one "
    assert released == ["one ", "", "", ""]


def test_a_false_start_of_a_stop_string_is_released() -> None:
    assert run([b"a <", b"/en", b"try>"], ["</end>"])[1] == ["a ", "", "</entry>", ""]


def test_an_unfinished_stop_string_at_the_end_is_text() -> None:
    assert run([b"a </en"], ["</end>"])[0] == "a </en"


@pytest.mark.parametrize("order", [["abc", "b"], ["b", "abc"]])
def test_the_stop_that_ends_first_wins_in_any_order(order: list[str]) -> None:
    assert run([b"xabc"], order)[0] == "xa"
    assert run([b"x", b"a", b"b", b"c"], order)[0] == "xa"


def test_of_two_stops_ending_together_the_longer_wins() -> None:
    assert run([b"xabc"], ["c", "abc"])[0] == "x"


def test_kept_stop_strings_end_the_text_and_hold_nothing_back() -> None:
    whole, released = run([b"one <", b"/en", b"d> two"], ["</end>"], keep_stop=True)
    assert whole == "one </end>"
    assert released == ["one <", "/en", "d>", ""]


def test_after_a_stop_nothing_more_is_released() -> None:
    stream = TextStream(["."])
    assert stream.push(b"a.") == "a"
    assert stream.stopped
    assert stream.push(b"b") == ""
    assert stream.finish() == ""


def test_a_stop_string_that_ends_in_a_replacement_character_is_found_at_the_end() -> None:
    stream = TextStream(["x\ufffd"])
    assert stream.push(b"ax\xe2\x82") == "a"
    assert stream.finish() == ""
    assert stream.stopped


@pytest.mark.parametrize(
    ("stops", "sentence"),
    [
        (["a"] * 5, "5 stop strings; allowed: at most 4"),
        (["a", ""], "stop string 1 has 0 characters"),
        (["a" * (MAX_STOP_CHARACTERS + 1)], "stop string 0 has 513 characters"),
    ],
)
def test_unusable_stops_are_refused_with_a_sentence(stops: list[str], sentence: str) -> None:
    with pytest.raises(InvalidStop, match=sentence):
        TextStream(stops)
