"""Read the API server's audit log: who wrote what, and who was refused.

Why: "zero writes when idle" and "no forbidden call" are claims about the API server's view, so they
are counted there and not in the client. The log holds metadata only (policy below): no request
bodies. Must not be asked about identities that the policy leaves out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})

POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {  # the control plane's own traffic would bury everything else
            "level": "None",
            "users": [
                "system:apiserver",
                "system:kube-controller-manager",
                "system:kube-scheduler",
                "sled-test-kwok",
            ],
        },
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata"},
    ],
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished request; `user` is the name that Kubernetes authenticated."""

    user: str
    verb: str
    group: str
    resource: str
    """Plural name with its subresource after a slash, as `drafters/status`."""
    namespace: str
    name: str
    code: int
    user_agent: str
    timestamp: str


class AuditLog:
    """The log file of one control plane, read from a mark onwards."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> int:
        """A position to pass as `since`: everything logged so far lies before it."""
        return self._path.stat().st_size if self._path.exists() else 0

    def entries(self, user: str | None = None, since: int = 0) -> list[Entry]:
        """Finished requests of `user` (all users when None) after a mark, in log order."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(since)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        found = [_entry(json.loads(line)) for line in whole.splitlines()]
        return [entry for entry in found if user is None or entry.user == user]

    def writes(self, user: str | None = None, since: int = 0) -> list[Entry]:
        """Requests that change something, refused ones included."""
        return [entry for entry in self.entries(user, since) if entry.verb in WRITES]

    def forbidden(self, user: str | None = None, since: int = 0) -> list[Entry]:
        """Requests that RBAC (or admission) refused."""
        return [entry for entry in self.entries(user, since) if entry.code == 403]


def service_account(namespace: str, name: str) -> str:
    """The user name under which a service account appears in the log."""
    return f"system:serviceaccount:{namespace}:{name}"


def _entry(event: dict[str, Any]) -> Entry:
    target = event.get("objectRef", {})
    resource = target.get("resource", event.get("requestURI", ""))
    if target.get("subresource"):
        resource = f"{resource}/{target['subresource']}"
    return Entry(
        user=event.get("user", {}).get("username", ""),
        verb=event.get("verb", ""),
        group=target.get("apiGroup", ""),
        resource=resource,
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        user_agent=event.get("userAgent", ""),
        timestamp=event.get("stageTimestamp", ""),
    )
