"""Reads YAML that people wrote, within bounds: size, number of documents, aliases, duplicate keys.

Must not know what the documents mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml

from sled_cli.errors import BadInput

MAX_FILE_BYTES: Final = 1_000_000
MAX_DOCUMENTS: Final = 1000
MAX_NODES: Final = 100_000
"""Nodes of one document, each alias counted as often as it is used."""


def read_documents(text: str, source: str) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, content) of each document that is not empty.

    Raises:
        BadInput: not YAML, a key that is there twice, or more than the bounds allow; the message
        names `source` and, where it is known, the line.
    """
    loader = yaml.SafeLoader(text)
    number = 0
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                break
            number += 1
            if number > MAX_DOCUMENTS:
                raise BadInput(f"{source}: more than {MAX_DOCUMENTS} documents")
            where = f"{source}, document {number}"
            if _size(node, where, {}) > MAX_NODES:
                raise BadInput(f"{where}: more than {MAX_NODES} values, aliases included")
            content = loader.construct_document(node)
            if content is not None:
                yield number, content
    except yaml.YAMLError as error:
        raise BadInput(f"{source}: not readable as YAML: {_sentence(error)}") from error
    except RecursionError as error:
        raise BadInput(f"{source}: nested too deeply") from error
    finally:
        loader.dispose()


def _size(node: yaml.Node, where: str, known: dict[int, int]) -> int:
    """Values in `node` after expanding aliases, without expanding them."""
    if id(node) in known:
        size = known[id(node)]
        if size == 0:
            raise BadInput(f"{where}: an alias that contains itself, line {_line(node)}")
        return size
    known[id(node)] = 0
    size = 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_size(item, where, known) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        _refuse_duplicates(node, where)
        size += sum(
            _size(key, where, known) + _size(value, where, known) for key, value in node.value
        )
    known[id(node)] = size
    return size


def _refuse_duplicates(node: yaml.MappingNode, where: str) -> None:
    """YAML forbids a key twice, PyYAML keeps the last one silently."""
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise BadInput(f"{where}: '{key.value}' is there twice, line {_line(key)}")
            seen.add(key.value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _sentence(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        problem = " ".join(str(error.problem or error.context).split())
        return f"{problem}, line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())
