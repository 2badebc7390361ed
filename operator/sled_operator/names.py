"""Names that outlive a process: labels, annotations, object names. Changing one orphans objects."""

from __future__ import annotations

import hashlib
import json
from typing import Any

FIELD_MANAGER = "sled-operator"
MANAGED_BY = "app.kubernetes.io/managed-by"
NAME = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
PART_OF = "app.kubernetes.io/part-of"

SERVER = "sled.dev/server"
DRAFTER = "sled.dev/drafter"
DRAFT = "sled.dev/draft"
DEVICE_CLASS = "sled.dev/device-class"
REVISION = "sled.dev/revision"
APPLIED = "sled.dev/applied"
"""Annotation: hash of what was applied, so that a field which is no longer wanted is noticed."""
CONFIG_HASH = "sled.dev/config"
"""Pod annotation: hash of what the pods read at start, so that a change of it rolls them."""

FETCH_PREFIX = "fetch-"
"""Begins the names of init containers that download: `fetch-model`, `fetch-vocabulary`."""
NODE_PREFIX = "drafter.sled.dev/"
"""Prefix of the labels that the operator puts on nodes, one per EdgeDrafter."""
AHEAD = "sled.dev/ahead"
"""Pod label: the EdgeDrafter that a pod fetches a model for, before its node moves."""
AHEAD_PREFIX = "ahead.sled.dev/"
"""Prefix of the node labels that say what a node fetches before it moves, one per EdgeDrafter."""
MANAGED_SELECTOR = f"{MANAGED_BY}={FIELD_MANAGER}"


def digest(value: Any, length: int = 8) -> str:
    """A short, stable hash of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def node_label(namespace: str, name: str, prefix: str = NODE_PREFIX) -> str:
    """A node label key of one EdgeDrafter; unique, and within Kubernetes' 63 characters."""
    plain = f"{namespace}.{name}"
    if len(plain) > 63:
        plain = f"{plain[:52].rstrip('.-')}-{digest(plain, 10)}"
    return prefix + plain


def ahead_label(namespace: str, name: str) -> str:
    """The node label key that says what a node fetches before it moves."""
    return node_label(namespace, name, AHEAD_PREFIX)


def node_value(draft: str, device_class: str, revision: str) -> str:
    """The node label value: what the node was given. At most 62 characters."""
    return f"{draft}.{device_class}.{revision}"


def common_labels(name: str, component: str, kind_label: str) -> dict[str, str]:
    """The full label set of an object that belongs to resource `name`."""
    return {
        NAME: f"sled-{component}",
        INSTANCE: name,
        COMPONENT: component,
        PART_OF: "sled",
        MANAGED_BY: FIELD_MANAGER,
        kind_label: name,
    }
