"""A model server that is the toy model behind real HTTP, speaking as vLLM, SGLang or text-generation-inference does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sled_verifier.engine.fake import ToyModel

Json = dict[str, Any]


@dataclass
class PlayedServer:
    """What it is and how it misbehaves; `seen` are the questions (path, body, headers)."""

    kind: str = "vllm"
    model: ToyModel = field(default_factory=ToyModel)
    cards: list[Json] = field(default_factory=lambda: [{"id": "toy", "max_model_len": 512}])
    status: int = 200
    raw: bytes | None = None
    shift: int = 0
    """Positions by which log-probabilities are misplaced."""
    tells_words: str = "prompt"
    """The field in which it detokenises; empty when it does not."""
    turn: int = 0
    """By how much its ids differ from bytes."""
    seen: list[tuple[str, Json, dict[str, str]]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: Json) -> Any:
        if (method, path) == ("GET", "/v1/models"):
            return {"data": [{"owned_by": self.kind, **card} for card in self.cards]}
        if (method, path, self.kind) == ("GET", "/info", "tgi"):
            return {"model_id": "toy", "max_total_tokens": 512, "version": "3.3.5"}
        if (method, path) == ("POST", "/detokenize") and self.tells_words:
            text = bytes((token + self.turn) % 256 for token in body["tokens"])
            return {self.tells_words: text.decode(errors="replace")}
        if (method, path, self.kind) == ("POST", "/v1/completions", "vllm"):
            return self._vllm(body)
        if (method, path, self.kind) == ("POST", "/generate", "sglang"):
            return self._sglang(body)
        return None

    def best(self, tokens: list[int]) -> int:
        return int(self.model.logits(tokens).argmax())

    def _vllm(self, body: Json) -> Json:
        tokens = body["prompt"]
        choice: Json = {"token_ids": [self.best(tokens)], "prompt_token_ids": tokens}
        if body.get("prompt_logprobs") == 1:
            choice["prompt_logprobs"] = [
                None,
                *(self._table(tokens, place) for place in range(1, len(tokens))),
            ]
        return {"choices": [choice]}

    def _table(self, tokens: list[int], place: int) -> Json:
        names = (tokens[place], self.best(tokens[: place + self.shift]))
        return {str(token): {"logprob": -1.0, "rank": 1} for token in names}

    def _sglang(self, body: Json) -> Json:
        tokens, start = body["input_ids"], body["logprob_start_len"]
        places = range(start + 1, len(tokens))
        meta: Json = {
            "output_token_logprobs": [[-0.5, self.best(tokens), None]],
            "input_token_logprobs": [
                [None, tokens[start], None],
                *([-1.0, tokens[place], None] for place in places),
            ],
        }
        if body.get("top_logprobs_num") == 1:
            bests = [self.best(tokens[: place + self.shift]) for place in places]
            meta["input_top_logprobs"] = [None, *([[-0.5, best, None]] for best in bests)]
        return {"meta_info": meta}


@contextmanager
def played_server(server: PlayedServer) -> Iterator[str]:
    """Runs it on loopback; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply("GET")

        def do_POST(self) -> None:
            self._reply("POST")

        def _reply(self, method: str) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            server.seen.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
            answer = server.answer(method, self.path, body)
            content = json.dumps(answer).encode() if server.raw is None else server.raw
            self.send_response(404 if answer is None else server.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
