"""How tests reach a served API with the official `openai` client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai

from sled_edge.fake_generation import FakeGenerator

TEXT = "día 日本語 👩‍👩‍👧 done"
HELLO: Any = [{"role": "user", "content": "hello"}]


def client_of(served: Any, **options: Any) -> openai.AsyncOpenAI:
    options = {"api_key": "unused", "max_retries": 0, **options}
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", **options)


@asynccontextmanager
async def client_for(
    serve: Any, generator: FakeGenerator, **options: Any
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(await serve(generator, **options)) as client:
        yield client


async def joined(stream: Any) -> str:
    return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
