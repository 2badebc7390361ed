"""An application on a device: the official `openai` client, streaming; one JSON line per event.

Run as `python -m sled_testkit.e2e_client BASE_URL MAX_TOKENS < prompt`, on the network of a node. Each line holds the token ids and
the text of one event and whether they were verified; the last one says how it ended. Must not retry: what is shown is what came.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai


def main(arguments: list[str]) -> int:
    """Stream one greedy completion to standard output."""
    base_url, most_tokens = arguments[1], int(arguments[2])
    prompt = sys.stdin.read()
    client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=300.0)
    model = client.models.list().data[0].id
    stream = client.completions.create(
        model=model,
        prompt=prompt,
        max_tokens=most_tokens,
        temperature=0.0,
        stream=True,
        extra_body={"return_token_ids": True},
    )
    for event in stream:
        _say(event.model_dump())
    print(json.dumps({"end": True}), flush=True)
    return 0


def _say(event: dict[str, Any]) -> None:
    choice = (event.get("choices") or [{}])[0]
    line = {
        "tokens": choice.get("token_ids") or [],
        "prompt": choice.get("prompt_token_ids"),
        "text": choice.get("text") or "",
        "finish": choice.get("finish_reason"),
        "report": choice.get("sled"),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
