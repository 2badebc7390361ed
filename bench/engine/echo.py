"""gRPC's own limit, the floor for `loopback`: frames of the same size to a server that sends them back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc

FRAME = b"x" * 32
METHOD = "/echo.Echo/Talk"


async def serve() -> None:
    """Send every frame back, from a task that writes, as the verifier does."""

    async def talk(_: Any, context: Any) -> None:
        outbox: asyncio.Queue[bytes] = asyncio.Queue()

        async def write() -> None:
            while True:
                await context.write(await outbox.get())

        writer = asyncio.create_task(write())
        try:
            while (frame := await context.read()) is not grpc.aio.EOF:
                outbox.put_nowait(frame)
        finally:
            writer.cancel()

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(talk)
    handlers = grpc.method_handlers_generic_handler("echo.Echo", {"Talk": handler})
    server.add_generic_rpc_handlers((handlers,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


async def talk(port: int, streams: int, flying: int, seconds: float) -> float:
    """Frames a second over so many streams, each with so many frames under way."""
    count = 0
    until = time.monotonic() + seconds

    async def one(call: Any) -> None:
        nonlocal count
        outbox: asyncio.Queue[bytes] = asyncio.Queue()

        async def write() -> None:
            while True:
                await call.write(await outbox.get())

        writer = asyncio.create_task(write())
        for _ in range(flying):
            outbox.put_nowait(FRAME)
        while time.monotonic() < until:
            await call.read()
            count += 1
            outbox.put_nowait(FRAME)
        writer.cancel()
        await asyncio.wait((writer,))
        call.cancel()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = channel.stream_stream(METHOD)
        await asyncio.gather(*(one(stub()) for _ in range(streams)))
    return count / seconds


def messages(streams: int, flying: int, seconds: float) -> dict[str, float]:
    """Frames a second to a server in another process and back."""
    command = [sys.executable, str(Path(__file__).resolve())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            if server.stdout is None:
                raise ChildProcessError("no standard output")
            port = int(server.stdout.readline())
            return {"echo_frames_per_second": asyncio.run(talk(port, streams, flying, seconds))}
        finally:
            server.kill()


if __name__ == "__main__":
    asyncio.run(serve())
