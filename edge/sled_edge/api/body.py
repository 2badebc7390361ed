"""A request's body: bounded in bytes and time, a JSON object. Must not know what fields mean."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from sled_edge.api.refusal import Reason, Refusal
from sled_edge.api.settings import ApiSettings

_Model = TypeVar("_Model", bound=BaseModel)


async def read_object(request: Request, settings: ApiSettings) -> dict[str, Any]:
    """The JSON object that a request carries.

    Raises:
        Refusal: too large, too slow, cut off, not JSON, or not an object.
    """
    try:
        async with asyncio.timeout(settings.body_seconds):
            data = await _read(request, settings.max_body_bytes)
    except TimeoutError as error:
        raise Refusal(
            Reason.BODY_TIMEOUT,
            f"The body did not arrive within {settings.body_seconds:g} seconds.",
        ) from error
    except ClientDisconnect as error:
        raise Refusal(
            Reason.CLIENT_GONE, "The client left before its request was whole."
        ) from error
    try:
        document = pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(Reason.INVALID_REQUEST, "The body is not JSON.") from error
    if not isinstance(document, dict):
        raise Refusal(Reason.INVALID_REQUEST, "The body must be a JSON object.")
    return document


def parse(model: type[_Model], document: dict[str, Any]) -> _Model:
    """A body as its typed form.

    Raises:
        Refusal: a field is missing, of the wrong type or out of range; names the first such field.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = field_path(first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise Refusal(
            Reason.INVALID_REQUEST, f"{param}: {message[:1].lower()}{message[1:]}.", param=param
        ) from None  # the cause would carry the client's text into the log


def field_path(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "role")` as `messages[0].role`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = Refusal(Reason.BODY_TOO_LARGE, f"The body is larger than {max_bytes} bytes.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise too_large
    return bytes(data)
