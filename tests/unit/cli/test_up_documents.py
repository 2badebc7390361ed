from __future__ import annotations

from pathlib import Path

import pytest

from sled_cli.errors import BadInput
from sled_cli.up.documents import read
from sled_cli.up.yamlfile import MAX_FILE_BYTES, read_documents

SERVER = """
apiVersion: sled.dev/v1alpha1
kind: SLEDServer
metadata: {name: one}
spec: {model: {name: toy}, engine: {kind: Fake}}
"""


def test_a_folder_is_read_by_name_and_other_kinds_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("apiVersion: v1\nkind: Namespace\n---\n" + SERVER)
    (tmp_path / "a.yml").write_text(SERVER.replace("one", "first"))
    (tmp_path / "notes.txt").write_text("no YAML: [")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "c.yaml").write_text("also: [not, read")

    reading = read([tmp_path])

    assert [server.metadata.name for _, server in reading.servers()] == ["first", "one"]
    assert list(reading.drafters()) == []
    assert reading.warnings == (
        f"{tmp_path}/b.yaml, document 1: Namespace is not a resource of SLED, skipped",
    )


def test_an_error_names_file_document_and_field(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(SERVER + "---\n" + SERVER.replace("Fake", "Steam"))

    with pytest.raises(BadInput, match=r"fleet\.yaml, document 2: spec\.engine\.kind: "):
        read([file])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "not readable as YAML: .*line 1"),
        ("a: 1\nb: 2\na: 3", "'a' is there twice, line 3"),
        ("just words", "document 1: the document is not a mapping"),
        ("apiVersion: sled.dev/v2\nkind: SLEDServer", "apiVersion: expected sled.dev/v1alpha1"),
        ("apiVersion: sled.dev/v1alpha1\nkind: Sledge", "kind: expected SLEDServer or EdgeDrafter"),
        ("a: &x [*x]", "an alias that contains itself"),
        ("a: !!python/object/apply:os.getcwd []", "not readable as YAML"),
        ("[" * 3000, "nested too deeply|not readable as YAML"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)

    with pytest.raises(BadInput, match=sentence) as caught:
        read([file])

    assert str(file) in str(caught.value)


def test_aliases_that_grow_without_bound_are_refused() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]

    with pytest.raises(BadInput, match="more than 100000 values, aliases included"):
        list(read_documents("\n".join(levels), "bomb.yaml"))


def test_empty_documents_count_but_say_nothing() -> None:
    assert list(read_documents("---\n---\na: 1\n---\n", "x")) == [(2, {"a": 1})]


def test_paths_that_are_no_use(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file or folder"):
        read([tmp_path / "nowhere"])
    with pytest.raises(BadInput, match="no file here ends in"):
        read([tmp_path])
    large = tmp_path / "large.yaml"
    large.write_text("#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(BadInput, match="larger than"):
        read([large])
    large.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        read([large])
