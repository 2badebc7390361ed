from __future__ import annotations

from pathlib import Path

import pytest

from sled_edge.config import TlsConfig
from sled_edge.link_grpc import Credentials
from sled_edge.link_transport import StreamEnded


def test_no_token_no_metadata() -> None:
    assert Credentials().metadata() == ()


def test_the_token_is_read_at_every_dial(tmp_path: Path) -> None:
    file = tmp_path / "token"
    credentials = Credentials(token_file=file)
    for token in ("first", "second"):
        file.write_text(f"  {token}\n")
        assert credentials.metadata() == (("authorization", f"Bearer {token}"),)


@pytest.mark.parametrize(
    "content", [b"", b"  \n", b"two\nlines", b"\xff\xfe", "ümlaut".encode(), b"x" * 10_000]
)
def test_a_file_without_a_usable_token_is_named_without_its_content(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(StreamEnded) as error:
        Credentials(token_file=file).metadata()
    assert error.value.reason == "unauthenticated"
    assert str(file) in str(error.value)
    assert "lines" not in str(error.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(StreamEnded, match="cannot read"):
        Credentials(token_file=tmp_path / "nowhere").metadata()
    with pytest.raises(StreamEnded, match="cannot read"):
        Credentials(TlsConfig(ca_file=tmp_path / "nowhere")).channel("a:1")
