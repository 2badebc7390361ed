"""Trouble between a link and any dialer, fake or real: streams cut at a chosen frame boundary, answers lost or doubled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sled_edge.link_transport import Dialer, FrameStream, StreamEnded
from sled_protocol.v1 import verifier_pb2 as pb

Tamper = Callable[[int, pb.ServerFrame], Sequence[pb.ServerFrame]]
"""From the running number of a received frame and the frame to what arrives instead."""


class CuttingDialer:
    """Counts frame boundaries over all streams (before and after each send and receive) and cuts at some of them."""

    def __init__(self, inner: Dialer, cuts: Sequence[int]) -> None:
        self._inner = inner
        self._cuts = frozenset(cuts)
        self.boundaries = 0
        self.cut_streams = 0

    async def dial(self, endpoint: str) -> FrameStream:
        return _CutStream(await self._inner.dial(endpoint), self)

    async def tokenizer(self, endpoint: str) -> bytes:
        return await self._inner.tokenizer(endpoint)

    def due(self) -> bool:
        """Pass one boundary; True when the stream ends here."""
        self.boundaries += 1
        due = self.boundaries - 1 in self._cuts
        self.cut_streams += due
        return due


def cutting(made: list[CuttingDialer], *cuts: int) -> Callable[[Dialer], Dialer]:
    """What puts a new dialer with these cuts, which is added to `made`, before another one."""

    def wrap(inner: Dialer) -> Dialer:
        made.append(CuttingDialer(inner, cuts))
        return made[-1]

    return wrap


class _CutStream:
    def __init__(self, inner: FrameStream, owner: CuttingDialer) -> None:
        self._inner = inner
        self._owner = owner
        self._cut = False

    async def send(self, frame: pb.ClientFrame) -> None:
        await self._boundary()
        await self._inner.send(frame)
        await self._boundary()

    async def receive(self) -> pb.ServerFrame:
        await self._boundary()
        frame = await self._inner.receive()
        await self._boundary()
        return frame

    async def close(self) -> None:
        await self._inner.close()

    async def _boundary(self) -> None:
        if not self._cut and self._owner.due():
            self._cut = True
            await self._inner.close()
        if self._cut:
            raise StreamEnded("unavailable", "cut by the test")


class TamperingDialer:
    """Lets every received frame pass through `tamper`."""

    def __init__(self, inner: Dialer, tamper: Tamper) -> None:
        self._inner = inner
        self._tamper = tamper
        self._count = 0

    async def dial(self, endpoint: str) -> FrameStream:
        return _TamperedStream(await self._inner.dial(endpoint), self)

    async def tokenizer(self, endpoint: str) -> bytes:
        return await self._inner.tokenizer(endpoint)

    def replace(self, frame: pb.ServerFrame) -> Sequence[pb.ServerFrame]:
        """What arrives instead of `frame`."""
        self._count += 1
        return self._tamper(self._count - 1, frame)


class _TamperedStream:
    def __init__(self, inner: FrameStream, owner: TamperingDialer) -> None:
        self._inner = inner
        self._owner = owner
        self._waiting: list[pb.ServerFrame] = []

    async def send(self, frame: pb.ClientFrame) -> None:
        await self._inner.send(frame)

    async def receive(self) -> pb.ServerFrame:
        while not self._waiting:
            self._waiting.extend(self._owner.replace(await self._inner.receive()))
        return self._waiting.pop(0)

    async def close(self) -> None:
        await self._inner.close()
