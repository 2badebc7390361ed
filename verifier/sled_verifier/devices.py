"""Which devices are connected and how much each holds: the per-device limits. Must not know frames
or streams' insides.
"""

from __future__ import annotations

from dataclasses import dataclass

from sled_verifier.refusal import Reason, Refusal

MAX_STREAMS_PER_DEVICE = 8
"""A device needs one; the others are leftovers of dropped links until keepalive finds them dead."""


@dataclass(slots=True)
class _Holding:
    streams: int = 0
    sequences: int = 0


class DeviceRegistry:
    """Streams and sequences by device id; forgets a device when its last stream ends."""

    def __init__(self, max_sequences_per_device: int) -> None:
        self._max_sequences = max_sequences_per_device
        self._holdings: dict[str, _Holding] = {}

    @property
    def connected(self) -> int:
        """Devices with at least one stream."""
        return len(self._holdings)

    def connect(self, device_id: str) -> None:
        """A stream begins.

        Raises:
            Refusal: TOO_MANY_SEQUENCES when the device has as many streams as allowed.
        """
        holding = self._holdings.setdefault(device_id, _Holding())
        if holding.streams >= MAX_STREAMS_PER_DEVICE:
            raise Refusal(
                Reason.TOO_MANY_SEQUENCES,
                f"the device has {holding.streams} streams already, its limit",
                retry_after_ms=5_000,
            )
        holding.streams += 1

    def disconnect(self, device_id: str) -> None:
        """A stream that was connected ends, its sequences given back."""
        holding = self._holdings[device_id]
        holding.streams -= 1
        if holding.streams == 0:
            del self._holdings[device_id]

    def take_sequence(self, device_id: str) -> None:
        """One more sequence of a connected device.

        Raises:
            Refusal: TOO_MANY_SEQUENCES when it has as many as allowed.
        """
        holding = self._holdings[device_id]
        if holding.sequences >= self._max_sequences:
            raise Refusal(
                Reason.TOO_MANY_SEQUENCES,
                f"the device has {holding.sequences} open sequences, its limit",
                retry_after_ms=1_000,
            )
        holding.sequences += 1

    def give_sequence(self, device_id: str) -> None:
        """One of a connected device's sequences ended."""
        self._holdings[device_id].sequences -= 1
