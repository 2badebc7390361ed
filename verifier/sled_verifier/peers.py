"""The other replicas: found by one name, asked how many devices each has. Must not decide anything.

Why so: the name of a headless Service needs no right in a cluster and no list to keep, and the
number is on the port that anybody may scrape, so replicas need no secret for each other.
"""

from __future__ import annotations

import asyncio
import random
import socket

from sled_verifier.config import split_address
from sled_verifier.probes import DEVICES_PATH

MAX_PEERS = 64
"""Of more replicas than this, so many are asked, others each time."""
ANSWER_SECONDS = 2.0
_MAX_ANSWER_BYTES = 4096


class Peers:
    """Every replica behind `address` (`host:port` of their probes), this one included."""

    def __init__(self, address: str) -> None:
        self._host, self._port = split_address(address)

    async def counts(self) -> list[int]:
        """Connected devices of each replica that serves; empty when the name leads nowhere."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(
                    self._host, self._port, type=socket.SOCK_STREAM
                )
        except (OSError, TimeoutError):
            return []
        addresses = sorted({str(each[4][0]) for each in found})
        if len(addresses) > MAX_PEERS:
            addresses = random.sample(addresses, MAX_PEERS)
        answers = await asyncio.gather(*(self._one(address) for address in addresses))
        return [answer for answer in answers if answer is not None]

    async def _one(self, address: str) -> int | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection(address, self._port)
                try:
                    request = f"GET {DEVICES_PATH} HTTP/1.1\r\nHost: {self._host}\r\n\r\n"
                    writer.write(request.encode("ascii"))
                    return _count(await _read(reader))
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None


async def _read(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    while len(answer) < _MAX_ANSWER_BYTES and (part := await reader.read(_MAX_ANSWER_BYTES)):
        answer += part
    return answer


def _count(answer: bytes) -> int | None:
    """The number in a reply; None for a replica that does not serve, or is something else."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    return int(body) if status == [b"200"] and body.strip().isdigit() else None
