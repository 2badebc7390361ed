"""Turns a document into a resource, or says in one sentence which field is wrong. Must not read
files or talk to a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sled_operator.spec.base import API_VERSION, InvalidResource
from sled_operator.spec.edgedrafter import EdgeDrafter
from sled_operator.spec.sledserver import SLEDServer

KINDS: Mapping[str, type[SLEDServer] | type[EdgeDrafter]] = {
    "SLEDServer": SLEDServer,
    "EdgeDrafter": EdgeDrafter,
}
_OPAQUE = ("podTemplate",)
_MAX_DEPTH = 32
_SENTENCES = {"extra_forbidden": "unknown field", "missing": "required field is missing"}


def parse(document: Mapping[str, Any]) -> SLEDServer | EdgeDrafter:
    """Parse one document, with the defaults that the API server would fill in.

    A field that is null counts as absent, as it does for the API server; `status` is ignored.

    Raises:
        InvalidResource: wrong group or kind, unknown field, wrong type, out of bounds, or a broken
        rule; it names the first such field.
    """
    if not isinstance(document, Mapping):
        raise InvalidResource("", "the document is not a mapping")
    if document.get("apiVersion") != API_VERSION:
        raise InvalidResource(
            "apiVersion", f"expected {API_VERSION}, got {document.get('apiVersion')!r}"
        )
    model = KINDS.get(str(document.get("kind")))
    if model is None:
        raise InvalidResource(
            "kind", f"expected {' or '.join(KINDS)}, got {document.get('kind')!r}"
        )
    unknown = sorted(
        str(key)
        for key in document
        if key not in ("apiVersion", "kind", "metadata", "spec", "status")
    )
    if unknown:
        raise InvalidResource(unknown[0], "unknown field")
    body = {
        key: _plain(document[key], key, 0)
        for key in ("metadata", "spec")
        if document.get(key) is not None
    }
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _first(error) from None


def _plain(value: Any, key: str, depth: int) -> Any:
    """Containers as pydantic's strict mode wants them: nulls gone, lists as tuples; opaque parts
    untouched."""
    if depth > _MAX_DEPTH:
        raise InvalidResource(key, f"nested more than {_MAX_DEPTH} levels deep")
    if key in _OPAQUE:
        return value
    if isinstance(value, Mapping):
        return {
            name: _plain(item, str(name), depth + 1)
            for name, item in value.items()
            if item is not None
        }
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item, key, depth + 1) for item in value)
    return value


def _first(error: ValidationError) -> InvalidResource:
    """The first problem, with the path as a person would write it and without pydantic's words
    where ours are plainer."""
    detail = error.errors(include_url=False, include_context=True)[0]
    path = ""
    for part in detail["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in ("int", "str") and not str(part).startswith("constrained-"):
            path += f".{part}" if path else str(part)
    sentence = _SENTENCES.get(detail["type"])
    if detail["loc"] and str(detail["loc"][-1]).startswith("constrained-"):
        sentence = "expected a whole number or a quantity in quotes, such as '500m' or '2Gi'"
    return InvalidResource(path, sentence or str(detail["msg"]))
