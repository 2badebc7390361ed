"""llama.cpp's own server, as the xllamacpp wheel carries it, with and without its drafting.

Reads a request as JSON, answers with a line RESULT. Imports nothing of SLED.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import xllamacpp


def main() -> None:
    request = json.load(sys.stdin)
    server = xllamacpp.Server(parameters(request))
    rows = [window(server, request["prompts"], request["tokens"], n) for n in request["loads"]]
    print("RESULT" + json.dumps(rows), flush=True)


def parameters(request: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    params.n_parallel = max(request["loads"])
    params.n_ctx = 320 * params.n_parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
    params.verbosity = 0
    params.warmup = False
    if request.get("draft"):
        params.speculative.types = [
            xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE
        ]
        own = params.speculative.draft
        own.mparams.path = request["draft"]
        own.n_max = 4
        own.cpuparams.n_threads = own.cpuparams_batch.n_threads = request["threads"]
    return params


def window(server: Any, prompts: list[list[int]], tokens: int, load: int) -> dict[str, float]:
    """So many requests at once, from when all have written until the first one is done."""
    written = [0] * load
    marks: dict[str, tuple[int, float, float]] = {}
    lock = threading.Lock()

    def note(n: int, chunk: Any) -> None:
        with lock:
            written[n] = chunk.get("timings", {}).get("predicted_n", written[n])
            now = (sum(written), time.process_time(), time.monotonic())
            if all(written) and "begin" not in marks:
                marks["begin"] = now
            if max(written) < tokens and "begin" in marks:
                marks["end"] = now

    def ask(n: int) -> None:
        body = {
            "prompt": prompts[n % len(prompts)],
            "n_predict": tokens,
            "temperature": 0,
            "top_k": 1,
            "ignore_eos": True,
            "stream": True,
            "timings_per_token": True,
            "cache_prompt": False,
        }
        server.handle_completions(body, lambda chunk: note(n, chunk))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(load)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begin, end = marks["begin"], marks["end"]
    return {
        "load": load,
        "tokens": end[0] - begin[0],
        "cpu": end[1] - begin[1],
        "wall": end[2] - begin[2],
    }


if __name__ == "__main__":
    main()
