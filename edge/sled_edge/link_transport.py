"""The narrow waist under the link: frames to and from one verifier. Must not know sequences, retries or policies.

StreamEnded     the stream is over; `reason` says why in the wire's words, or `unavailable`
"""

from __future__ import annotations

from typing import Protocol

from sled_protocol.v1 import verifier_pb2 as pb


class StreamEnded(Exception):
    """One stream, or the attempt to open one, is over."""

    def __init__(self, reason: str, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds

    def again(self) -> StreamEnded:
        """An equal error, for each of several that wait on the same stream."""
        return StreamEnded(self.reason, str(self), self.retry_after_seconds)


class FrameStream(Protocol):
    """One bidirectional stream. One reader and one writer at a time."""

    async def send(self, frame: pb.ClientFrame) -> None:
        """Hand one frame to the transport, waiting while it is congested.

        Raises:
            StreamEnded: the stream is over; whether the frame arrived is unknown.
        """
        ...

    async def receive(self) -> pb.ServerFrame:
        """The next frame.

        Raises:
            StreamEnded: there is none any more.
        """
        ...

    async def close(self) -> None:
        """Give the stream up; safe to call twice, never raises."""
        ...


class Dialer(Protocol):
    """Opens streams to endpoints."""

    async def dial(self, endpoint: str) -> FrameStream:
        """Open a stream; credentials are read anew each time.

        Raises:
            StreamEnded: the endpoint cannot be reached or the credentials cannot be read.
        """
        ...

    async def tokenizer(self, endpoint: str) -> bytes:
        """The verifier's vocabulary as a GGUF file (`GetTokenizer`).

        Raises:
            StreamEnded: not available, cut short or too large.
        """
        ...
