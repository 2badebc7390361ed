"""Questions to a model server over HTTP: connections, time limits, sizes, and sentences for what goes wrong. Must not
know sequences.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx

from sled_verifier.openai.dialects import Dialect, UnusableAnswer
from sled_verifier.openai.target import TargetError

CONNECT_SECONDS = 5.0
KEEP_SECONDS = 2.0
"""An idle connection is used again only within this time: servers end theirs after 5 seconds."""
ANSWER_BYTES_PER_TOKEN = 1024
"""A table of log-probabilities of one prompt token takes about 150 bytes of JSON."""
ANSWER_BYTES = 1 << 20
AWAY_RETRY_MS = 2_000
BUSY_RETRY_MS = 500


class HttpServer:
    """One server's HTTP side.

    Args:
        url: its root; a trailing `/v1` is ignored, because SGLang's own questions go elsewhere.
        timeout_seconds: how long an answer may take.
        connections: questions at once.
        token: sent as a bearer token, when there is one.
        longest: tokens of the longest prompt; bounds how long an answer is read.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        connections: int,
        token: str | None = None,
        longest: int = 4096,
    ) -> None:
        self._most_bytes = ANSWER_BYTES + longest * ANSWER_BYTES_PER_TOKEN
        self._timeout_seconds = timeout_seconds
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=KEEP_SECONDS,
            ),
            follow_redirects=False,
            trust_env=False,
        )

    async def get(self, path: str) -> Any:
        """The JSON at `path`.

        Raises:
            TargetError: there is none.
        """
        return await self._send(self._http.build_request("GET", path))

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON that `path` answers.

        Raises:
            TargetError: it does not.
        """
        return await self._send(self._http.build_request("POST", path, json=body))

    async def close(self) -> None:
        """End all connections."""
        await self._http.aclose()

    async def _send(self, request: httpx.Request) -> Any:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._http.send(request, stream=True)
                try:
                    content = await self._read(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            sentence = f"the model server gave no answer within {self._timeout_seconds:g} seconds"
            raise TargetError(sentence, AWAY_RETRY_MS) from error
        except httpx.HTTPError as error:
            sentence = f"the model server cannot be reached ({type(error).__name__})"
            raise TargetError(sentence, AWAY_RETRY_MS) from error
        if response.status_code != httpx.codes.OK:
            busy = response.status_code in (httpx.codes.TOO_MANY_REQUESTS, 503)
            raise TargetError(
                f"the model server answered {request.url.path} with status {response.status_code}",
                BUSY_RETRY_MS if busy else AWAY_RETRY_MS,
            )
        try:
            return json.loads(content)
        except ValueError as error:
            raise TargetError("the model server's answer is not JSON", AWAY_RETRY_MS) from error

    async def _read(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > self._most_bytes:
                raise TargetError(f"the model server's answer exceeds {self._most_bytes} bytes")
        return bytes(content)


class HttpTarget:
    """`TargetServer`: one model on a server that speaks `dialect`."""

    def __init__(self, server: HttpServer, dialect: Dialect, model: str) -> None:
        self._server = server
        self._dialect = dialect
        self._model = model

    async def choices(self, prefix: Sequence[int], draft: Sequence[int]) -> tuple[int, ...]:
        """See `TargetServer.choices`."""
        question = self._dialect.question(self._model, prefix, draft)
        answer = await self._server.post(self._dialect.path, question)
        try:
            return self._dialect.choices(answer, prefix, draft)
        except UnusableAnswer as error:
            raise TargetError(str(error)) from error

    async def close(self) -> None:
        """See `TargetServer.close`."""
        await self._server.close()
