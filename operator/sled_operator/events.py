"""Kubernetes Events about what the operator did, for `kubectl describe`. Losing one loses nothing
else."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from sled_operator.cluster import kinds
from sled_operator.cluster.base import ClusterError, Writer
from sled_operator.resources.base import Owner
from sled_operator.spec import API_VERSION

log = logging.getLogger(__name__)


async def post(writer: Writer, owner: Owner, reason: str, message: str, warning: bool) -> None:
    """Post one Event; a refusal is logged and forgotten."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    meta = owner.metadata
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{meta.name}.", "namespace": meta.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": owner.kind,
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
        },
        "reason": reason,
        "message": message[:1000],
        "type": "Warning" if warning else "Normal",
        "source": {"component": "sled-operator"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        await writer.create(kinds.EVENT, meta.namespace, body)
    except ClusterError as error:
        log.info("no event posted: %s", error, extra={"reason": reason})
