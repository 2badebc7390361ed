from __future__ import annotations

from pathlib import Path

import pytest

from sled_cli.models.errors import InvalidSource
from sled_cli.models.source import CatalogueSource, FileSource, HubSource, Source, parse_source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file:///models/a b.gguf", FileSource(Path("/models/a b.gguf"))),
        ("file:///models/a%20b.gguf", FileSource(Path("/models/a b.gguf"))),
        ("hf://org/repo/x.gguf", HubSource("org/repo", "x.gguf", "main")),
        (
            "hf://o-r.g/re_po/dir/x-1.gguf@abc123",
            HubSource("o-r.g/re_po", "dir/x-1.gguf", "abc123"),
        ),
        ("hf://org/repo/x.gguf@refs/pr/1", HubSource("org/repo", "x.gguf", "refs/pr/1")),
        ("catalog://smollm2-135m-f32", CatalogueSource("smollm2-135m-f32")),
        ("qwen2.5-coder-0.5b-q4_k_m", CatalogueSource("qwen2.5-coder-0.5b-q4_k_m")),
    ],
)
def test_sources(text: str, expected: Source) -> None:
    assert parse_source(text) == expected


@pytest.mark.parametrize("text", ["hf://org/repo/d/x.gguf@v1", "catalog://toy", "file:///a/b.gguf"])
def test_the_text_form_comes_back(text: str) -> None:
    assert str(parse_source(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file://relative.gguf",
        "hf://org/x.gguf",
        "hf://org/repo/x.bin",
        "hf://org/repo/../x.gguf",
        "hf://org/repo/x.gguf@",
        "hf://org/repo/x.gguf?download=1",
        "catalog://",
        "catalog://Toy Model",
        "catalog://../toy",
        "https://example.org/x.gguf",
        "x" * 101,
    ],
)
def test_everything_else_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(InvalidSource, match=r"expected|slashes"):
        parse_source(text)
