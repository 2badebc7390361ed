"""Wakes a server that is scaled to zero when the first device asks for it.

While a server has no replica, its Service has no endpoint. The activator opens a TCP port for it in
the operator and adds that port to the Service by an EndpointSlice. Any connection is a knock: it is
closed at once and the server is started; the device tries again, as it does whenever a verifier is
away. No byte is read, so no key and no protocol is needed here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sled_operator.cluster import kinds
from sled_operator.cluster.base import Cluster, ClusterError
from sled_operator.informer import Key
from sled_operator.resources.base import manifest, server_owner
from sled_operator.spec import SLEDServer

log = logging.getLogger(__name__)
MAX_DOORS = 1000


@dataclass(slots=True)
class _Door:
    """One listening port."""

    listener: asyncio.Server
    port: int
    uid: str
    knocked: asyncio.Event


def endpoint_slice(server: SLEDServer, address: str, port: int) -> dict[str, Any]:
    """The EndpointSlice that makes a Service lead to the activator."""
    body = {
        "addressType": "IPv6" if ":" in address else "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
    }
    name = server.metadata.name
    return manifest(
        server_owner(server),
        "discovery.k8s.io/v1",
        "EndpointSlice",
        f"{name}-activator",
        body,
        labels={
            "kubernetes.io/service-name": name,
            "endpointslice.kubernetes.io/managed-by": "activator.sled.dev",
        },
    )


@dataclass(slots=True)
class TcpActivator:
    """The activator of an operator that devices can reach at `address`."""

    cluster: Cluster
    address: str
    look: Callable[[Key], None]
    """Called when a device knocks."""
    _doors: dict[Key, _Door] = field(default_factory=dict)
    _checked: set[Key] = field(default_factory=set)

    async def expect(self, server: SLEDServer) -> bool:
        """Open the door if it is not; True when a device has knocked.

        Raises:
            ClusterError: the EndpointSlice was not taken.
        """
        key = (server.metadata.namespace, server.metadata.name)
        door = self._doors.get(key)
        if door is None and len(self._doors) < MAX_DOORS:
            door = await self._open(key, server)
        return door is not None and door.knocked.is_set()

    async def dismiss(self, key: Key) -> None:
        """Close the door and take the EndpointSlice away.

        Raises:
            ClusterError: the EndpointSlice could not be deleted.
        """
        door = self._doors.get(key)
        if door is None:
            await self._dismiss_left_over(key)
            return
        namespace, name = key
        await self.cluster.delete(kinds.ENDPOINT_SLICE, namespace, f"{name}-activator", door.uid)
        del self._doors[key]
        door.listener.close()

    async def _dismiss_left_over(self, key: Key) -> None:
        """Delete what an operator that was killed left; asked once for each server."""
        if key in self._checked:
            return
        namespace, name = key
        found = await self.cluster.get(kinds.ENDPOINT_SLICE, namespace, f"{name}-activator")
        if found is not None:
            uid = found["metadata"]["uid"]
            await self.cluster.delete(kinds.ENDPOINT_SLICE, namespace, f"{name}-activator", uid)
        if len(self._checked) > MAX_DOORS:
            self._checked.clear()
        self._checked.add(key)

    async def close(self) -> None:
        """Close all doors; the EndpointSlices are taken over by the next operator."""
        for door in self._doors.values():
            door.listener.close()
        self._doors.clear()

    async def _open(self, key: Key, server: SLEDServer) -> _Door:
        knocked = asyncio.Event()

        async def knock(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()
            if not knocked.is_set():
                knocked.set()
                log.info("a device asks for a server", extra={"server": "/".join(key)})
                self.look(key)

        every = "::" if ":" in self.address else "0.0.0.0"
        listener = await asyncio.start_server(knock, every, 0, backlog=16, limit=1024)
        port = int(listener.sockets[0].getsockname()[1])
        try:
            slice_ = endpoint_slice(server, self.address, port)
            written = await self.cluster.apply(kinds.ENDPOINT_SLICE, slice_)
        except ClusterError:
            listener.close()
            raise
        door = _Door(listener, port, written["metadata"]["uid"], knocked)
        self._doors[key] = door
        return door
