"""Device tokens: what a file may hold, who is let in, and files that change."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sled_verifier.auth import Grant, OpenDoor, TokenFile, parse_tokens
from sled_verifier.refusal import ConfigError, Reason, Refusal

TOKEN = "0123456789abcdef"


def bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "x"), ("authorization", f"Bearer {token}")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# devices\n\npi-1:{TOKEN}\n *:{TOKEN}-any \n")
    return path


def refused(door: TokenFile, metadata: list[tuple[str, str | bytes]] | None) -> str:
    with pytest.raises(Refusal) as caught:
        door.authenticate(metadata)
    assert caught.value.reason is Reason.UNAUTHENTICATED
    assert TOKEN not in caught.value.message
    return caught.value.message


def test_a_token_lets_its_device_in(path: Path) -> None:
    door = TokenFile(path)
    grant = door.authenticate(bearer(TOKEN))
    grant.check_device("pi-1")
    with pytest.raises(Refusal):
        grant.check_device("pi-2")
    door.authenticate(bearer(TOKEN + "-any")).check_device("whoever")
    door.authenticate([("authorization", f"bearer {TOKEN}")])


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [],
        [("authorization", TOKEN)],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", f"Basic {TOKEN}")],
        [("authorization", b"Bearer " + TOKEN.encode())],
        [*bearer(TOKEN), *bearer(TOKEN)],
        bearer(TOKEN[:-1]),
        bearer("x" * 5000),
    ],
)
def test_everybody_else_is_refused(path: Path, metadata: list[tuple[str, str | bytes]]) -> None:
    refused(TokenFile(path), metadata)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pi-1", "line 1: expected"),
        (f":{TOKEN}", "line 1: expected"),
        (f"aa:bb:{TOKEN}", "line 1: expected"),
        (f"{'x' * 254}:{TOKEN}", "line 1: expected"),
        ("\npi-1:short", "line 2: the token must have"),
        (f"pi-1:{TOKEN}é", "line 1: the token must have"),
        (f"a:{TOKEN}\nb:{TOKEN}", "line 2: the same token"),
    ],
)
def test_malformed_lines_are_named_without_their_token(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_tokens(text, "tokens")
    assert sentence in str(error.value)
    assert TOKEN not in str(error.value)


def test_only_digests_stay_in_memory() -> None:
    tokens = parse_tokens(f"pi-1:{TOKEN}", "tokens")
    digest = hashlib.sha256(TOKEN.encode()).digest()
    assert tokens == {digest: Grant(digest, "pi-1")}


def test_a_changed_file_counts_at_the_next_call(path: Path) -> None:
    door = TokenFile(path)
    grant = door.authenticate(bearer(TOKEN))
    door.check(grant)
    path.write_text(f"pi-2:{TOKEN}\npi-1:{TOKEN}-new\n")
    with pytest.raises(Refusal, match="withdrawn"):
        door.check(grant)
    door.authenticate(bearer(TOKEN)).check_device("pi-2")


def test_a_file_that_breaks_keeps_the_old_tokens(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    door = TokenFile(path)
    path.write_text(f"broken {TOKEN}")
    for _ in range(3):
        door.authenticate(bearer(TOKEN))
    assert [r.message for r in caplog.records] == ["device tokens not read, the old ones stay"]
    path.unlink()
    door.authenticate(bearer(TOKEN))
    path.write_text(f"pi-9:{TOKEN}-mended\n")
    door.authenticate(bearer(TOKEN + "-mended"))
    refused(door, bearer(TOKEN))


def test_a_file_that_is_missing_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"auth\.tokensFile"):
        TokenFile(tmp_path / "none")


def test_the_open_door() -> None:
    grant = OpenDoor().authenticate(None)
    grant.check_device("anybody")
    OpenDoor().check(grant)
